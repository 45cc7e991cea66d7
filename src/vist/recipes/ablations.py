"""The paper's ablations at the size of `vist-nano`, by name.

Owns the sets of variants and their common numbers. A new ablation is a new row of the table.

Decisions
- In every set the first variant that is marked "(base)" is the recipe's own choice; being the same in most sets, it is
  trained once.
- "context" varies the length of the distant text in training (the paper's T_e), evaluated alike.
- "masking-rate" has the paper's three rates and a rate that follows each sample (`vist.compress.frequency`).
- "encoder" compares TextViT as it was taught to read with one that was not: the question behind the paper's choice
  between encoders, in a form that needs no download.
"""

from __future__ import annotations

from vist.errors import VistError
from vist.eval.ablation import AblationConfig, Variant
from vist.recipes.nano import nano
from vist.train.stage import StageConfig


def _base(name: str) -> Variant:
    return Variant(f"{name} (base)")


ABLATIONS: dict[str, tuple[Variant, ...]] = {
    "visual-tokens": (
        _base("N 86"),
        *(Variant(f"N {count}", model={"num_visual_tokens": count}) for count in (128, 64, 43, 22, 8)),
    ),
    "context": (
        _base("400 to 2,800 characters"),
        Variant("400 to 1,000 characters", shape={"distant": (400, 1000)}),
        Variant("400 to 5,600 characters", shape={"distant": (400, 5600)}),
    ),
    "masking": (
        _base("by frequency"),
        Variant("at random", shape={"masking": "random"}),
        Variant("none", shape={"masking": "none"}),
    ),
    "masking-rate": (
        _base("50 %"),
        Variant("30 %", shape={"masking_rate": 0.3}),
        Variant("70 %", shape={"masking_rate": 0.7}),
        Variant("dynamic, 50 % of the information", shape={"masking": "dynamic"}),
    ),
    "blank-mask": (
        Variant("blank patches masked", guided=False),
        Variant("blank patches seen", guided=False, blank_mask=False),
    ),
    "encoder": (_base("TextViT taught to read"), Variant("TextViT untrained", trained_encoder=False)),
    "pve": (_base("with PVE"), Variant("without PVE", model={"pve_weight": 0.0})),
}


def ablation(name: str) -> tuple[Variant, ...]:
    """The variants of a named ablation. Raises VistError on an unknown name."""
    if name not in ABLATIONS:
        raise VistError(f"There is no ablation {name!r}; the ablations are: {', '.join(ABLATIONS)}.")
    return ABLATIONS[name]


def ablation_config(steps: int = 200, batch_size: int = 8, seed: int = 1) -> AblationConfig:
    """The common numbers: `vist-nano`'s stage `context`, shortened."""
    recipe = nano()
    stage = StageConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=recipe.context.learning_rate,
        weight_decay=recipe.context.weight_decay,
        save_every=min(50, steps),
    )
    return AblationConfig(recipe.context_mix, recipe.context_shape, stage, seed)
