"""Two gateways with one event log, one of them killed at work: what the log holds, and who goes on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")

import httpx

from gateway.serving import until, upstream_server
from gateway.test_gateway import PATHS, request
from gateway.test_gateway_own import started

BODY = request(PATHS[0], "Hi")


class Asker(threading.Thread):
    """A client that asks one gateway again and again until it stops answering or is told to stop."""

    def __init__(self, address: str, stop: threading.Event):
        super().__init__(daemon=True)
        self.address, self.stop, self.answered, self.broken = address, stop, [], False

    def run(self) -> None:
        with httpx.Client(base_url=self.address, trust_env=False, timeout=120) as client:
            while not self.stop.is_set():
                try:
                    self.answered.append(client.post(PATHS[0], json=BODY).headers["x-vist-request"])
                except httpx.HTTPError:
                    self.broken = True
                    return


def test_a_gateway_that_is_killed_leaves_a_log_that_the_other_goes_on_with(tmp_path: Path) -> None:
    log, stop = tmp_path / "events.jsonl", threading.Event()
    options = ("--workers", "0")
    with (
        upstream_server() as (upstream, address),
        started(address, log, *options) as (doomed, first),
        started(address, log, *options) as (_, second),
    ):
        askers = [Asker(own, stop) for own in (first, first, first, second, second)]
        held = httpx.Client(trust_env=False, timeout=120)
        with held.stream("POST", first + PATHS[0], json=BODY, headers={"x-test": "two parts"}) as answer:
            pieces = answer.iter_raw()
            next(pieces)  # a stream is under way
            for asker in askers:
                asker.start()
            until(lambda: all(len(asker.answered) >= 2 for asker in askers), "the gateways are not at work", 240)
            doomed.kill()
            with pytest.raises(httpx.HTTPError):  # broken off, not closed as if it were whole
                list(pieces)
        assert upstream.cancelled.wait(30)
        for asker in askers[:3]:
            asker.join(60)
        before = [len(asker.answered) for asker in askers[3:]]
        until(lambda: all(len(asker.answered) >= now + 2 for asker, now in zip(askers[3:], before, strict=True)),
              "the other gateway stopped", 240)  # fmt: skip
        stop.set()
        for asker in askers:
            asker.join(60)
        assert [asker.broken for asker in askers] == [True] * 3 + [False] * 2
        survivors = {number for asker in askers[3:] for number in asker.answered}
        until(lambda: survivors <= set(logged(log)), "events of the living gateway are missing")
        found = logged(log)
        assert len(found) == len(set(found))
        # An event is written when its answer is over: of the killed gateway's, each client's last may be missing.
        for asker in askers[:3]:
            assert set(asker.answered[:-1]) <= set(found)
        lines = log.read_bytes().split(b"\n")
        assert lines[-1] == b"" and len(lines) - 1 - len(found) <= 1  # one line at most was torn
        with started(address, log, *options) as (_, third):
            front = httpx.get(third + "/", trust_env=False, timeout=60).text
            assert f"{len(found):,} requests" in front


def logged(log: Path) -> list[str]:
    """The numbers of the requests in a log, by no reader of ours."""
    numbers = []
    for line in log.read_text().splitlines():
        try:
            numbers.append(json.loads(line)["id"])
        except ValueError:
            continue
    return numbers


def test_a_hundred_megabytes_are_not_held(tmp_path: Path) -> None:
    """Beyond the limit a body is passed on in pieces: the gateway's memory does not grow by its size."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("looks into /proc for the memory of a process")
    size, piece = 100_000_000, b"a" * 1_000_000
    with (
        upstream_server() as (upstream, address),
        started(address, tmp_path / "log", "--workers", "0", "--max-body", "1000000") as (process, own),
    ):
        httpx.post(own + PATHS[0], json=request(PATHS[0]), trust_env=False, timeout=120)
        until(lambda: peak(process.pid) > 0, "no peak")
        time.sleep(0.2)
        before = peak(process.pid)
        answer = httpx.post(
            own + PATHS[0], content=(piece for _ in range(size // len(piece))), trust_env=False, timeout=300
        )
        assert answer.headers["x-vist-status"] == "skipped" and len(upstream.requests[-1].body) == size
        assert peak(process.pid) - before < size // 4


def peak(process: int) -> int:
    """The largest memory that a process has had, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0
