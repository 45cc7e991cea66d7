"""VIST2 by count: against torch's counter on real modules, by hand at one shape, and what the documentation says."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tiny_vist2 import tiny_llm, tiny_tower
from vist.compress.aligner import build_aligner
from vist.errors import VistError
from vist.eval.cost_vist2 import (
    Reading,
    aligner_parameters,
    plain_row,
    qwen3_family,
    siglip2_large,
    vist2_row,
    vist2_table,
)
from vist.eval.flops import aligner_work
from vist.eval.memory import language_model_parameters
from vist.model.vist2_configuration import Vist2Config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aligner_shortcut": True, "visual_levels": 2},
        {"aligner_preceding": 2, "aligner_following": 1, "patches_per_token": 5},
        {"aligner_preceding": 2, "aligner_following": 1, "patches_per_token": 5, "aligner_convolutions": 2},
    ],
)
def test_the_aligners_operations_are_the_counters(changes: dict) -> None:
    config = Vist2Config(text_config=tiny_llm().config, vision_config=tiny_tower().config, **changes)
    aligner = build_aligner(config)
    features, mask = torch.randn(3, 20, config.vision_size), torch.ones(3, 20, dtype=torch.bool)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        aligner(features, mask, torch.tensor([7, 7, 7]))
    assert counter.get_total_flops() == aligner_work(config, 21, 60).total
    assert aligner_parameters(config) == sum(parameter.numel() for parameter in aligner.parameters())


def test_a_row_by_hand() -> None:
    """4,096 tokens at 4x: 32 pages of 196 patches, 1,024 visual tokens behind which 128 text tokens are read."""
    llm = qwen3_family()["Qwen3-8B"]
    row = vist2_row("4x", llm, Reading(4), 4096, 128)
    layer = 2 * 196 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 196**2 * 1024
    encoder = 32 * (24 * layer + 2 * 196 * 3 * 16 * 16 * 1024)
    aligner = 1024 * 2 * (7 * 1024 * 4 * 4096 + 4 * 4096 * 4096)
    places = 1024 + 128
    reading = 36 * (2 * places * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 12288) + 4 * places**2 * 4096)
    assert row.work["encoder"].total == encoder
    assert row.work["resampler"].total == aligner
    assert row.work["llm"].total == reading + 2 * 4096 * 151936
    assert row.memory["kv"] == 2 * 36 * 1024 * places * 2
    assert row.pages == 32


def test_the_shapes_have_the_sizes_of_their_names() -> None:
    sizes = {name: language_model_parameters(config) / 1e9 for name, config in qwen3_family().items()}
    assert sizes == pytest.approx(
        {"Qwen3-0.6B": 0.596, "Qwen3-1.7B": 1.72, "Qwen3-4B": 4.02, "Qwen3-8B": 8.19}, rel=0.01
    )
    assert (siglip2_large().image_size, siglip2_large().patch_size) == (224, 16)


def test_the_goals_by_count() -> None:
    """FLOPs at least 74 % fewer at 4x in every size; kept chunks take the encoder's cost away and nothing else."""
    rows = {row.method: row for row in vist2_table()}
    for name, llm in qwen3_family().items():
        plain, usual, kept = (rows[f"{name}, {way}"] for way in ("text", "4x", "4x, chunks kept"))
        assert usual.tflops < 0.26 * plain.tflops and plain.tflops > 3 * usual.tflops
        assert usual.memory["kv"] == pytest.approx(plain.memory["kv"] / 4, rel=0.02)
        saved = usual.tflops - kept.tflops
        assert saved == pytest.approx((usual.work["encoder"].total + usual.work["resampler"].total) / 1e12)
        assert kept.tflops == pytest.approx(plain_row(name, llm, 8192, 128).tflops)


@pytest.mark.parametrize(("ratio", "te"), [(0.5, 100), (1000, 100), (4, 0)])
def test_what_cannot_be_counted_is_refused(ratio: float, te: int) -> None:
    with pytest.raises(VistError):
        list(vist2_table(te=te)) if te == 0 else Reading(ratio)
