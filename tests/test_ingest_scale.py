"""Ingest at scale: kills, bounded memory, checkpoints, and a real Dask cluster whose workers and scheduler die."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from benchmarks.ingest import write_record
from benchmarks.ingest_scale import measured
from pipeline import cluster, shards
from pipeline import ingest as module
from pipeline.datasets.base import combine, field, join, open_file
from pipeline.errors import UserError
from pipeline.moments import Moments
from pipeline.shard_file import PARTIAL
from tests.helpers import moving_waves, record, tiny_params

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("time", "latitude", "longitude")


def raw(frames: int = 120) -> xr.Dataset:
    return record({"t": 280 + 10 * moving_waves(frames)}, names=NAMES)


def opened(path: Path) -> xr.Dataset:
    return combine([join("t", {path.name: field(open_file(path)["t"], {}, path)})])


def slowed(data: xr.Dataset, frames: int, seconds: float) -> xr.Dataset:
    """`data`, whose every piece of `frames` takes a while to read."""

    def slow(block: NDArray[np.float32]) -> NDArray[np.float32]:
        import time  # a worker knows this function by its content, not by its module

        time.sleep(seconds)
        return block

    return data.chunk(time=frames).map(lambda field: field.copy(data=field.data.map_blocks(slow, dtype=field.dtype)))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def written(folder: Path) -> int:
    """How many shards of `t` lie in the store."""
    return len(list((folder / module.STORE / "t" / "c").glob("*/0/0")))


# ---- kills


def run_ingest(source: Path, folder: Path, seconds_per_shard: float = 0, **settings: Any) -> subprocess.Popen[str]:
    """Ingests a NetCDF file in a process of its own, perhaps slowed down; it says when a shard is in the checkpoint."""
    code = f"""
import time
from pathlib import Path
from pipeline import ingest as module, shards
from tests.helpers import tiny_params
from tests.test_ingest_scale import opened
save = shards._save
def slow(*arguments):
    save(*arguments)
    print("shard", flush=True)
    time.sleep({seconds_per_shard})
shards._save = slow
shards.SHARE_OF_CHECKPOINTS = 1e9
module.ingest(opened(Path({str(source)!r})), tiny_params(ingest={settings!r}).ingest, Path({str(folder)!r}))
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "t.nc"
    data = raw()
    data["t"][10:13, 4, 5] = np.nan
    data.to_netcdf(source)
    settings: dict[str, Any] = {"missing": "fill", "shard_megabytes": 0.006}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert run_ingest(source, tmp_path / "whole", **settings).communicate()[0].count("shard") == 15
    process = run_ingest(source, tmp_path / "killed", seconds_per_shard=0.5, **settings)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "shard\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (tmp_path / "killed" / module.STORE / "t" / "c" / "0" / f"0.1{PARTIAL}").write_bytes(b"half of a shard")
    assert run_ingest(source, tmp_path / "killed", **settings).communicate()[0].count("shard") == 12
    assert bytes_of(tmp_path / "whole" / module.STORE) == bytes_of(tmp_path / "killed" / module.STORE)


def test_the_number_of_threads_does_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_params(ingest={"shard_megabytes": 0.006}).ingest
    for threads in (1, 4):
        monkeypatch.setattr(cluster.os, "sched_getaffinity", lambda _, threads=threads: set(range(threads)))
        (tmp_path / str(threads)).mkdir()
        module.ingest(raw().chunk(), settings, tmp_path / str(threads))
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "4")


def test_checkpoints_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []

    def slow(path: Path, merged: shards.Merged) -> None:
        saved.append(merged.done)
        time.sleep(0.05)

    monkeypatch.setattr(shards, "_save", slow)
    checkpoint = shards.Checkpoint(tmp_path / "c")
    for done in range(1, 11):
        checkpoint.save(shards.Merged(done, Moments.none((1, 2, 2)), np.zeros((1, 10), np.int64)), last=done == 10)
    assert saved == [1, 10]


# ---- memory


