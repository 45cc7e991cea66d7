"""Whether two models hold the same weights, from a small sample of them.

Owns the sample, the comparison and the short name of a sample. Does not know what a backbone is for.

Decisions
- A digest of all bytes would differ between a model in float32 and the same model loaded in bfloat16. So a sample of
  values is kept, rounded to bfloat16, and compared with room for the last bit.
- Every weight is sampled, so that a model fine-tuned in one layer is another model.
- Weights that a quantisation has packed are left out of the comparison; embeddings and norms remain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vist.errors import VistError

SAMPLES = 64
_LAST_BIT = 2.0**-7  # bfloat16 keeps 8 significant bits
_SMALLEST = 2.0**-14  # below it float16 loses bits
_ROUNDING = 1 / 8  # share of a weight's samples that may land on a neighbouring value


def fingerprint(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """At most 64 evenly spaced values of each floating-point weight, as bfloat16 under the weight's name.

    Raises VistError for weights that are not in memory (offloaded to disk or still on the meta device).
    """
    sample: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.is_meta:
            raise VistError(f"The weight {name} is not in memory, so its model cannot be recognised; load it fully.")
        if weight.is_floating_point():
            values = weight.detach().flatten()
            places = torch.linspace(0, len(values) - 1, min(SAMPLES, len(values)), dtype=torch.float64)
            sample[name] = values[places.long().to(values.device)].float().cpu().to(torch.bfloat16)
    return sample


def short_name(sample: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that stand for a sample, for people."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(sample):
        digest.update(name.encode())
        digest.update(sample[name].view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def first_difference(known: Mapping[str, Tensor], found: Mapping[str, Tensor], packed: set[str]) -> str | None:
    """The first weight in which two samples are not of the same model; None if they are.

    `packed`: names of weights that are there but hold no floating-point values.
    """
    for name in sorted({*known, *found} - packed):
        if name not in known or name not in found or known[name].shape != found[name].shape:
            return name
        if not _same(known[name].float(), found[name].float()):
            return name
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    room = _LAST_BIT * torch.maximum(one.abs(), other.abs()) + _SMALLEST
    moved = (one - other).abs()
    if bool((moved > room).any()):
        return False
    noticeable = moved > _SMALLEST
    return float(noticeable.float().mean()) <= _ROUNDING
