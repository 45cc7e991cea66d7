"""`vist2-nano`: every number of its training.

Owns configurations only. Meant for two CPU cores, after (or in the folder of) a `nano` run. The numbers are taken over
from `nano` where the stages correspond and have not been tuned: no run of this recipe has been measured yet.
"""

from __future__ import annotations

from vist.recipes.nano import DOMAINS, PROSE, nano
from vist.train.examples import ExampleMix
from vist.train.interleaved import Curriculum
from vist.train.stage import StageConfig
from vist.train.vist2_nano import Vist2NanoRecipe


def vist2_nano() -> Vist2NanoRecipe:
    """Chunks of 128 tokens, about one page each, as 32 visual tokens."""
    return Vist2NanoRecipe(
        nano=nano(),
        chunk_size=128,
        tolerance=16,
        ratio=4.0,
        patches_per_token=10,
        aligner_expansion=6,
        aligner_layers=1,
        domains=DOMAINS,
        random_strings=0.15,
        alignment_weight=1.0,
        read_back=StageConfig(
            steps=1600, batch_size=16, learning_rate=3e-3, weight_decay=0.02, backbone_rate=0.2, workers=1
        ),
        read_back_curriculum=Curriculum(chunks=(1, 2), ratio=(1.5, 4.0), until=0.5),
        optical=StageConfig(
            steps=1200, batch_size=12, learning_rate=2e-3, weight_decay=0.02, backbone_rate=0.3, workers=1
        ),
        optical_curriculum=Curriculum(visual=(0.5, 1.0), chunks=(2, 8), ratio=(2.0, 4.0), until=0.6),
        mix=ExampleMix({"continue": 0.5, "recall": 0.3, "quote": 0.2}, PROSE, facts_per_kilobyte=4),
        instruct=StageConfig(
            steps=600, batch_size=16, learning_rate=1e-3, weight_decay=0.02, backbone_rate=0.3, workers=1
        ),
        instruct_curriculum=Curriculum(chunks=(1, 6), ratio=(3.0, 4.0), until=0.5),
        tasks={"recall": 0.45, "quote": 0.25, "continue": 0.15, "classify": 0.15},
    )
