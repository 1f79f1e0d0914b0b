"""python -m stages.check: checks params.yaml as a whole, before any other stage runs.

It is the first stage, and `fetch` depends on its output, so a wrong key, value or name stops `dvc repro` and
`dvc exp run` at once. The output never changes: a valid edit re-runs these few seconds and nothing else.
"""

from pipeline import paths
from pipeline.check import check
from pipeline.params import Params
from pipeline.stage import run
from pipeline.work import write_json


def main(params: Params) -> None:
    """Checks every parameter and every component's name and sizes."""
    check(params)
    write_json(paths.CHECK / "params.json", {"params.yaml": "valid"})


if __name__ == "__main__":
    run(main)
