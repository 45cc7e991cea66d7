"""Load on the gateway: `python benchmarks/gateway_load.py --concurrency 200 --seconds 60`.

Starts an upstream that streams a marked answer to each request, the gateway as its own process in front of it, and
clients that ask again and again, on loopback. Each client compares every byte of its answer with what its mark says it
must be, so lost and mixed bytes are seen. Prints requests, bytes, errors, the gateway's share of the time to the first
byte (p50, p99, by asking the upstream without the gateway in turn) beside the bars for it (p50 15 ms, p99 100 ms,
rewriting left out), the processor time that the gateway took for a request, and the gateway's own histograms.

Clients begin one after the other over `--spread` seconds, as streams of different people do: all at once, the first of
them would measure how long 50 requests of the same instant queue for two cores (`--spread 0` does that).

An answer comes in 20 pieces, one every `--interval` seconds, so that with the default of 0.05 s it takes a second, as
the streams of models do, and N clients are N streams that are open at once. `--interval 0.001` asks as fast as
everything goes: then the machine is the bound, and the figures say how long requests queue for it.

Requests are short (`--text 0`), so that they are forwarded and nothing is drawn; `--text 100000` adds an old text of so
many characters, which is drawn once a worker and then found in its cache (`--fresh` makes each text new).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn

import vist

PIECES, PIECE = 20, 200  # of an answer, bytes of each
BARS = {0.5: 15.0, 0.99: 100.0}  # ms that the gateway may add to the first byte, at a percentile
TEXT = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")


def answer(mark: str) -> list[bytes]:
    """The pieces of the answer to a mark."""
    return [f"data: {mark}-{number:03d} {'x' * PIECE}\n\n".encode() for number in range(PIECES)]


async def upstream(interval: float, scope: Any, receive: Any, send: Any) -> None:
    """Stream the answer to the mark in a request's header, a piece every `interval` seconds."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    mark = dict(scope["headers"]).get(b"x-mark", b"").decode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for piece in answer(mark):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(interval)
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Found:
    """What the clients saw."""

    bytes: int = 0
    wrong: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    compressed: int = 0
    seconds: float = 0.0  # processor time of the gateway and its workers


def body(characters: int, number: int, fresh: bool) -> bytes:
    """A request with an old text."""
    turns: list[dict[str, str]] = []
    if characters:
        start = number * 37 % len(TEXT) if fresh else 0
        text = (TEXT * (2 + characters // len(TEXT)))[start : start + characters]
        turns = [{"role": "user", "content": text}] + [{"role": "assistant", "content": "Yes."}] * 5
    return json.dumps(
        {"model": "gpt-4o", "stream": True, "messages": [*turns, {"role": "user", "content": "Go on."}]}
    ).encode()


async def client(number: int, places: dict[bool, httpx.AsyncClient], end: float, args: Any, found: Found) -> None:
    """Ask until the time is over, in turn through the gateway and without it, from its share of the spread on."""
    rng, turn = random.Random(number), 0
    await asyncio.sleep(args.spread * (number % args.concurrency) / args.concurrency)
    while time.monotonic() < end:
        through = turn % (args.direct_every + 1) != args.direct_every
        mark, turn = f"{number:04d}-{turn:06d}-{rng.getrandbits(64):016x}", turn + 1
        content = body(args.text, number * 10_000 + turn, args.fresh)
        got, start = b"", time.perf_counter()
        try:
            request = places[through].stream("POST", "/v1/chat/completions", content=content, headers={"x-mark": mark})
            async with request as response:
                found.compressed += response.headers.get("x-vist-status") == "compressed"
                async for chunk in response.aiter_raw():
                    if not got:
                        found.first[through].append(time.perf_counter() - start)
                    got += chunk
        except httpx.HTTPError as error:
            name = type(error).__name__
            found.errors[name] = found.errors.get(name, 0) + 1
            continue
        found.bytes += len(got)
        found.wrong += got != b"".join(answer(mark))


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies, in ms."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def measure(args: Any) -> Found:
    """Run upstream, gateway and clients, and print what came out."""
    server = uvicorn.Server(
        uvicorn.Config(
            partial(upstream, args.interval),
            interface="asgi3",  # it cannot tell from a partial
            port=0,
            log_level="critical",
            lifespan="off",
            timeout_keep_alive=75,
        )
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    command = [sys.executable, "-m", "vist.cli", "gateway", "--upstream", address, "--port", "0"]
    command += ["--workers", str(args.workers), "--max-seconds", "120"]
    gateway = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    found = Found()
    try:
        line = await asyncio.to_thread(gateway.stderr.readline)  # type: ignore[union-attr]
        own = line.split()[-1].rstrip("/")
        limits = httpx.Limits(max_connections=None)
        options: dict[str, Any] = {"timeout": 120, "trust_env": False, "limits": limits}
        async with (
            httpx.AsyncClient(base_url=own, **options) as through,
            httpx.AsyncClient(base_url=address, **options) as direct,
        ):
            places = {True: through, False: direct}
            await client(9999, places, time.monotonic() + 3, args, Found())  # start the worker, fill connections
            end, before = time.monotonic() + args.seconds, processor_time(gateway.pid)
            await asyncio.gather(*(client(number, places, end, args, found) for number in range(args.concurrency)))
            found.seconds = processor_time(gateway.pid) - before
            metrics = (await through.get("/metrics")).text
    finally:
        gateway.terminate()
        gateway.wait(30)
        server.should_exit = True
        await task
    report(args, found, metrics)
    return found


def processor_time(pid: int) -> float:
    """Seconds that a process and its children have had of the processors."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def report(args: Any, found: Found, metrics: str) -> None:
    """Print the figures."""
    first = found.first
    print(f"{args.concurrency} clients, {args.seconds} s, texts of {args.text:,} characters, {args.workers} worker(s)")
    print(
        f"through the gateway {len(first[True]):,}, with pages {found.compressed:,}, without it {len(first[False]):,}"
    )
    print(f"{found.bytes:,} bytes, {found.wrong} wrong answers, errors {found.errors or 'none'}")
    for share, bar in BARS.items():
        a, b = percentile(first[True], share), percentile(first[False], share)
        said = "" if args.text else f", bar {bar:.0f} ms: {'met' if a - b < bar else 'missed'}"
        print(f"first byte p{100 * share:.0f}: {a:.1f} ms through, {b:.1f} ms without: {a - b:+.1f} ms{said}")
    print(f"processor time of the gateway: {1000 * found.seconds / max(1, len(first[True])):.2f} ms a request")
    for line in metrics.splitlines():
        if line.startswith(("vist_gateway_overhead_seconds", "vist_gateway_rewrite_seconds")):
            print(line)


def main() -> None:
    """Measure; the exit status is 1 if a byte was lost or mixed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between the pieces of an answer")
    parser.add_argument("--spread", type=float, default=2.0, help="seconds over which the clients begin")
    parser.add_argument("--text", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--direct-every", type=int, default=1, help="requests through the gateway for one without it")
    found = asyncio.run(measure(parser.parse_args()))
    sys.exit(bool(found.wrong or found.errors))


if __name__ == "__main__":
    main()
