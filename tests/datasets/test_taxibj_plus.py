"""TaxiBJ+: pairs of .npy files to segments and the set's own splits, never in memory as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import paths
from pipeline.datasets.taxibj_plus import TaxiBJPlus
from pipeline.errors import UserError
from pipeline.store import SPLITS, Store
from stages import fetch, ingest
from tests.helpers import tiny_params

BOTH = ("inflow", "outflow")
WINDOWS = {"train": 20, "val": 6, "test": 5}


def params(source: object = None, **settings: Any) -> Any:
    return tiny_params(
        dataset="taxibj_plus",
        fetch={"source": None if source is None else str(source)},
        ingest={"variables": BOTH, "t_in": 3, "t_out": 3, **settings},
    )


def reader(source: object = None, **settings: Any) -> TaxiBJPlus:
    checked = params(source, **settings)
    return TaxiBJPlus(checked.fetch, checked.ingest, checked.seed)


def write(folder: Path, splits: Any = WINDOWS, frames: int = 3, shape: tuple[int, int] = (4, 6)) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{part}_data_reshaped.npy": rng.normal(size=(windows, frames, 2, *shape)).astype(np.float32)
        for split, windows in splits.items()
        for part in ("input", "output")
    }
    for name, values in arrays.items():
        np.save(folder / name, values)
    return arrays


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_window_reaches_the_store_in_its_own_split(tmp_path: Path) -> None:
    arrays = write(tmp_path / "raw")
    settings = params(tmp_path / "raw")
    fetch.main(settings)
    ingest.main(settings)
    store = Store(paths.STORE)
    for split, short in zip(SPLITS, WINDOWS, strict=True):
        windows = store.windows.of(split)
        assert len(windows) == WINDOWS[short]
        for number, window in enumerate(windows):
            for frames, part in (
                (store.windows.input_frames(window), "input"),
                (store.windows.target_frames(window), "output"),
            ):
                found = store.frames(frames[0], frames[-1] + 1)
                np.testing.assert_array_equal(found, arrays[f"{short}_{part}_data_reshaped.npy"][number])
    assert store.description.time_stamps == "nominal"


def test_without_files_of_validation_it_is_the_end_of_train(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"train": 20, "test": 5})
    found = reader().open(tmp_path / "raw")
    assert list(found["split"].values[::6]) == ["train"] * 10 + [""] * 6 + ["validation"] * 4 + ["test"] * 5


def test_windows_shorter_than_asked_for_are_refused_by_the_plan(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    settings = params(tmp_path / "raw", t_out=4)
    fetch.main(settings)
    with pytest.raises(UserError, match="no window of 7 frames lies in train"):
        ingest.main(settings)


def test_opening_and_reading_a_part_takes_little_memory(tmp_path: Path) -> None:
    """Files of 400 MB (sparse, so that they cost no disk) are opened and a part read within 60 MB more."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for split, windows in (("train", 500), ("val", 2), ("test", 2)):
        for part in ("input", "output"):
            path = folder / f"{split}_{part}_data_reshaped.npy"
            np.lib.format.open_memmap(path, "w+", np.float32, (windows, 12, 2, 64, 128))
    code = f"""
import resource
from pathlib import Path
from tests.datasets.test_taxibj_plus import reader
source = reader()
import dask.array, xarray
small = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = small()
data = source.open(Path({str(folder)!r}))
data["outflow"][6000:6048].values
print((small() - before) / 1024)
"""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 60


def test_only_the_six_files_are_fetched(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    (tmp_path / "raw" / "notes.txt").write_text("x")
    reader(tmp_path / "raw").fetch(tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_without_a_source_the_error_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("x")
    for source in (None, tmp_path / "raw"):
        with pytest.raises(UserError) as error:
            reader(source).fetch(tmp_path / "out")
        assert "downloaded by hand" in str(error.value)
        assert "raw/taxibj_plus" in str(error.value)


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "raw"

    def complaint() -> str:
        with pytest.raises(UserError) as error:
            reader().open(folder)
        write(folder)
        return str(error.value)

    write(folder)
    first = folder / "train_input_data_reshaped.npy"
    first.write_bytes(first.read_bytes()[:-4])
    assert f"{first} has" in complaint()
    np.save(first, np.array([{}] * 20, object), allow_pickle=True)
    assert "holds Python objects, which are never unpickled" in complaint()
    np.save(first, np.zeros((20, 3, 4, 6)))
    assert "it needs 5 axes" in complaint()
    np.save(first, np.zeros((0, 3, 2, 4, 6)))
    assert "none of them empty" in complaint()
    np.save(first, np.zeros((20, 3, 2, 4, 6), bool))
    assert "holds bool; allowed are floats or integers" in complaint()
    (folder / "val_output_data_reshaped.npy").unlink()
    assert "val_output_data_reshaped.npy is missing" in complaint()
    (folder / "test_input_data_reshaped.npy").unlink()
    assert "test_input_data_reshaped.npy is missing" in complaint()


def test_dates_cannot_split_windows_that_have_none(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"train": 20, "test": 5})
    years = {name: [year, year] for name, year in (("train", 2000), ("validation", 2001), ("test", 2002))}
    with pytest.raises(UserError, match=r"ingest\.splits gives dates, but windows cut in advance have none"):
        reader(splits=years).open(tmp_path / "raw")
