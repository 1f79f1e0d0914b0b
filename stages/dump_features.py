"""python -m stages.dump_features: stores Z_fused (eq. 9) of every training and validation window."""

from pipeline import paths
from pipeline.embeddings import Embeddings
from pipeline.feature_dump import dump
from pipeline.params import Params
from pipeline.stage import run
from pipeline.store import Store
from pipeline.teachers.base import load
from pipeline.training import start_fabric
from pipeline.windows import WindowDataset
from pipeline.work import Work, fingerprint, replacing


def main(params: Params) -> None:
    """Runs the teacher once over the windows that students learn from."""
    store, text = Store(paths.STORE), Embeddings(paths.EMBEDDINGS)
    inputs = [paths.STORE, paths.EMBEDDINGS, paths.TEACHER]
    code = ["pipeline.feature_dump", "pipeline.layers", "pipeline.teachers.base", f"pipeline.teachers.{params.teacher}"]
    with Work("dump_features", inputs, params.dump_features, code) as work:
        dump(
            load(paths.TEACHER),
            WindowDataset(store, "train", text=text),
            WindowDataset(store, "validation", text=text),
            work.path("features.zarr"),
            params.dump_features,
            start_fabric(params.runtime, "32-true").device,
            origin={"teacher": params.teacher, "weights": fingerprint([paths.TEACHER / "model.safetensors"])},
        )
        with replacing(paths.FEATURES) as target:
            work.path("features.zarr").rename(target)


if __name__ == "__main__":
    run(main)
