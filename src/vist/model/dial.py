"""The dial: how many text tokens one visual token stands for, chosen when a text is read.

Owns what a user can ask for, and its translation into the numbers that the model takes (`visual_tokens` and
`page_weights`, see `vist.compress.budget`). Does not know how pages are drawn nor how a reducer makes fewer tokens.

Decisions
- A ratio is about text, and only whoever has the text can turn it into numbers of tokens: the processor does, page by
  page, and the model takes the numbers.
- One budget per sample: its text tokens over the ratio, or so many tokens for each of its pages. It is shared by the
  text tokens of each page, so that every page has the same ratio, or, with `adaptive`, by their information: the sum of
  their importance s_w = log(|S| / (1 + count(w))) (VIST's, there for masking). A page of rare words gets more.
- Tokens are counted page by page. A page ends where a line ends, so that is the count of the whole text but for a word
  here and there.
- B batch, P pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vist.errors import VistError


@dataclass(frozen=True)
class Dial:
    """What was asked for; nothing = all the visual tokens that the model was built with.

    ratio: text tokens per visual token. visual_tokens: visual tokens per page, on average. At most one of the two.
    adaptive: share the tokens of a sample over its pages by information.
    """

    ratio: float | None = None
    visual_tokens: int | None = None
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.ratio is not None and self.visual_tokens is not None:
            raise VistError(
                f"A ratio ({self.ratio}) and a number of visual tokens ({self.visual_tokens}) were asked for; "
                "give one of the two."
            )
        if self.ratio is not None and not 0 < self.ratio < float("inf"):
            raise VistError(f"The ratio must be above 0, got {self.ratio}; it is text tokens per visual token.")
        if self.visual_tokens is not None and self.visual_tokens < 1:
            raise VistError(f"visual_tokens must be at least 1, got {self.visual_tokens}.")
        if self.adaptive and not self.turned:
            raise VistError("adaptive shares out a budget; give one with ratio or visual_tokens.")

    @property
    def turned(self) -> bool:
        """Whether anything else than all visual tokens was asked for."""
        return self.ratio is not None or self.visual_tokens is not None

    def page_inputs(
        self, ids: Sequence[Sequence[Sequence[int]]], importance: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The model's arguments for a batch: token ids of every page of every sample -> arrays (B,) and (B,P).

        `importance` (V,) from `TokenFrequency.importance`, for `adaptive`. Nothing if nothing was asked for.
        Raises VistError when `adaptive` has no token statistics, or they are of another vocabulary.
        """
        if not self.turned:
            return {}
        pages = max((len(sample) for sample in ids), default=0)
        if self.visual_tokens is not None and not self.adaptive:
            return {"visual_tokens": np.full((len(ids), pages), self.visual_tokens, dtype=np.int64)}
        weights = np.zeros((len(ids), pages), dtype=np.float32)
        totals = np.ones(len(ids), dtype=np.int64)
        for number, sample in enumerate(ids):
            counts = [len(page) for page in sample]
            weights[number, : len(sample)] = information(sample, importance) if self.adaptive else counts
            if self.ratio is not None:
                totals[number] = max(1, round(sum(counts) / self.ratio))
            else:
                totals[number] = max(1, (self.visual_tokens or 1) * len(sample))
        return {"visual_tokens": totals, "page_weights": weights}


def information(pages: Sequence[Sequence[int]], importance: np.ndarray | None) -> np.ndarray:
    """Sum of the importance of each page's tokens, (P,) (paper: s_w; its sum over a page is this project's).

    Words more frequent than samples have negative importance; a page of nothing else counts as empty when shared.
    Raises VistError without token statistics, or when they are of another vocabulary.
    """
    if importance is None:
        raise VistError(
            "Sharing by information needs token statistics, and this processor has none: set processor.frequency to a "
            "vist.compress.frequency.TokenFrequency, or save it as token_frequency.safetensors beside the processor."
        )
    largest = max((max(page, default=0) for page in pages), default=0)
    if largest >= len(importance):
        raise VistError(
            f"Token id {largest} is outside the token statistics of {len(importance)} ids; count with this tokenizer."
        )
    return np.array([importance[np.asarray(page, dtype=np.int64)].sum() for page in pages], dtype=np.float32)
