"""Other people's clients through the gateway: openai, anthropic and LiteLLM, plain and streamed, sync and async."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")

from gateway.serving import ANSWER, Upstream, gateway_server, until, upstream_server
from gateway.test_gateway import LONG, images, request

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Upstream, str]]:
    with upstream_server() as (upstream, address), gateway_server(address) as (_, own):
        yield upstream, own


@pytest.fixture
def upstream(places) -> Upstream:
    places[0].forget()
    return places[0]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed; it is in the extra 'clients'")


def chat() -> dict[str, Any]:
    return request("/v1/chat/completions")


def arrived_as_pages(upstream: Upstream, path: str) -> None:
    (got,) = upstream.requests
    assert got.target.partition("?")[0] == path and images(got.json)
    assert KEY in (got.header("authorization") or got.header("x-api-key") or "")


def spoken(pieces: list[str | None]) -> str:
    return "".join(piece or "" for piece in pieces).strip()


def test_openai_by_one_environment_variable(places, upstream, monkeypatch) -> None:
    openai = library("openai")
    monkeypatch.setenv("OPENAI_BASE_URL", places[1] + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answer = openai.OpenAI().chat.completions.create(**chat())
    assert answer.choices[0].message.content == ANSWER and answer.usage.total_tokens == 18
    arrived_as_pages(upstream, "/v1/chat/completions")


def test_openai_streams(places, upstream) -> None:
    client = library("openai").OpenAI(base_url=places[1] + "/v1", api_key=KEY)
    with client.chat.completions.create(**chat(), stream=True) as stream:
        assert spoken([chunk.choices[0].delta.content for chunk in stream]) == ANSWER
    arrived_as_pages(upstream, "/v1/chat/completions")


def test_openai_streams_to_many_tasks(places, upstream) -> None:
    openai = library("openai")

    async def one(client: Any) -> str:
        stream = await client.chat.completions.create(**chat(), stream=True)
        return spoken([chunk.choices[0].delta.content async for chunk in stream])

    async def every() -> list[str]:
        async with openai.AsyncOpenAI(base_url=places[1] + "/v1", api_key=KEY) as client:
            return await asyncio.gather(*(one(client) for _ in range(8)))

    assert asyncio.run(every()) == [ANSWER] * 8 and len(upstream.requests) == 8


def test_openai_responses(places, upstream) -> None:
    client = library("openai").OpenAI(base_url=places[1] + "/v1", api_key=KEY)
    asked = request("/v1/responses")
    assert client.responses.create(**asked).output_text == ANSWER
    arrived_as_pages(upstream, "/v1/responses")
    events = list(client.responses.create(**asked, stream=True))
    assert spoken([event.delta for event in events if event.type == "response.output_text.delta"]) == ANSWER
    assert events[-1].type == "response.completed"


def test_openai_headers_steer_and_errors_are_the_upstreams(places, upstream) -> None:
    openai = library("openai")
    client = openai.OpenAI(base_url=places[1] + "/v1", api_key=KEY, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(**chat(), extra_headers={"X-Vist-Bypass": "1"})
    assert raw.headers["x-vist-status"] == "bypassed" and upstream.requests[-1].json["messages"][0]["content"] == LONG
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**chat(), extra_headers={"X-Test": "429"})
    assert [model.id for model in client.models.list()] == []


def test_anthropic(places, upstream, monkeypatch) -> None:
    anthropic = library("anthropic")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", places[1])
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    answer = anthropic.Anthropic().messages.create(**request("/v1/messages"), max_tokens=9, system=LONG)
    assert answer.content[0].text == ANSWER and answer.stop_reason == "end_turn"
    assert upstream.requests[-1].json["system"] == LONG
    arrived_as_pages(upstream, "/v1/messages")


def test_anthropic_streams(places, upstream) -> None:
    client = library("anthropic").Anthropic(base_url=places[1], api_key=KEY)
    with client.messages.stream(**request("/v1/messages"), max_tokens=9) as stream:
        assert spoken(list(stream.text_stream)) == ANSWER
    arrived_as_pages(upstream, "/v1/messages")


def test_anthropic_tool_results_with_pages_inside(places, upstream) -> None:
    client = library("anthropic").Anthropic(base_url=places[1], api_key=KEY)
    use = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": LONG}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
        *request("/v1/messages", "Hi")["messages"][1:],
    ]
    client.messages.create(model="claude-sonnet-4-5", max_tokens=9, messages=messages)
    (block,) = upstream.requests[-1].json["messages"][2]["content"]
    assert block["tool_use_id"] == "toolu_1" and images(block["content"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"])
@pytest.mark.parametrize("stream", [False, True])
def test_litellm(model, stream, places, upstream, monkeypatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network
    library("litellm")
    litellm = importlib.import_module("litellm")
    openai_like = model.startswith("openai")
    base = places[1] + "/v1" if openai_like else places[1]
    answer = litellm.completion(
        model=model, messages=chat()["messages"], api_base=base, api_key=KEY, stream=stream, max_tokens=9
    )
    if stream:
        assert spoken([chunk.choices[0].delta.content for chunk in answer]) == ANSWER
    else:
        assert answer.choices[0].message.content == ANSWER
    arrived_as_pages(upstream, "/v1/chat/completions" if openai_like else "/v1/messages")


def first_words(stream: Any, text: Any) -> list[str]:
    """Read a stream to its first word."""
    return [next(word for word in map(text, stream) if word)]


def openai_word(chunk: Any) -> str | None:
    return chunk.choices[0].delta.content


def response_word(event: Any) -> str | None:
    return event.delta if event.type == "response.output_text.delta" else None


def ask(client: str, address: str) -> tuple[Any, Any]:
    """A stream by a client, and what finds a word in its chunks; the upstream holds the second part back."""
    hold = {"X-Test": "two parts"}
    if client.startswith("litellm"):
        library("litellm")
        litellm, model = importlib.import_module("litellm"), client.removeprefix("litellm ")
        base = address + "/v1" if "openai" in model else address
        asked = {"model": model, "messages": chat()["messages"], "max_tokens": 9, "extra_headers": hold}
        return litellm.completion(**asked, api_base=base, api_key=KEY, stream=True), openai_word
    if client == "anthropic":
        anthropic = library("anthropic").Anthropic(base_url=address, api_key=KEY)
        stream = anthropic.messages.create(**request("/v1/messages"), max_tokens=9, stream=True, extra_headers=hold)
        return stream, lambda event: event.delta.text if event.type == "content_block_delta" else None
    openai = library("openai").OpenAI(base_url=address + "/v1", api_key=KEY)
    if client == "openai responses":
        return openai.responses.create(**request("/v1/responses"), stream=True, extra_headers=hold), response_word
    return openai.chat.completions.create(**chat(), stream=True, extra_headers=hold), openai_word


CLIENTS = ("openai", "openai responses", "anthropic", "litellm openai/gpt-4o", "litellm anthropic/claude-sonnet-4-5")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("client", CLIENTS)
def test_words_reach_the_client_before_the_upstream_has_said_the_rest(client, places, upstream, monkeypatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    stream, word = ask(client, places[1])
    heard = first_words(stream, word)
    assert ANSWER.startswith(heard[0].strip()) and not upstream.in_order  # the upstream still waits
    upstream.go.set()
    assert spoken([*heard, *map(word, stream)]) == ANSWER and upstream.in_order == [True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("client", CLIENTS[:3])
def test_a_client_that_closes_its_stream_stops_the_upstream(client, places, upstream) -> None:
    stream, word = ask(client, places[1])
    first_words(stream, word)
    stream.close()
    assert upstream.cancelled.wait(30)
    until(lambda: upstream.in_order == [False], "the upstream went on")
