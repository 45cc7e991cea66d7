"""Training data with a number of visual tokens that changes from batch to batch.

Owns how many tokens each page of a batch may have, and the guide under that division. Must not know how the model is
built or optimised.

Shapes: B batch, P pages, T proximal tokens.

Decisions
- In a share of the batches all visual tokens are kept, so that the model stays what it was there; in the others their
  number is drawn uniformly in its logarithm: half of the draws lie below the geometric mean of the bounds.
- The pages of a sample get different numbers around the one drawn: the cross-attention must cope with tokens of
  different coarseness beside each other, which is what sharing by information makes of a context.
- Everything is a pure function of (seed, number of the batch), so a resumed run draws what the uninterrupted one would.
- A merged part consists of whole parts, so where a text token's part and sub-token went is arithmetic: nothing is laid
  out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vist.errors import VistError
from vist.train.context import ContextSamples


@dataclass(frozen=True)
class TokenRange:
    """How many visual tokens a page may have.

    Attributes:
        least, most: bounds of the draw; `most` is at most the model's own number.
        full_share: share of the batches with all visual tokens.
        spread: standard deviation of the logarithm of a page's number around that of its batch.
    """

    least: int
    most: int
    full_share: float = 0.25
    spread: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise VistError(f"The visual tokens to draw go from {self.least} to {self.most}; give 1 <= least <= most.")
        if not 0 <= self.full_share <= 1 or self.spread < 0:
            raise VistError(f"full_share is {self.full_share} and spread {self.spread}; give 0 to 1, and 0 or more.")

    def draw(self, rng: np.random.Generator, samples: int, pages: int) -> np.ndarray | None:
        """Tokens of each page of a batch (B,P), at least 1; None = all of them."""
        if rng.random() < self.full_share:
            return None
        middle = rng.uniform(np.log(self.least), np.log(self.most))
        drawn = np.exp(middle + self.spread * rng.standard_normal((samples, pages)))
        return drawn.round().clip(1, self.most).astype(np.int64)


class NestedSamples(ContextSamples):
    """`ContextSamples` whose batches also say how many visual tokens each page may have (`visual_tokens`)."""

    def __init__(self, *args: Any, tokens: TokenRange, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokens = tokens

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return super().__getitem__(index) | {"batch": np.array(index // self.batch_size)}

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The model's arguments, as `ContextSamples.collate`; a batch that shows text has no visual tokens to draw."""
        if "pixels" not in rows[0]:
            return super().collate(rows)
        rng = np.random.default_rng((self.seed, int(rows[0]["batch"]), 2))
        counts_BP = self.tokens.draw(rng, len(rows), max(len(row["ink"]) for row in rows))
        if counts_BP is None:
            return super().collate(rows)
        moved = [
            {**row, "guide": merged_guide(row["guide"], row["ink"], counts, self.group, self.parts)}
            for row, counts in zip(rows, counts_BP, strict=True)
        ]
        return super().collate(moved) | {"visual_tokens": torch.from_numpy(counts_BP)}


def merged_guide(guide_T: np.ndarray, ink_PRC: np.ndarray, counts_P: np.ndarray, group: int, parts: int) -> np.ndarray:
    """The sub-tokens that a guide points at after the parts of each page were merged into at most `counts_P`; -1 stays.

    `guide_T` counts over all pages' parts of `group` inked patches, `parts` sub-tokens each, as `ContextSamples` does;
    the result counts over the sub-tokens of what is left. The division is `vist.compress.reducers.Division`.
    """
    whole = -(-ink_PRC.reshape(len(ink_PRC), -1).sum(1) // group)
    kept = np.minimum(counts_P[: len(whole)], whole)
    ends = whole.cumsum()
    token, piece = np.divmod(guide_T.clip(min=0), parts)
    page = np.searchsorted(ends, token, side="right").clip(max=len(whole) - 1)
    part = token - (ends - whole)[page]
    merged = part * kept[page] // whole[page].clip(min=1)
    first = -(-merged * whole[page] // kept[page].clip(min=1))
    many = -(-(merged + 1) * whole[page] // kept[page].clip(min=1)) - first
    moved = ((kept.cumsum() - kept)[page] + merged) * parts + ((part - first) * parts + piece) // many.clip(min=1)
    return np.where(guide_T >= 0, moved, guide_T)
