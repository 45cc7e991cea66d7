"""The last requests with their texts and pages, for the dashboard, and the totals since the start.

Owns what is remembered in memory: the event log and `metrics` get the figures only, and no text is ever written to a
disk. Bounded by a number of requests and by bytes; the oldest go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from vist.gateway.events import Event
from vist.gateway.report import Report

_FRAME = 2_000  # bytes that a request costs beside its texts


@dataclass(frozen=True)
class Seen:
    """A request that came through: its event, and the report of what was looked at."""

    event: Event
    report: Report | None


@dataclass
class Totals:
    """Sums over requests."""

    requests: int = 0
    compressed: int = 0
    failed: int = 0
    before: int = 0
    after: int = 0
    pages: int = 0

    @property
    def saved(self) -> int:
        """Tokens saved."""
        return self.before - self.after

    @property
    def share(self) -> float:
        """Share of the tokens that was saved, 0 to 1."""
        return self.saved / self.before if self.before else 0.0

    def add(self, status: str, before: int, after: int, pages: int) -> None:
        """Add a request."""
        self.requests += 1
        self.compressed += status == "compressed"
        self.failed += status == "failed"
        self.before, self.after, self.pages = self.before + before, self.after + after, self.pages + pages


class Recent:
    """The last requests, at most `keep` of them and `keep_bytes` bytes of their texts and pages."""

    def __init__(self, keep: int, keep_bytes: int):
        self.totals = Totals()
        self._keep, self._keep_bytes, self._bytes = keep, keep_bytes, 0
        self._seen: OrderedDict[str, tuple[Seen, int]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, seen: Seen) -> None:
        """Remember a request."""
        event, size = seen.event, _size(seen.report)
        with self._lock:
            self.totals.add(event.status, event.before, event.after, event.pages)
            if size > self._keep_bytes:  # its figures only
                seen, size = Seen(event, None), _FRAME
            self._seen[event.id] = seen, size
            self._bytes += size
            while self._seen and (len(self._seen) > self._keep or self._bytes > self._keep_bytes):
                _, (_, dropped) = self._seen.popitem(last=False)
                self._bytes -= dropped

    def get(self, number: str) -> Seen | None:
        """Return a request by its number, None if it is not remembered."""
        with self._lock:
            found = self._seen.get(number)
        return found[0] if found else None

    def newest(self) -> list[Seen]:
        """Return the requests, the last one first."""
        with self._lock:
            return [seen for seen, _ in reversed(self._seen.values())]


def _size(report: Report | None) -> int:
    texts = sum(4 * len(part.guarded.text) for part in report.imaged if part.guarded) if report else 0
    return _FRAME + texts + sum(len(page) for part in (report.parts if report else ()) for page in part.images)
