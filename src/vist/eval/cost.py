"""What a condition costs: FLOPs, peak memory, time to first token, tokens per second.

Owns the measuring of one passage under one condition. Does not know quality.

Decisions
- Everything is end to end: rendering, tokenizing, encoding, compressing and reading are inside the clock and, as far
  as they are matrix products, inside the count.
- FLOPs are counted by torch's counter over one reading of the passage (two per multiply-add), not estimated. The
  counter does not know the CPU's fused attention kernel, so its formula is added here.
- Peak memory: on CUDA what torch allocated (`cuda`); on a CPU the resident memory of the whole process, sampled every
  two milliseconds (`rss`), with what it rose by during the condition, since the process itself is most of it.
- Times are the median of `repeats` runs after a warm-up run.
- B batch, H heads, T queries, S keys, Dh width of one head.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.generation.streamers import BaseStreamer

from vist.eval.conditions import Condition, Method, OtherMethod, Passage, build_inputs
from vist.eval.reader import Reader

NEW_TOKENS = 64
_SAMPLING = 0.002


@dataclass(frozen=True)
class Cost:
    """The cost of one passage under one condition.

    `flops` of reading it once; `peak_bytes` and `rise_bytes` with `memory` saying how they were read ("rss", "cuda");
    `ttft_s` seconds to the first new token; `tokens_per_s` new tokens per second, end to end.
    """

    flops: int
    peak_bytes: int
    rise_bytes: int
    memory: str
    ttft_s: float
    tokens_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """The figures under their stable keys (docs/json.md)."""
        return {
            "flops": self.flops,
            "peak_bytes": self.peak_bytes,
            "peak_rise_bytes": self.rise_bytes,
            "memory": self.memory,
            "ttft_s": self.ttft_s,
            "tokens_per_s": self.tokens_per_s,
        }


def measure_cost(
    reader: Reader, condition: Condition, passage: Passage, new_tokens: int = NEW_TOKENS, repeats: int = 3
) -> Cost:
    """The cost of reading `passage` and writing `new_tokens` tokens after it."""
    _write(reader, condition, passage, 2)
    with PeakMemory(reader.device) as memory:
        times = [_write(reader, condition, passage, new_tokens) for _ in range(repeats)]
    first = statistics.median(first for first, _ in times)
    total = statistics.median(total for _, total in times)
    return Cost(
        flops=count_flops(reader, condition, passage),
        peak_bytes=memory.peak,
        rise_bytes=memory.rise,
        memory=memory.way,
        ttft_s=first,
        tokens_per_s=new_tokens / total,
    )


def costs_of(
    reader: Reader, beside: Mapping[str, Reader] | None, passage: Passage, new_tokens: int = NEW_TOKENS
) -> dict[Method, Cost]:
    """The cost of every condition and of the methods beside, which are read as visual context."""
    ways: dict[Method, tuple[Reader, Condition]] = {condition: (reader, condition) for condition in Condition}
    ways |= {OtherMethod(name): (other, Condition.VISUAL) for name, other in (beside or {}).items()}
    return {method: measure_cost(*way, passage, new_tokens) for method, way in ways.items()}


def count_flops(reader: Reader, condition: Condition, passage: Passage) -> int:
    """Floating point operations of one forward pass over the passage, pages included."""
    inputs = build_inputs(reader, condition, [passage])
    with torch.no_grad(), flop_counter() as counter:
        reader.model(**inputs.tensors, use_cache=False, logits_to_keep=1)
    return int(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """torch's counter, which also knows the CPU's fused attention."""
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={operation: _attention_flops})


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Scores and weighted sum of fused attention: (B,H,T,Dh), (B,H,S,Dh) and (B,H,S,Dh); the mask saves nothing."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


def _write(reader: Reader, condition: Condition, passage: Passage, new_tokens: int) -> tuple[float, float]:
    """Seconds to the first new token and to the last, from text to tokens."""
    clock = _Clock(reader.device)
    inputs = build_inputs(reader, condition, [passage], reserve=new_tokens)
    reader.model.generate(
        **inputs.tensors,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        streamer=clock,
    )
    return clock.times[0], clock.now()


class _Clock(BaseStreamer):
    """A streamer that notes when each new token came; the first call is the prompt and is not one."""

    def __init__(self, device: torch.device):
        self.device, self.times, self.prompt_seen = device, list[float](), False
        self.start = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start, with all work on the device done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.start

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate` with the prompt, then with each new token."""
        if self.prompt_seen:
            self.times.append(self.now())
        self.prompt_seen = True

    def end(self) -> None:
        """Called by `generate` at the end; nothing to close."""


class PeakMemory:
    """Context manager that reads the peak memory of what runs inside it: `peak`, `rise` (bytes) and the `way`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.way = "cuda" if device.type == "cuda" else "rss"
        self.peak = self.before = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def rise(self) -> int:
        """Bytes by which memory rose above what was in use before."""
        return max(0, self.peak - self.before)

    def __enter__(self) -> PeakMemory:
        _release_unused()
        if self.way == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.peak = self.before = _resident()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.way == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
            self.peak = max(self.peak, _resident())

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLING):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _release_unused() -> None:
    """Give freed memory back to the system, so that one condition's peak is not the next one's start."""
    gc.collect()
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:  # only the GNU C library has it
        trim(0)
