from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pipeline_copy import Clone

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring

# Files that take longest, in the order in which they start. Each is one worker's, so that what its tests share is made
# once; the rest are shorter, so that no worker is left over at the end.
LONGEST = ("test_vllm", "test_dvc", "test_tutorial", "test_twins_pipeline", "test_experiments", "test_vllm_pipeline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[int, bool]:
        place = LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        return place, item.get_closest_marker("slow") is None

    items.sort(key=rank)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory, not to be written to, where a tiny pipeline has run up to `evaluate`."""
    from stages import evaluate
    from tests.trained import make_trained, trained_params

    root = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        params = trained_params()
        make_trained(params, caption="A ridge & <script>alert('{window}')</script>")
        evaluate.main(params)
    return root


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Clone:
    """A clone, not to be written to, in which `dvc repro` has run with tiny settings; workers share it."""
    from tests.pipeline_copy import built_clone

    base = tmp_path_factory.getbasetemp()
    return built_clone((base.parent if hasattr(request.config, "workerinput") else base) / "built")
