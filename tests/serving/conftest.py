from __future__ import annotations

import pytest

from tests.exported import Exported, make_exported


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Not to be written to."""
    return make_exported(tmp_path_factory.mktemp("exported"))
