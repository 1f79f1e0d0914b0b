"""HDF5, .npy and .npz: read lazily, in other processes too, and refused when cut short, foreign or unsafe."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.datasets.files import arrays
from pipeline.errors import UserError

VALUES = np.random.default_rng(0).normal(size=(40, 2, 3, 4)).astype(np.float32)


def hdf5(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=VALUES, **options)
        file["date"] = np.array([b"2013010101"] * 40)
        file.create_dataset("names", data=["a", "bb"])
        file["compound"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
    return path


def fails(action: Callable[[], Any], *words: str) -> None:
    with pytest.raises(UserError) as error:
        action()
    assert all(word in str(error.value) for word in words), error.value


# ---- what is read


@pytest.mark.parametrize("options", [{}, {"chunks": (7, 2, 3, 4), "compression": "gzip"}])
def test_a_lazy_array_reads_what_the_file_holds_in_whole_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1500)
    lazy = arrays.hdf5_array(hdf5(tmp_path / "a.h5", **options), "data", rank=4)
    np.testing.assert_array_equal(lazy.compute(), VALUES)
    np.testing.assert_array_equal(lazy[3:20, 1].compute(), VALUES[3:20, 1])
    np.testing.assert_array_equal(lazy[[1, 5, 30]].compute(), VALUES[[1, 5, 30]])
    assert lazy.chunks[0][0] == (14 if options else 15)


def test_npy_is_read_lazily_and_npz_whole_or_unpacked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(VALUES))
    for name in ("a.npy", "fortran.npy"):
        np.testing.assert_array_equal(arrays.npy_array(tmp_path / name, rank=4)[5:9].compute(), VALUES[5:9])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", X_train=VALUES, other=VALUES[0])
        assert arrays.npz_names(tmp_path / "a.npz") == ["X_train", "other"]
        np.testing.assert_array_equal(arrays.npz_values(tmp_path / "a.npz", "X_train", rank=4), VALUES)
        arrays.unpack_npz(tmp_path / "a.npz", tmp_path / "out")
        np.testing.assert_array_equal(arrays.npy_map(tmp_path / "out" / "other.npy", rank=3), VALUES[0])


def test_a_lazy_array_travels_to_another_process_without_its_values(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    for lazy in (arrays.hdf5_array(hdf5(tmp_path / "a.h5"), "data", 4), arrays.npy_array(tmp_path / "a.npy", 4)):
        sent = pickle.dumps(lazy)
        assert len(sent) < VALUES.nbytes / 2
        np.testing.assert_array_equal(pickle.loads(sent).compute(), VALUES)


def test_text_is_read_as_bytes_of_fixed_or_free_length(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5")
    assert arrays.hdf5_values(path, "date", 1, "S")[0] == b"2013010101"
    assert arrays.hdf5_values(path, "names", 1, "S").tolist() == [b"a", b"bb"]


# ---- what is refused


def test_a_data_set_of_another_name_rank_or_kind_is_refused(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5")
    fails(lambda: arrays.hdf5_array(path, "flow", 4), str(path), "no data set 'flow'", "compound, data, date, names")
    fails(lambda: arrays.hdf5_array(path, "data", 3), "'data' has the shape (40, 2, 3, 4); it needs 3 axes")
    fails(lambda: arrays.hdf5_array(path, "date", 1), "'date' holds |S10; allowed are floats or integers")
    fails(lambda: arrays.hdf5_array(path, "compound", 1), "'compound' holds")
    fails(lambda: arrays.hdf5_array(tmp_path / "b.h5", "data", 4), "b.h5 is missing")


def test_data_in_other_files_are_not_followed(tmp_path: Path) -> None:
    hdf5(tmp_path / "other.h5")
    (tmp_path / "raw.bin").write_bytes(VALUES.tobytes())
    layout = h5py.VirtualLayout(VALUES.shape, "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", VALUES.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", VALUES.shape, "f4", external=str(tmp_path / "raw.bin"))
    for name, words in (("linked", "is a link to"), ("virtual", "stored in other"), ("external", "stored in other")):
        fails(partial(arrays.hdf5_array, tmp_path / "a.h5", name, 4), words)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_anywhere_is_named(tmp_path: Path, share: float) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "a.npz", data=VALUES)
    hdf5(tmp_path / "a.h5")
    for name, action in (
        ("a.h5", lambda path: arrays.hdf5_array(path, "data", 4)),
        ("a.npy", lambda path: arrays.npy_array(path, 4)),
        ("a.npz", lambda path: arrays.npz_values(path, "data", 4)),
        ("a.npz", lambda path: arrays.unpack_npz(path, tmp_path / "out")),
    ):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(whole[: int(share * len(whole))])
        fails(partial(action, cut), str(cut), "cut short")


def test_damage_inside_a_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", chunks=(7, 2, 3, 4), compression="gzip", fletcher32=True)
    np.savez_compressed(tmp_path / "a.npz", data=VALUES)
    with h5py.File(path) as file:
        place = file["data"].id.get_chunk_info(2).byte_offset + 20
    for file_path, offset in ((path, place), (tmp_path / "a.npz", 900)):
        content = bytearray(file_path.read_bytes())
        content[offset] ^= 0xFF
        file_path.write_bytes(content)
    fails(lambda: arrays.hdf5_array(path, "data", 4).compute(), str(path), "damaged")
    fails(lambda: arrays.npz_values(tmp_path / "a.npz", "data", 4), "a.npz", "damaged")
    fails(lambda: arrays.unpack_npz(tmp_path / "a.npz", tmp_path / "out"), "a.npz", "damaged")
    assert list((tmp_path / "out").glob("*")) == []


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    evil = np.array([Bomb(tmp_path / "trace")], dtype=object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "a.npz", data=evil)
    fails(lambda: arrays.npy_array(tmp_path / "a.npy", 1), "holds Python objects, which are never unpickled")
    fails(lambda: arrays.npz_values(tmp_path / "a.npz", "data", 1), "holds Python objects")
    arrays.unpack_npz(tmp_path / "a.npz", tmp_path / "out")
    fails(lambda: arrays.npy_map(tmp_path / "out" / "data.npy", 1), "holds Python objects")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("entry", ["../evil.npy", "/tmp/evil.npy", "a/b.npy", "a\\b.npy", "readme.txt", ".npy"])
def test_entries_that_are_no_plain_name_are_refused(tmp_path: Path, entry: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(entry, b"x")
    fails(
        lambda: arrays.unpack_npz(tmp_path / "a.npz", tmp_path / "deep" / "out"),
        "a.npz has the entry",
        "without folders",
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["a.npz"]


def test_a_header_that_asks_for_more_than_the_file_has_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 2, 64, 64)}
        )
        stream.write(b"\0" * 64)
    fails(lambda: arrays.npy_array(tmp_path / "a.npy", 4), "bytes but its header speaks of")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "data.npy")
    fails(lambda: arrays.npz_values(tmp_path / "a.npz", "data", 4), "bytes but its header speaks of")
