"""Servers for tests of the gateway: an upstream that records what it gets and streams like the real APIs."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from vist.gateway.server import Gateway, configure
from vist.gateway.settings import Settings

ANSWER = "Alice fell down the hole – slowly."  # not ASCII, so that encodings matter


@dataclass
class Recorded:
    """A request as the upstream got it."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.headers if key == name.encode()), None)


@dataclass
class Upstream:
    """An ASGI application; the header `x-test` of a request asks for a fault, or for a stream that waits.

    `go` lets a stream in two parts (`x-test: two parts`) send its second one; `in_order` has for each whether it was
    let go (True) or waited in vain for a client that never got the first part.
    """

    requests: list[Recorded] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    in_order: list[bool] = field(default_factory=list)

    def forget(self) -> None:
        """Be as new, for the next test."""
        self.requests.clear()
        self.in_order.clear()
        for event in (self.cancelled, self.hanging, self.go):
            event.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        chunks = []
        while True:
            message = await receive()
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode()
        recorded = Recorded(scope["method"], target, scope["headers"], b"".join(chunks))
        self.requests.append(recorded)
        await self._answer(recorded, receive, send)

    async def _answer(self, request: Recorded, receive: Any, send: Any) -> None:
        fault = request.header("x-test") or ""
        if fault == "hang":
            self.hanging.set()
            await self._wait_for_the_end(receive)
        elif fault in ("429", "500"):
            error = json.dumps({"error": {"message": "no", "type": "x", "param": None, "code": fault}}).encode()
            await respond(send, int(fault), error, [(b"retry-after", b"7")])
        elif fault == "refuse pages" and b"data:image/png" in request.body:
            await respond(send, 400, b'{"error":{"message":"no images"}}')
        elif fault == "not json":
            await respond(send, 200, b"<html>\xff\x00</html>", content_type=b"text/html")
        elif fault == "close early":
            await start(send, 200, b"text/event-stream")
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        elif fault == "stall":
            await start(send, 200, b"text/event-stream")
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await self._wait_for_the_end(receive)
        elif fault == "gzip":
            packed = gzip.compress(ANSWER.encode(), mtime=0)
            await respond(send, 200, packed, [(b"content-encoding", b"gzip")])
        elif fault == "two parts":
            await self._stream_in_two_parts(request, receive, send)
        elif fault.startswith("mark-"):
            await self._stream_a_mark(fault, send)
        elif fault == "close at once":
            return
        elif fault == "endless":
            await self._stream_for_ever(receive, send)
        elif request.target.startswith("/v1/echo"):
            await respond(send, 207, request.body, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
        elif request.method == "GET":
            await respond(send, 200, json.dumps({"object": "list", "data": []}).encode())
        else:
            await self._speak(request, send)

    async def _wait_for_the_end(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancelled.set()

    async def _stream_for_ever(self, receive: Any, send: Any) -> None:
        await start(send, 200, b"text/event-stream")
        watch = asyncio.ensure_future(self._wait_for_the_end(receive))
        self.hanging.set()
        while not watch.done():
            await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
            await asyncio.sleep(0.02)

    async def _stream_in_two_parts(self, request: Recorded, receive: Any, send: Any) -> None:
        kind = request.target.partition("?")[0].rpartition("/")[2]
        raw = list(events(kind))
        await start(send, 200, b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.body", "body": b"".join(raw[:5]), "more_body": True})
        watch = asyncio.ensure_future(self._wait_for_the_end(receive))
        end = time.monotonic() + 240
        while not self.go.is_set() and not watch.done() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self.in_order.append(self.go.is_set())
        if not watch.done():
            await send({"type": "http.response.body", "body": b"".join(raw[5:])})
        watch.cancel()

    async def _stream_a_mark(self, mark: str, send: Any) -> None:
        await start(send, 200, b"text/event-stream")
        for piece in marked(mark):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": b""})

    async def _speak(self, request: Recorded, send: Any) -> None:
        asked = request.json if request.body.startswith(b"{") else {}
        kind = request.target.partition("?")[0].rpartition("/")[2]
        if not asked.get("stream"):
            await respond(send, 200, json.dumps(whole(kind), ensure_ascii=False).encode())
            return
        await start(send, 200, b"text/event-stream; charset=utf-8")
        for piece in pieces(kind):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


async def start(send: Any, status: int, content_type: bytes, more: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-type", content_type), (b"x-request-id", b"req_1"), *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def respond(
    send: Any,
    status: int,
    body: bytes,
    more: list[tuple[bytes, bytes]] | None = None,
    content_type: bytes = b"application/json",
) -> None:
    await start(send, status, content_type, [*(more or []), (b"content-length", str(len(body)).encode())])
    await send({"type": "http.response.body", "body": body})


def marked(mark: str) -> list[bytes]:
    """The pieces of a streamed answer that belongs to one request alone."""
    return [f"data: {mark} {number:03d} {mark * 20}\n\n".encode() for number in range(20)]


def words() -> list[str]:
    return [word + " " for word in ANSWER.split(" ")]


def whole(kind: str) -> dict[str, Any]:
    """An answer in one piece, as the API of that path gives it."""
    if kind == "messages":
        content = [{"type": "text", "text": ANSWER}]
        usage = {"input_tokens": 9, "output_tokens": 9}
        fixed = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_sequence": None}
        return {**fixed, "content": content, "stop_reason": "end_turn", "usage": usage}
    if kind == "responses":
        return response("completed", [output()])
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    fixed = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o"}
    return {**fixed, "choices": [choice], "usage": usage}


def response(status: str, outputs: list[Any]) -> dict[str, Any]:
    fixed = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "parallel_tool_calls": True}
    return {**fixed, "status": status, "output": outputs, "tools": [], "tool_choice": "auto"}


def output() -> dict[str, Any]:
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    return {"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}


def pieces(kind: str) -> Iterator[bytes]:
    """A streamed answer, as the API of that path sends it, cut where no event ends."""
    raw = b"".join(events(kind))
    for place in range(0, len(raw), 57):
        yield raw[place : place + 57]


def events(kind: str) -> Iterator[bytes]:
    if kind == "messages":
        message = {**whole(kind), "content": [], "stop_reason": None}
        yield event("message_start", {"message": message})
        yield event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
        yield event("ping", {})
        for word in words():
            yield event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}})
        yield event("content_block_stop", {"index": 0})
        yield event("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}})
        yield event("message_stop", {})
    elif kind == "responses":
        yield event("response.created", {"sequence_number": 0, "response": response("in_progress", [])})
        place = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
        for number, word in enumerate(words(), start=1):
            yield event("response.output_text.delta", {"sequence_number": number, "delta": word, **place})
        yield event("response.completed", {"sequence_number": 99, "response": response("completed", [output()])})
    else:
        for word in ["", *words()]:
            delta = {"content": word} if word else {"role": "assistant", "content": ""}
            yield b"data: " + json.dumps(chunk(delta, None), ensure_ascii=False).encode() + b"\n\n"
        yield b"data: " + json.dumps(chunk({}, "stop")).encode() + b"\n\n: keep-alive\n\ndata: [DONE]\n\n"


def event(name: str, values: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **values}, ensure_ascii=False)}\n\n".encode()


def chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    fixed = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return {**fixed, "choices": [choice]}


@contextmanager
def served(config: uvicorn.Config) -> Iterator[str]:
    """Run a server in a thread; gives its address."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server did not start", 240)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def upstream_server() -> Iterator[tuple[Upstream, str]]:
    """A recording upstream and its address."""
    app = Upstream()
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    with served(config) as address:
        yield app, address


@contextmanager
def gateway_server(upstream: str, **options: Any) -> Iterator[tuple[Gateway, str]]:
    """A gateway that draws in its own process, and its address."""
    config = configure(Settings(upstream, port=0, **{"workers": 0, "max_seconds": 60.0, **options}))
    config.log_level = "critical"
    config.configure_logging()
    with served(config) as address:
        yield config.app, address  # type: ignore[misc]


def until(holds: Any, otherwise: str, seconds: float = 20) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)
