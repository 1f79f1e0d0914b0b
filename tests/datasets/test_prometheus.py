"""The reader of Prometheus: every format to the same record, environments, fetching, and bad input by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from pipeline.datasets import DATASETS
from pipeline.datasets.fire.simulations import UNITS as KNOWN
from pipeline.datasets.fire.simulations import interval
from pipeline.datasets.prometheus import Prometheus
from pipeline.errors import UserError
from tests.fires import SHAPE, Fields, fire, write_environments, write_fds, write_hdf5, write_table
from tests.helpers import tiny_params

POWER = {"low": 5.0, "high": 20.0}
OF = {"run1": "low", "run2": "low", "run3": "high"}
LENGTHS = {"run1": 12, "run2": 7, "run3": 10}
VARIABLES = ("temperature", "soot_visibility")


def reader(source: object = None, variables: tuple[str, ...] = VARIABLES, **settings: Any) -> Prometheus:
    params = tiny_params(
        dataset="prometheus",
        fetch={"source": None if source is None else str(source)},
        ingest={"variables": variables, **settings},
    )
    return Prometheus(params.fetch, params.ingest, params.seed)


def runs() -> dict[str, Fields]:
    return {name: fire(frames, seed) for seed, (name, frames) in enumerate(LENGTHS.items())}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three simulations in two environments, HDF5, with environments.csv beside them."""
    folder = tmp_path / "raw"
    for name, fields in runs().items():
        write_hdf5(folder / f"{name}.h5", fields)
    write_environments(folder, OF, POWER)
    return folder


def joined(name: str) -> np.ndarray:
    return np.concatenate([fields[name] for fields in runs().values()])


def check_record(data: xr.Dataset) -> None:
    """All of `runs`, whatever format they came in."""
    assert list(data.data_vars) == list(VARIABLES)
    for name in VARIABLES:
        assert data[name].dims == ("time", "y", "x")
        assert data[name].dtype == np.float32
        assert np.array_equal(data[name].values, joined(name))
    assert data["segment"].values.tolist() == [0] * 12 + [1] * 7 + [2] * 10
    assert data["environment"].values.tolist() == ["low"] * 19 + ["high"] * 10
    assert data.attrs["environments"] == {name: {"heat_release_rate_MW": power} for name, power in POWER.items()}
    gaps = np.diff(data["time"].values).astype("timedelta64[ms]").astype(int)
    assert np.unique(np.delete(gaps, [11, 18])).tolist() == [500]
    assert (gaps[[11, 18]] > 500).all()


# ---- the formats


def test_hdf5_files_with_a_data_set_for_each_field(raw: Path) -> None:
    data = reader().open(raw)
    check_record(data)
    assert data["y"].values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert data["x"].values.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    assert data["y"].attrs["units"] == data["x"].attrs["units"] == "m"
    assert data["temperature"].attrs["units"] == "K"
    assert data["soot_visibility"].attrs["long_name"] == "soot visibility"
    assert data["temperature"].attrs["source_files"] == {str(raw / f"{name}.h5"): n for name, n in LENGTHS.items()}


def pack(path: Path, axis: int, **attributes: Any) -> None:
    """The file's fields become one data set with the channels along `axis`."""
    with h5py.File(path, "a") as file:
        names = [name for name in file if file[name].ndim == 3]
        values = np.stack([file[name][...] for name in names], axis=axis)
        for name in names:
            del file[name]
        file["data"] = values
        file["data"].attrs.update({"fields": names, **attributes})


@pytest.mark.parametrize("axis", [1, 3])
def test_hdf5_files_with_one_data_set_for_all_fields(raw: Path, axis: int) -> None:
    for path in raw.glob("*.h5"):
        pack(path, axis, units=["m", "K", "m/s"])  # h5py lists data sets by name
    data = reader().open(raw)
    check_record(data)
    assert data["temperature"].attrs["units"] == "K"
    assert data["soot_visibility"].attrs["units"] == "m"


def test_channel_names_may_be_one_text_with_commas(raw: Path) -> None:
    for path in raw.glob("*.h5"):
        pack(path, 1, fields="soot_visibility, temperature,velocity", units="1")
    check_record(reader().open(raw))


