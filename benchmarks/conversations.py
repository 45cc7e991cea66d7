"""What pages save in long conversations, by model: `python benchmarks/conversations.py --data FOLDER`.

FOLDER holds corpus/<domain>/validation*.parquet. Three conversations are built from it: a chat about books, an agent
that reads documentation, and one that reads code, ten texts of 4,000 to 12,000 characters each. Prints the estimated
input tokens before and after `compress_messages` with the default policy, and CPU seconds per 100 kB of messages.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vist.gateway import compress_messages

MODELS = (
    "gpt-4o gpt-5 gpt-5.2 gpt-4.1-mini gpt-4o-mini claude-sonnet-4-5 claude-opus-4-8 gemini-2.5-pro gemini-3-pro "
    "qwen3-vl-8b qwen2.5-vl-7b glm-4.5v"
).split()
SIZES, TURNS = (4_000, 12_000), 10


def read(data: Path, domain: str) -> list[str]:
    """The documents of a domain's validation split."""
    files = sorted((data / "corpus" / domain).glob("validation*.parquet"))
    return [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]


def draw(rng: random.Random, texts: list[str], characters: int) -> str:
    """A window of one of the texts."""
    text = rng.choice(texts)
    start = rng.randrange(max(1, len(text) - characters))
    return text[start : start + characters]


def chat(rng: random.Random, texts: list[str]) -> list[dict[str, Any]]:
    """A user who pastes text after text."""
    messages: list[dict[str, Any]] = []
    for _ in range(TURNS):
        messages.append({"role": "user", "content": draw(rng, texts, rng.randrange(*SIZES))})
        messages.append({"role": "assistant", "content": draw(rng, texts, 600)})
    return [*messages, {"role": "user", "content": "Who is she?"}]


def openai_agent(rng: random.Random, texts: list[str]) -> list[dict[str, Any]]:
    """An agent that reads files, in OpenAI's shape."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Help."}, {"role": "user", "content": "Look."}]
    for number in range(TURNS):
        call = {"id": str(number), "type": "function", "function": {"name": "read", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        text = draw(rng, texts, rng.randrange(*SIZES))
        messages.append({"role": "tool", "tool_call_id": str(number), "content": text})
    return [*messages, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "What was in the first?"}]


def anthropic_agent(rng: random.Random, texts: list[str]) -> list[dict[str, Any]]:
    """The same in Anthropic's shape."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Look."}]
    for number in range(TURNS):
        use = {"type": "tool_use", "id": str(number), "name": "read", "input": {}}
        messages.append({"role": "assistant", "content": [use]})
        text = draw(rng, texts, rng.randrange(*SIZES))
        result = {"type": "tool_result", "tool_use_id": str(number), "content": text}
        messages.append({"role": "user", "content": [result]})
    return [*messages, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "What was in the first?"}]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    texts = {domain: read(arguments.data, domain) for domain in ("books", "docs", "code")}
    print(f"{'model':20}{'books, chat':>22}{'docs, agent':>22}{'code, agent':>22}{'s per 100 kB':>14}")
    for model in MODELS:
        rng = random.Random(arguments.seed)
        agent = anthropic_agent if model.startswith("claude") else openai_agent
        row, seconds, size = "", 0.0, 0
        for domain, build in (("books", chat), ("docs", agent), ("code", agent)):
            messages = build(rng, texts[domain])
            start = time.process_time()
            report = compress_messages(messages, model).report
            seconds, size = seconds + time.process_time() - start, size + len(json.dumps(messages))
            row += f"{report.before:>9} > {report.after:>6} {report.saving:4.0%}"[-22:].rjust(22)
        print(f"{model:20}{row}{seconds / size * 1e5:>14.2f}", flush=True)


if __name__ == "__main__":
    main()
