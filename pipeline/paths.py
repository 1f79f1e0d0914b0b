"""Where each artifact lies, named once. All paths are relative to the repository's root."""

from pathlib import Path

DATA = Path("data")
WORK = Path(".work")  # resumable parts; never versioned

ANSWERS = Path(".answers") / "captions.sqlite"  # what captioners have answered; costly, so never removed

PREVIEW = WORK / "caption" / "preview.html"
CHECK = DATA / "check"
FETCH = DATA / "fetch"
INGEST = DATA / "ingest"
STORE = INGEST / "store.zarr"
INGEST_SUMMARY = INGEST / "summary.json"
CAPTIONS = DATA / "caption" / "captions.parquet"
EMBED = DATA / "embed"  # what each teacher reads beside the fields: a folder for each modality
EMBEDDINGS = EMBED / "multimodal" / "embeddings.zarr"
NO_TEXT = EMBED / "vision" / "text.json"
TRAIN_TEACHER = DATA / "train_teacher"
DUMP_FEATURES = DATA / "dump_features"
DISTILL = DATA / "distill"
EVALUATE = DATA / "evaluate"
EXPORT = DATA / "export"
REPORT = DATA / "report"


def teacher(modality: str) -> Path:
    """The folder of the teacher that reads captions ("multimodal") or the one that does not ("vision")."""
    return TRAIN_TEACHER / modality


def features(modality: str) -> Path:
    """What that teacher left for its students."""
    return DUMP_FEATURES / modality / "features.zarr"


def distilled(student: str, method: str) -> Path:
    """The folder of one student under one method: a `seed-N` folder for each seed."""
    return DISTILL / f"{student}-{method}"
