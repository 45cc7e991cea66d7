"""The gateway's own pages: the dashboard, one request's texts beside its pages, the switch, and the metrics.

Owns these routes and who may see them. Forwards nothing.

Decisions
- Rendered by the server from two templates, without scripts; a policy in the headers forbids the browser to run any.
- Conversations are shown here, so a page of another website must not get at them: without a token only requests to a
  loopback name are answered (a name that was rebound is none), and the switch obeys forms of this site alone.
- With a token, browsers ask for it as the password of any user name.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException as AnyHTTPException

from vist import __version__
from vist.gateway.markers import Guarded
from vist.gateway.metrics import TYPE, Metrics
from vist.gateway.openapi import OPENAPI_PATH, describe, fault
from vist.gateway.proxy import Proxy
from vist.gateway.recent import Recent, Seen, Totals
from vist.gateway.rewrite import COMPRESSED, FAILED
from vist.gateway.settings import Settings, bare_address, is_loopback

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_TEMPLATES = Path(__file__).parent.parent / "assets" / "templates"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NUMBER = fault("The request is not remembered (any more), or has no such page.")


@dataclass(frozen=True)
class Health:
    """What `/vist/health` says."""

    status: Literal["ok"]
    version: str
    enabled: bool


def is_own(method: str, path: str) -> bool:
    """Tell whether a request is for the gateway itself."""
    return path == "/metrics" or path.startswith("/vist/") or (path == "/" and method in ("GET", "HEAD"))


def build_app(
    settings: Settings, proxy: Proxy, recent: Recent, metrics: Metrics, earlier: Totals, lifespan: Lifespan
) -> FastAPI:
    """Return the application of the gateway's own pages; `earlier` are the totals of the event log at the start."""
    app = FastAPI(
        title="vist gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals.update(clock=_clock, tone=_tone, pieces=_pieces)
    shown = partial(_shown, environment)
    guarded: dict[str, Any] = {"dependencies": [Depends(_guard(settings))], "responses": _refusals(settings)}
    app.include_router(_pages(shown, settings, proxy, recent, earlier), **guarded)
    app.include_router(_figures(proxy, metrics, lambda: describe(app, settings)), **guarded)
    app.add_exception_handler(AnyHTTPException, partial(_say, shown))
    app.add_exception_handler(RequestValidationError, partial(_say, shown))
    return app


def _shown(environment: Environment, name: str, status: int = 200, **values: object) -> HTMLResponse:
    return HTMLResponse(environment.get_template(name).render(version=__version__, **values), status, _HEADERS)


def _clock(seconds: float) -> str:
    """A time since 1970 as a person reads it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _tone(status: str) -> str:
    """The class of a request's outcome: green, red or neither."""
    return {COMPRESSED: "good", FAILED: "bad", "": "bad"}.get(status, "")


def _pieces(guarded: Guarded) -> list[tuple[str, str]]:
    """A text as it came, cut at the kept strings: each piece with its marker, "" where it is on the pages."""
    sources = {guarded.marker(kept.number): kept.source for kept in guarded.kept}
    cut = re.split(rf"(\[#{{{guarded.hashes}}}[0-9]+\])", guarded.text)
    return [(sources.get(piece, piece), piece if piece in sources else "") for piece in cut if piece]


def _pages(
    shown: Callable[..., HTMLResponse], settings: Settings, proxy: Proxy, recent: Recent, earlier: Totals
) -> APIRouter:
    router = APIRouter()

    def found(number: str) -> Seen:
        seen = recent.get(number)
        if seen is None:
            raise HTTPException(404, "This request is not remembered (any more).")
        return seen

    @router.get("/", response_class=HTMLResponse, summary="The dashboard")
    def dashboard(request: Request) -> HTMLResponse:
        return shown(
            "gateway.html.j2", settings=settings, upstream=bare_address(settings.upstream), enabled=proxy.enabled,
            totals=recent.totals, earlier=earlier, requests=recent.newest(), here=str(request.base_url).rstrip("/"),
        )  # fmt: skip

    @router.get("/vist/requests/{number}", response_class=HTMLResponse, summary="A request's texts and pages",
                responses={404: _NUMBER, 422: fault("A value that cannot be read.")})  # fmt: skip
    def request(number: str) -> HTMLResponse:
        seen = found(number)
        parts = [(index, part) for index, part in enumerate(seen.report.parts)] if seen.report else []
        return shown("gateway_request.html.j2", event=seen.event, parts=parts)

    @router.get("/vist/requests/{number}/pages/{part}/{page}.png", summary="A page of a request",
                responses={200: {"content": {"image/png": {}}}, 404: _NUMBER, 422: fault("A number that is none.")},
                response_class=Response)  # fmt: skip
    def page(number: str, part: int, page: int) -> Response:
        report = found(number).report
        parts = report.parts if report else ()
        if not 0 <= part < len(parts) or not 0 <= page < len(parts[part].images):
            raise HTTPException(404, "The request has no such page.")
        return Response(parts[part].images[page], media_type="image/png", headers=_HEADERS)

    @router.post("/vist/switch", status_code=303, response_class=RedirectResponse, summary="Turn rewriting on or off",
                 responses={403: fault("The form belongs to another site, or the name is not loopback."),
                            422: fault("`on` is missing or neither true nor false.")})  # fmt: skip
    def switch(request: Request, on: bool) -> RedirectResponse:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "The form belongs to another site.")
        proxy.enabled = on
        return RedirectResponse("/", 303)

    return router