def test_unusual_names_of_coordinates_are_told(raw: Path) -> None:
    for path in raw.glob("*.h5"):
        with h5py.File(path, "a") as file:
            for old, new in (("time", "t"), ("y", "z"), ("x", "length")):
                file.move(old, new)
    with pytest.raises(UserError, match=r"run1.h5 has no coordinate 'time'; it holds .*ingest.dimensions"):
        reader().open(raw)
    check_record(reader(dimensions={"time": "t", "y": "z", "x": "length"}).open(raw))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("named", [True, False])
def test_npy_files(tmp_path: Path, axis: int, named: bool) -> None:
    folder = tmp_path / "npy"
    write_environments(folder, OF, POWER)
    axes = [("time", 0, 0.5), ("y", 0.5, 1), ("x", 0, 2)]
    write_table(folder, "axes.csv", [{"axis": a, "first": f, "spacing": s} for a, f, s in axes])
    for name, fields in runs().items():
        chosen = list(fields.values()) if named else [fields[variable] for variable in VARIABLES]
        np.save(folder / f"{name}.npy", np.stack(chosen, axis=axis))
    if named:
        rows = [("temperature", "degC"), ("soot_visibility", "m"), ("velocity", "m/s")]
        write_table(folder, "fields.csv", [{"field": f, "units": u} for f, u in rows])
    data = reader().open(folder)
    check_record(data)
    assert data["y"].values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert data["temperature"].attrs["units"] == ("degC" if named else "")


def test_folders_of_raw_fds_output(tmp_path: Path) -> None:
    folder = tmp_path / "fds"
    write_environments(folder, OF, POWER)
    for name, fields in runs().items():
        values = {"TEMPERATURE": fields["temperature"], "SOOT VISIBILITY": fields["soot_visibility"]}
        slices = [("TEMPERATURE", "C", "y", 2), ("SOOT VISIBILITY", "m", "y", 2)]
        write_fds(folder / name, slices, values, 0.5 * np.arange(LENGTHS[name]), cells=(7, 4, 4), split_at=3)
    check_record(reader().open(folder))
    check_record(reader(variables=("TEMPERATURE@y=1", "SOOT VISIBILITY@y~3")).open(folder))


def test_the_environment_may_stand_in_the_files_own_attributes(raw: Path) -> None:
    (raw / "environments.csv").unlink()
    for name, fields in runs().items():
        own: dict[str, Any] = {
            "environment": OF[name],
            "heat_release_rate_MW": np.array([POWER[OF[name]]]),
            "title": "not a number",
        }
        write_hdf5(raw / f"{name}.h5", fields, **own)
    check_record(reader().open(raw))


def test_files_in_folders_are_named_by_their_path(raw: Path) -> None:
    (raw / "tunnel").mkdir()
    (raw / "run2.h5").rename(raw / "tunnel" / "a.h5")
    write_environments(raw, {"run1": "low", "run3": "high", "tunnel/a": "low"}, POWER)
    data = reader().open(raw)
    assert data["environment"].values.tolist() == ["low"] * 12 + ["high"] * 10 + ["low"] * 7


def test_a_listed_simulation_without_a_file_is_noted(raw: Path) -> None:
    (raw / "run3.h5").unlink()
    data = reader().open(raw)
    assert data.attrs["notes"] == ["environments.csv lists 1 simulations that have no file, such as run3"]
    assert list(data.attrs["environments"]) == ["low"]


def test_the_name_in_the_table_of_data_sets() -> None:
    assert DATASETS.load("prometheus") is Prometheus
    assert Prometheus.time_stamps == "nominal"


# ---- time


def test_adaptive_time_steps_are_taken_as_even_and_noted(raw: Path) -> None:
    for seed, (name, fields) in enumerate(runs().items()):
        write_hdf5(raw / f"{name}.h5", fields)
        late = np.random.default_rng(seed).uniform(0, 0.04, LENGTHS[name])
        with h5py.File(raw / f"{name}.h5", "a") as file:
            file["time"][...] = 0.5 * np.arange(LENGTHS[name]) + late
    data = reader().open(raw)
    check_record(data)
    assert len(data.attrs["notes"]) == 1
    assert "off even times and are taken as 0.5 s apart" in data.attrs["notes"][0]


