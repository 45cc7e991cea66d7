"""The gateway against its own OpenAPI document: schemathesis sends what it allows and what it forbids, over the wire.

The upstream here is as strict as the real ones: what is no request of its API gets a 400.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed; it is in the extra 'dev'")

import httpx
import jsonschema
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient

from gateway.serving import Recorded, Upstream, gateway_server, respond, served
from gateway.test_gateway import PATHS, another, request
from vist.gateway.server import Gateway
from vist.gateway.settings import Settings

TOKEN = "a-token-that-is-long-enough"
REPEATABLE = settings(
    max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


class Strict(Upstream):
    """An upstream that refuses what the real APIs refuse."""

    async def _answer(self, got: Recorded, receive: Any, send: Any) -> None:
        known = got.target.partition("?")[0] in PATHS
        if not known or got.method != "POST":
            await respond(send, 405, b'{"error": {"message": "no"}}', [(b"allow", b"POST" if known else b"GET")])
        elif wrong := fault(got):
            await respond(send, 400, json.dumps({"error": {"message": wrong}}).encode())
        else:
            await super()._answer(got, receive, send)


def fault(got: Recorded) -> str:
    field = "input" if "responses" in got.target else "messages"
    kinds = (list, str) if field == "input" else (list,)
    try:
        body = json.loads(got.body)
    except ValueError:
        return "no JSON"
    if "json" not in (got.header("content-type") or ""):
        return "another type of content"
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        return "no model"
    given = body.get(field)
    if not isinstance(given, kinds) or (isinstance(given, list) and not all(isinstance(each, dict) for each in given)):
        return f"wrong {field}"
    return ""


@contextmanager
def gateway(**options: Any) -> Iterator[str]:
    config = uvicorn.Config(Strict(), port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    with served(config) as address, gateway_server(address, **options) as (_, own):
        yield own


def document(token: str | None) -> Any:
    """The document of a gateway, loaded before any test runs, because schemathesis makes tests of its operations."""
    own = Gateway(Settings("http://127.0.0.1:9", workers=0, token=token))
    client = TestClient(own, base_url="http://localhost", headers={"x-vist-token": token} if token else {})
    return schemathesis.openapi.from_dict(client.get("/vist/openapi.json").json())


@pytest.fixture(scope="module")
def open_gateway() -> Iterator[str]:
    with gateway() as own:
        httpx.post(own + PATHS[0], json=request(PATHS[0]), trust_env=False, timeout=60)
        yield own


@pytest.fixture(scope="module")
def locked_gateway() -> Iterator[str]:
    with gateway(token=TOKEN) as own:
        yield own


@document(None).parametrize()
@REPEATABLE
def test_every_answer_is_one_that_the_document_names(case: Any, open_gateway: str) -> None:
    case.call_and_validate(base_url=open_gateway)


@document(TOKEN).parametrize()
@REPEATABLE
def test_with_a_token_too_and_nothing_answers_without_it(case: Any, locked_gateway: str) -> None:
    case.call_and_validate(base_url=locked_gateway, headers={"X-Vist-Token": TOKEN})


def test_the_document_names_every_page_every_header_and_every_error() -> None:
    with another(timeout=0.3, token=TOKEN) as (_, gateway, client):
        head = {"x-vist-token": TOKEN}
        assert client.get("/vist/openapi.json").status_code == 401
        said = client.get("/vist/openapi.json", headers=head).json()
        assert set(said["paths"]) >= {*PATHS, "/", "/metrics", "/vist/health", "/vist/switch", "/vist/openapi.json"}
        forwarded = said["paths"][PATHS[0]]["post"]
        told = {name.lower() for name in forwarded["responses"]["200"]["headers"]}
        answers = [
            client.post(PATHS[0], json=request(PATHS[0]), headers={**head, **more})
            for more in ({}, {"x-vist-policy": "nonsense"}, {"x-vist-bypass": "1"})
        ]
        assert {name for answer in answers for name in answer.headers if name.startswith("x-vist-")} == told
        asked = {parameter["name"].lower() for parameter in forwarded["parameters"]}
        assert asked == {"x-vist-bypass", "x-vist-policy", "x-vist-model"}
        hung = client.post(PATHS[0], json=request(PATHS[0]), headers={**head, "x-test": "hang"})
        refused = client.post(PATHS[0], json=request(PATHS[0]))
        assert (hung.status_code, refused.status_code) == (504, 401)
        for answer in (hung, refused):
            assert str(answer.status_code) in forwarded["responses"]
            jsonschema.validate(answer.json(), said["components"]["schemas"]["Error"])


def test_a_browser_gets_errors_as_pages_and_a_program_as_json() -> None:
    with another() as (_, _, client):
        wrong = (("/vist/requests/x", "GET", 404), ("/vist/x", "GET", 404), ("/metrics", "POST", 405))
        for path, method, status in (*wrong, ("/vist/switch?on=<b>", "POST", 422)):
            page = client.request(method, path, headers={"accept": "text/html,*/*;q=0.8"})
            plain = client.request(method, path)
            assert page.status_code == plain.status_code == status
            assert '<a href="/">' in page.text and "<b>" not in page.text and plain.json()["detail"]
            assert "default-src 'none'" in page.headers["content-security-policy"]
        assert plain.json()["detail"].startswith("on: ")


def test_head_is_answered_like_get_without_a_body() -> None:
    with another() as (upstream, _, client):
        for path in ("/", "/metrics", "/vist/health"):
            answer = client.head(path)
            assert answer.status_code == 200 and not answer.content
        assert not upstream.requests
