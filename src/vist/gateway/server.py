"""The gateway put together: its own pages, everything else to the upstream.

Owns which request goes where, the start and the end. `run` is what the command line calls.

Decisions
- The gateway's own paths are few and fixed (`/`, `/metrics`, `/vist/...`); every other path is the upstream's.
- Connections of clients are kept longer than clients keep them, and those to the upstream given up sooner than servers
  do: whoever closes first must not be the one that a request is just being sent to.
- The server's own log of requests is off and its own headers are left out: addresses can hold keys in their query, and
  the answer is the upstream's.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from vist.gateway.dashboard import build_app, holds_token, is_own
from vist.gateway.events import EventLog, read_events
from vist.gateway.incoming import Receive, Scope, Send
from vist.gateway.metrics import Metrics
from vist.gateway.proxy import Proxy
from vist.gateway.recent import Recent, Seen, Totals
from vist.gateway.settings import Settings
from vist.gateway.workers import Workers

_KEEP_ALIVE = 75  # s


class Gateway:
    """The ASGI application.

    Raises:
        VistError: an event log that cannot be written.
    """

    def __init__(self, settings: Settings):
        self.settings, self.metrics = settings, Metrics()
        self.recent = Recent(settings.keep, settings.keep_bytes)
        earlier = _totals(settings)
        self._log = EventLog(settings.log) if settings.log else None
        self.workers = Workers(settings)
        self.proxy = Proxy(settings, self.workers, self._seen)
        self._app = build_app(settings, self.proxy, self.recent, self.metrics, earlier, self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self.workers.warm_up()
        yield
        await self.proxy.close()
        self.workers.close()

    def _seen(self, seen: Seen) -> None:
        self.recent.add(seen)
        self.metrics.add(seen.event)
        if self._log is not None:
            self._log.write(seen.event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to the gateway, or forward it."""
        if scope["type"] != "http" or is_own(scope["method"], scope["path"]):
            await self._app(_as_get(scope), receive, send)
        elif self._may_pass(scope):
            await self.proxy(scope, receive, send)
        else:
            await _refuse(send)

    def _may_pass(self, scope: Scope) -> bool:
        token = self.settings.token
        given = [value for name, value in scope["headers"] if name == b"x-vist-token"]
        return token is None or any(holds_token(value.decode("latin-1"), token) for value in given)


def _as_get(scope: Scope) -> Scope:
    """A HEAD is answered as a GET; the server leaves the body out."""
    return {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope


async def _refuse(send: Send) -> None:
    said = "The gateway asks for its token in the header X-Vist-Token."
    fault = {"type": "authentication_error", "message": said, "param": None, "code": "gateway_token"}
    body = json.dumps({"type": "error", "error": fault}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _totals(settings: Settings) -> Totals:
    """The totals of the event log as it is before this gateway writes to it."""
    totals = Totals()
    for event in read_events(settings.log) if settings.log else ():
        numbers = [event.get(name) for name in ("before", "after", "pages")]
        before, after, pages = (number if isinstance(number, int) else 0 for number in numbers)
        totals.add(str(event.get("status")), before, after, pages)
    return totals


def configure(settings: Settings) -> uvicorn.Config:
    """Return how uvicorn is to serve the gateway."""
    return uvicorn.Config(
        Gateway(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=5,
    )


def run(settings: Settings) -> None:
    """Serve until interrupted; where it listens is said on standard error."""
    _Server(configure(settings)).run()


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens when it does."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                print(f"vist: gateway on http://{host}:{port}/", file=sys.stderr, flush=True)
