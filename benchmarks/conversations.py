"""What pages save in long conversations, by model: `python benchmarks/conversations.py --data FOLDER`.

FOLDER holds corpus/<domain>/validation*.parquet and qa/*.parquet. Twenty conversations are built from it, the same for
one seed and one version of the data (`--out DIR` writes them): four each of chats about books, agents that read
documentation, agents that read code, agents that read logs, and agents that get JSON from an interface, in OpenAI's and
Anthropic's shape in turn. The logs are built from names in the code; all other texts are the data's own. In each a
UUID, a hash and a large number are planted into every long text.

Prints for each model, and for all together, the estimated input tokens before and after `compress_messages` with the
default policy, in all, by kind and by shape, the conversation that saves least, how many of the planted strings and of
those that the guard kept are not in the result as text, and CPU seconds per 100 kB. The exit status is 1 if a
conversation costs more than before or a kept string is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vist.gateway import Compressed, CompressionPolicy, compress_messages
from vist.gateway.places import get

MODELS = (
    "gpt-4o gpt-5 gpt-5.2 gpt-4.1-mini gpt-4o-mini claude-sonnet-4-5 claude-opus-4-8 gemini-2.5-pro gemini-3-pro "
    "qwen3-vl-8b qwen2.5-vl-7b glm-4.5v"
).split()
SIZES, TURNS = (4_000, 12_000), 10
KINDS = ("books", "docs", "code", "logs", "json")
SHAPES = ("openai", "anthropic")
Draw = Callable[[random.Random, int], str]


@dataclass(frozen=True)
class Conversation:
    """Messages, what they are about, and the strings that were planted in them."""

    kind: str
    shape: str
    messages: list[dict[str, Any]]
    planted: tuple[str, ...]


def read(data: Path, domain: str) -> list[str]:
    """The documents of a domain's validation split."""
    files = sorted((data / "corpus" / domain).glob("validation*.parquet"))
    return [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]


def window(texts: list[str]) -> Draw:
    """Draws windows of texts."""

    def draw(rng: random.Random, characters: int) -> str:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - characters))
        return text[start : start + characters]

    return draw


def logs(code: list[str]) -> Draw:
    """Draws logs of a service whose modules and functions are named after those in code."""
    names = sorted({word for text in code for word in text.split() if word.isidentifier() and len(word) > 5})

    def draw(rng: random.Random, characters: int) -> str:
        lines, size, clock = [], 0, rng.randrange(86_400)
        while size < characters:
            clock += rng.choice((0, 0, 1, 3))
            stamp = f"{clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
            level, a, b = rng.choice(("INFO ", "INFO ", "DEBUG", "WARN ")), rng.choice(names), rng.choice(names)
            lines.append(f"{stamp} {level} {a}: {b} finished in {rng.randrange(900)} ms, {rng.randrange(40)} left")
            size += len(lines[-1]) + 1
        return "\n".join(lines)

    return draw


def rows(data: Path) -> Draw:
    """Draws JSON as an interface would return it: rows of question sets, indented."""
    tables = [pq.read_table(file).slice(0, 2000).to_pylist() for file in sorted((data / "qa").glob("*.parquet"))]

    def draw(rng: random.Random, characters: int) -> str:
        found: list[Any] = []
        table, size = rng.choice(tables), 0
        while size < characters:
            found.append(rng.choice(table))
            size += len(json.dumps(found[-1], ensure_ascii=False, default=str))
        return json.dumps({"status": "ok", "rows": found}, indent=2, ensure_ascii=False, default=str)[:characters]

    return draw


def plant(rng: random.Random, text: str, planted: list[str]) -> str:
    """Put a UUID, a hash and a number between words of a text."""
    strings = [
        str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        f"{rng.getrandbits(160):040x}",
        str(rng.randrange(10**11, 10**12)),
    ]
    for string in strings:
        blanks = [at for at in range(0, len(text), 97) if text[at] == " "] or [0]
        at = rng.choice(blanks)
        text = f"{text[:at]} {string} {text[at:]}"
    planted += strings
    return text


def converse(kind: str, number: int, draw: Draw, rng: random.Random) -> Conversation:
    """A conversation of one kind: a chat for books, an agent with tools for all others."""
    shape, planted = SHAPES[number % 2], list[str]()
    texts = [plant(rng, draw(rng, rng.randrange(*SIZES)), planted) for _ in range(TURNS)]
    turns = list(_chat(texts) if kind == "books" else _agent(texts, shape))
    return Conversation(kind, shape, turns, tuple(planted))


def _chat(texts: list[str]) -> Iterator[dict[str, Any]]:
    for text in texts:
        yield {"role": "user", "content": text}
        yield {"role": "assistant", "content": "I have read it. It goes on from where we were, and nobody is named."}
    yield {"role": "user", "content": "Who is she?"}


