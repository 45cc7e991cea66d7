"""A `vist-nano` recipe of a few steps on the tiny corpus of the training tests."""

from __future__ import annotations

from dataclasses import replace

from vist.recipes.nano import nano
from vist.train.context import ContextShape
from vist.train.examples import ExampleMix
from vist.train.nano import NanoRecipe
from vist.train.reading import ReadingMix
from vist.train.stage import StageConfig

DOMAINS = {"books": 1.0, "code": 1.0}


def miniature() -> NanoRecipe:
    stage = StageConfig(steps=2, batch_size=2, learning_rate=1e-3, save_every=1, workers=0)
    mix = ExampleMix({"continue": 1, "recall": 1, "quote": 1}, DOMAINS)
    shape = ContextShape(distant=(200, 900), tokens=32)
    sizes = {"vocab_size": 300, "lm_width": 64, "lm_layers": 2, "lm_context": 128, "vit_width": 64, "vit_layers": 1}
    stages = dict.fromkeys(("lm", "long_text", "reading", "alignment", "read_back", "context", "settling"), stage)
    mixes = dict.fromkeys(
        ("lm_mix", "long_text_mix", "alignment_mix", "read_back_mix", "context_mix", "settling_mix"), mix
    )
    return replace(
        nano(),
        domains=DOMAINS,
        lm_tokens=(24, 48),
        long_text_tokens=(32, 48),
        reading_mix=ReadingMix({"vist": 1}, DOMAINS),
        read_back_shape=shape,
        context_shape=shape,
        settling_shape=shape,
        **sizes,
        **stages,
        **mixes,
    )
