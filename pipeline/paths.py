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
EMBEDDINGS = DATA / "embed" / "embeddings.zarr"
TEACHER = DATA / "train_teacher"
FEATURES = DATA / "dump_features" / "features.zarr"
DISTILL = DATA / "distill"
EVALUATE = DATA / "evaluate"
REPORT = DATA / "report"


def distilled(student: str, method: str) -> Path:
    """The folder of one student under one method: a `seed-N` folder for each repeat."""
    return DISTILL / f"{student}-{method}"
