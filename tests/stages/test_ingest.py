"""The stage ingest: from fetched files to the store and its summary, in place and repeatable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.store import Store
from stages import ingest
from tests.helpers import tiny_params, write_weatherbench


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    write_weatherbench(paths.FETCH, days=20)
    return tiny_params(ingest={"missing": "fill"})


def test_the_store_and_its_summary_lie_in_place_and_nothing_is_left_over(params: Params) -> None:
    ingest.main(params)
    summary = json.loads(paths.INGEST_SUMMARY.read_text())
    assert summary["frames"] == len(Store(paths.STORE).times) == 80
    assert sorted(path.name for path in paths.INGEST.iterdir()) == ["store.zarr", "summary.json"]
    assert not [path for path in (paths.WORK / "ingest").iterdir() if path.is_dir()]


def test_repeating_the_stage_gives_the_same_bytes(params: Params) -> None:
    def content() -> dict[str, bytes]:
        files = [path for path in sorted(paths.INGEST.rglob("*")) if path.is_file()]
        return {str(path): path.read_bytes() for path in files}

    ingest.main(params)
    first = content()
    shutil.rmtree(paths.INGEST)
    ingest.main(params)
    assert content() == first


def test_the_users_description_takes_the_place_of_the_sources_own(params: Params) -> None:
    ingest.main(params)
    assert "WeatherBench" in Store(paths.STORE).description.text
    ingest.main(tiny_params(ingest={"description": "Two fields of a small globe."}))
    assert Store(paths.STORE).description.text == "Two fields of a small globe."


def test_a_failed_run_leaves_no_store(params: Params) -> None:
    with pytest.raises(UserError, match="has 80 frames"):
        ingest.main(tiny_params(ingest={"t_in": 40}))
    assert not paths.STORE.exists()


def test_tables_of_context_reach_the_store_frame_by_frame(params: Params) -> None:
    (paths.FETCH / "context").mkdir()
    rows = "2001-01-02,,holiday\n2001-01-03 06:00,2001-01-03 18:00,storm\n"
    (paths.FETCH / "context" / "days.csv").write_text("time,until,what\n" + rows)
    ingest.main(params)
    store = Store(paths.STORE)
    assert store.context is not None
    told = dict(zip(store.times.astype("datetime64[h]").astype(str), store.context, strict=True))
    assert {hour for hour, line in told.items() if line == "what: holiday"} == {
        f"2001-01-02T{h:02}" for h in (0, 6, 12, 18)
    }
    assert {hour for hour, line in told.items() if line == "what: storm"} == {"2001-01-03T06", "2001-01-03T12"}
    assert sum(map(bool, told.values())) == 6
    assert "context/days.csv tells of" in json.loads(paths.INGEST_SUMMARY.read_text())["notes"]
