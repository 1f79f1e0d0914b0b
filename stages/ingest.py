"""python -m stages.ingest

Raw files to data/ingest/store.zarr: checked, with statistics of the training frames, windows and splits.
"""

from __future__ import annotations

import logging
import shutil

from pipeline import context, paths, transfer
from pipeline.datasets import DATASETS
from pipeline.ingest import STORE, ingest
from pipeline.params import Params
from pipeline.stage import code, run
from pipeline.work import Work, replacing, write_json

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    """Ingests what the stage fetch brought."""
    source = DATASETS.load(params.dataset)(params.fetch, params.ingest, params.seed)
    raw = context.joined(source.open(paths.FETCH), paths.FETCH / transfer.CONTEXT)
    settings = {"dataset": params.dataset, "ingest": params.ingest}
    with Work("ingest", inputs=[paths.FETCH], params=settings, code=code("ingest")) as work:
        scheduler = params.runtime.dask_scheduler
        time_stamps = raw.attrs.get("time_stamps", source.time_stamps)
        summary = ingest(raw, params.ingest, work.folder, time_stamps, source.description, scheduler)
        for note in filter(None, summary["notes"].split("; ")):
            log.info("%s", note)
        write_json(paths.INGEST_SUMMARY, summary)
        with replacing(paths.STORE) as temporary:
            shutil.move(work.path(STORE), temporary)
    log.info("%d frames, windows %s", summary["frames"], summary["windows"])


if __name__ == "__main__":
    run(main)