@pytest.mark.parametrize("spacing", [0.001, 0.04, 0.25, 0.125, 0.6, 1.0, 10.0, 90.0])
def test_the_interval_is_exact_for_even_times(spacing: float) -> None:
    for frames in (2, 3, 400):
        times = (7 + spacing * np.arange(frames)).astype(np.float32).astype(np.float64)
        assert interval(times, Path("a.h5"))[0] == round(1000 * spacing)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], "has 1 frame"),
        ([0, 1, 1, 2], "frame 1 at 1 s is followed by 1 s"),
        ([0, np.nan, 2], "frame 0 at 0 s is followed by nan s"),
        ([0, 1, 2, 4, 5], "1 to 2 s apart; they must be evenly spaced"),
        ([0, 1e-4, 2e-4], "are 0.0001 s apart; at least a millisecond"),
    ],
)
def test_times_that_make_no_interval_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        interval(np.array(times, float), Path("a.h5"))


# ---- what must be the same in all


def changed(raw: Path, change: Callable[[h5py.File], None], name: str = "run2") -> None:
    with h5py.File(raw / f"{name}.h5", "a") as file:
        change(file)


def replaced(name: str, values: Any, **attributes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("time", np.arange(7.0)), r"run2.h5 has a frame every 1 s, .*run1.h5 every 0.5 s"),
        (
            replaced("x", 3.0 * np.arange(8)),
            r"run2.h5 has another grid .*x of 8 values from 0 to 21 instead of 8 values",
        ),
        (replaced("y", np.full(5, np.nan)), r"run2.h5 has another grid"),
        (replaced("temperature", np.zeros((7, 5, 8)), units="degC"), r"run2.h5 is in 'degC', in .*run1.h5 in 'K'"),
        (
            replaced("temperature", np.zeros((7, 5, 9)), units="K"),
            r"'temperature' has the shape \(7, 5, 9\); .*\(7, 5, 8\)",
        ),
        (replaced("temperature", np.zeros((7, 8, 5)), units="K"), r"'temperature' has the shape \(7, 8, 5\)"),
        (
            replaced("temperature", np.zeros((7, 40)), units="K"),
            r"'temperature' has the shape \(7, 40\); it needs 3 axes",
        ),
        (
            replaced("temperature", np.zeros((7, 5, 8)), units="furlong"),
            r"units 'furlong'; known are K, degC, m/s, 1/m",
        ),
        (replaced("temperature", [["a"] * 8] * 5), r"'temperature' holds .*; allowed are floats or integers"),
        (replaced("time", np.arange(7.0), units="hours"), r"'time' has the units 'hours'; allowed is s"),
        (replaced("time", np.zeros((7, 2))), r"'time' has the shape \(7, 2\); it needs 1 axes"),
        (lambda file: file.pop("x"), r"run2.h5 has no coordinate 'x'"),
        (lambda file: file.pop("temperature"), r"run2.h5 has no data set 'temperature'"),
    ],
)
def test_a_simulation_that_differs_is_named(raw: Path, change: Any, message: str) -> None:
    changed(raw, change)
    with pytest.raises(UserError, match=message):
        reader().open(raw)


def test_a_descending_axis_must_descend_in_all(raw: Path) -> None:
    changed(raw, replaced("y", 4.5 - np.arange(5.0)))
    with pytest.raises(UserError, match=r"run2.h5 has another grid"):
        reader().open(raw)


def test_every_known_unit_is_taken_and_written_in_one_way(tmp_path: Path) -> None:
    for spelling, written in {
        "K": "K",
        "°C": "degC",
        "m s-1": "m/s",
        "m-1": "1/m",
        "kg kg-1": "kg/kg",
        "-": "1",
    }.items():
        write_hdf5(tmp_path / "a.h5", fire(4, names=["temperature"]), environment="one")
        changed(tmp_path, replaced("temperature", np.zeros((4, *SHAPE)), units=spelling), "a")
        assert reader(variables=("temperature",)).open(tmp_path)["temperature"].attrs["units"] == written
        assert written in KNOWN


def test_a_variable_twice_is_refused(raw: Path) -> None:
    with pytest.raises(UserError, match=r"ingest.variables: two of temperature, temperature would have the same name"):
        reader(variables=("temperature", "temperature")).open(raw)


def test_a_field_that_no_channel_has_is_refused_with_those_there(raw: Path) -> None:
    for path in raw.glob("*.h5"):
        pack(path, 1)
    with pytest.raises(
        UserError, match=r"run1.h5 has no field 'smoke'; it holds soot_visibility, temperature, velocity"
    ):
        reader(variables=("smoke",)).open(raw)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fields": ["a", "b"]}, r"with 2 fields it must be \(12, 2, 5, 8\) or \(12, 5, 8, 2\)"),
        ({"fields": []}, "'data' names the fields of none of its channels"),
        ({"fields": ["a", "a", "b"]}, "'data' names the fields a, a, b"),
        ({"units": ["K", "m"]}, "'data' has units for 2 of 3 fields"),
    ],
)
def test_channels_that_cannot_be_told_are_refused(raw: Path, attributes: dict[str, Any], message: str) -> None:
    pack(raw / "run1.h5", 1, **attributes)
    with pytest.raises(UserError, match=message):
        reader().open(raw)