def test_memory_grows_neither_with_the_record_nor_with_the_number_of_its_files(tmp_path: Path) -> None:
    write_record(tmp_path / "unit.nc", frames=1000, rows=32, columns=64)
    peaks = []
    for units in (2, 16):
        folder = tmp_path / f"{units}"
        folder.mkdir()
        files = [folder / f"{unit}.nc" for unit in range(units)]  # copies: what one file keeps in memory is shared
        for file in files:
            shutil.copy(tmp_path / "unit.nc", file)
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            peaks.append(process.submit(measured, files, folder, shard_megabytes=2).result()[2])
    assert peaks[1] - peaks[0] < 100  # the longer record is 230 MB longer; 260 MB if each file kept 16 MB of chunks


# ---- a cluster


def test_a_dask_scheduler_gives_the_same_bytes(tmp_path: Path) -> None:
    from distributed import LocalCluster

    raw().to_netcdf(tmp_path / "t.nc")
    data, settings = opened(tmp_path / "t.nc"), tiny_params().ingest
    for name in ("threads", "cluster"):
        (tmp_path / name).mkdir()
    module.ingest(data, settings, tmp_path / "threads")
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local:
        module.ingest(data, settings, tmp_path / "cluster", scheduler=local.scheduler_address)
    assert bytes_of(tmp_path / "threads") == bytes_of(tmp_path / "cluster")


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(UserError, match=r"runtime.dask_scheduler: no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        module.ingest(raw().chunk(), tiny_params().ingest, tmp_path, scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_without_workers_and_workers_without_the_folder_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local:
        with pytest.raises(UserError, match=r"scheduler at '\S+' has no workers"):
            module.ingest(raw().chunk(), tiny_params().ingest, tmp_path, scheduler=local.scheduler_address)
        local.scale(1)
        with (
            pytest.raises(UserError, match=r"worker \S+ does not see the folder \S+/absent; .* the same path"),
            cluster.workers(local.scheduler_address, (), tmp_path / "absent"),
        ):
            pass


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def dask(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `dask` command of its own, ended at the end."""
    command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with (folder / "dask.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


WORKER = ("--no-nanny", "--nthreads", "1", "--memory-limit", "0")


@contextmanager
def at_shard(folder: Path, shard: int, *victims: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kills processes as soon as so many shards are written."""
    done = threading.Event()

    def kill() -> None:
        while written(folder) < shard and not done.wait(0.01):
            pass
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_cluster_may_lose_a_worker_and_then_its_scheduler(tmp_path: Path) -> None:
    settings = tiny_params(ingest={"shard_megabytes": 0.02, "missing": "fill"}).ingest
    data = raw(1200)
    data["t"][200:207, 3, 4] = np.nan
    for name in ("threads", "worker", "scheduler"):
        (tmp_path / name).mkdir()
    module.ingest(data.chunk(), settings, tmp_path / "threads")
    address = f"tcp://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        scheduler = stack.enter_context(dask(tmp_path, "scheduler", "--port", address.rpartition(":")[2]))
        first, _ = (stack.enter_context(dask(tmp_path, "worker", address, *WORKER)) for _ in range(2))
        with at_shard(tmp_path / "worker", 8, first):
            module.ingest(slowed(data, 40, 0.05), settings, tmp_path / "worker", scheduler=address)
        assert first.wait(5) == -signal.SIGKILL
        with (
            at_shard(tmp_path / "scheduler", 8, scheduler),
            pytest.raises(UserError, match=r"scheduler at '\S+' was lost; the next run goes on from the last"),
        ):
            module.ingest(slowed(data, 40, 0.05), settings, tmp_path / "scheduler", scheduler=address)
    assert 8 <= written(tmp_path / "scheduler") < written(tmp_path / "threads")
    module.ingest(data.chunk(), settings, tmp_path / "scheduler")
    for name in ("worker", "scheduler"):
        assert bytes_of(tmp_path / name) == bytes_of(tmp_path / "threads"), name


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "shards.py").write_text("# of last year\n")
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        dask(tmp_path, "scheduler", "--port", address.rpartition(":")[2]),
        dask(tmp_path, "worker", address, *WORKER, PYTHONPATH=str(tmp_path)),
        pytest.raises(
            UserError, match=r"the worker tcp://\S+ has another version of pipeline/shards.py; start workers"
        ),
    ):
        module.ingest(raw().chunk(), tiny_params().ingest, tmp_path, scheduler=address)
