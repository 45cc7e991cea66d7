"""Pages that were drawn before: what `weigh` returned, by the content that decides it.

Owns the keys and the bound. Knows nothing about how pages are made.

Decisions
- A key is a hash of the text with everything else that decides the result: the model's row, the gate, what is sent
  with the pages and how many pages there is room for. So a hit is the result, byte for byte.
- Results with a tokenizer of the caller's are not kept: nothing tells one tokenizer from another.
- The bound is in bytes of pages and kept strings, and what was not asked for longest goes first. A caller holds the
  cache and hands it in; there is none behind the scenes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from vist.errors import VistError
from vist.gateway.profit import Gate, Weighed

_ENTRY = 2_000  # bytes that an entry costs beside its pages and texts


class PageCache:
    """Results of the profit gate, at most `most_bytes` of them; safe to share between threads."""

    def __init__(self, most_bytes: int = 64 << 20):
        if isinstance(most_bytes, bool) or not isinstance(most_bytes, int) or most_bytes < 0:
            raise VistError(f"most_bytes is {most_bytes!r}; give a whole number of bytes, 0 to keep nothing.")
        self.most_bytes = most_bytes
        self.bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[bytes, tuple[Weighed, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @staticmethod
    def key(text: str, family: str, gate: Gate, extra: str, room: int) -> bytes:
        """Return the key of a text: equal for equal results."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20)
        digest.update(repr((family, gate, extra, room)).encode("utf-8", "surrogatepass"))
        return digest.digest()

    def get(self, key: bytes) -> Weighed | None:
        """Return what was put under a key, None if it is not there (any more)."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: bytes, weighed: Weighed) -> None:
        """Keep a result, and drop as many old ones as it takes."""
        size = _size(weighed)
        with self._lock:
            if size > self.most_bytes or key in self._entries:
                return
            self._entries[key] = weighed, size
            self.bytes += size
            while self.bytes > self.most_bytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self.bytes -= dropped


def _size(weighed: Weighed) -> int:
    text = 4 * len(weighed.guarded.text) if weighed.guarded else 0
    return _ENTRY + sum(map(len, weighed.pages)) + text + 4 * len(weighed.introduction)
