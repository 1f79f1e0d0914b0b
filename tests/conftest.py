from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pipeline_copy import Clone

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring

# Modules whose tests share something that is long in the making: each on one worker, so that it is made once.
TOGETHER = {
    "test_dvc": "built",
    "test_resume": "built",
    "test_sharing": "built",
    "test_experiments": "built",
    "test_tutorial": "tutorial",
    "test_openai": "vllm",  # two engines that start at the same time each take twice as long
    "test_vllm": "vllm",
    "test_vllm_pipeline": "vllm",
    "test_export": "export",
    "test_report": "page",
    "test_revisions": "revisions",
    "test_predict": "exported",
    "test_server": "exported",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no worker is left with one at the end."""
    for item in items:
        if item.path.stem in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(TOGETHER[item.path.stem]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