def _figures(proxy: Proxy, metrics: Metrics, document: Callable[[], dict[str, Any]]) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
    def figures() -> Response:
        metrics.in_flight = proxy.in_flight
        return Response(metrics.to_text(), headers={"Content-Type": TYPE})

    @router.get("/vist/health", summary="Is the gateway up, and is it rewriting")
    def health() -> Health:
        return Health("ok", __version__, proxy.enabled)

    @router.get(OPENAPI_PATH, summary="This document")
    def openapi() -> dict[str, Any]:
        return document()

    return router


def _refusals(settings: Settings) -> dict[int | str, dict[str, Any]]:
    """The answers to those who may not see the gateway's own pages."""
    if settings.token is not None:
        return {401: fault("The gateway's token is missing or wrong.")}
    return {403: fault("Without a token the gateway shows itself under a loopback name only.")}


def _say(shown: Callable[..., HTMLResponse], request: Request, error: Exception) -> Response:
    """An error in a sentence: a page for a browser, JSON for all others."""
    if isinstance(error, RequestValidationError):
        status, headers = 422, None
        said = " ".join(f"{problem['loc'][-1]}: {problem['msg']}." for problem in error.errors())
    else:
        assert isinstance(error, AnyHTTPException)
        status, headers, said = error.status_code, error.headers, str(error.detail)
    if "text/html" in request.headers.get("accept", ""):
        answer: Response = shown("gateway_error.html.j2", status, said=said, heading=HTTPStatus(status).phrase)
    else:
        answer = JSONResponse({"detail": said}, status)
    answer.headers.update(headers or {})
    return answer


def _guard(settings: Settings) -> Callable[[Request], None]:
    """A dependency that lets those through who may see conversations."""

    def check(request: Request) -> None:
        if settings.token is not None:
            if not holds_token(request.headers.get("x-vist-token", ""), settings.token) and not holds_token(
                _password(request.headers.get("authorization", "")), settings.token
            ):
                raise HTTPException(401, "A token is needed.", {"WWW-Authenticate": 'Basic realm="vist gateway"'})
        elif not is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname or ""):
            raise HTTPException(403, "Without a token the gateway shows itself under a loopback name only.")

    return check


def holds_token(given: str, token: str) -> bool:
    """Compare a token in a time that does not depend on where it differs."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _password(authorization: str) -> str:
    """The password of HTTP's basic scheme."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value).decode("utf-8", "replace").partition(":")[2]
    except ValueError:
        return ""
