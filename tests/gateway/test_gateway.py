"""The gateway on the wire: what the upstream gets, what the client gets back, and that nothing stops a request."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")

import httpx
from PIL import Image

import vist
from gateway.serving import ANSWER, Upstream, events, gateway_server, marked, until, upstream_server
from vist.gateway.events import read_events
from vist.gateway.server import Gateway

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
LONG = PROSE[:6000]
SECRET = "sk-test-0123456789abcdef"
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


def request(path: str, text: str = LONG, **more: Any) -> dict[str, Any]:
    """A conversation with an old long text, for one of the APIs."""
    turns = [{"role": "user", "content": text}]
    for word in ("One", "Two", "Three"):
        turns += [{"role": "assistant", "content": word}, {"role": "user", "content": "Go on."}]
    model = "claude-sonnet-4-5" if path == "/v1/messages" else "gpt-4o"
    return {"model": model, "input" if path == "/v1/responses" else "messages": turns, **more}


def images(body: Any) -> list[bytes]:
    """The PNG files in a request."""
    found: list[bytes] = []

    def walk(thing: Any) -> None:
        if isinstance(thing, dict):
            if thing.get("type") == "base64":
                found.append(base64.b64decode(thing["data"]))
            for value in thing.values():
                walk(value)
        elif isinstance(thing, list):
            for value in thing:
                walk(value)
        elif isinstance(thing, str) and thing.startswith("data:image/png;base64,"):
            found.append(base64.b64decode(thing.partition(",")[2]))

    walk(body)
    return found


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Upstream, Gateway, str]]:
    with upstream_server() as (upstream, address), gateway_server(address + "/v1/") as (gateway, own):
        yield upstream, gateway, own


@pytest.fixture
def upstream(places) -> Upstream:
    places[0].forget()
    return places[0]


@pytest.fixture
def gateway(places) -> Gateway:
    return places[1]


@pytest.fixture
def client(places) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=places[2], timeout=60, trust_env=False) as client:
        yield client


@contextmanager
def another(**options: Any) -> Iterator[tuple[Upstream, Gateway, httpx.Client]]:
    with upstream_server() as (upstream, address), gateway_server(address, **options) as (gateway, own):  # noqa: SIM117
        with httpx.Client(base_url=own, timeout=60, trust_env=False) as client:
            yield upstream, gateway, client


@pytest.mark.parametrize("path", PATHS)
def test_an_old_text_goes_on_as_pages_and_the_rest_byte_for_byte(path, upstream, client) -> None:
    body = request(path, temperature=1.50, seed=12345678901234567890, unknown={"a": [1e400, "é"]})
    raw = json.dumps(body, indent=1).replace("1.5,", "1.50,").encode()
    answer = client.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 200 and answer.headers["x-vist-status"] == "compressed"
    got = upstream.requests[-1]
    pages = images(got.json)
    assert len(pages) == int(answer.headers["x-vist-pages"]) > 0
    assert all(Image.open(io.BytesIO(page)).format == "PNG" for page in pages)
    assert int(answer.headers["x-vist-after"]) < int(answer.headers["x-vist-before"])
    assert LONG[:200] not in json.dumps(got.json) and got.header("content-length") == str(len(got.body))
    field = "input" if path == "/v1/responses" else "messages"
    assert got.json[field][1:] == body[field][1:]
    start, end = raw.index(b"[\n"), raw.rindex(b"]", 0, raw.index(b'"temperature"'))
    assert got.body.startswith(raw[:start]) and got.body.endswith(raw[end + 1 :])


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_comes_back_byte_for_byte(path, upstream, client) -> None:
    answer = client.post(path, json=request(path, stream=True))
    assert answer.content == b"".join(events(path.rpartition("/")[2]))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-request-id"] == "req_1" and len(answer.headers.get_list("server")) == 1
    assert images(upstream.requests[-1].json)


def test_a_stream_is_passed_on_as_it_arrives(upstream, client) -> None:
    with client.stream("POST", PATHS[0], json=request(PATHS[0]), headers={"x-test": "endless"}) as answer:
        assert next(answer.iter_raw()).startswith(b": ping")  # an answer without an end


def test_responses_input_may_be_one_string_and_tool_outputs_become_pages_in_place(upstream, client) -> None:
    now = {"x-vist-policy": "keep_recent=0, step=1"}
    client.post(PATHS[1], json={"model": "gpt-4o", "input": LONG}, headers=now)
    assert [block["type"] for block in upstream.requests[-1].json["input"][0]["content"]][:2] == [
        "input_text",
        "input_image",
    ]
    call = {"type": "function_call", "call_id": "1", "name": "read", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": LONG}
    reasoning = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x" * 2000}
    client.post(PATHS[1], json={"model": "gpt-4o", "input": [reasoning, call, result]}, headers=now)
    first, second, third = upstream.requests[-1].json["input"]
    assert (first, second) == (reasoning, call) and third["call_id"] == "1"
    assert images(third["output"]) and third["output"][0]["type"] == "input_text"


def test_other_paths_and_headers_go_through_untouched(upstream, client) -> None:
    headers = [("X-Odd", "a"), ("X-Odd", "b"), ("Authorization", f"Bearer {SECRET}"), ("Accept-Encoding", "zstd")]
    target = "/v1/echo/a%2Fb/%C3%A9?key=1&key=2&q=%20+"
    body = bytes(range(256)) * 3000
    answer = client.request("PUT", target, content=body, headers=headers)
    got = upstream.requests[-1]
    assert (got.method, got.target, got.body) == ("PUT", target, body)
    assert answer.status_code == 207 and answer.content == body
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert not any(name.startswith("x-vist") for name in answer.headers)
    assert [value for name, value in got.headers if name == b"x-odd"] == [b"a", b"b"]
    assert got.header("authorization") == f"Bearer {SECRET}" and got.header("accept-encoding") == "zstd"
    sent = {name.lower() for name in answer.request.headers}
    assert {name.decode() for name, _ in got.headers} <= sent  # nothing was added


def test_a_bare_request_gets_no_headers_from_us(places, upstream) -> None:
    host, port = places[2].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n")
        assert b"200 OK" in line.recv(100)
    assert [name for name, _ in upstream.requests[-1].headers] == [b"host"]


def test_chunked_uploads_go_through(upstream, client) -> None:
    answer = client.post("/v1/echo", content=iter([b"a" * 70_000, b"", b"b" * 70_000]))
    assert answer.content == b"a" * 70_000 + b"b" * 70_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-vist-bypass": "1"}, "bypassed"),
        ({"X-Vist-Bypass": "yes"}, "bypassed"),
        ({"x-vist-bypass": "0"}, "compressed"),
    ],
)
def test_a_request_can_be_left_alone(headers, status, upstream, client) -> None:
    raw = json.dumps(request(PATHS[0])).encode()
    answer = client.post(PATHS[0], content=raw, headers=headers)
    assert answer.headers["x-vist-status"] == status
    assert (upstream.requests[-1].body == raw) == (status == "bypassed")
    assert not any(name.startswith(b"x-vist") for name, _ in upstream.requests[-1].headers)


def test_a_policy_by_header_counts_for_its_request(upstream, client) -> None:
    body = request(PATHS[0])
    answer = client.post(PATHS[0], json=body, headers={"x-vist-policy": "min_saving=0.95"})
    assert answer.headers["x-vist-status"] == "unchanged" and "does not pay" in answer.headers["x-vist-reason"]
    assert client.post(PATHS[0], json=body).headers["x-vist-status"] == "compressed"


@pytest.mark.parametrize("policy", ["min_saving=2", "nonsense=1", "min_saving", "step=1, step=2", "font_size=x"])
def test_a_bad_policy_sends_the_original_with_a_warning(policy, upstream, client) -> None:
    raw = json.dumps(request(PATHS[0])).encode()
    answer = client.post(PATHS[0], content=raw, headers={"x-vist-policy": policy})
    assert answer.status_code == 200 and upstream.requests[-1].body == raw
    assert answer.headers["x-vist-status"] == "failed" and policy.split("=")[0] in answer.headers["x-vist-warning"]


def test_unknown_models_pass_and_a_header_can_name_the_row(upstream, client) -> None:
    raw = json.dumps(request(PATHS[0]) | {"model": "our-own"}).encode()
    answer = client.post(PATHS[0], content=raw)
    assert answer.headers["x-vist-status"] == "skipped" and upstream.requests[-1].body == raw
    answer = client.post(PATHS[0], content=raw, headers={"x-vist-model": "qwen3-vl-8b"})
    assert answer.headers["x-vist-status"] == "compressed" and upstream.requests[-1].json["model"] == "our-own"


def test_only_listed_models_are_rewritten() -> None:
    with another(models=("claude-*", "gpt-5*")) as (upstream, _, client):
        assert client.post(PATHS[0], json=request(PATHS[0])).headers["x-vist-status"] == "skipped"
        assert client.post(PATHS[2], json=request(PATHS[2])).headers["x-vist-status"] == "compressed"
        assert not images(upstream.requests[0].json) and images(upstream.requests[1].json)


def test_a_text_that_no_profile_makes_cheaper_goes_on_with_the_reason(upstream, client) -> None:
    raw = json.dumps(request(PATHS[0]) | {"model": "gpt-4o-mini"}).encode()
    answer = client.post(PATHS[0], content=raw)
    assert upstream.requests[-1].body == raw and "does not pay" in answer.headers["x-vist-reason"]


ODD = {
    "malformed": b'{"model": "gpt-4o", "messages": [',
    "no json": b"hello",
    "not utf-8": b'{"model": "gpt-4o", "x": "\xff"}',
    "empty": b"",
    "a list": b"[]",
    "a name twice": b'{"model":"gpt-4o","model":"gpt-4o","messages":[]}',
    "deep": b'{"model":"gpt-4o","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "rest": b'{"model":"gpt-4o","messages":[]} x',
    "no model": b'{"messages":[]}',
    "model is a number": b'{"model":4,"messages":[]}',
    "no messages": b'{"model":"gpt-4o"}',
    "messages is a string": b'{"model":"gpt-4o","messages":"x"}',
    "messages are strings": b'{"model":"gpt-4o","messages":["x"]}',
    "no role": b'{"model":"gpt-4o","messages":[{}]}',
    "no content": b'{"model":"gpt-4o","messages":[{"role":"user"}]}',
    "empty content": b'{"model":"gpt-4o","messages":[{"role":"user","content":""},{"role":"user","content":[]}]}',
    "null content": b'{"model":"gpt-4o","messages":[{"role":"user","content":null},{"role":"user","content":[null]}]}',
    "no text": b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text"},{"type":7},5]}]}',
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_none_go_through_as_they_are(name, path, upstream, client) -> None:
    answer = client.post(path, content=ODD[name], headers={"x-vist-policy": "keep_recent=0, step=1", "x-test": "429"})
    assert answer.status_code == 429 and upstream.requests[-1].body == ODD[name]
    assert answer.headers["x-vist-status"] in ("skipped", "unchanged") and answer.headers["x-vist-reason"]


def test_images_unknown_blocks_and_calls_without_results_stay(upstream, client) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}, "extra": 1}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    odd = [
        {"role": "user", "content": [picture, {"type": "text", "text": LONG}, {"type": "new", "x": [1]}], "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": LONG, "mood": "odd"},
        {"role": "tool", "tool_call_id": "nobody", "content": LONG},
        {"role": "function", "name": "f", "content": LONG},
    ]
    client.post(PATHS[0], json={"model": "gpt-4o", "messages": odd}, headers={"x-vist-policy": "keep_recent=0, step=1"})
    got = upstream.requests[-1].json["messages"]
    assert got[0]["content"][0] == picture and got[0]["content"][-1] == odd[0]["content"][-1] and got[0]["name"] == "n"
    assert got[1] == odd[1] and got[2]["mood"] == "odd" and got[3:] == odd[3:]
    assert len(images(got)) >= 2


PICTURE = "data:image/png;base64,iVBORw0KGgo="
BLOCKS = {  # an image, an unknown block, calls without results and a result without a call, in each API's words
    PATHS[0]: ({"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}}, [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]},
        {"role": "tool", "tool_call_id": "nobody", "content": ""}]),
    PATHS[1]: ({"type": "input_image", "image_url": PICTURE, "detail": "auto"}, [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"},
        {"type": "function_call_output", "call_id": "nobody", "output": ""}]),
    PATHS[2]: ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}, [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "nobody", "content": []}]}]),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_in_every_api_images_and_calls_without_results_stay_to_the_byte(path, upstream, client) -> None:
    picture, calls = BLOCKS[path]
    text = {"type": "input_text" if path == PATHS[1] else "text", "text": LONG}
    turns = [{"role": "user", "content": [picture, text, {"type": "new", "x": [1.0e2]}]}, *calls]
    body = {"model": request(path)["model"], "input" if path == PATHS[1] else "messages": turns}
    answer = client.post(path, json=body, headers={"x-vist-policy": "keep_recent=0, step=1"})
    assert answer.headers["x-vist-status"] == "compressed"
    got = upstream.requests[-1].json["input" if path == PATHS[1] else "messages"]
    assert got[0]["content"][0] == picture and got[0]["content"][-1] == turns[0]["content"][-1]
    assert got[1:] == calls and LONG[:200] not in upstream.requests[-1].body.decode()


def test_a_body_beyond_the_limit_is_streamed_on_untouched() -> None:
    big = json.dumps(request(PATHS[0], LONG * 40)).encode()
    with another(max_body=100_000) as (upstream, _, client):
        for content in (big, iter([big[:70_000], big[70_000:]])):
            answer = client.post(PATHS[0], content=content)
            assert upstream.requests[-1].body == big and answer.headers["x-vist-status"] == "skipped"
            assert "100,000" in answer.headers["x-vist-warning"]


@pytest.mark.slow
@pytest.mark.parametrize(("max_body", "statuses"), [(32 << 20, {"skipped"}), (128 << 20, {"unchanged", "failed"})])
def test_a_hundred_megabytes_go_through(max_body, statuses) -> None:
    """Beyond the limit they are not looked at; within it nothing of that size is drawn, or not in time."""
    with another(max_body=max_body) as (upstream, _, client):
        body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"' + b"a" * 100_000_000 + b'"}]}'
        answer = client.post(PATHS[0], content=body, headers={"x-vist-policy": "keep_recent=0, step=1"})
        assert answer.headers["x-vist-status"] in statuses and answer.headers["x-vist-reason"]
        assert upstream.requests[-1].body == body


def test_a_request_that_takes_too_long_goes_on_as_it_came() -> None:
    raw = json.dumps(request(PATHS[0], PROSE[:60_000])).encode()
    with another(max_seconds=0.001) as (upstream, _, client):
        answer = client.post(PATHS[0], content=raw)
        assert upstream.requests[-1].body == raw and "0.001 s" in answer.headers["x-vist-warning"]


def test_an_error_of_ours_sends_the_original(upstream, client, monkeypatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("vist.gateway.rewrite.compress_messages", broken)
    raw = json.dumps(request(PATHS[0])).encode()
    answer = client.post(PATHS[0], content=raw)
    assert answer.status_code == 200 and upstream.requests[-1].body == raw
    assert "RuntimeError" in answer.headers["x-vist-warning"] and SECRET not in str(answer.headers)


@pytest.mark.parametrize("code", [429, 500])
def test_errors_of_the_upstream_come_back_as_they_are(code, upstream, client) -> None:
    answer = client.post(PATHS[0], json=request(PATHS[0]), headers={"x-test": str(code)})
    assert answer.status_code == code and answer.json()["error"]["code"] == str(code)
    assert answer.headers["retry-after"] == "7" and len(upstream.requests) == 1


def test_packed_bodies_go_through_packed_both_ways(upstream, client) -> None:
    packed = gzip.compress(json.dumps(request(PATHS[0])).encode())
    head = {"x-test": "gzip", "content-encoding": "gzip", "content-type": "application/json"}
    with client.stream("POST", PATHS[0], content=packed, headers=head) as answer:
        raw = b"".join(answer.iter_raw())
    assert upstream.requests[-1].body == packed and upstream.requests[-1].header("content-encoding") == "gzip"
    assert answer.headers["x-vist-status"] == "skipped" and "compressed" in answer.headers["x-vist-reason"]
    assert answer.headers["content-encoding"] == "gzip" and raw == gzip.compress(ANSWER.encode(), mtime=0)


def test_an_answer_that_is_no_json_comes_back_as_it_is(upstream, client) -> None:
    answer = client.post(PATHS[0], json=request(PATHS[0]), headers={"x-test": "not json"})
    assert answer.content == b"<html>\xff\x00</html>" and answer.headers["content-type"] == "text/html"


def test_pages_that_the_upstream_refuses_are_sent_again_as_text(upstream, client) -> None:
    raw = json.dumps(request(PATHS[0])).encode()
    answer = client.post(PATHS[0], content=raw, headers={"x-test": "refuse pages"})
    assert answer.status_code == 200 and "400" in answer.headers["x-vist-warning"]
    assert [bool(images(got.json)) for got in upstream.requests] == [True, False] and upstream.requests[-1].body == raw


def test_an_answer_that_breaks_off_breaks_off_for_the_client(upstream, client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(PATHS[0], json=request(PATHS[0], stream=True), headers={"x-test": "close early"})
    answer = client.post(PATHS[0], json=request(PATHS[0]), headers={"x-test": "close at once"})
    assert answer.status_code in (500, 502)


def test_an_upstream_that_is_silent_or_not_there_is_answered_for() -> None:
    with another(timeout=0.3) as (_, _, client):
        answer = client.post(PATHS[2], json=request(PATHS[2], "Hi"), headers={"x-test": "hang"})
        assert answer.status_code == 504 and answer.json()["type"] == "error"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        with gateway_server(f"http://127.0.0.1:{taken.getsockname()[1]}") as (gateway, own):
            answer = httpx.post(own + PATHS[0], json=request(PATHS[0], "Hi"), trust_env=False)
            assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_unreachable"
            until(gateway.recent.newest, "the failure was not noted")
            assert gateway.recent.newest()[0].event.ended == "upstream_failed"


def test_an_answer_that_stalls_in_the_middle_is_broken_off() -> None:
    with another(timeout=0.5) as (upstream, gateway, client):
        with client.stream("POST", PATHS[0], json=request(PATHS[0], "Hi"), headers={"x-test": "stall"}) as answer:
            pieces = answer.iter_raw()
            assert answer.status_code == 200 and next(pieces) == b"data: {}\n\n"
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        assert upstream.cancelled.wait(20)
        until(lambda: gateway.recent.newest(), "not noted")
        assert gateway.recent.newest()[0].event.ended == "cut_short"


@pytest.mark.parametrize("fault", ["hang", "endless"])
def test_a_client_that_leaves_cancels_the_request_to_the_upstream(fault, upstream, places, gateway) -> None:
    host, port = places[2].removeprefix("http://").split(":")
    body = json.dumps(request(PATHS[0], "Hi")).encode()
    line = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: x\r\nX-Test: {fault}\r\nContent-Length: {len(body)}\r\n\r\n"
    line.sendall(head.encode() + body)
    assert upstream.hanging.wait(20)
    line.close()
    assert upstream.cancelled.wait(20)
    until(lambda: gateway.proxy.in_flight == 0, "the request did not end")
    assert gateway.recent.newest()[0].event.ended == "client_gone"


def test_a_client_that_leaves_in_the_middle_of_its_body_is_noted(upstream, places, gateway) -> None:
    host, port = places[2].removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=20)
    line.sendall(f"POST {PATHS[0]} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
    until(lambda: gateway.proxy.in_flight == 1, "the request did not come")
    line.close()
    until(lambda: gateway.proxy.in_flight == 0, "the request did not end")
    assert gateway.recent.newest()[0].event.ended == "client_gone" and not upstream.requests


def test_a_growing_conversation_keeps_its_beginning_byte_for_byte(upstream, client) -> None:
    turns: list[dict[str, Any]] = []
    sent: list[list[Any]] = []
    for number in range(6):
        turns.append({"role": "user", "content": PROSE[number * 5000 : (number + 1) * 5000]})
        client.post(PATHS[0], json={"model": "gpt-4o", "messages": turns})
        sent.append(upstream.requests[-1].json["messages"])
        turns.append({"role": "assistant", "content": "Read."})
    assert any(images(messages) for messages in sent)
    for before, after in zip(sent, sent[1:], strict=False):
        same = next((at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(before))
        assert same == len(before) or not any(images(message) for message in before[same:])


def test_many_streams_at_once_are_neither_mixed_nor_lost(upstream, places) -> None:
    marks = [f"mark-{number:03d}-" for number in range(24)]
    answers: dict[str, bytes] = {}

    def ask(mark: str) -> None:
        body = request(PATHS[0], f"{mark} {LONG}" if mark.endswith("0-") else mark, stream=True)
        head = {"x-test": mark}
        answers[mark] = httpx.post(places[2] + PATHS[0], json=body, headers=head, trust_env=False, timeout=90).content

    threads = [threading.Thread(target=ask, args=(mark,)) for mark in marks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {mark: b"".join(marked(mark)) for mark in marks}
    asked = {got.header("x-test"): got.body.decode() for got in upstream.requests}
    assert set(asked) == set(marks) and sum("data:image/png" in body for body in asked.values()) == 3
    assert all(mark in body or "data:image/png" in body for mark, body in asked.items())


def test_the_log_has_figures_and_no_texts_and_no_keys(tmp_path) -> None:
    log = tmp_path / "log" / "events.jsonl"
    with another(log=log) as (_, gateway, client):
        headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
        client.post(PATHS[0] + f"?key={SECRET}", json=request(PATHS[0], LONG + SECRET), headers=headers)
        client.post(PATHS[0], json=request(PATHS[0], "Hi"), headers={**headers, "x-vist-bypass": "1"})
        until(lambda: len(gateway.recent.newest()) == 2, "no events")
        assert client.get("/metrics").text.count(SECRET) == 0
    found = list(read_events(log))
    assert [event["status"] for event in found] == ["compressed", "bypassed"]
    assert found[0]["before"] > found[0]["after"] > 0 and found[0]["upstream"] == 200 and found[0]["kept"] >= 1
    raw = log.read_text()
    assert SECRET not in raw and "Alice" not in raw and ANSWER not in raw
