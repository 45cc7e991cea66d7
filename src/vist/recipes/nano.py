"""The two sizes of `vist-nano`: every number of their training.

Owns configurations only. `nano`, which the packaged weights come from, is meant for two CPU cores, `nano_large` for a
GPU.
"""

from __future__ import annotations

from dataclasses import replace

from vist.train.context import ContextShape
from vist.train.examples import ExampleMix
from vist.train.nano import NanoRecipe
from vist.train.reading import ReadingMix
from vist.train.stage import StageConfig

DOMAINS = {"books": 0.76, "encyclopedic": 0.09, "docs": 0.06, "code": 0.05, "math": 0.04}
PROSE = {"books": 0.85, "encyclopedic": 0.15}


def nano() -> NanoRecipe:
    """5.2 M language model, 2.1 M TextViT."""
    return NanoRecipe(
        vocab_size=4096,
        lm_width=256,
        lm_layers=4,
        lm_context=2048,
        vit_width=192,
        vit_layers=4,
        domains=DOMAINS,
        lm_mix=ExampleMix({"continue": 0.45, "recall": 0.2, "quote": 0.35}, DOMAINS),
        lm_tokens=(160, 1200),
        lm=StageConfig(steps=1000, batch_size=8, learning_rate=4e-3, beta2=0.95),
        long_text_mix=ExampleMix({"continue": 0.8, "recall": 0.1, "quote": 0.1}, DOMAINS),
        long_text_tokens=(800, 1200),
        long_text=StageConfig(steps=350, batch_size=8, learning_rate=1.5e-3, beta2=0.95),
        reading_mix=ReadingMix({"vist": 0.5, "vist-9": 0.1, "vist-8": 0.1, "vist-7": 0.3}, DOMAINS),
        reading=StageConfig(steps=1600, batch_size=16, learning_rate=2e-3, weight_decay=0.05),
        visual_tokens=86,
        resampler_layers=1,
        local_expansion=6,
        local_preceding=2,
        local_following=1,
        page_positions=16,
        alignment_mix=ExampleMix({"continue": 0.45, "recall": 0.55}, PROSE, facts_per_kilobyte=24),
        alignment=StageConfig(steps=800, batch_size=24, learning_rate=3e-3, weight_decay=0.02),
        read_back_mix=ExampleMix(
            {"quote": 0.4, "recall": 0.5, "continue": 0.1}, PROSE, facts_per_kilobyte=8, repeated_words=True
        ),
        read_back_shape=ContextShape(
            distant=(150, 1200), tokens=160, text_share=0.1, text_distant=(150, 1300), text_tokens=512
        ),
        read_back=StageConfig(steps=1000, batch_size=16, learning_rate=4e-3, weight_decay=0.02, backbone_rate=0.1),
        context_mix=ExampleMix(
            {"continue": 0.45, "recall": 0.45, "quote": 0.1}, PROSE, facts_per_kilobyte=8, repeated_words=True
        ),
        context_shape=ContextShape(distant=(400, 2800), tokens=224),
        context=StageConfig(steps=640, batch_size=16, learning_rate=2.5e-3, weight_decay=0.02),
        settling_mix=ExampleMix(
            {"continue": 0.62, "recall": 0.36, "quote": 0.02}, PROSE, facts_per_kilobyte=6, repeated_words=True
        ),
        settling_shape=ContextShape(distant=(1200, 2800), tokens=256),
        settling=StageConfig(steps=650, batch_size=16, learning_rate=2e-3, weight_decay=0.02),
    )


def nano_large() -> NanoRecipe:
    """30 M language model, 14 M TextViT: the same stages, longer and wider, for a GPU."""
    small = nano()
    return replace(
        small,
        vocab_size=8192,
        lm_width=512,
        lm_layers=8,
        vit_width=384,
        vit_layers=8,
        lm=replace(small.lm, steps=4000, batch_size=64, learning_rate=1.5e-3, workers=8),
        long_text=replace(small.long_text, steps=1500, batch_size=64, learning_rate=6e-4, workers=8),
        reading=replace(small.reading, steps=3000, batch_size=64, learning_rate=8e-4, workers=8),
        alignment=replace(small.alignment, steps=1500, batch_size=64, learning_rate=1e-3, workers=8),
        read_back=replace(small.read_back, steps=2500, batch_size=64, learning_rate=1e-3, workers=8),
        context=replace(small.context, steps=4000, batch_size=64, learning_rate=8e-4, workers=8),
        settling=replace(small.settling, steps=1000, batch_size=64, learning_rate=5e-4, workers=8),
    )
