"""Headless Chromium for tests: opens pages, clicks, and tells what a person would see.

Owns the browser's process and its debugging protocol, which runs over a pair of pipes, so no library is needed for it.
Knows nothing about the gateway.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_WAIT = 300.0  # s; a machine with other work is slow to start it
_FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--no-proxy-server", "--force-color-profile=srgb",
)  # fmt: skip
_PIPES = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One tab of a running Chromium; `faults` are what it complained about, such as what a policy forbade."""

    def __init__(self, write: int, read: int):
        self._write, self._read, self._buffer, self._number, self._session = write, read, b"", 0, ""
        self._events: list[str] = []
        self.faults: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def look(self, width: int, height: int, scheme: str) -> None:
        """Set the size of the window in CSS px, and whether the person wants it `light` or `dark`."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go to an address and wait until everything of it is loaded."""
        self._events.clear()
        assert "errorText" not in self._call("Page.navigate", url=url), url
        self._loaded()

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a mouse does, and wait for the page that it leads to."""
        place = self.tell(
            f"const box = (e => (e.scrollIntoView(), e.getBoundingClientRect()))(document.querySelector({selector!r}));"
            "return [box.x + box.width / 2, box.y + box.height / 2]"
        )
        self._events.clear()
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        self._loaded()

    def tell(self, code: str) -> Any:
        """Return what some JavaScript returns; the page's own policy does not hold for it."""
        wrapped = f"(async () => {{ {code} }})()"
        told = self._call("Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _loaded(self) -> None:
        end = time.monotonic() + _WAIT
        while "Page.loadEventFired" not in self._events:
            self._receive(end)

    def _call(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": values, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _WAIT
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer in {_WAIT:g} s"
            got = os.read(self._read, 1 << 20)
            assert got, "Chromium ended"
            self._buffer += got
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        name, values = message.get("method", ""), message.get("params", {})
        self._events.append(name)
        if name == "Log.entryAdded":
            self.faults.append(values["entry"]["text"])
        if name == "Runtime.exceptionThrown":
            self.faults.append(str(values["exceptionDetails"]))
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own below `folder`; skips where it is not installed."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    ours, theirs = os.pipe(), os.pipe()  # to Chromium, from Chromium
    command = [sys.executable, "-c", _PIPES, str(ours[0]), str(theirs[1]), binary, *_FLAGS]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={folder / 'profile'}"], pass_fds=(ours[0], theirs[1]), stderr=log, stdout=log
        )
    os.close(ours[0])
    os.close(theirs[1])
    try:
        yield Browser(ours[1], theirs[0])
    finally:
        process.kill()
        process.wait()
        os.close(ours[1])
        os.close(theirs[0])