# ---- damaged and hostile files


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_hdf5_that_is_cut_short_is_named(raw: Path, share: float) -> None:
    path = raw / "run2.h5"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"run2.h5 is no HDF5 file, is cut short or damaged"):
        reader().open(raw)


def npy_folder(folder: Path, values: Any, **save: Any) -> Path:
    write_environments(folder, {"a": "low"}, POWER)
    axes = [("time", 0, 0.5), ("y", 0.5, 1), ("x", 0, 2)]
    write_table(folder, "axes.csv", [{"axis": a, "first": f, "spacing": s} for a, f, s in axes])
    np.save(folder / "a.npy", values, **save)
    return folder


def test_npy_that_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path, np.zeros((4, 2, *SHAPE), "f4"))
    path = folder / "a.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"a.npy .*cut short"):
        reader().open(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, *SHAPE), "f4"), r"shape \(4, 5, 8\); it needs 4 axes"),
        (np.zeros((4, 3, *SHAPE), "f4"), r"with 2 fields it must be \(T, 2, H, W\) or \(T, H, W, 2\)"),
        (np.zeros((4, 2, *SHAPE), "c8"), "holds complex64; allowed are floats"),
    ],
)
def test_npy_of_another_shape_or_kind_is_refused(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reader().open(npy_folder(tmp_path, values))


def test_npy_of_objects_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    values = np.empty((1, 1, 1, 1), dtype=object)
    values[0, 0, 0, 0] = Bomb()
    folder = npy_folder(tmp_path / "raw", values, allow_pickle=True)
    with pytest.raises(UserError, match="Python objects, which are never unpickled"):
        reader().open(folder)
    assert not (tmp_path / "exploded").exists()
    np.load(folder / "a.npy", allow_pickle=True)  # so that the test can fail
    assert (tmp_path / "exploded").exists()


def _with_temperature(value: object, file: h5py.File) -> None:
    file["temperature"] = value


def test_links_into_other_files_are_not_followed(raw: Path) -> None:
    for link in (h5py.ExternalLink("run1.h5", "temperature"), h5py.SoftLink("/nowhere")):
        changed(raw, lambda file: file.pop("temperature"))
        changed(raw, partial(_with_temperature, link))
        with pytest.raises(UserError, match=r"run2.h5(: 'temperature' is a link to the file| has no data set)"):
            reader().open(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"axes.csv is missing: .npy files hold no coordinates"),
        ("axis,first\ntime,0\n", r"axes.csv has no column 'spacing'"),
        ("axis,first,spacing\ntime,0,1\ny,0,1\n", r"axes.csv has rows for time, y; needed are time, y, x"),
        ("axis,first,spacing\ntime,0,0\n", r"line 2: spacing is 0; a finite number above 0"),
        ("axis,first,spacing\ntime,0,soon\n", r"line 2: '0' and 'soon' must be numbers"),
        ("axis,first,spacing\ntime,0,inf\n", r"line 2: spacing is inf"),
    ],
)
def test_axes_that_do_not_give_all_coordinates_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    folder = npy_folder(tmp_path, np.zeros((4, 2, *SHAPE), "f4"))
    (folder / "axes.csv").unlink()
    if text is not None:
        (folder / "axes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        reader().open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("field,units\ntemperature,furlong\n", r"fields.csv, line 2: 'temperature' has the units 'furlong'; known are"),
        ("field,units\ntemperature,K\ntemperature,K\n", r"fields.csv, line 3: field 'temperature' is listed twice"),
        ("field\ntemperature\n", r"fields.csv has no column 'units'"),
        ("field,units\ntemperature,K\nsoot,m\n", r"a.npy has no field 'soot_visibility'; it holds temperature, soot"),
    ],
)
def test_a_table_of_fields_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = npy_folder(tmp_path, np.zeros((4, 2, *SHAPE), "f4"))
    (folder / "fields.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        reader().open(folder)


# ---- environments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simulation,power\nrun1,1\n", r"environments.csv has no column 'environment'; it has simulation, power"),
        (
            "simulation,environment\nrun1,a\nrun2,a\n",
            r"does not list the simulation 'run3' \(.*run3.h5\); it lists run1, run2",
        ),
        ("simulation,environment\nrun1,a\nrun2,a\nrun1,b\n", r"line 4: simulation 'run1' is listed twice"),
        ("simulation,environment,power\nrun1,a,nan\n", r"line 2: power is 'nan'; .* is a finite number"),
        ("simulation,environment,power\nrun1,a,inf\n", r"line 2: power is 'inf'"),
        ("simulation,environment,power\nrun1,a,strong\n", r"line 2: power is 'strong'"),
        ("simulation,environment,power\nrun1,a,\n", r"line 2 needs 3 values: .*; none may be empty"),
        ("simulation,environment,power\nrun1,a\n", r"line 2 needs 3 values"),
        ("simulation,environment,power\nrun1,a,1,2\n", r"line 2 needs 3 values"),
        ("simulation,environment,environment\nrun1,a,b\n", r"has a column twice"),
        (
            "simulation,environment,power\nrun1,a,1\nrun2,a,2\n",
            r"line 3: environment 'a' has power = 2.0, elsewhere 1.0",
        ),
        ("", r"environments.csv has no column 'simulation'; it has none"),
        (b"\xff\xfe\x00", r"environments.csv is no CSV table in UTF-8"),
    ],
)
def test_a_table_of_environments_with_a_mistake_is_refused(raw: Path, text: str | bytes, message: str) -> None:
    (raw / "environments.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        reader().open(raw)


def test_a_simulation_whose_environment_nothing_tells_is_refused(raw: Path) -> None:
    (raw / "environments.csv").unlink()
    with pytest.raises(UserError, match=r"nothing tells the environment of .*run1.h5; list it in environments.csv"):
        reader().open(raw)


def test_attributes_with_a_mistake_are_refused(raw: Path) -> None:
    (raw / "environments.csv").unlink()
    for name, fields in runs().items():
        write_hdf5(raw / f"{name}.h5", fields, environment="one", power=np.nan)
    with pytest.raises(UserError, match=r"run1.h5: power is 'nan'"):
        reader().open(raw)
    for power, (name, fields) in enumerate(runs().items()):
        write_hdf5(raw / f"{name}.h5", fields, environment="one", power=power)
    with pytest.raises(UserError, match=r"run2.h5: environment 'one' has power = 1.0, elsewhere 0.0"):
        reader().open(raw)


def test_two_files_of_one_name_are_refused(raw: Path) -> None:
    write_hdf5(raw / "run1.hdf5", fire())
    with pytest.raises(UserError, match=r"run1.hdf5 and .*run1.h5 are both simulation 'run1'"):
        reader().open(raw)


def test_formats_are_not_mixed(raw: Path) -> None:
    np.save(raw / "run4.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"holds simulations of several kinds: .*run3.h5, .*run4.npy; keep one"):
        reader().open(raw)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no simulation: no .h5, .hdf5, .npy, .smv file; run the stage fetch first"
    ):
        reader().open(tmp_path)


# ---- fetching


def test_fetch_copies_simulations_and_tables_alone(raw: Path, tmp_path: Path) -> None:
    (raw / "run1.pickle").write_bytes(b"x")
    (raw / "notes.txt").write_text("x")
    write_fds(raw / "run", [("TEMPERATURE", "C", "y", 2)], {"TEMPERATURE": np.zeros((2, 5, 7), "f4")}, np.arange(2.0))
    reader(raw).fetch(tmp_path / "fetched")
    names = {path.relative_to(tmp_path / "fetched").as_posix() for path in (tmp_path / "fetched").rglob("*.*")}
    assert names == {"run1.h5", "run2.h5", "run3.h5", "environments.csv", "run/fire.smv", "run/fire_1_1.sf"}


def test_what_was_fetched_opens_as_the_source_did(raw: Path, tmp_path: Path) -> None:
    reader(raw).fetch(tmp_path / "fetched")
    check_record(reader().open(tmp_path / "fetched"))


def test_fetch_without_a_source_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fetch.source is empty; .*ask their authors .*into raw/prometheus"):
        reader().fetch(tmp_path)


def test_fetch_from_a_source_without_simulations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no simulation; known are .h5, .hdf5, .npy, .smv files"):
        reader(tmp_path / "source").fetch(tmp_path / "fetched")
