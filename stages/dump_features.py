"""python -m stages.dump_features --modality multimodal

Stores the Z_fused (eq. 9) that one teacher makes of every training and validation window.
"""

from pipeline import paths
from pipeline.embeddings import read_by
from pipeline.feature_dump import dump
from pipeline.features import origin
from pipeline.params import Params
from pipeline.stage import code, run
from pipeline.store import Store
from pipeline.teachers.base import load
from pipeline.windows import WindowDataset
from pipeline.work import Work


def main(params: Params, modality: str = "multimodal") -> None:
    """Runs one teacher once over the windows that students learn from."""
    store, text, teacher = Store(paths.STORE), read_by(modality), paths.teacher(modality)
    inputs = [paths.STORE, teacher, *([paths.EMBEDDINGS] if text else [])]
    decided_by = code("dump_features", teacher=params.teacher, modality=modality)
    with Work("dump_features", inputs, params.dump_features, decided_by, node=params.runtime.node) as work:
        dump(
            load(teacher),
            WindowDataset(store, "train", text=text),
            WindowDataset(store, "validation", text=text),
            work.path("features.zarr"),
            params.dump_features,
            params.runtime,
            origin={"teacher": params.teacher, **origin(store.path, teacher, text)},
        )
        work.hand_over("features.zarr", paths.features(modality))


if __name__ == "__main__":
    run(main)
