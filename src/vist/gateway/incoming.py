"""A request as it comes in: its headers for us and for the upstream, and its body, whole or as a stream.

Owns the reading of an ASGI request. Knows nothing about what is done with it.

Decisions
- Headers go on as they came, byte for byte and in their order, but for those that are about one connection, the host's
  name, and our own (`X-Vist-...`).
- A body is read whole only up to a limit. What was read is not lost when it turns out to be longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

OWN = b"x-vist-"
_ONE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding",
     b"upgrade")
)  # fmt: skip


class ClientGone(Exception):
    """The client closed its connection."""


class Incoming:
    """A request whose headers are known and whose body is still to come."""

    def __init__(self, scope: Scope, receive: Receive):
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Headers = list(scope["headers"])
        raw: bytes = scope.get("raw_path") or self.path.encode()
        query: bytes = scope["query_string"]
        self.target = raw.partition(b"?")[0] + (b"?" + query if query else b"")
        self._receive = receive
        self._read: list[bytes] = []
        self._ended = asyncio.Event()
        if not self.has_body:
            self._ended.set()

    def header(self, name: str) -> str:
        """Return a header's value, "" if it is not there; a second one of the name does not count."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), "")

    @property
    def has_body(self) -> bool:
        """Whether the headers announce a body."""
        names = {key.lower() for key, _ in self.headers}
        return b"content-length" in names or b"transfer-encoding" in names

    def forwarded(self, length: int | None = None) -> Headers:
        """Return the headers for the upstream; with `length`, that of a new body in place of the old one's."""
        kept = [(key, value) for key, value in end_to_end(self.headers) if not key.lower().startswith(OWN)]
        kept = [(key, value) for key, value in kept if key.lower() != b"host"]
        if length is None:
            return kept
        kept = [(key, value) for key, value in kept if key.lower() != b"content-length"]
        return [*kept, (b"content-length", str(length).encode())]

    async def read(self, most: int) -> bytes | None:
        """Return the whole body; None if it is longer than `most` bytes, and then `stream` gives all of it.

        Raises ClientGone when the client leaves before its end.
        """
        announced = self.header("content-length")
        if announced.isdecimal() and int(announced) > most:
            return None
        size = 0
        while not self._ended.is_set():
            self._read.append(await self._next())
            size += len(self._read[-1])
            if size > most:
                return None
        return b"".join(self._read)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body, what was read already first."""
        while self._read:
            yield self._read.pop(0)
        while not self._ended.is_set():
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if not message.get("more_body"):
            self._ended.set()
        return bytes(message.get("body", b""))

    async def gone(self) -> None:
        """Return when the client has gone, which can be seen only after the end of the body."""
        await self._ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers that are not about one connection alone."""
    headers = list(headers)
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in _ONE_CONNECTION | named]
