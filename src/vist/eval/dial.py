"""One checkpoint read at many ratios: perplexity and exact recall against text tokens per visual token.

Owns the settings that are compared, the values of each, and their rows. Does not print or draw.

Decisions
- Methods: `all` reads the visual tokens that the model was built with; `nested` the same number of text tokens per
  visual token on every page; `adaptive` the same number of visual tokens in all, shared by information; `fixed` another
  checkpoint at its own number, which is what a dial has to be compared with. The controls: `none` has no context, and
  `wrong` is `nested` on another text's pages.
- All methods read the same passages and answer the same questions, so every difference is paired.
- Features of a page are computed once and serve every setting; only what differs is measured again.
- A row says the ratio that was asked for and the one that was read, which rounding and the least of one token a page
  make different. Perplexity is exp of the mean loss; intervals and differences are those of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vist.errors import VistError
from vist.eval.bootstrap import RESAMPLES
from vist.eval.conditions import Condition, Passage
from vist.eval.lm import SCORED, condition_loss
from vist.eval.reader import Reader
from vist.eval.recall import RecallContext, ask
from vist.eval.scores import Row, score_rows
from vist.model.dial import Dial
from vist.vision.feature_cache import FeatureCache

PAIRS = (
    ("nested", "all"),
    ("adaptive", "all"),
    ("adaptive", "nested"),
    ("nested", "none"),
    ("nested", "wrong"),
    ("fixed", "none"),
)


@dataclass(frozen=True)
class Reading:
    """What one method made of everything: `loss` (windows,) nats per token, `exact` (questions,) and `visual`, the
    visual tokens of each window (windows,)."""

    loss: np.ndarray
    exact: np.ndarray
    visual: np.ndarray


@dataclass
class DialMeasure:
    """The passages and questions that every setting reads, and the readings so far.

    `passages` with their `documents`; `contexts` with planted facts. `fixed`: other checkpoints by name.
    """

    reader: Reader
    passages: Sequence[Passage]
    documents: Sequence[int]
    contexts: Sequence[RecallContext]
    fixed: Mapping[str, Reader] = field(default_factory=dict)
    batch_size: int = 4
    resamples: int = RESAMPLES
    seed: int = 0
    _readings: dict[tuple[str, Condition, Dial], Reading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = _kept(self.reader)
        for name, other in self.fixed.items():
            if other.tokenizer.get_vocab() != self.reader.tokenizer.get_vocab():
                raise VistError(f"{name!r} has another tokenizer, so its losses are of other tokens; compare it alone.")

    def at_ratio(self, ratio: float) -> list[Row]:
        """Rows of every method at one ratio."""
        even, shared = Dial(ratio=ratio), Dial(ratio=ratio, adaptive=True)
        readings = {
            "all": self._read(self.reader, Dial()),
            "nested": self._read(self.reader, even),
            "adaptive": self._read(self.reader, shared),
            "wrong": self._read(self.reader, even, Condition.WRONG),
            "none": self._read(self.reader, Dial(), Condition.NONE),
        }
        return self._rows(readings, asked=ratio)

    def at_own(self, name: str) -> list[Row]:
        """Rows of another checkpoint at its own number of visual tokens, beside no context."""
        other = _kept(self.fixed[name])
        readings = {
            "fixed": self._read(other, Dial(), name=name),
            "none": self._read(other, Dial(), Condition.NONE, name),
        }
        return self._rows(readings, asked=None, checkpoint=name)

    def _read(self, reader: Reader, dial: Dial, condition: Condition = Condition.VISUAL, name: str = "") -> Reading:
        """A setting's reading, from the first time that it was asked for; `name` is that of another checkpoint."""
        key = (name, condition, dial)
        if key not in self._readings:
            own = reader.dialled(dial)
            scored = min(SCORED, min(len(passage.proximal) for passage in self.passages))
            read = condition_loss(own, condition, self.passages, scored, self.batch_size)
            pairs = list(zip(self.contexts, [*self.contexts[1:], self.contexts[0]], strict=True))
            starts = range(0, len(pairs), self.batch_size)
            batches = (ask(own, condition, pairs[start : start + self.batch_size], start) for start in starts)
            exact = np.array([answer.exact for batch in batches for answer in batch], dtype=float)
            self._readings[key] = Reading(read.loss, exact, np.asarray(read.context_tokens))
        return self._readings[key]

    def _rows(self, readings: dict[str, Reading], **axes: Any) -> list[Row]:
        common: dict[str, Any] = {"pairs": PAIRS, "resamples": self.resamples, "seed": self.seed, **axes}
        losses = {method: reading.loss for method, reading in readings.items()}
        rows = score_rows("nats per token", losses, groups=self.documents, **common)
        rows = [_perplexity(row) for row in rows if row["minus"] is None] + rows
        asked = [number for number, context in enumerate(self.contexts) for _ in context.facts]
        rows += score_rows(
            "exact", {method: reading.exact for method, reading in readings.items()}, groups=asked, **common
        )
        text = sum(len(self.reader.ids(passage.distant)) for passage in self.passages)
        for row in rows:
            visual = readings[row["method"]].visual.sum()
            row["label"] = row["method"]
            row["ratio"] = float(text / visual) if visual else None
            row["visual_tokens"] = float(visual / len(self.passages))
        return rows


def _kept(reader: Reader) -> Reader:
    """The reader with a cache for the features of its pages. Raises VistError for a model that reads no pages."""
    tower = reader.tower("The dial")
    return replace(reader, cache=FeatureCache(tower, drop_blank=reader.model.config.vision_drop_blank))


def _perplexity(row: Row) -> Row:
    return row | {"metric": "perplexity"} | {key: math.exp(row[key]) for key in ("value", "low", "high")}
