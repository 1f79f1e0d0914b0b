"""Zip archives: what is refused before anything is unpacked, and what is noticed while it is."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from pipeline import transfer
from pipeline.datasets.files import archives
from pipeline.errors import UserError
from pipeline.params import Fetch

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)


def unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    source = transfer.Source.of(Fetch(source=str(path)))
    with archives.opened(source, lambda source: source.renamed(lambda n: n if n.endswith(".zip") else None)) as opened:
        transfer.copy(opened, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(path: Path, *entries: zipfile.ZipInfo | str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("good.nc", CONTENT)
        for entry in entries:
            archive.writestr(entry, CONTENT)
    return path


@pytest.mark.parametrize("method", archives.METHODS)
def test_members_come_out_as_they_went_in(method: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", "deep/er.nc", "empty/", method=method)
    assert unpacked(path, tmp_path / "out") == {"a.zip/good.nc": CONTENT, "a.zip/deep/er.nc": CONTENT}


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link.nc")
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("../../evil.nc", "leads out of its folder"),
        ("deep/../../../evil.nc", "leads out of its folder"),
        ("/tmp/evil.nc", "leads out of its folder"),
        ("..\\evil.nc", "leads out of its folder"),
        ("C:evil.nc", "has a drive letter"),
        (link(), "is a link or a device"),
    ],
)
def test_an_entry_that_would_leave_the_folder_is_refused(
    entry: str | zipfile.ZipInfo, fault: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.zip", entry)
    with pytest.raises(UserError, match=rf"a\.zip: the entry '.*' {fault}; nothing was unpacked"):
        unpacked(path, tmp_path / "out")
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} <= {"a.zip"} | {
        file.name for file in (tmp_path / ".work").rglob("*.lock")
    }


def test_a_bomb_that_is_honest_about_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.nc", bytes(20_000_000))
    with pytest.raises(UserError, match=r"'zeros\.nc' claims to unpack from \d+ to 20000000 bytes; nothing was"):
        unpacked(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("claimed", [1000, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_bomb_that_lies_about_its_size_is_noticed(claimed: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip")
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", len(CONTENT)), struct.pack("<L", claimed)))
    with pytest.raises(
        UserError, match=r"a\.zip/good\.nc'? (cannot be read: Bad CRC-32|came as 1024000 bytes but has)"
    ):
        unpacked(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip/good\.nc' cannot be read: Bad CRC-32"):
        unpacked(path, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_an_archive_that_is_cut_short_is_named(share: float, tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"a\.zip is no whole zip archive; it is cut short or damaged"):
        unpacked(path, tmp_path / "out")


def test_what_cannot_be_unpacked_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    encrypted, unknown = bytearray(data), bytearray(data)
    encrypted[directory + 8] |= 1
    unknown[directory + 10] = 9  # deflate64, which Windows uses for large files
    path.write_bytes(encrypted)
    with pytest.raises(UserError, match=r"the entry 'good\.nc' is encrypted"):
        unpacked(path, tmp_path / "out")
    path.write_bytes(unknown)
    with pytest.raises(UserError, match=r"the entry 'good\.nc' is packed by method 9, which is not known"):
        unpacked(path, tmp_path / "out")


def test_archives_in_archives_in_archives_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "0.zip")
    for depth in range(1, 4):
        inner = io.BytesIO(path.read_bytes())
        path = tmp_path / f"{depth}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{depth - 1}.zip", inner.getvalue())
        if depth == 1:
            assert unpacked(path, tmp_path / "out") == {"1.zip/0.zip/good.nc": CONTENT}
    with pytest.raises(UserError, match="archives in archives in archives; unpack them by hand"):
        unpacked(path, tmp_path / "more")
