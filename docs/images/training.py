"""Draws the loss curves of a training run: `python docs/images/training.py RUN_FOLDER`.

Reads RUN_FOLDER/<stage>/losses.json; writes docs/images/training.png and docs/images/training.json (the same numbers,
thinned), from which the picture can be drawn again with no run at hand: `python docs/images/training.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PANELS = (
    ("language-model", ("lm_loss", "guide_loss", "previous_loss"), "Language model: next token, guidance"),
    ("long-text", ("lm_loss", "guide_loss", "previous_loss"), "Long text: next token, guidance"),
    ("text-vit", ("reading_accuracy", "token_accuracy"), "TextViT: characters, text tokens named"),
    ("alignment", ("find_accuracy", "name_accuracy"), "Alignment: text tokens found, named"),
    ("read-back", ("lm_loss", "pve_loss", "guide_loss"), "Read-back: next token, PVE, guidance"),
    ("context", ("lm_loss", "pve_loss", "guide_loss"), "Context: next token, PVE, guidance"),
    ("settling", ("lm_loss", "pve_loss", "guide_loss"), "Settling: next token, PVE, guidance"),
)


def read(run: Path) -> dict[str, list[dict[str, float]]]:
    """Stage -> its log lines, with the figures that are drawn; `loss` for a stage that logged nothing else."""
    curves = {}
    for stage, names, _ in PANELS:
        if not (run / stage / "losses.json").exists():
            continue
        lines = json.loads((run / stage / "losses.json").read_text())
        names = names if any(names[0] in line for line in lines) else ("loss",)
        kept = [line for line in lines if all(name in line for name in names)]
        curves[stage] = [{name: round(line[name], 4) for name in ("step", *names)} for line in kept]
    return curves


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel per stage."""
    panels = [panel for panel in PANELS if panel[0] in curves]
    figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(9, 11), layout="constrained")
    for axis, (stage, _, title) in zip(axes.flat, panels, strict=False):
        names = [name for name in curves[stage][0] if name != "step"]
        for name in names:
            axis.plot([line["step"] for line in curves[stage]], [line[name] for line in curves[stage]], label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    numbers = HERE / "training.json"
    if len(sys.argv) > 1:
        numbers.write_text(json.dumps(read(Path(sys.argv[1]))))
    draw(json.loads(numbers.read_text()), HERE / "training.png")
