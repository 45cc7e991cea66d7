"""`vist2-nano`: every number of its training.

Owns configurations only. It starts from a finished `vist-nano` and is meant for a GPU, where it takes ten minutes; on
one CPU core it takes about a day. Batches are large because copying from pages needs many samples. docs/vist2.md has
what a run of them came to, and what other numbers did.
"""

from __future__ import annotations

from vist.recipes.nano import DOMAINS, PROSE
from vist.train.examples import ExampleMix
from vist.train.interleaved import Curriculum
from vist.train.stage import StageConfig
from vist.train.vist2_nano import Vist2NanoRecipe


def vist2_nano() -> Vist2NanoRecipe:
    """Chunks of 128 tokens, about one page each, as 32 visual tokens."""
    return Vist2NanoRecipe(
        chunk_size=128,
        tolerance=16,
        ratio=4.0,
        patches_per_token=6,
        aligner_preceding=4,
        aligner_following=1,
        aligner_convolutions=2,
        aligner_expansion=3,
        aligner_layers=0,
        visual_levels=4,
        domains=DOMAINS,
        random_strings=0.15,
        alignment=StageConfig(
            steps=600, batch_size=64, learning_rate=3e-3, weight_decay=0.02, backbone_rate=0.6, workers=4
        ),
        alignment_curriculum=Curriculum(chunks=(1, 1), ratio=(2.5, 4.0), until=0.3),
        alignment_mix=ExampleMix({"continue": 0.45, "recall": 0.55}, PROSE, facts_per_kilobyte=24),
        read_back=StageConfig(
            steps=1500, batch_size=64, learning_rate=3e-3, weight_decay=0.02, backbone_rate=0.6, workers=4
        ),
        read_back_curriculum=Curriculum(chunks=(2, 6), ratio=(3.0, 4.0), until=0.5),
        read_back_mix=ExampleMix(
            {"quote": 0.4, "recall": 0.5, "continue": 0.1}, PROSE, facts_per_kilobyte=16, repeated_words=True
        ),
        whole=0.15,
        read_back_tokens=160,
        optical=StageConfig(
            steps=700, batch_size=40, learning_rate=4e-4, weight_decay=0.02, backbone_rate=0.6, workers=4
        ),
        optical_curriculum=Curriculum(chunks=(6, 8), ratio=(3.5, 4.0), until=0.4),
        mix=ExampleMix(
            {"continue": 0.2, "recall": 0.6, "quote": 0.2}, PROSE, facts_per_kilobyte=12, repeated_words=True
        ),
        instruct=StageConfig(
            steps=60, batch_size=16, learning_rate=2e-4, weight_decay=0.02, backbone_rate=0.6, save_every=20
        ),
        instruct_curriculum=Curriculum(chunks=(6, 8), ratio=(4.0, 4.0), until=0.5),
        tasks={"recall": 0.5, "quote": 0.3, "continue": 0.1, "classify": 0.1},
        replay=0.75,
        guidance=1.0,
    )
