"""In which numbers a machine trains.

Owns the choice and what it needs to know of the machine. Must not know what is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "fp16", "bf16", "fp32"]


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolved_precision(precision: Precision) -> Precision:
    """The precision that this machine runs: "fp16", "bf16" or "fp32"."""
    if precision == "fp16":
        return "fp16" if torch.cuda.is_available() else "fp32"
    return "bf16" if precision != "fp32" and bf16_is_fast() else "fp32"
