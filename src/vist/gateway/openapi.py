"""What the gateway says about itself: the OpenAPI document of its own pages and of the requests that it rewrites.

Owns the document and the words in it. Answers no request.

Decisions
- The gateway's own routes are read off the code that answers them. Described here is what no framework can see: the
  requests that are forwarded, the headers that steer them or say what became of them, and where a token belongs.
- The body of a forwarded request is described as far as the gateway reads it, its answers as far as the gateway makes
  them. All else is the upstream's to describe; an answer of the upstream can have any status and any form.
- Paths that are forwarded as they come have no entry: they are all others.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from vist.gateway.rewrite import ENDPOINTS
from vist.gateway.settings import Settings

OPENAPI_PATH = "/vist/openapi.json"
_ABOUT = (
    "A server between a client and the API of a language model. It forwards every request; in those to "
    f"{', '.join(ENDPOINTS)} it sends older, longer texts as pages where that saves tokens. All other paths belong to "
    "the upstream."
)
_PROBLEM = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_ERROR = {
    "type": "object",
    "description": "An error in a form that OpenAI's and Anthropic's clients read.",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "param", "code"],
            "properties": {
                "type": {"enum": ["authentication_error", "api_error"]},
                "message": {"type": "string"},
                "param": {"type": "null"},
                "code": {"enum": ["gateway_token", "upstream_timeout", "upstream_unreachable"]},
            },
        },
    },
}
_STATUSES = {
    "compressed": "pages went on",
    "unchanged": "nothing in it pays",
    "skipped": "it is not for the gateway",
    "bypassed": "the request asked for it",
    "off": "the gateway's switch is off",
    "failed": "an error of the gateway's, or pages that the upstream refused; the original went on",
}
_ASKED = {
    "X-Vist-Bypass": ("Send this request on as it came; 0, false, no and off do nothing.", "1"),
    "X-Vist-Policy": ("Changes to the policy for this request, name=value.", "keep_recent=4, keep=INV-%5Cd%7B6%7D"),
    "X-Vist-Model": ("Count by this model's rule; for names that the gateway does not know.", "qwen3-vl"),
}
_COUNT = {"type": "integer", "minimum": 0}
_TOLD: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Vist-Request": ("The request's number in the log and on the dashboard.",
                       {"type": "string", "pattern": "^[0-9a-f]{12}$"}),
    "X-Vist-Status": (f"What became of it: {'; '.join(': '.join(pair) for pair in _STATUSES.items())}.",
                      {"type": "string", "enum": list(_STATUSES)}),
    "X-Vist-Reason": ("A sentence: why.", {"type": "string"}),
    "X-Vist-Warning": ("What went wrong; the original went on.", {"type": "string"}),
    "X-Vist-Before": ("Tokens of the texts as they came; only if pages went on.", _COUNT),
    "X-Vist-After": ("Tokens of texts and pages as they went; only if pages went on.", _COUNT),
    "X-Vist-Pages": ("Pages drawn; only if pages went on.", {**_COUNT, "minimum": 1}),
}  # fmt: skip
_ALWAYS = ("X-Vist-Request", "X-Vist-Status", "X-Vist-Reason")


def describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the document of a gateway with these settings; `app` holds its own routes."""
    document = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    for path, (_, field) in ENDPOINTS.items():
        document["paths"][path] = {"post": _forwarded(path, field, settings.token is not None)}
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = _ERROR
    if settings.token is not None:
        document["components"]["securitySchemes"] = {
            "token": {"type": "apiKey", "in": "header", "name": "X-Vist-Token", "description": "The gateway's token."},
            "password": {"type": "http", "scheme": "basic", "description": "The token as any user's password."},
        }
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["security"] = [{"token": []}] + ([] if path in ENDPOINTS else [{"password": []}])
    return document


def fault(meaning: str) -> dict[str, Any]:
    """Return the entry of an error of the gateway's own pages: JSON, or a page for who prefers HTML."""
    content = {"application/json": {"schema": _PROBLEM}, "text/html": {"schema": {"type": "string"}}}
    return {"description": meaning, "content": content}


def _forwarded(path: str, field: str, token: bool) -> dict[str, Any]:
    """A request that is rewritten and forwarded, and its answers."""
    answers = {
        "200": {
            "description": "The upstream's answer, byte for byte as it arrives.",
            "headers": _headers(_ALWAYS),
            "content": {"application/json": {}, "text/event-stream": {}, "*/*": {}},
        },
        "502": _own("The upstream could not be reached or broke off before its answer."),
        "504": _own("The upstream was silent for too long."),
        "default": {
            "description": "Any other answer of the upstream, as it came.",
            "headers": _headers(()),
            "content": {"*/*": {}},
        },
    }
    if token:
        answers["401"] = _own("The gateway's token is missing or wrong.")
    return {
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "summary": "Forwarded, with older and longer texts as pages",
        "parameters": [
            {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}, "example": example}
            for name, (meaning, example) in _ASKED.items()
        ],
        "requestBody": {
            "description": "The upstream's request; what is described here is what the gateway reads of it. A body "
            "that is none of this goes on as it came.",
            "required": True,
            "content": {"application/json": {"schema": _body(field)}},
        },
        "responses": answers,
    }


def _body(field: str) -> dict[str, Any]:
    messages: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
    return {
        "type": "object",
        "required": ["model", field],
        "properties": {
            "model": {"type": "string", "minLength": 1},
            field: {"oneOf": [{"type": "string"}, messages]} if field == "input" else messages,
        },
        "additionalProperties": True,
    }


def _own(meaning: str) -> dict[str, Any]:
    """An answer that the gateway makes; the upstream may give one of the same status in any form."""
    either = {"anyOf": [{"$ref": "#/components/schemas/Error"}, {"description": "The upstream's own."}]}
    return {
        "description": meaning,
        "headers": _headers(()),
        "content": {"application/json": {"schema": either}, "*/*": {}},
    }


def _headers(always: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: {"description": meaning, "schema": schema, "required": name in always}
        for name, (meaning, schema) in _TOLD.items()
    }
