"""A page in headless Chromium, driven by its debugging protocol: what it says, loads and shows."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


class Page:
    """An open page. messages: its console and what went wrong; requests: every address that it asked for."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.messages: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key as a person presses it, where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(str(told["args"]))
        elif method == "Log.entryAdded":
            self.messages.append(told["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.messages.append(f"dialog: {told['message']}")
            number = next(self.numbers)
            self.socket.send(
                json.dumps({"id": number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
            )


@contextmanager
def opened(path: Path, profile: Path, *, width: int = 1200, scripts: bool = True) -> Iterator[Page]:
    """`path` in a browser with a fresh profile; without `scripts` the page's own script does not run."""
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--window-size={width},900", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / f"{profile.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_address(process, Path(log.name)), max_size=None) as socket:
            page = Page(_Session(socket))
            for domain in ("Network", "Runtime", "Log", "Page"):
                page.call(f"{domain}.enable")
            if not scripts:
                page.call("Emulation.setScriptExecutionDisabled", value=True)
            page.call("Page.navigate", url=path.as_uri())
            page.until("document.readyState === 'complete' && location.protocol === 'file:'")
            yield page
    finally:
        process.terminate()
        process.wait(timeout=20)


class _Session:
    """The socket of the browser, whose messages go to and come from its one page."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        socket.send(json.dumps({"id": 0, "method": "Target.getTargets"}))
        pages = [t for t in json.loads(socket.recv())["result"]["targetInfos"] if t["type"] == "page"]
        attach = {"targetId": pages[0]["targetId"], "flatten": True}
        socket.send(json.dumps({"id": 0, "method": "Target.attachToTarget", "params": attach}))
        while True:
            answer = json.loads(socket.recv())
            if answer.get("id") == 0:
                self.session = answer["result"]["sessionId"]
                return

    def send(self, text: str) -> None:
        self.socket.send(json.dumps(json.loads(text) | {"sessionId": self.session}))

    def recv(self, timeout: float) -> str:
        text: str = self.socket.recv(timeout=timeout)
        return text


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the browser listens, which it tells its log."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"DevTools listening on (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text())
