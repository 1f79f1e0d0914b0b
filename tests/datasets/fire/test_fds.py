"""Raw FDS output: planes by quantity and place, meshes side by side, adaptive times, and files that are not whole."""

from __future__ import annotations

import builtins
import pickle
import shutil
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.datasets.fire import fds
from pipeline.errors import UserError
from tests.fires import write_fds

CELLS = (6, 4, 4)  # of half a metre
POINTS = {"x": (5, 5), "y": (5, 7), "z": (5, 7)}  # rows and columns of a plane, node-centred
TIMES = 0.5 * np.arange(8)


def noise(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(300, 50, (len(TIMES), *shape)).astype("f4")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run in two meshes: temperature in the plane y = 1 m."""
    folder = tmp_path / "run"
    write_fds(folder, [("TEMPERATURE", "C", "y", 2)], {"TEMPERATURE": noise((5, 7))}, TIMES, CELLS, split_at=2)
    return folder


def opened(folder: Path, *variables: str) -> Any:
    return fds.open_simulation("run", folder / "fire.smv", variables or ("TEMPERATURE",))


@pytest.mark.parametrize(("axis", "split_at"), [("x", 0), ("y", 0), ("z", 0), ("y", 2), ("z", 4)])
def test_a_plane_comes_back_as_it_was_put_out_from_one_mesh_or_two(tmp_path: Path, axis: str, split_at: int) -> None:
    values = noise(POINTS[axis])
    write_fds(tmp_path, [("TEMPERATURE", "C", axis, 1)], {"TEMPERATURE": values}, TIMES, CELLS, split_at)
    simulation = opened(tmp_path)
    assert np.array_equal(simulation.fields["temperature"].values.compute(), values)
    assert simulation.fields["temperature"].units == "degC"
    assert np.array_equal(simulation.seconds, TIMES)
    assert np.array_equal(simulation.y, 0.5 * np.arange(POINTS[axis][0]))
    assert np.array_equal(simulation.x, 0.5 * np.arange(POINTS[axis][1]))


@pytest.mark.parametrize("centred", [False, True])
def test_values_and_coordinates_agree_with_fdsreaders_own_assembly(tmp_path: Path, centred: bool) -> None:
    import fdsreader

    values = noise((4, 6) if centred else (5, 7))
    write_fds(tmp_path, [("TEMPERATURE", "C", "y", 2)], {"TEMPERATURE": values}, TIMES, CELLS, 4, centred=centred)
    simulation = opened(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    theirs, places = fdsreader.Simulation(str(tmp_path / "copy")).slices[0].to_global(return_coordinates=True)
    assert np.array_equal(simulation.fields["temperature"].values.compute(), theirs.transpose(0, 2, 1))
    assert np.array_equal(simulation.fields["temperature"].values.compute(), values)
    assert np.allclose(simulation.y, places["z"])
    assert np.allclose(simulation.x, places["x"])


def test_any_slice_of_the_lazy_values_is_that_of_the_whole(run: Path) -> None:
    lazy, whole = opened(run).fields["temperature"].values, noise((5, 7))
    for index in (np.s_[3], np.s_[2:7:2], np.s_[1:4, 2], np.s_[:, 1:3, ::2], np.s_[-1, 4, 6]):
        assert np.array_equal(lazy[index].compute(), whole[index])


def test_only_the_frames_that_are_asked_for_are_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.datasets.files.arrays.CHUNK_BYTES", 2 * 5 * 7 * 4)
    lazy = opened(run).fields["temperature"].values
    read: list[int] = []
    whole = fds._Mosaic.__getitem__

    def noted(mosaic: fds._Mosaic, index: Any) -> Any:
        read.append(len(out := whole(mosaic, index)))
        return out

    monkeypatch.setattr(fds._Mosaic, "__getitem__", noted)
    lazy[2:4].compute()
    assert lazy.chunks[0] == (2, 2, 2, 2)
    assert read == [2]


def test_velocities_of_a_slice_with_vectors_are_found(tmp_path: Path) -> None:
    values = {"TEMPERATURE": noise((5, 7), 1), "U-VELOCITY": noise((5, 7), 2)}
    write_fds(tmp_path, [("TEMPERATURE", "C", "y", 2), ("U-VELOCITY", "m/s", "y", 2)], values, TIMES, CELLS, 2)
    smv = tmp_path / "fire.smv"
    smv.write_text(smv.read_text().replace("! 2 0", "! 1 0"))  # as FDS numbers slices with VECTOR=.TRUE.
    fields = opened(tmp_path, "u_velocity", "temperature").fields
    assert np.array_equal(fields["u_velocity"].values.compute(), values["U-VELOCITY"])
    assert np.array_equal(fields["temperature"].values.compute(), values["TEMPERATURE"])
    assert fields["u_velocity"].units == "m/s"


def test_other_processes_can_read_the_lazy_values(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    lazy = fds.open_simulation("run", Path("fire.smv"), ["TEMPERATURE"]).fields["temperature"].values
    sent = cloudpickle.dumps(lazy)
    monkeypatch.chdir(run.parent)
    assert np.array_equal(cloudpickle.loads(sent).compute(), noise((5, 7)))


def test_the_plane_is_chosen_exactly_or_as_the_nearest(tmp_path: Path) -> None:
    planes = {"TEMPERATURE": noise((5, 7))}
    write_fds(tmp_path, [("TEMPERATURE", "C", "y", 1), ("TEMPERATURE", "C", "y", 4)], planes, TIMES, CELLS)
    smv = tmp_path / "fire.smv"
    chosen = {
        spec: next(iter(fds.open_simulation("a", smv, [spec]).fields)) for spec in ("temperature@y=2", "TEMP@y~0")
    }
    assert list(chosen.values()) == ["temperature", "temp"]
    with pytest.raises(UserError, match=r"no slice 'TEMPERATURE@y=1'; it has TEMPERATURE@y=0.5, TEMPERATURE@y=2"):
        opened(tmp_path, "TEMPERATURE@y=1")
    with pytest.raises(UserError, match=r"may be TEMPERATURE@y=0.5 or TEMPERATURE@y=2 in .*fire.smv; name the plane"):
        opened(tmp_path, "TEMPERATURE")
    with pytest.raises(UserError, match=r"may be TEMPERATURE@y=0.5 or TEMPERATURE@y=2"):
        opened(tmp_path, "TEMPERATURE@y~1.25")  # as far from one as from the other


def test_nearest_takes_the_plane_that_is_nearest(tmp_path: Path) -> None:
    first, second = noise((5, 7), 1), noise((5, 7), 2)
    write_fds(tmp_path, [("A", "C", "y", 1), ("B", "C", "y", 4)], {"A": first, "B": second}, TIMES, CELLS)
    smv = tmp_path / "fire.smv"
    smv.write_text(smv.read_text().replace(" B\n", " A\n"))
    for spec, values in (("A@y~0.9", first), ("A@y~1.9", second), ("A@y=2", second)):
        assert np.array_equal(opened(tmp_path, spec).fields["a"].values.compute(), values)


def test_several_quantities_keep_the_order_that_is_asked_for(tmp_path: Path) -> None:
    values = {"TEMPERATURE": noise((5, 7), 1), "SOOT VISIBILITY": noise((5, 7), 2)}
    slices = [("TEMPERATURE", "C", "y", 2), ("SOOT VISIBILITY", "m", "y", 2)]
    write_fds(tmp_path, slices, values, TIMES, CELLS)
    fields = opened(tmp_path, "soot_visibility@y=1", "Temperature").fields
    assert list(fields) == ["soot_visibility", "temperature"]
    assert fields["soot_visibility"].units == "m"
    assert fields["soot_visibility"].long_name == "soot visibility"
    assert np.array_equal(fields["soot_visibility"].values.compute(), values["SOOT VISIBILITY"])


def test_fields_of_different_grids_are_refused(tmp_path: Path) -> None:
    values = {"TEMPERATURE": noise((5, 7)), "VELOCITY": noise((5, 5))}
    write_fds(tmp_path, [("TEMPERATURE", "C", "y", 2), ("VELOCITY", "m/s", "x", 2)], values, TIMES, CELLS)
    with pytest.raises(UserError, match="TEMPERATURE and VELOCITY have different grids or times"):
        opened(tmp_path, "TEMPERATURE", "VELOCITY")


# ---- nothing is unpickled


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_beside_the_data_is_neither_loaded_nor_removed_nor_made(run: Path, tmp_path: Path) -> None:
    import fdsreader

    mark = tmp_path / "exploded"
    planted = run / "fire.pickle"
    planted.write_bytes(pickle.dumps(Bomb(mark)))
    content, files = planted.read_bytes(), sorted(run.iterdir())
    opened(run).fields["temperature"].values.compute()
    assert not mark.exists()
    assert planted.read_bytes() == content
    assert sorted(run.iterdir()) == files
    fdsreader.Simulation(str(run))  # the library alone falls for it: the test can fail
    assert mark.exists()


def test_the_librarys_settings_are_as_before_and_other_warnings_are_heard(run: Path) -> None:
    import warnings

    import fdsreader

    before, filters = dict(vars(fdsreader.settings)), list(warnings.filters)
    opened(run)
    assert {k: v for k, v in vars(fdsreader.settings).items() if k.isupper()} == {
        k: v for k, v in before.items() if k.isupper()
    }
    assert warnings.filters == filters


def test_output_that_was_not_copied_is_not_missed(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    smv = run / "fire.smv"
    smv.write_text("CSVF\n hrr\n fire_hrr.csv\n" + smv.read_text() + "BNDF 1 1\n fire_1_1.bf\n WALL\n w\n C\n")
    assert opened(run).fields["temperature"].values.shape == (8, 5, 7)
    assert not caplog.records


# ---- files that are not whole


def test_a_slice_that_is_cut_short_is_named(run: Path) -> None:
    file = run / "fire_2_1.sf"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"fire_2_1.sf is cut short: \d+ bytes are no whole number of frames"):
        opened(run)


def test_a_slice_without_frames_is_refused(run: Path) -> None:
    file = run / "fire_1_1.sf"
    file.write_bytes(file.read_bytes()[: fds.HEADER_BYTES])
    with pytest.raises(UserError, match=r"fire_1_1.sf is cut short"):
        opened(run)


def test_meshes_of_a_stopped_run_must_have_the_same_frames(run: Path) -> None:
    file = run / "fire_2_1.sf"
    whole = file.read_bytes()
    frame = (len(whole) - fds.HEADER_BYTES) // len(TIMES)
    file.write_bytes(whole[:-frame])
    with pytest.raises(UserError, match=r"fire_2_1.sf has 7 frames, .*fire_1_1.sf has 8"):
        opened(run)


def test_a_foreign_or_damaged_slice_is_refused(run: Path) -> None:
    file = run / "fire_1_1.sf"
    whole = file.read_bytes()
    file.write_bytes(b"nonsense" + whole[8:])
    with pytest.raises(UserError, match=r"fire_1_1.sf is no little-endian FDS slice file: it starts with b'nons'"):
        opened(run)
    file.write_bytes(whole[: fds.HEADER_BYTES] + b"\x07" + whole[fds.HEADER_BYTES + 1 :])
    with pytest.raises(UserError, match=r"fire_1_1.sf is damaged"):
        opened(run)


def test_a_missing_slice_file_is_named(run: Path) -> None:
    (run / "fire_1_1.sf").unlink()
    with pytest.raises(UserError, match=r"fire_1_1.sf cannot be read: No such file"):
        opened(run)


@pytest.mark.parametrize("file", ["../secret.sf", "/etc/passwd", "a/../../b.sf"])
def test_a_slice_outside_the_folder_is_refused(run: Path, file: str) -> None:
    smv = run / "fire.smv"
    smv.write_text(smv.read_text().replace("fire_1_1.sf", file))
    with pytest.raises(UserError, match="must lie in the simulation's own folder"):
        opened(run)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense\n", b"CHID\n fire\nGRID M\n 2 2\n", b"\xff\xfe\x00", b"CHID\n fire\n"]
)
def test_a_foreign_smv_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fire.smv").write_bytes(content)
    with pytest.raises(UserError, match=r"fire.smv (is no .smv file|has no slice)"):
        opened(tmp_path)


def test_a_slice_entry_that_cannot_be_understood_is_refused(run: Path) -> None:
    smv = run / "fire.smv"
    smv.write_text(smv.read_text().replace("! 1 0", "", 1))
    with pytest.raises(UserError, match="a slice it lists cannot be understood"):
        opened(run)


def test_meshes_of_other_cells_are_refused(run: Path) -> None:
    other = run.parent / "other"
    write_fds(other, [("TEMPERATURE", "C", "y", 2)], {"TEMPERATURE": noise((5, 7))}, TIMES, CELLS, 2, size=0.4)
    meshes = [(folder / "fire.smv").read_text().split("GRID ") for folder in (run, other)]
    mixed = "GRID ".join([*meshes[0][:2], meshes[1][2]])
    (run / "fire.smv").write_text(mixed)
    with pytest.raises(UserError, match=r"(other cells than its neighbours|leave holes in TEMPERATURE@y=1)"):
        opened(run)


@pytest.mark.parametrize("variable", ["", "TEMPERATURE@w=3", "TEMPERATURE@y", "TEMPERATURE@y=abc", "TEMPERATURE@y>3"])
def test_a_variable_that_names_no_slice_is_refused(run: Path, variable: str) -> None:
    with pytest.raises(UserError, match="is no FDS slice; write QUANTITY, QUANTITY@y=3 or QUANTITY@y~3"):
        opened(run, variable)


def test_unknown_units_are_refused_with_those_known(tmp_path: Path) -> None:
    write_fds(tmp_path, [("TEMPERATURE", "furlong", "y", 2)], {"TEMPERATURE": noise((5, 7))}, TIMES, CELLS)
    with pytest.raises(UserError, match="TEMPERATURE has the units 'furlong'; known are K, degC, m/s, 1/m"):
        opened(tmp_path)


def test_without_fdsreader_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name == "fdsreader":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UserError, match=r"pip install 's2kd\[fds\]'"):
        opened(run)
