"""Real stores on this machine for tests: a web server, S3 (rclone) and Google Cloud Storage (an emulator).

Each serves a folder while its context lasts and tells the address and the options of `fetch.storage`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec

BUCKET = "bucket"


@dataclass
class Web:
    """What a web server serves and how it misbehaves."""

    folder: Path
    ranges: bool = True
    breaks_after: int | None = None  # bytes of an answer
    breaks: int = 10**9  # how often it breaks off
    password: str | None = None  # of basic authentication, as the header has it
    starts: list[int] = field(default_factory=list)  # of the ranges asked for
    bytes_sent: int = 0
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    web: ClassVar[Web]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.web.folder / self.path.partition("?")[0].lstrip("/")
        if self.web.password and self.headers.get("Authorization") != self.web.password:
            return self.send_error(401)
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        asked = self.headers.get("Range")
        start, stop = 0, len(content)
        if asked and self.web.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
        part = content[start:stop]
        limit = self._limit(start, part) if with_body else None  # before the client hears of the answer
        self.send_response(206 if asked and self.web.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked and self.web.ranges:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self._write(part, limit)

    def _limit(self, start: int, part: bytes) -> int | None:
        """After how many bytes this answer breaks off."""
        self.web.starts.append(start)
        limit = self.web.breaks_after
        if limit is None or len(part) <= limit or self.web.breaks <= 0:
            return None
        self.web.breaks -= 1
        return limit

    def _write(self, part: bytes, limit: int | None) -> None:
        if limit is not None:
            self.wfile.write(part[:limit])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            with suppress(ConnectionError):  # who asked only whether it is there
                self.wfile.write(part)
                self.web.bytes_sent += len(part)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def web(folder: Path, **settings: Any) -> Iterator[Web]:
    served = Web(folder, **settings)
    handler = type("Handler", (_Handler,), {"web": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield served
        server.shutdown()


@contextmanager
def s3(folder: Path, keys: tuple[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Serves the folders of `folder` as buckets; with `keys`, to who has them, else to anybody."""
    port = _free_port()
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", str(folder), "--config", os.devnull]
    command += ["--addr", f"127.0.0.1:{port}", *(["--auth-key", ",".join(keys)] if keys else [])]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(server, port)
        yield f"s3://{BUCKET}", {"endpoint_url": f"http://127.0.0.1:{port}", "anon": keys is None}
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextmanager
def gcs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Serves what is in `folder` now."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as transfer.connected does
    from gcp_storage_emulator.server import create_server

    port = _free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    storage = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"}
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        filesystem = fsspec.filesystem("gs", **storage, skip_instance_cache=True)
        filesystem.pipe({f"{BUCKET}/{path.relative_to(folder)}": path.read_bytes() for path in files})
        yield f"gs://{BUCKET}", storage
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_open(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(200):
        assert server.poll() is None, "the server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")
