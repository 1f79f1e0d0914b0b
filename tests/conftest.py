from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring


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
