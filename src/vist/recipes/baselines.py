"""The baselines of `vist-nano`: which method, and its choices.

Owns configurations only. Each starts from a `nano` run in the same folder; `baseline-vist` trains VIST itself again, so
that all stand at one budget. The numbers of the stages are `nano`'s and were not tuned for any of the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vist.recipes.nano import nano
from vist.train.baseline_nano import BaselineRecipe

#: Share of the steps in the recipes that end in -small: about twelve minutes each on two cores with bf16 units.
SMALL = 1 / 6
#: Text tokens per visual token of `vist-nano` (`vist demo`): what the shortening encoders get too.
RATIO = 2.65
AS_NANO = {"cross_output_gate": True, "cross_subtokens": True}
#: As wide and deep as `vist-nano`'s TextViT.
CEPE = {"encoder": "cepe", "encoder_size": 192, "encoder_layers": 4, "encoder_heads": 3}
METHODS: dict[str, tuple[str, dict]] = {
    "vist": ("vist", {}),
    # The paper's 8 merges in each of ViT-L's 24 layers leave 65 of 257 tokens; over 4 layers, 48 leave 64 of 256.
    "tome": ("tome", {"reduction": "tome", "merges": 48}),
    "fastv": ("fastv", {"reduction": "fastv", "pruned": 0.75, "prune_after": 2}),
    "pooled": ("pooled", {"encoder": "pooled", "ratio": RATIO, **AS_NANO}),
    "hierarchical": ("hierarchical", {"encoder": "hierarchical", "ratio": RATIO, **AS_NANO}),
    "cepe": ("cepe", {**CEPE, "cross_output_gate": True}),
    "cepe-plain": ("cepe", {**CEPE, "cross_norm": False}),  # as CEPE: neither norm nor gate
    "cepe-gate": ("cepe", {**CEPE, "cross_gate": True}),
}


def baseline(name: str, budget: float = 1.0, small: str = "") -> BaselineRecipe:
    """The baseline called `name` (see `METHODS`), its stages as long as `nano`'s times `budget`."""
    method, choices = METHODS[name]
    return BaselineRecipe(f"baseline-{name}{small}", method, choices, nano(), budget)


def baselines() -> dict[str, Callable[[], BaselineRecipe]]:
    """Every baseline by the name of its recipe, in full length and small."""
    full: dict[str, Callable[[], BaselineRecipe]] = {f"baseline-{name}": partial(baseline, name) for name in METHODS}
    return full | {f"baseline-{name}-small": partial(baseline, name, SMALL, "-small") for name in METHODS}
