"""Gets the raw files: simulates a twin, or copies a selection; with them, tables for the captioner's prompt.

    python -m stages.fetch

Reads the source named in params.yaml, writes data/fetch/.
"""

from __future__ import annotations

from pipeline import paths, transfer
from pipeline.datasets import DATASETS
from pipeline.params import Params
from pipeline.stage import run
from pipeline.work import Work, replacing


def main(params: Params) -> None:
    """Gets the raw files of the chosen data set."""
    source = DATASETS.load(params.dataset)(params.fetch, params.ingest, params.seed)
    settings = [params.dataset, params.fetch, params.ingest.variables, params.seed]
    with Work("fetch", params=settings, code=[type(source).__module__]) as work:
        with work.part("raw") as folder:  # what a killed run leaves half written stays out of data/
            folder.mkdir()
            source.fetch(folder)
            transfer.copy_context(params.fetch, folder)
        with replacing(paths.FETCH) as temporary:
            work.path("raw").rename(temporary)


if __name__ == "__main__":
    run(main)
