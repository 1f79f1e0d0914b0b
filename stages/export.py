"""Puts one student in ONNX and torch.export, with a card: a folder that leaves the pipeline.

    python -m stages.export

Reads data/{ingest,distill,evaluate}/, writes data/export/{model.onnx,model.pt2,config.json,metrics.json,README.md}.
"""

from __future__ import annotations

import logging

from pipeline import choice, export, model_card, paths
from pipeline.params import Params
from pipeline.stage import run
from pipeline.store import Store
from pipeline.students import base as students
from pipeline.work import replacing, write_json

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    """Puts one student in ONNX and torch.export, with a card."""
    store = Store(paths.STORE)
    chosen = choice.choose(params)
    student = students.load(chosen.folder)
    spec = export.spec_of(student, chosen, store, params)
    with replacing(paths.EXPORT) as folder:
        folder.mkdir()
        export.write(student, spec, folder)
        metrics = export.measured(student, folder, store, int8=params.export.int8)
        write_json(folder / "metrics.json", metrics)
        (folder / "README.md").write_text(model_card.card(spec, params, metrics))
    log.info("%s is in %s", spec.title, paths.EXPORT)


if __name__ == "__main__":
    run(main)
