"""Writing 8,000 tokens with pages as memory: does memory grow as the visual tokens say, and how long are the pauses?

Random weights of a shape whose keys and values are large and whose layers are small, so that the cache is what memory
consists of. Random weights write bytes that are no character; those are banned, so that chunks can be drawn. Speed says
nothing about trained models of other shapes; memory and the number of passes do not depend on the weights.

    python benchmarks/longwrite.py            # 8,000 tokens, a few minutes on one core
    python benchmarks/longwrite.py --tokens 1024 --json longwrite.json

The cache is copied for every token. glibc keeps freed pieces of that size, so the process would hold about twice what
is alive; it is told to give them back (`MALLOC_MMAP_THRESHOLD_`), which makes each step slower.

Exits with 1 where a bar is missed: growth of the cache within 10 % of the predicted slope, growth of the process within
10 % of it too (from 4,096 tokens on: before, the process's own noise is larger), a cache at 4,096 tokens at least 3
times smaller than the plain LLM's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import vist
from vist.eval.provenance import provenance
from vist.eval.writers import PagesWriter
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Vist2Processor
from vist.vision.text_vit import TextViTConfig, TextViTModel

CHUNK, RATIO, TOLERANCE = 128, 4.0, 0.10
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # read when a process begins
BARS_FROM = 4096  # tokens


def writer() -> PagesWriter:
    """A model of random weights with 16 KiB of keys and values a token, and the packaged tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vist.PACKAGED_MODELS / "vist-nano")
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    torch.manual_seed(0)
    llm = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, vocab_size=len(tokenizer), initializer_range=0.3))
    tower = TextViTModel(
        TextViTConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    )
    model = Vist2ForCausalLM.from_backbones(llm, tower, patches_per_token=16)
    return PagesWriter(model, Vist2Processor(tokenizer, chunk_size=CHUNK, ratio=RATIO, patches_per_token=16))


def drawable(pages: PagesWriter) -> torch.Tensor:
    """Ids of words and blanks: short enough that four of them fit a visual token's patches."""
    found = [number for number in range(len(pages.tokenizer)) if _is_word(pages.tokenizer.decode([number]))]
    return torch.tensor(found)


def _is_word(text: str) -> bool:
    return 2 <= len(text) <= 6 and text.startswith(" ") and text[1:].isascii() and text[1:].isalpha()


@torch.inference_mode()
def measure(pages: PagesWriter, tokens: int) -> dict[str, Any]:
    """Write so many tokens; after each: seconds, bytes of the cache, resident bytes of the process."""
    chosen, generator = drawable(pages), torch.Generator().manual_seed(0)
    session = pages.begin(pages.ids(" A plan."))
    gc.collect()
    process, seconds, cache, resident = psutil.Process(), list[float](), list[int](), list[int]()
    for _ in range(tokens):
        start = time.perf_counter()
        scores = session.logits[chosen].float().softmax(-1)
        session.push(int(chosen[torch.multinomial(scores, 1, generator=generator)]))
        seconds.append(time.perf_counter() - start)
        cache.append(session.nbytes)
        resident.append(process.memory_info().rss)
    return {"seconds": np.array(seconds), "cache": np.array(cache), "resident": np.array(resident)}


def slope(values: np.ndarray) -> float:
    """Bytes a token of a straight line through the ends of chunks, the first tenth of the text left out."""
    places = np.arange(len(values))
    chosen = places[(places % CHUNK == CHUNK - 1) & (places >= len(values) // 10)]
    return float(np.polyfit(chosen, values[chosen], 1)[0])


def report(pages: PagesWriter, found: dict[str, Any]) -> dict[str, Any]:
    """The figures, and which bars are missed."""
    config, tokens = pages.llm.config, len(found["seconds"])
    plain = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # bytes a token, float32
    waits, figures = found["seconds"], dict[str, Any]()
    figures |= {"tokens": tokens, "plain_bytes_per_token": plain, "predicted_slope": plain / RATIO}
    figures |= {"cache_slope": slope(found["cache"]), "process_slope": slope(found["resident"])}
    at = min(BARS_FROM, tokens)
    figures |= {"smaller_at": at, "smaller": at * plain / float(found["cache"][at - 1])}
    ends = waits[CHUNK - 1 :: CHUNK]
    figures |= {"median_step_s": float(np.median(waits)), "median_chunk_end_s": float(np.median(ends))}
    figures |= {"longest_pause_steps": float(waits.max() / np.median(waits))}
    off = {name: abs(figures[f"{name}_slope"] / figures["predicted_slope"] - 1) for name in ("cache", "process")}
    missed = [name for name, share in off.items() if share > TOLERANCE and (name == "cache" or tokens >= BARS_FROM)]
    missed += ["smaller"] if tokens >= BARS_FROM and figures["smaller"] < 3 else []
    return figures | {"off_by": off, "missed": missed}


def main() -> int:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not GIVE_BACK.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | GIVE_BACK)
    pages = writer()
    figures = report(pages, measure(pages, options.tokens))
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(provenance("random weights") | figures, indent=2))
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
