from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from pipeline import cli
from pipeline.errors import UserError
from pipeline.serving.predict import predict
from tests.exported import Exported


def opened(path: Path) -> xr.Dataset:
    """As a user opens it, who would see any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (xr.open_zarr(path) if path.suffix == ".zarr" else xr.open_dataset(path)).load()


@pytest.mark.parametrize("name", ["forecast.nc", "forecast.zarr"])
def test_forecasts_are_the_students_with_initial_lead_and_valid_times(
    exported: Exported, tmp_path: Path, name: str
) -> None:
    assert predict(exported.folder, str(exported.store.path), tmp_path / name, batch_size=7) == 86
    found = opened(tmp_path / name)
    assert found["z500"].dims == ("init_time", "lead_time", "latitude", "longitude")
    assert found["lead_time"].values.tolist() == [np.timedelta64(h, "h").astype("timedelta64[ns]") for h in (12, 24)]
    np.testing.assert_array_equal(found["init_time"].values, exported.store.times[4:])
    np.testing.assert_array_equal(found["time"], found["init_time"] + found["lead_time"])
    assert "time" in found["z500"].coords
    assert found["t850"].attrs["units"] == "K"
    assert found["lead_time"].attrs["standard_name"] == "forecast_period"
    frames = exported.store.frames(0, 90)
    inputs = np.stack([frames[last - 4 : last + 1 : 2] for last in range(4, 90)])
    with torch.no_grad():
        expected = exported.student(torch.from_numpy(inputs)).forecast.numpy()
    for index, each in enumerate(exported.spec.variables):
        np.testing.assert_allclose(found[each.name], expected[:, :, index], rtol=0, atol=1e-5 * each.std)


def test_both_formats_hold_the_same_and_repeat_byte_for_byte_whatever_the_batch(
    exported: Exported, tmp_path: Path
) -> None:
    source = str(exported.store.path)
    for name, batch_size in (("a.nc", 16), ("b.nc", 16), ("a.zarr", 16), ("c.zarr", 16)):
        predict(exported.folder, source, tmp_path / name, batch_size)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
    files = [path.relative_to(tmp_path / "a.zarr") for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    assert files
    assert all((tmp_path / "a.zarr" / name).read_bytes() == (tmp_path / "c.zarr" / name).read_bytes() for name in files)
    xr.testing.assert_identical(opened(tmp_path / "a.nc"), opened(tmp_path / "a.zarr"))


def test_predicting_needs_no_torch_and_none_of_the_pipelines_libraries(exported: Exported, tmp_path: Path) -> None:
    arguments = ["predict", str(exported.folder), str(exported.store.path), str(tmp_path / "f.nc")]
    code = f"import sys; from pipeline import cli; cli.main({arguments!r}); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sentence, modules = run.stdout.splitlines()
    assert sentence == f"86 forecasts are in {tmp_path / 'f.nc'}"
    banned = {"torch", "dvc", "transformers", "matplotlib", "safetensors", "lightning_fabric", "jax", "onnx"}
    assert banned.isdisjoint(modules.split())


def test_nothing_is_left_of_an_output_when_a_late_frame_is_missing(exported: Exported, tmp_path: Path) -> None:
    record = xr.open_zarr(exported.store.path)[["z500", "t850"]].load()
    record["z500"][80] = np.nan
    for name in record.variables:
        record[name].encoding.clear()
    record.to_netcdf(tmp_path / "late.nc")
    for name in ("f.nc", "f.zarr"):
        with pytest.raises(UserError, match=r"late\.nc: z500 has NaN"):
            predict(exported.folder, str(tmp_path / "late.nc"), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["late.nc"]


def test_an_output_that_is_there_or_has_no_known_ending_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "kept.nc").write_text("precious")
    source = str(exported.store.path)
    with pytest.raises(UserError, match=r"kept.nc is there already"):
        predict(exported.folder, source, tmp_path / "kept.nc")
    assert (tmp_path / "kept.nc").read_text() == "precious"
    with pytest.raises(UserError, match=r"ends in '.csv'; forecasts are written to a name in .nc or .zarr"):
        predict(exported.folder, source, tmp_path / "forecast.csv")
    with pytest.raises(UserError, match="the batch size is 0"):
        predict(exported.folder, source, tmp_path / "forecast.nc", batch_size=0)


def test_a_users_mistake_ends_the_command_with_one_sentence(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["predict", str(exported.folder), str(tmp_path / "no.nc"), str(tmp_path / "f.nc")])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == (
        f"s2kd: error: {tmp_path / 'no.nc'} is not there; a NetCDF, GRIB or Zarr file, a folder of such or a glob is "
        "expected\n"
    )
