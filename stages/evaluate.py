"""Scores the references, the teacher and every student on the test split.

    python -m stages.evaluate

Reads data/{ingest,caption,embed,train_teacher,distill}/, writes data/evaluate/ (see pipeline/results.py and
pipeline/diagnostics.py).
"""

from __future__ import annotations

from pipeline import captions, diagnostics, paths, precisions, results, rollout
from pipeline.caption_quality import quality
from pipeline.comparison import compare_all
from pipeline.embeddings import Embeddings
from pipeline.evaluation import example_positions, examples, score_all
from pipeline.failures import memory_told, smaller_batches
from pipeline.forecasters import Forecasters
from pipeline.params import Params
from pipeline.stage import code, run
from pipeline.store import Store
from pipeline.windows import WindowDataset
from pipeline.work import Work, replacing, write_json


def main(params: Params) -> None:
    """Scores the references, the teacher and every student on the test split."""
    settings = params.evaluate
    store = Store(paths.STORE)
    test = WindowDataset(store, "test", text=Embeddings(paths.EMBEDDINGS))
    forecasters = Forecasters.of(params, store)
    inputs = [paths.STORE, paths.EMBEDDINGS, *forecasters.folders.values()]
    advice = f"{smaller_batches('evaluate', settings.batch_size)}. Models that were scored are kept"
    work_of = Work("evaluate", inputs, settings, code("evaluate"))
    with memory_told("test windows", advice), work_of as work, replacing(paths.EVALUATE) as folder:
        gauges = diagnostics.yardsticks(test, settings)
        scores = score_all(forecasters, test, settings.batch_size, work, params.runtime.loader_workers, gauges)
        rolled = rollout.errors_of_all(forecasters, test, settings.rollout, settings.batch_size, work)
        folder.mkdir()
        comparisons = compare_all(scores, settings, params.seed)
        results.write_evaluation(folder, scores, comparisons, forecasters.costs(test[0], settings.latency_runs))
        if params.export.int8:
            results.write_precisions(folder, precisions.measure(params, test, scores, gauges, work))
        results.write_setup(folder, store, scores, diagnostics.legends(settings))
        diagnostics.write(folder, scores, gauges, store.description, rolled)
        write_json(folder / "captions.json", quality(captions.read(paths.CAPTIONS), store, params.seed))
        results.write_training(folder, forecasters.folders)
        shown = test.__getitems__(example_positions(len(test), settings.example_windows))
        fields = examples(forecasters, shown)
        results.write_examples(folder, store, shown.windows.numpy(), fields, captions.texts(paths.CAPTIONS))


if __name__ == "__main__":
    run(main)
