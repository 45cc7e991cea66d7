"""The event log: one line of JSON for every request to a rewritten path.

Owns `Event`, the file and its format. Holds no text, no header and no address beyond the path.

Decisions
- A line is written under a lock of the file in one append. So two gateways can share a log, and a gateway that is
  killed leaves at most one broken line, at the end; the next writer ends that line before its own.
- A log that cannot be written is no reason to refuse a request: it is said once on standard error.
- Readers skip what is no line of the log.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vist.errors import VistError

try:
    import fcntl
except ImportError:  # Windows has other locks; there a log belongs to one gateway
    fcntl = None  # type: ignore[assignment]

_LONGEST = 200  # characters of what a client chose freely


@dataclass(frozen=True)
class Event:
    """A request and what became of it.

    Attributes:
        id: the request's number, as the response's X-Vist-Request has it.
        time: when it came, seconds since 1970.
        path: `/v1/chat/completions` or another of the rewritten paths.
        model: as the request has it, cut to 200 characters.
        status: `compressed`, `unchanged`, `skipped`, `bypassed`, `off` or `failed`.
        reason: a sentence.
        upstream: status of the upstream's answer; 0 if none came.
        ended: `done`, `client_gone`, `upstream_failed` or `cut_short`.
        resent: whether the upstream refused the pages and got the original.
        before: tokens of the texts as they came.
        after: tokens of texts and pages as they went.
        pages: pages drawn.
        kept: strings kept as text beside them.
        bytes_in: bytes of the request's body that were read.
        bytes_out: bytes of the answer's body.
        rewrite_s: seconds spent on rewriting, waiting for a worker included.
        overhead_s: seconds from the last byte of the request to its being sent on, rewriting included.
        total_s: seconds from the request's first byte to the answer's last.
    """

    id: str
    time: float
    path: str
    model: str = ""
    status: str = ""
    reason: str = ""
    upstream: int = 0
    ended: str = "done"
    resent: bool = False
    before: int = 0
    after: int = 0
    pages: int = 0
    kept: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rewrite_s: float = 0.0
    overhead_s: float = 0.0
    total_s: float = 0.0

    def to_line(self) -> str:
        """Return the event as one line of JSON."""
        values: dict[str, Any] = asdict(self)
        for name in ("time", "rewrite_s", "overhead_s", "total_s"):
            values[name] = round(values[name], 6)
        for name in ("model", "reason"):
            values[name] = values[name][:_LONGEST]
        return json.dumps(values)


class EventLog:
    """An event log that is appended to; safe for threads and for several processes."""

    def __init__(self, path: Path):
        self._path, self._lock, self._said = path, threading.Lock(), False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise VistError(f"The log {str(path)!r} cannot be written ({error.strerror}); name another.") from None

    def write(self, event: Event) -> None:
        """Append an event."""
        line = event.to_line().encode() + b"\n"
        try:
            with self._lock, self._path.open("a+b", buffering=0) as file, _locked(file):
                end = file.seek(0, 2)
                if end:
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
        except OSError as error:
            if not self._said:
                print(f"vist: the event log cannot be written ({error.strerror}).", file=sys.stderr, flush=True)
            self._said = True


@contextlib.contextmanager
def _locked(file: Any) -> Iterator[None]:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file gives it back
    yield


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log, oldest first; what is no event is skipped, and a missing file has none."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "id" in event:
                yield event
