"""Copying through fsspec: what a source may be, resume, and what is said of a source that cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import transfer
from pipeline.errors import UserError


def copied(source: object, folder: Path) -> None:
    transfer.copy(transfer.Source.of(None if source is None else str(source)), folder)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_a_file_a_folder_and_a_glob_are_fetched(tmp_path: Path, raw: Path) -> None:
    (raw / "deep").mkdir()
    for name in ("a.nc", "b.nc", "deep/c.nc"):
        (raw / name).write_bytes(name.encode())
    for source, expected in (
        (raw / "a.nc", {"a.nc"}),
        (raw, {"a.nc", "b.nc", "deep/c.nc"}),
        (raw / "[bc].nc", {"b.nc"}),
        (tmp_path / "r*" / "*.nc", {"raw/a.nc", "raw/b.nc"}),
        (f"file://{raw}/b.nc", {"b.nc"}),
    ):
        out = tmp_path / "out" / str(len(str(source)))
        copied(source, out)
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "fetch.source is empty"),
        ("nowhere/*.nc", r"nothing is at 'nowhere/\*\.nc'"),
        ("nowhere.nc", r"nothing is at 'nowhere\.nc'"),
        ("odd://x/y.nc", r"'odd://x/y\.nc' cannot be read: Protocol not known: odd"),
        ("http://127.0.0.1:9/x.nc", r"nothing is at 'http://127\.0\.0\.1:9/x\.nc' \(Cannot connect to host"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        copied(source, tmp_path / "out")


class RangeHandler(BaseHTTPRequestHandler):
    """Serves one file with ranges, breaks off once after half of it, and notes from where it was asked."""

    content = b""
    broken = False
    starts: list[int]

    def do_HEAD(self) -> None:
        if self.path != "/t.nc":
            self.send_error(404)
            return
        self._head(200, len(self.content))

    def do_GET(self) -> None:
        if self.path != "/t.nc":
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        start, end = int(wanted[0]), int(wanted[1] or len(self.content) - 1)
        self.starts.append(start)
        part = self.content[start : end + 1]
        self._head(206, len(part), f"bytes {start}-{start + len(part) - 1}/{len(self.content)}")
        if self.broken and start + len(part) > len(self.content) // 2:
            self.wfile.write(part[: max(0, len(self.content) // 2 - start)])
            self.connection.close()
            return
        self.wfile.write(part)

    def _head(self, code: int, length: int, content_range: str | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[RangeHandler]]]:
    handler = type("Handler", (RangeHandler,), {"content": bytes(range(256)) * 800, "starts": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/t.nc", handler
        running.shutdown()


def test_a_copy_that_broke_off_goes_on_where_it_stopped(
    tmp_path: Path, server: tuple[str, type[RangeHandler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 10_000)
    handler.broken = True
    with pytest.raises(UserError, match=r"t\.nc' cannot be read"):
        copied(address, tmp_path / "out")
    handler.broken, handler.starts[:] = False, []
    copied(address, tmp_path / "out")
    assert sorted(set(handler.starts))[:2] == [0, 100_000]  # 0 is fsspec's question for the size
    assert (tmp_path / "out" / "t.nc").read_bytes() == handler.content


def test_a_part_of_another_version_is_not_continued(tmp_path: Path, raw: Path) -> None:
    (raw / "a.nc").write_bytes(b"old" * 1000)
    source = transfer.Source.of(str(raw / "a.nc"))
    copying = transfer._copy_all(source, tmp_path / "work", {})
    list(copying)
    part = next((tmp_path / "work").rglob("a.nc"))
    part.rename(part.with_name("a.nc.part"))
    part.with_name("a.nc.part").write_bytes(b"old")
    (raw / "a.nc").write_bytes(b"new" * 999)
    copied: dict[str, Path] = {}
    list(transfer._copy_all(transfer.Source.of(str(raw / "a.nc")), tmp_path / "work", copied))
    assert copied["a.nc"].read_bytes() == b"new" * 999
