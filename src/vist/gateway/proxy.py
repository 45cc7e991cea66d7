"""The way through: a request to the upstream, its answer back, byte for byte.

Owns the forwarding, its failures and the client that leaves. What is rewritten, and how, is decided in `rewrite`.

Decisions
- An answer is passed on as its bytes arrive, compressed or not, whatever they are. It is never read.
- If the client leaves, the request to the upstream is cancelled: nobody pays for an answer that nobody reads.
- If the upstream refuses a request with pages (400, 413, 415, 422), the original is sent once more: such answers come
  before any work is done, and the fault may be ours.
- An upstream that cannot be reached or is silent is answered for with 502 or 504, in the form of both APIs' errors. An
  answer that breaks off is broken off for the client, too: closing it properly would make it look whole.
- Requests are built by hand, because a client library would add headers of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import httpx

from vist.gateway.events import Event
from vist.gateway.incoming import ClientGone, Headers, Incoming, Receive, Scope, Send, end_to_end
from vist.gateway.recent import Seen
from vist.gateway.rewrite import COMPRESSED, ENDPOINTS, FAILED, SKIPPED, Asked, Rewritten
from vist.gateway.settings import Settings, is_flag_set
from vist.gateway.workers import Workers

BYPASSED, OFF = "bypassed", "off"
_REFUSED = frozenset((400, 413, 415, 422))
_CONNECT = 10.0  # s
_IDLE = 3.0  # s that a connection to the upstream is kept; many servers close theirs after 5


@dataclass
class _Exchange:
    """What is known about a request while it is under way."""

    event: Event
    done: Rewritten | None = None
    original: bytes | None = None  # the body if it was read
    warning: str = ""
    start: float = field(default_factory=time.perf_counter)
    complete: float = 0.0  # when the request was there
    started: bool = False  # whether the client has been sent a status

    def note(self, **changes: object) -> None:
        self.event = replace(self.event, **changes)  # type: ignore[arg-type]

    def headers(self) -> Headers:
        """Our own headers on the answer to a rewritten path."""
        event = self.event
        values = {"request": event.id, "status": event.status, "reason": event.reason, "warning": self.warning}
        if event.status == COMPRESSED:
            values |= {"before": str(event.before), "after": str(event.after), "pages": str(event.pages)}
        return [(f"x-vist-{name}".encode(), _safe(value)) for name, value in values.items() if value]


class Proxy:
    """The ASGI application that forwards; `seen` is called with every request to a rewritten path when it is over.

    `enabled` is the switch: False passes everything on as it comes.
    """

    def __init__(self, settings: Settings, workers: Workers, seen: Callable[[Seen], None]):
        self.settings, self.workers, self.enabled, self.in_flight = settings, workers, True, 0
        self._seen = seen
        self._upstream = httpx.URL(settings.upstream)
        timeout = httpx.Timeout(settings.timeout, connect=min(_CONNECT, settings.timeout), pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_IDLE)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)

    async def close(self) -> None:
        """Close all connections to the upstream."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        incoming = Incoming(scope, receive)
        known = incoming.method == "POST" and incoming.path in ENDPOINTS
        exchange = _Exchange(Event(uuid.uuid4().hex[:12], time.time(), incoming.path))
        self.in_flight += 1
        try:
            await self._until_gone(incoming, self._handle(incoming, exchange, send, known))
        except ClientGone:
            exchange.note(ended="client_gone")
        except httpx.HTTPError as error:
            await self._failed(error, exchange, send)
        finally:
            if known:
                exchange.note(total_s=time.perf_counter() - exchange.start)
                self._seen(Seen(exchange.event, exchange.done.report if exchange.done else None))
            self.in_flight -= 1

    async def _until_gone(self, incoming: Incoming, work: object) -> None:
        """Do the work, and stop it when the client goes away."""
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        watch = asyncio.ensure_future(incoming.gone())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            task.result()
        finally:
            for each in (task, watch):
                each.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _handle(self, incoming: Incoming, exchange: _Exchange, send: Send, known: bool) -> None:
        if known:
            await self._prepare(incoming, exchange)
        response = await self._send_on(incoming, exchange)
        try:
            await self._answer(response, exchange, send, known)
        finally:
            await response.aclose()

    async def _prepare(self, incoming: Incoming, exchange: _Exchange) -> None:
        """Read a request for a rewritten path and rewrite it, if that is to be done."""
        settings = self.settings
        body = exchange.original = await incoming.read(settings.max_body)
        exchange.complete = time.perf_counter()
        if body is None:
            exchange.warning = f"The body is longer than {settings.max_body:,} bytes."
            exchange.note(status=SKIPPED, reason=exchange.warning)
            return
        exchange.note(bytes_in=len(body))
        bypass = incoming.header("x-vist-bypass")
        if not self.enabled:
            exchange.note(status=OFF, reason="The gateway's switch is off.")
        elif bypass and is_flag_set(bypass):
            exchange.note(status=BYPASSED, reason="The request asked for it.")
        elif incoming.header("content-encoding"):
            exchange.note(status=SKIPPED, reason="The body is compressed.")
        else:
            asked = Asked(incoming.header("x-vist-policy"), incoming.header("x-vist-model"))
            done = exchange.done = await self.workers.rewrite(body, incoming.path, asked)
            exchange.warning = done.reason if done.status == FAILED else ""
            exchange.note(
                status=done.status,
                reason=done.reason,
                model=done.model,
                rewrite_s=time.perf_counter() - exchange.complete,
                **_figures(done),
            )

    async def _send_on(self, incoming: Incoming, exchange: _Exchange) -> httpx.Response:
        done = exchange.done
        new = done.body if done else None
        exchange.note(overhead_s=time.perf_counter() - exchange.complete if exchange.complete else 0.0)
        if new is None:
            return await self._client.send(self._request(incoming, exchange.original), stream=True)
        response = await self._client.send(self._request(incoming, new, len(new)), stream=True)
        if response.status_code not in _REFUSED:
            return response
        await response.aclose()
        refusal = f"The upstream refused the pages with {response.status_code}; it got the original."
        exchange.warning = refusal
        before = exchange.event.before
        exchange.note(resent=True, status=FAILED, reason=refusal, after=before, pages=0, kept=0)
        return await self._client.send(self._request(incoming, exchange.original), stream=True)

    def _request(self, incoming: Incoming, body: bytes | None, length: int | None = None) -> httpx.Request:
        base = self._upstream.raw_path.rstrip(b"/")
        url = self._upstream.copy_with(raw_path=base + incoming.target)
        content: bytes | AsyncIterator[bytes] | None = body
        if body is None:
            content = incoming.stream() if incoming.has_body else None
        return httpx.Request(incoming.method, url, headers=incoming.forwarded(length), content=content)

    async def _answer(self, response: httpx.Response, exchange: _Exchange, send: Send, known: bool) -> None:
        exchange.note(upstream=response.status_code)
        headers = end_to_end(response.headers.raw) + (exchange.headers() if known else [])
        exchange.started = True
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        size = 0
        try:
            async for chunk in response.aiter_raw():
                size += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            exchange.note(bytes_out=size)
        await send({"type": "http.response.body", "body": b""})

    async def _failed(self, error: httpx.HTTPError, exchange: _Exchange, send: Send) -> None:
        """Answer for an upstream that does not; what has begun is left unfinished, and the server breaks it off."""
        exchange.note(ended="cut_short" if exchange.started else "upstream_failed")
        if exchange.started:
            return
        late = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        code, name = (504, "upstream_timeout") if late else (502, "upstream_unreachable")
        said = "The upstream did not answer in time." if late else "The upstream could not be reached or broke off."
        fault = {"type": "api_error", "message": f"{said} ({type(error).__name__})", "param": None, "code": name}
        body = json.dumps({"type": "error", "error": fault}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"x-vist-warning", _safe(said)), (b"x-vist-request", exchange.event.id.encode())]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _figures(done: Rewritten) -> dict[str, int]:
    """What the report of a request sums up to."""
    report = done.report
    if report is None:
        return {}
    kept = sum(len(part.kept_strings) for part in report.imaged)
    return {"before": report.before, "after": report.after, "pages": report.pages, "kept": kept}


def _safe(value: str) -> bytes:
    """A header's value: one line of printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in value[:300]).encode()
