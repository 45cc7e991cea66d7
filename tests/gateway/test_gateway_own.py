"""The gateway's own pages, its switch, its token, its log and its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the gateway's extra is not installed")

import httpx

import vist
from gateway.serving import gateway_server, until, upstream_server
from gateway.test_gateway import LONG, PATHS, PROSE, another, images, request
from vist.cli import main
from vist.errors import VistError
from vist.gateway.events import Event, EventLog, read_events
from vist.gateway.recent import Recent, Seen
from vist.gateway.rewrite import Asked, rewrite
from vist.gateway.settings import Settings, is_loopback, read_policy

TOKEN = "a-token-that-is-long-enough"
UUID = "123e4567-e89b-12d3-a456-426614174000"
UPSTREAM = "http://127.0.0.1:9"


def test_the_dashboard_shows_text_beside_pages_and_what_was_kept() -> None:
    text = f"<script>alert(1)</script> {UUID} {LONG}"
    with another() as (upstream, gateway, client):
        assert "OPENAI_BASE_URL" in client.get("/").text
        answer = client.post(PATHS[0], json=request(PATHS[0], text))
        until(lambda: len(gateway.recent.newest()) == 1, "not seen")
        front = client.get("/")
        number = answer.headers["x-vist-request"]
        saved = int(answer.headers["x-vist-before"]) - int(answer.headers["x-vist-after"])
        assert number in front.text and f"{saved:,}" in front.text
        page = client.get(f"/vist/requests/{number}")
        assert "&lt;script&gt;alert(1)" in page.text and "<script>" not in page.text
        assert LONG[50:90] in page.text and f"<code>{UUID}</code>" in page.text
        sources = re.findall(r'<img src="([^"]+)"', page.text)
        assert [client.get(source).content for source in sources] == images(upstream.requests[0].json)
        for own in (front, page):
            assert "default-src 'none'" in own.headers["content-security-policy"]
        for missing in ("/vist/requests/none", f"/vist/requests/{number}/pages/0/99.png", "/vist/x"):
            assert client.get(missing).status_code == 404
        assert len(upstream.requests) == 1  # none of this went on


def test_the_switch_turns_rewriting_off_and_obeys_this_site_alone() -> None:
    with another() as (upstream, _, client):
        raw = json.dumps(request(PATHS[0])).encode()
        foreign = client.post("/vist/switch?on=false", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert client.post("/vist/switch?on=false", headers={"origin": str(client.base_url)}).status_code == 303
        assert client.post(PATHS[0], content=raw).headers["x-vist-status"] == "off"
        assert upstream.requests[-1].body == raw and client.get("/vist/health").json()["enabled"] is False
        client.post("/vist/switch?on=true")
        assert client.post(PATHS[0], content=raw).headers["x-vist-status"] == "compressed"


def test_without_a_token_only_a_loopback_name_sees_the_dashboard() -> None:
    with another() as (upstream, _, client):
        for path in ("/", "/metrics", "/vist/health", "/vist/openapi.json"):
            rebound = client.get(path, headers={"host": "evil.example:8100"})
            assert rebound.status_code == 403, path
        for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
            assert client.get("/", headers={"host": host}).status_code == 200
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 200


def test_with_a_token_nothing_goes_without_it() -> None:
    with another(token=TOKEN) as (upstream, _, client):
        for headers in ({}, {"x-vist-token": "wrong"}, {"authorization": f"Bearer {TOKEN}"}, {"x-vist-token": "\xe9"}):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            assert client.post(PATHS[0], json=request(PATHS[0]), headers=encoded).status_code == 401
            assert client.get("/", headers=encoded).status_code == 401
        assert not upstream.requests
        assert client.get("/", auth=("anyone", TOKEN), headers={"host": "name.example"}).status_code == 200
        answer = client.post(PATHS[0], json=request(PATHS[0]), headers={"x-vist-token": TOKEN})
        assert answer.status_code == 200 and TOKEN not in str(upstream.requests[-1].headers)


def test_metrics_are_prometheus_text_and_count_what_happened() -> None:
    with another() as (_, gateway, client):
        client.post(PATHS[0], json=request(PATHS[0]))
        client.post(PATHS[0], json=request(PATHS[0], "Hi"), headers={"x-test": "500"})
        until(lambda: len(gateway.recent.newest()) == 2, "not seen")
        text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(?:\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? [0-9.]+', line) for line in lines)
    values = dict(line.rsplit(" ", 1) for line in lines)
    at = f'path="{PATHS[0]}"'
    assert values[f'vist_gateway_requests_total{{{at},status="compressed",ended="done"}}'] == "1"
    assert values['vist_gateway_upstream_responses_total{class="5xx"}'] == "1"
    assert int(values["vist_gateway_tokens_before_total"]) > int(values["vist_gateway_tokens_after_total"]) > 0
    buckets = [int(value) for name, value in values.items() if name.startswith("vist_gateway_overhead_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == 2 == int(values["vist_gateway_overhead_seconds_count"])
    assert values["vist_gateway_in_flight"] == "0"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"upstream": "ftp://x"}, "ftp://x"),
        ({"upstream": "http://user:secret@"}, "upstream"),
        ({"upstream": "http://x/v1?key=secret"}, "query"),
        ({"host": "0.0.0.0"}, "VIST_GATEWAY_TOKEN"),
        ({"host": "192.168.0.1"}, "token"),
        ({"token": "short"}, "16"),
        ({"port": 70_000}, "70000"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"workers": True}, "workers"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(options, said) -> None:
    with pytest.raises(VistError, match=re.escape(said)) as caught:
        Settings(**{"upstream": UPSTREAM, **options})
    assert "secret" not in str(caught.value)
    assert TOKEN not in repr(Settings("http://user:secret@x", token=TOKEN)) and "secret" not in repr(
        Settings("http://user:secret@x")
    )


def test_hosts_that_are_this_machine_alone() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "a.localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example")))


def test_a_policy_in_a_line() -> None:
    base = Settings(UPSTREAM).policy
    policy = read_policy("keep_recent=4, min_saving=0.5,identifiers=yes , max_pages=5", base)
    assert (policy.keep_recent, policy.min_saving, policy.guard.identifiers, policy.max_pages) == (4, 0.5, True, 5)
    assert read_policy("max_pages=1000", base).max_pages == base.max_pages and read_policy(" ,", base) == base


def test_a_log_survives_a_broken_end_and_two_writers(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write(Event("a", 1.0, PATHS[0]))
    with path.open("ab") as file:
        file.write(b'{"id": "torn", "ti')  # a gateway that was killed
    logs = [EventLog(path), EventLog(path)]

    def write(log: EventLog, name: str) -> None:
        for number in range(200):
            log.write(Event(f"{name}{number}", 1.0, PATHS[0], model="x" * 10_000))

    threads = [threading.Thread(target=write, args=pair) for pair in zip(logs, "bc", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [event["id"] for event in read_events(path)]
    assert len(found) == 401 == len(set(found)) and found[0] == "a"
    assert os.stat(path).st_mode & 0o077 == 0
    with pytest.raises(VistError, match="cannot be written"):
        EventLog(tmp_path / "events.jsonl" / "below")


def test_what_is_remembered_is_bounded() -> None:
    done = rewrite(json.dumps(request(PATHS[0])).encode(), PATHS[0], Asked(), Settings(UPSTREAM))
    assert done.status == "compressed" and done.report
    size = sum(len(page) for part in done.report.parts for page in part.images)
    recent = Recent(keep=3, keep_bytes=2 * size + 100_000)
    for number in range(10):
        recent.add(Seen(Event(str(number), 1.0, PATHS[0], before=10, after=4), done.report))
    assert [seen.event.id for seen in recent.newest()] == ["9", "8"] and recent.get("7") is None
    assert (recent.totals.requests, recent.totals.saved) == (10, 60)
    small = Recent(keep=3, keep_bytes=10_000)
    small.add(Seen(Event("a", 1.0, PATHS[0]), done.report))
    assert small.newest()[0].report is None


@contextmanager
def started(upstream: str, log: Path, *more: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`vist gateway` in a process of its own, and its address."""
    command = [sys.executable, "-m", "vist.cli", "gateway", "--upstream", upstream, "--port", "0", "--log", str(log)]
    environment = os.environ | {"PYTHONPATH": str(Path(vist.__file__).parents[1])}
    process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stderr.readline()  # type: ignore[union-attr]
        assert line.startswith("vist: gateway on http://"), line
        yield process, line.split()[-1].rstrip("/")
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc for the worker's process")
def test_the_command_survives_its_worker_and_its_log_survives_the_command(tmp_path) -> None:
    log, body = tmp_path / "events.jsonl", request(PATHS[0])
    with upstream_server() as (upstream, address), started(address, log, "--max-seconds", "60") as (process, own):
        client = httpx.Client(base_url=own, timeout=90, trust_env=False)
        assert client.post(PATHS[0], json=body).headers["x-vist-status"] == "compressed"
        workers = [pid for pid in children(process.pid) if b"spawn_main" in cmdline(pid)]
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: not alive(workers[0]), "the worker lives")
        after = [client.post(PATHS[0], json=body).headers["x-vist-status"] for _ in range(2)]
        assert after == ["failed", "compressed"] and all(got.json["model"] == "gpt-4o" for got in upstream.requests)
        (worker,) = [pid for pid in children(process.pid) if b"spawn_main" in cmdline(pid)]
        hanging = threading.Thread(target=drop, args=(client, body))
        hanging.start()
        assert upstream.hanging.wait(30)
        process.send_signal(signal.SIGKILL)
        hanging.join(30)
        until(lambda: not alive(worker), "the worker outlived its server")
        assert upstream.cancelled.wait(30)
        assert [event["status"] for event in read_events(log)] == ["compressed", "failed", "compressed"]
        with gateway_server(address, log=log) as (_, second):
            assert "3 requests" in httpx.get(second + "/", trust_env=False).text


