"""Counters and histograms in Prometheus' text format.

Owns the figures that `/metrics` shows. Knows nothing about requests beyond their events.

Decisions
- Labels have few values: paths, outcomes, classes of status. A model's name is none: clients choose it freely.
- The format is written here: it is a few lines, and a client library would bring global state.
"""

from __future__ import annotations

import threading
from collections import Counter

from vist.gateway.events import Event

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTERS = {
    "vist_gateway_requests_total": "Requests to the rewritten paths, by path, status and ending.",
    "vist_gateway_upstream_responses_total": "Answers of the upstream by class of status.",
    "vist_gateway_resent_total": "Requests sent again as they came after the upstream refused their pages.",
    "vist_gateway_tokens_before_total": "Tokens of texts as they came (estimated or counted).",
    "vist_gateway_tokens_after_total": "Tokens of texts and pages as they went.",
    "vist_gateway_pages_total": "Pages drawn.",
    "vist_gateway_kept_strings_total": "Strings kept as text beside pages.",
    "vist_gateway_response_bytes_total": "Bytes of answers passed through.",
}
_HISTOGRAMS = {
    "vist_gateway_rewrite_seconds": "Time spent on rewriting, waiting for a worker included.",
    "vist_gateway_overhead_seconds": "Time from a request's last byte to its being sent on, rewriting left out.",
}


class Metrics:
    """The figures of one gateway since it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._sums: Counter[str] = Counter()
        self.in_flight = 0

    def add(self, event: Event) -> None:
        """Count an event."""
        labels = f'{{path="{event.path}",status="{event.status}",ended="{event.ended}"}}'
        with self._lock:
            counts = self._counts
            counts["vist_gateway_requests_total", labels] += 1
            if event.upstream:
                counts["vist_gateway_upstream_responses_total", f'{{class="{event.upstream // 100}xx"}}'] += 1
            counts["vist_gateway_resent_total", ""] += event.resent
            counts["vist_gateway_tokens_before_total", ""] += event.before
            counts["vist_gateway_tokens_after_total", ""] += event.after
            counts["vist_gateway_pages_total", ""] += event.pages
            counts["vist_gateway_kept_strings_total", ""] += event.kept
            counts["vist_gateway_response_bytes_total", ""] += event.bytes_out
            self._observe("vist_gateway_rewrite_seconds", event.rewrite_s)
            self._observe("vist_gateway_overhead_seconds", event.overhead_s - event.rewrite_s)

    def _observe(self, name: str, value: float) -> None:
        for bound in (*_BOUNDS, "+Inf"):
            self._counts[f"{name}_bucket", f'{{le="{bound}"}}'] += bound == "+Inf" or value <= float(bound)
        self._counts[f"{name}_count", ""] += 1
        self._sums[f"{name}_sum"] += value  # type: ignore[assignment]

    def to_text(self) -> str:
        """Return all figures in Prometheus' text format."""
        with self._lock:
            lines = _head("vist_gateway_in_flight", "gauge", "Requests under way.")
            lines.append(f"vist_gateway_in_flight {self.in_flight}")
            for name, meaning in _COUNTERS.items():
                lines += [*_head(name, "counter", meaning), *self._lines(name)]
            for name, meaning in _HISTOGRAMS.items():
                lines += [*_head(name, "histogram", meaning), *self._lines(f"{name}_bucket")]
                lines += [f"{name}_sum {self._sums[f'{name}_sum']:.6f}", *self._lines(f"{name}_count")]
            return "\n".join(lines) + "\n"

    def _lines(self, name: str) -> list[str]:
        found = [f"{name}{labels} {count}" for (key, labels), count in self._counts.items() if key == name]
        return found or ([f"{name} 0"] if name.endswith(("_count", "_total")) else [])


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
