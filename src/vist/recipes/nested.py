"""`nano-nested`: every number of its training.

Owns configurations only. It continues a finished `nano` on two CPU cores; the examples are of the kinds of
its last two stages. The numbers have not been tuned: no run of this recipe has been measured yet.
"""

from __future__ import annotations

from vist.recipes.nano import DOMAINS, PROSE
from vist.train.context import ContextShape
from vist.train.examples import ExampleMix
from vist.train.nested import TokenRange
from vist.train.nested_nano import NestedRecipe
from vist.train.stage import StageConfig


def nano_nested() -> NestedRecipe:
    """300 steps at 8 to 86 visual tokens a page."""
    return NestedRecipe(
        domains=DOMAINS,
        mix=ExampleMix(
            {"continue": 0.55, "recall": 0.38, "quote": 0.07}, PROSE, facts_per_kilobyte=6, repeated_words=True
        ),
        shape=ContextShape(distant=(600, 2800), tokens=240),
        tokens=TokenRange(least=8, most=86),
        nested=StageConfig(steps=300, batch_size=16, learning_rate=2e-3, weight_decay=0.02),
    )
