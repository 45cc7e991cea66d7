"""Which tokens of a corpus carry information, and which to leave out of the text side of PVE.

Owns the streaming token count of a corpus, the importance s_w computed from it, and the frequency-based masking (FM)
that uses the importance. Knows token ids only: no tokenizer, no embeddings, no pages.

Decisions
- count(w) counts occurrences, |S| counts samples (one call of `update` is one sample). The paper leaves open whether
  count(w) means occurrences or samples; occurrences still tell frequent tokens apart when every long sample holds
  them all.
- Masking is weighted sampling without replacement: each token's chance of being drawn is proportional to
  exp(-s_w) = (1 + count(w)) / |S|, so frequent, uninformative tokens go first but not always. It is drawn by Gumbel
  top-k: one pass, vectorised, and a fixed number of masked tokens per row.
- The count is exact: the number of masked tokens is round(rate x valid tokens) in every row, for every strategy but
  "dynamic".
- "dynamic" is our take on what the paper leaves to future work: a rate that follows each sample's own distribution of
  tokens. There `rate` is a share of information, not of tokens: a row loses as many tokens as its least informative
  ones that together hold that share of the row's information, s_w above the least s_w there is. A row of equally
  informative tokens loses `rate` of them, a row padded out with frequent words more, so that all rows keep about as
  much. Which tokens go is drawn as for "frequency".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from vist.errors import VistError

MaskingStrategy = Literal["frequency", "random", "none", "dynamic"]
STRATEGIES: tuple[str, ...] = get_args(MaskingStrategy)


class TokenFrequency:
    """Streaming token counts of a corpus; constant memory: one counter for each id of the vocabulary.

    Attributes: `counts` (V,) int64 occurrences of each id; `num_samples` the number of samples seen, |S|.
    """

    def __init__(self, vocab_size: int) -> None:
        if vocab_size <= 0:
            raise VistError(f"The vocabulary size must be positive, got {vocab_size}; pass len(tokenizer).")
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self.num_samples = 0

    @classmethod
    def from_corpus(cls, samples: Iterable[Iterable[int]], vocab_size: int) -> TokenFrequency:
        """Count a whole corpus, one sample of token ids at a time; nothing but the counters is kept."""
        frequency = cls(vocab_size)
        for ids in samples:
            frequency.update(ids)
        return frequency

    def update(self, ids: Iterable[int] | np.ndarray | Tensor) -> None:
        """Count one sample. Raises VistError on an id outside the vocabulary: the tokenizer is not the one declared."""
        array = np.asarray(ids if isinstance(ids, (np.ndarray, Tensor)) else list(ids), dtype=np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.counts.size):
            worst = int(array.min() if array.min() < 0 else array.max())
            raise VistError(
                f"Token id {worst} is outside the vocabulary of {self.counts.size}; count with the model's tokenizer."
            )
        self.counts += np.bincount(array, minlength=self.counts.size)
        self.num_samples += 1

    def importance(self) -> np.ndarray:
        """Importance of every token, s_w = log(|S| / (1 + count(w))), as (V,) float32 (paper: section on PVE).

        Raises VistError when nothing was counted: the logarithm of zero samples says nothing.
        """
        if self.num_samples == 0:
            raise VistError("The token statistics are empty (0 samples); count a corpus before asking for importance.")
        return np.log(self.num_samples / (1.0 + self.counts)).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as safetensors: beside the target first, then renamed, so no half table is ever seen."""
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        table = {"counts": self.counts, "num_samples": np.array([self.num_samples], dtype=np.int64)}
        try:
            save_file(table, str(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenFrequency:
        """Read a table written by `save`. Raises VistError when the file is missing or is not such a table."""
        if not Path(path).is_file():
            raise VistError(f"There is no token statistics file at {path}; write one with TokenFrequency.save.")
        try:
            table = load_file(str(path))
            frequency = cls(table["counts"].size)
            frequency.counts[:] = table["counts"]
            frequency.num_samples = int(table["num_samples"][0])
        except (SafetensorError, KeyError, IndexError) as error:
            raise VistError(
                f"{path} is not a token statistics table ({error}); write one with TokenFrequency.save."
            ) from error
        return frequency


def frequency_mask(
    ids: Tensor,
    importance: Tensor | np.ndarray,
    rate: float,
    strategy: MaskingStrategy = "frequency",
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Choose the tokens that stay for PVE: True = kept (paper: frequency-based masking, 50 % in the main runs).

    `ids` (..., T) int; `importance` (V,) from `TokenFrequency.importance`; `rate` in [0, 1) is the share of the valid
    tokens to mask, rounded to whole tokens per row ("dynamic": the share of the row's information); `valid` (..., T)
    bool leaves padding out (never kept, never counted). The same generator state gives the same mask.
    Raises VistError on a rate outside [0, 1) and on an unknown strategy.
    """
    if not 0.0 <= rate < 1.0:
        raise VistError(f"The masking rate must be at least 0 and below 1, got {rate}; the paper uses 0.5.")
    if strategy not in STRATEGIES:
        raise VistError(f"Unknown masking strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}.")
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    if strategy == "none" or rate == 0.0:
        return valid.clone()
    keys = _gumbel(ids.shape, generator).to(ids.device)
    weights = torch.as_tensor(importance, dtype=torch.float32, device=ids.device)
    if strategy != "random":
        keys = keys - weights[ids]
    keys = keys.masked_fill(~valid, -torch.inf)
    rank = keys.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    num_masked = (valid.sum(-1, keepdim=True) * rate).round().long()
    if strategy == "dynamic":
        num_masked = _by_information((weights - weights.min())[ids], rate, valid, num_masked)
    return valid & (rank >= num_masked)


def _by_information(information: Tensor, rate: float, valid: Tensor, otherwise: Tensor) -> Tensor:
    """How many of each row's least informative tokens hold `rate` of its information; `otherwise` (..., 1) if none has.

    `information` and `valid` (..., T) -> (..., 1).
    """
    held = information.double().masked_fill(~valid, 0.0)
    order = information.masked_fill(~valid, torch.inf).argsort(dim=-1)
    total = held.sum(-1, keepdim=True)
    below = held.gather(-1, order).cumsum(-1) <= rate * total * (1 + 1e-9)
    count = (below & valid.gather(-1, order)).sum(-1, keepdim=True)
    return torch.where(total > 0, count, otherwise)


def _gumbel(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise; the uniform draw is kept off 0 and 1, where the logarithms are infinite."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-7, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))
