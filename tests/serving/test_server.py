from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import cli
from pipeline.serving.predict import predict
from tests.exported import Exported
from tests.test_report import CHROMIUM

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Server:
    """`s2kd serve` as a process of its own, asked over loopback."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from pipeline import cli; cli.main()", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def ask(self, path: str, body: bytes | None = None, kind: str = "", host: str = "") -> tuple[int, str, bytes]:
        """Status, content type and body."""
        headers = {name: value for name, value in (("Content-Type", kind), ("Host", host)) if value}
        request = urllib.request.Request(self.address + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-type"], error.read()

    def json(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, Any]:
        status, _, content = self.ask(path, body, kind if body is not None else "")
        return status, json.loads(content)

    def stop(self) -> str:
        """Ends it and gives what it wrote to its log."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def server(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of a model whose names are hostile."""
    folder = Path(shutil.copytree(exported.folder, tmp_path_factory.mktemp("hostile") / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["description"] = config["variables"][1]["long_name"] = HOSTILE
    (folder / "config.json").write_text(json.dumps(config))
    running = Server(str(folder), "--data", str(exported.store.path), "--max-megabytes", "0.2")
    yield running
    assert "Traceback" not in running.stop()


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.fixture(scope="module")
def inputs(exported: Exported) -> np.ndarray:
    """(2, 3, 2, 8, 16): the first two windows."""
    frames = exported.store.frames(0, 6)
    return np.stack([frames[0:5:2], frames[1:6:2]])


@pytest.fixture(scope="module")
def forecast(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("forecast") / "forecast.nc"
    predict(exported.folder, str(exported.store.path), path)
    return xr.load_dataset(path)


def test_health_and_metadata_say_what_runs(server: Server, exported: Exported) -> None:
    assert server.json("/health") == (200, {"status": "ok"})
    status, metadata = server.json("/metadata")
    assert status == 200
    assert metadata["grid"]["y"] == list(exported.spec.grid.y)
    assert (metadata["max_bytes"], metadata["data"], metadata["precision"]) == (200_000, True, "float32")


def test_json_numpy_and_netcdf_give_the_forecasts_of_predict(
    server: Server, inputs: np.ndarray, forecast: xr.Dataset, exported: Exported, tmp_path: Path
) -> None:
    expected = np.stack([forecast["z500"], forecast["t850"]], axis=2)[:2]
    status, answer = server.json("/predict", json.dumps({"inputs": inputs[0].tolist()}).encode())
    assert status == 200
    np.testing.assert_allclose(answer["forecast"], expected[0], rtol=1e-6)
    status, kind, content = server.ask("/predict", npy(inputs), "application/x-npy")
    assert (status, kind) == (200, "application/x-npy")
    np.testing.assert_allclose(np.load(io.BytesIO(content)), expected, rtol=1e-6)
    record = xr.open_zarr(exported.store.path)[["z500", "t850"]].isel(time=slice(0, 6)).load()
    for name in record.variables:
        record[name].encoding.clear()
    record.to_netcdf(tmp_path / "input.nc", engine="netcdf4")
    status, kind, content = server.ask("/predict", (tmp_path / "input.nc").read_bytes(), "application/x-netcdf")
    assert (status, kind) == (200, "application/x-netcdf")
    (tmp_path / "answer.nc").write_bytes(content)
    answered = xr.load_dataset(tmp_path / "answer.nc")
    xr.testing.assert_allclose(answered, forecast.isel(init_time=slice(0, 2)), rtol=1e-6)


WHOLE = np.zeros((3, 2, 8, 16), np.float32)
JSON, NPY, NETCDF = "application/json", "application/x-npy", "application/x-netcdf"


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b"x", 415, "content type 'text/plain' is not read; known: application/json"),
        (JSON, b"{", 422, "the body is not JSON"),
        (JSON, b"[" * 50_000, 422, "the body is not JSON"),
        (JSON, b"[1]", 422, 'the body must be {"inputs": [...]}'),
        (JSON, b'{"inputs": [[1, 2], [3]]}', 422, "nested lists of numbers, all rows of one length"),
        (JSON, b'{"inputs": {"a": 1}}', 422, "nested lists of numbers"),
        (JSON, b'{"inputs": ["x"]}', 422, "nested lists of numbers"),
        (JSON, b'{"inputs": [1, 2]}', 422, "inputs have the shape (2,); the model takes (3, 2, 8, 16)"),
        (JSON, json.dumps({"inputs": (WHOLE + np.nan).tolist()}).encode(), 422, "inputs hold NaN, infinity"),
        (JSON, b" " * 200_001, 413, "the body is larger than 0.2 MB"),
        (NPY, b"no array", 422, "the body is not a .npy file"),
        (NPY, npy(WHOLE[:2]), 422, "inputs have the shape (2, 2, 8, 16); the model takes (3, 2, 8, 16)"),
        (NPY, npy(WHOLE.astype(int)), 422, "the array is int64 in row order; float32 in row order is expected"),
        (NPY, npy(WHOLE)[:-4], 422, "the .npy file is cut short"),
        (NPY, npy(np.array([{"a": 1}], dtype=object)), 422, "the array is object"),
        (NETCDF, b"GRIB", 422, "the body is not a NetCDF file"),
        (NETCDF, b"\x89HDF\r\n\x1a\n" + bytes(64), 422, "the file cannot be read"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(
    server: Server, kind: str, body: bytes, status: int, message: str
) -> None:
    found, answer = server.json("/predict", body, kind)
    assert (found, message in answer["detail"]) == (status, True), answer
    assert "Traceback" not in answer["detail"]
    assert "/tmp" not in answer["detail"]


def test_a_small_file_that_declares_a_huge_array_is_refused_before_it_is_read(server: Server, tmp_path: Path) -> None:
    huge = xr.Dataset({"z500": (("time", "x"), np.zeros((2000, 1000), np.float32))})
    huge.to_netcdf(tmp_path / "bomb.nc", encoding={"z500": {"zlib": True, "complevel": 9}})
    body = (tmp_path / "bomb.nc").read_bytes()
    assert len(body) < 100_000
    assert server.json("/predict", body, NETCDF) == (413, {"detail": "the file holds 8.0 MB; allowed are 0.2 MB"})


def test_pages_of_others_cannot_ask_under_a_name_of_theirs(server: Server) -> None:
    assert server.ask("/health", host="attacker.example")[0] == 400
    assert server.ask("/health", host="localhost:1")[0] == 200


def test_windows_and_lead_times_that_are_not_there_are_not_found(server: Server) -> None:
    status, listed = server.json("/windows")
    assert (status, len(listed["init_times"]), listed["init_times"][0]) == (200, 86, "2001-01-02T00:00:00")
    assert server.json("/windows/86?variable=z500&lead=0")[0] == 404
    unknown = {"detail": "there is no variable 'q'; there are z500, t850"}
    assert server.json("/windows/0?variable=q&lead=0") == (404, unknown)
    assert server.json("/windows/0?variable=z500&lead=2")[0] == 422
    assert server.json("/nothing") == (404, {"detail": "Not Found"})
    assert server.json("/predict")[0] == 405


def test_a_window_shows_last_input_forecast_and_truth(server: Server, forecast: xr.Dataset, exported: Exported) -> None:
    status, answer = server.json("/windows/3?variable=t850&lead=1")
    assert status == 200
    np.testing.assert_allclose(answer["maps"]["forecast"], forecast["t850"][3, 1], rtol=1e-4)
    truth = exported.store.frames(11, 12)[0, 1]
    np.testing.assert_allclose(answer["maps"]["truth"], truth, rtol=1e-4)
    assert answer["rmse"] == pytest.approx(float(np.sqrt(np.square(forecast["t850"][3, 1] - truth).mean())), rel=1e-3)
    assert server.json("/windows/85?variable=t850&lead=1")[1]["maps"]["truth"] is None


def test_the_openapi_page_and_description_need_nothing_from_outside(server: Server) -> None:
    described = server.json("/openapi.json")[1]
    assert set(described["paths"]) == {"/health", "/metadata", "/predict", "/windows", "/windows/{number}"}
    assert set(described["paths"]["/predict"]["post"]["requestBody"]["content"]) == {JSON, NPY, NETCDF}
    for path in ("/", "/docs", "/pages/style.css", "/pages/index.js", "/pages/docs.js"):
        status, _, content = server.ask(path)
        assert status == 200
        assert b"http:" not in content.replace(b"HTTP", b"")
        assert b"https:" not in content


def browsed(address: str, folder: Path) -> tuple[str, list[str]]:
    """The page's document after its scripts have run, and what the browser says on its console."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    logs = ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    command = [CHROMIUM, *options, *logs, "--dump-dom", address]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return finished.stdout, [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_forecast_and_takes_no_name_for_markup(server: Server, tmp_path: Path) -> None:
    page, console = browsed(server.address + "/", tmp_path)
    assert console == []
    assert page.count("<canvas") == 4
    assert "Root mean squared error of this map" in page
    assert "Map of the forecast, from" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
    assert page.count("<script") == 1
    docs, console = browsed(server.address + "/docs", tmp_path)
    assert console == []
    assert "POST /predict" in docs


def test_without_data_there_is_nothing_to_pick_from_and_the_model_still_forecasts(
    exported: Exported, inputs: np.ndarray
) -> None:
    server = Server(str(exported.folder))
    assert server.json("/windows") == (404, {"detail": "the server was started without --data"})
    assert server.ask("/predict", npy(inputs), NPY)[0] == 200
    assert "Traceback" not in server.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "127.0.0.1:99999 cannot be listened on"),
        (["--data", "nowhere.nc"], "nowhere.nc is not there"),
        (["--int8"], "model_int8.onnx is missing"),
        (["--max-megabytes", "0"], "--max-megabytes is 0"),
    ],
)
def test_what_cannot_be_served_ends_in_a_sentence(
    exported: Exported, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", str(exported.folder), *options])
    assert message in capsys.readouterr().err