def drop(client: httpx.Client, body: dict) -> None:
    with pytest.raises(httpx.HTTPError):
        client.post(PATHS[0], json=body, headers={"x-test": "hang"})


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    return cmdline(pid) != b""


def test_the_command_refuses_in_a_sentence(capsys) -> None:
    assert main(["gateway", "--upstream", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["gateway", "--upstream", UPSTREAM, "--host", "0.0.0.0"]) == 1
    assert "VIST_GATEWAY_TOKEN" in capsys.readouterr().err


def test_a_cache_gives_the_same_bytes_in_no_time() -> None:
    from vist.gateway import PageCache

    body = json.dumps(request(PATHS[0], PROSE[:40_000])).encode()
    cache, settings = PageCache(), Settings(UPSTREAM)
    plain = rewrite(body, PATHS[0], Asked(), settings).body
    start = time.process_time()
    first = rewrite(body, PATHS[0], Asked(), settings, cache)
    between = time.process_time()
    again = rewrite(body, PATHS[0], Asked(), settings, cache)
    end = time.process_time()
    assert plain == first.body == again.body and cache.hits == len(cache) == 2
    assert end - between < (between - start) / 2
    dearer = rewrite(body, PATHS[0], Asked(policy="font_size=12"), settings, cache)
    assert dearer.body != first.body and cache.hits == 2
    tiny = PageCache(1000)
    assert rewrite(body, PATHS[0], Asked(), settings, tiny).body == plain and len(tiny) == 0