def _agent(texts: list[str], shape: str) -> Iterator[dict[str, Any]]:
    yield {"role": "user", "content": "Look at it and tell me what is wrong."}
    for number, text in enumerate(texts):
        name, given = "read", {"name": f"part-{number}"}
        if shape == "openai":
            call = {"id": str(number), "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            yield {"role": "assistant", "content": None, "tool_calls": [call]}
            yield {"role": "tool", "tool_call_id": str(number), "content": text}
        else:
            use = {"type": "tool_use", "id": str(number), "name": name, "input": given}
            yield {"role": "assistant", "content": [use]}
            result = {"type": "tool_result", "tool_use_id": str(number), "content": text}
            yield {"role": "user", "content": [result]}
    yield {"role": "assistant", "content": "Done."}
    yield {"role": "user", "content": "What was in the first?"}


def build(data: Path, seed: int) -> list[Conversation]:
    """The set: four conversations of each kind."""
    code = read(data, "code")
    draws = {kind: window(read(data, kind)) for kind in ("books", "docs")}
    draws |= {"code": window(code), "logs": logs(code), "json": rows(data)}
    return [
        converse(kind, number, draws[kind], random.Random(f"{seed} {kind} {number}"))
        for kind in KINDS
        for number in range(4)
    ]


def digest(conversations: list[Conversation]) -> str:
    """What tells two sets apart."""
    dumped = json.dumps([vars(each) for each in conversations], sort_keys=True)
    return hashlib.sha256(dumped.encode()).hexdigest()[:16]


def texts_in(thing: Any) -> Iterator[str]:
    """Every string of messages that is no image."""
    if isinstance(thing, dict):
        for name, value in thing.items():
            if name not in ("data", "url"):
                yield from texts_in(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from texts_in(value)
    elif isinstance(thing, str):
        yield thing


def missing(conversation: Conversation, done: Compressed) -> tuple[int, int]:
    """How many planted strings, and how many that the guard kept, are not in the result as text."""
    text = "\n".join(texts_in([get(message, "content") for message in done.messages]))
    kept = [string for part in done.report.imaged for string in part.kept_strings]
    return sum(string not in text for string in conversation.planted), sum(string not in text for string in kept)


def measure(model: str, conversations: list[Conversation], detail: str) -> tuple[bool, int, int]:
    """Print a model's line; whether no conversation got dearer or lost a kept string, and the tokens of all."""
    sums = {name: [0, 0] for name in (*KINDS, *SHAPES)}
    worst, lost, gone, seconds, size = 1.0, 0, 0, 0.0, 0
    for each in conversations:
        start = time.process_time()
        policy = CompressionPolicy(shape=each.shape, detail=detail)  # type: ignore[arg-type]
        done = compress_messages(each.messages, model, policy)
        seconds, size = seconds + time.process_time() - start, size + len(json.dumps(each.messages))
        for name in (each.kind, each.shape):
            sums[name][0] += done.report.before
            sums[name][1] += done.report.after
        worst = min(worst, done.report.saving)
        planted, kept = missing(each, done)
        lost, gone = lost + planted, gone + kept
    before, after = (sum(sums[kind][place] for kind in KINDS) for place in (0, 1))
    shares = "".join(f"{1 - sums[name][1] / sums[name][0]:>{len(name) + 2}.0%}" for name in sums)
    print(
        f"{model:18}{before:>10,}{after:>10,}{1 - after / before:>6.0%}{shares}{worst:>8.0%}{lost:>6}{gone:>6}", end=""
    )
    print(f"{seconds / size * 1e5:>8.2f}", flush=True)
    return worst >= 0 and not gone, before, after


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for the conversations, one JSON file each")
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument(
        "--detail", choices=("high", "fit"), default="high", help="levels of Gemini 3, as in the policy"
    )
    arguments = parser.parse_args()
    conversations = build(arguments.data, arguments.seed)
    planted = sum(len(each.planted) for each in conversations)
    print(f"set {digest(conversations)}: {len(conversations)} conversations, {planted} planted strings")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(conversations):
            (arguments.out / f"{number:02d}-{each.kind}.json").write_text(json.dumps(vars(each), indent=1))
    head = "".join(f"{name:>{len(name) + 2}}" for name in (*KINDS, *SHAPES))
    print(f"{'model':18}{'before':>10}{'after':>10}{'saved':>6}{head}{'worst':>8}{'lost':>6}{'gone':>6}{'s/100kB':>8}")
    good, before, after = zip(
        *(measure(model, conversations, arguments.detail) for model in arguments.model), strict=True
    )
    print(f"{'all':18}{sum(before):>10,}{sum(after):>10,}{1 - sum(after) / sum(before):>6.1%}")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
