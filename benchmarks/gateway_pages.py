"""What the gateway's own work costs: `python benchmarks/gateway_pages.py --data FOLDER`.

FOLDER holds corpus/<domain>/validation*.parquet and qa/*.parquet, as for benchmarks/conversations.py. For each kind of
text a request of about 100 kB is built from ten texts, all of them old, and rewritten as the gateway does it: the body
is parsed, every text guarded, weighed, laid out, drawn and compressed to PNG, and the new body written. No page cache.

Prints milliseconds of processor time per 100 kB of the request, the best and the median of several rounds, and the bar
for it. Processor time is what one core needs, whatever else the machine does. One thread; the first rewriting of a
process, which reads fonts and draws glyphs for the first time, is not counted and printed apart. The exit status is 1
if the best round of a kind misses the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

from conversations import KINDS, Draw, logs, read, rows, window  # noqa: E402
from vist.gateway.rewrite import COMPRESSED, Asked, Rewritten, rewrite  # noqa: E402
from vist.gateway.settings import Settings  # noqa: E402

TEXTS, CHARACTERS, BAR = 10, 10_000, 150.0
SETTINGS, ASKED = Settings("http://127.0.0.1"), Asked(policy="keep_recent=0, step=1")


def body(draw: Draw, model: str, rng: random.Random) -> bytes:
    """A request with ten texts of a kind and a short question."""
    texts = [draw(rng, CHARACTERS) for _ in range(TEXTS)]
    messages = [{"role": "user", "content": text} for text in [*texts, "And now?"]]
    return json.dumps({"model": model, "messages": messages}, ensure_ascii=False).encode("utf-8", "replace")


def rewritten(request: bytes) -> tuple[float, Rewritten]:
    """Processor seconds of one rewriting, and what came of it."""
    start = time.process_time()
    done = rewrite(request, "/v1/chat/completions", ASKED, SETTINGS)
    return time.process_time() - start, done


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="*", default=["gpt-4o", "claude-sonnet-4-5", "gemini-3-pro"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    code = read(asked.data, "code")
    draws = {kind: window(read(asked.data, kind)) for kind in ("books", "docs")}
    draws |= {"code": window(code), "logs": logs(code), "json": rows(asked.data)}
    first, _ = rewritten(body(draws["books"], asked.model[0], random.Random("first")))
    print(f"the first request of a process: {first * 1e3:.0f} ms; bar for the others: {BAR:.0f} ms per 100 kB")
    print(f"{'model':20}{'kind':8}{'kB':>6}{'pages':>7}{'best':>8}{'median':>8}")
    worst = 0.0
    for model in asked.model:
        for kind in KINDS:
            request = body(draws[kind], model, random.Random(f"{asked.seed} {kind}"))
            rounds = [rewritten(request) for _ in range(asked.rounds)]
            per_100_kb = [seconds * 1e8 / len(request) for seconds, _ in rounds]
            done = rounds[0][1]
            assert done.status == COMPRESSED and done.report is not None, done.reason
            worst = max(worst, best := min(per_100_kb))
            middle = statistics.median(per_100_kb)
            print(f"{model:20}{kind:8}{len(request) / 1e3:>6.0f}{done.report.pages:>7}{best:>8.0f}{middle:>8.0f}")
    sys.exit(worst >= BAR)


if __name__ == "__main__":
    main()
