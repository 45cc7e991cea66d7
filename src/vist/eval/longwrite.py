"""Writing at length: what four kinds of memory keep of a long text, and what they cost while it grows.

Owns the plan that is written from, the four measurements and their rows. Does not know how a memory works (writers.py)
nor how figures are printed.

Decisions
- Quality is read where the truth is known: the loss of a held-out text by distance from its beginning, and facts that
  stand at the beginning and are asked for behind more and more of that text. What a model writes by itself has no
  truth; of it, repetition and cost are measured.
- All methods read and write token by token the same tokens, from the same seed; each has its own LLM or shares it.
- Distances are powers of two of tokens, so that the last bin is half of the text.
- Cache bytes are those of keys and values; peak memory is the process's (or the GPU's), with what it rose by.
- N tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vist.errors import VistError
from vist.eval.cost import PeakMemory
from vist.eval.recall import is_exact
from vist.eval.scores import Row, score_rows
from vist.eval.writers import Writer
from vist.train.facts import Fact, make_facts

FIRST_BIN = 256
GRAMS = (1, 2, 3, 4)
ANSWER_TOKENS = 8
HEADING = "Plan of the book. What is told in the beginning holds to the end."


@dataclass(frozen=True)
class LongWriteConfig:
    """How much is read and written.

    Attributes:
        tokens: of the held-out texts, and tokens to write.
        texts: held-out texts.
        facts: planted at the beginning of each.
        temperature, top_p: of sampling.
        seed: of facts and of sampling.
    """

    tokens: int = 4096
    texts: int = 4
    facts: int = 4
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "texts", "facts"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0 < self.top_p <= 1 or self.temperature <= 0:
            raise VistError(
                f"temperature {self.temperature} and top_p {self.top_p} cannot be sampled with; both must be above 0, "
                "top_p at most 1."
            )

    @property
    def edges(self) -> list[int]:
        """Ends of the bins of distance: 256, 512, 1024 ... and the last token."""
        found = [FIRST_BIN]
        while found[-1] < self.tokens:
            found.append(2 * found[-1])
        return [*found[:-1], self.tokens] if found[-1] > self.tokens else found


@dataclass(frozen=True)
class Plan:
    """What is written from: facts, and the prompt that states them; `body` (N,) ids of a held-out text behind it."""

    prompt: str
    facts: tuple[Fact, ...]
    body: tuple[int, ...]


def make_plans(writer: Writer, texts: Sequence[str], config: LongWriteConfig) -> list[Plan]:
    """One plan for each text: a heading, the facts that must be kept, and the text that follows.

    Raises VistError when fewer texts than asked for are long enough.
    """
    plans = []
    for number, text in enumerate(texts):
        body = writer.ids(text)[: config.tokens]
        if len(body) < config.tokens:
            continue
        facts = tuple(make_facts(np.random.default_rng((config.seed, number)), "test", config.facts))
        lines = "\n".join(fact.statement for fact in facts)
        plans.append(Plan(f"{HEADING}\n{lines}\n\n", facts, tuple(body)))
        if len(plans) == config.texts:
            return plans
    raise VistError(
        f"Only {len(plans)} of {len(texts)} texts have {config.tokens} tokens; lower --tokens or --texts, or give "
        "longer texts."
    )


@torch.inference_mode()
def loss_rows(
    writers: Mapping[str, Writer], plans: Sequence[Plan], config: LongWriteConfig, **options: Any
) -> list[Row]:
    """Nats per token of the held-out texts by distance, methods paired token by token, texts drawn whole."""
    losses = {
        name: [writer.nats(writer.ids(plan.prompt), plan.body) for plan in plans] for name, writer in writers.items()
    }
    rows, start = [], 0
    for edge in config.edges:
        values = {name: [float(loss[start:edge].mean()) for loss in found] for name, found in losses.items()}
        rows += score_rows(
            "nats per token", values, pairs=pairs_of(writers), seed=config.seed, distance=edge, **options
        )
        start = edge
    return rows


@torch.inference_mode()
def fact_rows(
    writers: Mapping[str, Writer], plans: Sequence[Plan], config: LongWriteConfig, **options: Any
) -> list[Row]:
    """Share of facts of the plan that are answered exactly, behind so much of the text."""
    rows = []
    for edge in config.edges:
        hits: dict[str, list[float]] = {name: [] for name in writers}
        groups = [number for number, plan in enumerate(plans) for _ in plan.facts]
        for name, writer in writers.items():
            for plan in plans:
                read = [*writer.ids(plan.prompt), *plan.body[:edge]]
                for fact in plan.facts:
                    said = writer.text(_greedy(writer, [*read, *writer.ids(f"\n\n{fact.cue}")]))
                    hits[name].append(float(is_exact(said, fact.answer)))
        pairs = pairs_of(writers)
        rows += score_rows("facts kept", hits, groups=groups, pairs=pairs, seed=config.seed, distance=edge, **options)
    return rows


def pairs_of(writers: Mapping[str, Writer]) -> list[tuple[str, str]]:
    """The first method against each of the others."""
    first, *others = writers
    return [(first, other) for other in others]


def _greedy(writer: Writer, ids: Sequence[int]) -> list[int]:
    session, found = writer.begin(ids), list[int]()
    for _ in range(ANSWER_TOKENS):
        found.append(int(session.logits.argmax()))
        session.push(found[-1])
    return found


@dataclass(frozen=True)
class Written:
    """A long text that a method wrote, and what it cost.

    `seconds` (N,) from the beginning to each token; `cache` (N,) bytes of keys and values after it; `carried` (N,)
    places in the cache.
    """

    ids: list[int]
    seconds: np.ndarray
    cache: np.ndarray
    carried: np.ndarray
    peak: int
    rise: int

    @property
    def pause(self) -> float:
        """The longest wait for a token, in median waits. The first token is left out."""
        waits = np.diff(self.seconds)
        return float(waits.max() / max(np.median(waits), 1e-9)) if len(waits) else 1.0

    def distinct(self, grams: int) -> float:
        """Share of different ones among the n-grams of the text (distinct-n)."""
        found = list(zip(*(self.ids[start:] for start in range(grams)), strict=False))
        return len(set(found)) / max(1, len(found))

    def rows(self, name: str, config: LongWriteConfig) -> list[Row]:
        """Figures of the whole text, and of its growth by length; without intervals, since it is one text."""
        single = {"ttft_s": self.seconds[0], "peak_bytes": self.peak, "peak_rise_bytes": self.rise, "pause": self.pause}
        single |= {f"distinct-{grams}": self.distinct(grams) for grams in GRAMS}
        rows = [_figure(metric, name, float(value), config.tokens) for metric, value in single.items()]
        start = 0
        for edge in config.edges:
            begin = self.seconds[start - 1] if start else 0.0
            speed = (edge - start) / max(1e-9, self.seconds[edge - 1] - begin)
            for metric, value in (
                ("tokens per second", speed),
                ("cache bytes", self.cache[edge - 1]),
                ("places in the cache", self.carried[edge - 1]),
            ):
                rows.append(_figure(metric, name, float(value), edge))
            start = edge
        return rows


def _figure(metric: str, name: str, value: float, distance: int) -> Row:
    head = {"metric": metric, "n": 1, "unit": "text", "method": name, "label": name, "minus": None}
    return head | {"value": value, "low": value, "high": value, "distance": distance}


@torch.inference_mode()
def write_long(
    writer: Writer, prompt: str, config: LongWriteConfig, tell: Callable[[int], None] = lambda count: None
) -> Written:
    """Write `config.tokens` tokens by sampling, never ending; `tell` is called with the number of tokens so far."""
    generator = torch.Generator().manual_seed(config.seed)
    ids, seconds, cache, carried = list[int](), list[float](), list[int](), list[int]()
    banned = writer.special_ids
    with PeakMemory(writer.device) as memory:
        start = time.perf_counter()
        session = writer.begin(writer.ids(prompt))
        for number in range(config.tokens):
            ids.append(_sample(session.logits, banned, config, generator))
            seconds.append(time.perf_counter() - start)
            if number + 1 < config.tokens:
                session.push(ids[-1])
            cache.append(session.nbytes)
            carried.append(session.places)
            tell(number + 1)
    return Written(ids, np.array(seconds), np.array(cache), np.array(carried), memory.peak, memory.rise)


def _sample(logits_V: torch.Tensor, banned: Sequence[int], config: LongWriteConfig, generator: torch.Generator) -> int:
    """One token of the smallest set that holds `top_p` of the probability."""
    scores_V = logits_V.float().cpu() / config.temperature
    scores_V[list(banned)] = -torch.inf
    chances_V, order_V = scores_V.softmax(-1).sort(descending=True)
    chances_V[chances_V.cumsum(0) - chances_V >= config.top_p] = 0
    return int(order_V[torch.multinomial(chances_V, 1, generator=generator)])
