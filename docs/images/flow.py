"""Draw `docs/images/flow.png`: text becomes a page, the page becomes visual tokens, the LLM reads them.

Owns the picture at the top of the README. The page in it is a real one, drawn by `vist.render` from the packaged book;
the boxes around it are a schema.

Run: `python docs/images/flow.py` (part of `make docs`).
"""

from __future__ import annotations

import textwrap
from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend is chosen first
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle  # noqa: E402

from vist.render import Pages, render  # noqa: E402

TARGET = Path(__file__).with_name("flow.png")
INK, SOFT, PAPER = "#1b1f24", "#59636e", "#ffffff"
DISTANT, NEAR, MODEL = "#c8553d", "#2b6cb0", "#eef1f4"
TOKENS, DISTANT_CHARACTERS = 64, 2900


def excerpt() -> tuple[str, str]:
    """Distant text of a few pages and the sentence after it, from the packaged book."""
    book = files("vist").joinpath("assets/texts/alice_in_wonderland.txt").read_text(encoding="utf-8")
    start = book.index("Alice was beginning")
    cut = book.index(". ", start + DISTANT_CHARACTERS) + 2
    return book[start:cut], book[cut : book.index(". ", cut + 60) + 1]


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = SOFT) -> None:
    """An arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.4, color=color))


def box(axes: Axes, x: float, y: float, width: float, height: float, face: str, edge: str) -> None:
    """A rounded box with its lower left corner at (x, y)."""
    shape = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=face, edgecolor=edge, lw=1.2))


def caption(axes: Axes, x: float, y: float, title: str, detail: str, color: str = INK) -> None:
    """A title with a line of detail under it, centred on x."""
    axes.text(x, y, title, ha="center", va="bottom", fontsize=11, fontweight="bold", color=color)
    axes.text(x, y - 0.06, detail, ha="center", va="top", fontsize=8.5, color=SOFT)


def draw_text(axes: Axes, text: str, x: float, y: float, width: float, height: float, color: str) -> None:
    """A box with the first lines of a text in it."""
    box(axes, x, y, width, height, PAPER, color)
    lines = textwrap.wrap(" ".join(text.split()), int(width * 13.6))
    shown = max(1, int(height / 0.185) - 1)
    body = lines[:shown] if len(lines) <= shown else [*lines[: shown - 1], "…"]
    axes.text(x + 0.1, y + height - 0.12, "\n".join(body), va="top", fontsize=7.4, color=INK, linespacing=1.35)


def draw_pages(axes: Axes, pages: Pages, x: float, y: float, side: float) -> None:
    """The pages as a pile, the first one on top."""
    step = 0.1
    for number in reversed(range(min(3, len(pages)))):
        left, bottom = x + number * step, y - number * step
        axes.imshow(
            pages.pixels[number],
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(left, left + side, bottom, bottom + side),
            interpolation="antialiased",
            zorder=3 - number,
        )
        axes.add_patch(Rectangle((left, bottom), side, side, fill=False, edgecolor=DISTANT, lw=1, zorder=3.5 - number))


def draw_tokens(axes: Axes, x: float, y: float, side: float) -> None:
    """The visual tokens of one page as an 8 x 8 grid of squares."""
    pitch = side / 8
    for number in range(TOKENS):
        row, column = divmod(number, 8)
        place = (x + column * pitch, y + side - (row + 1) * pitch)
        axes.add_patch(Rectangle(place, 0.8 * pitch, 0.8 * pitch, facecolor=DISTANT, alpha=0.35 + 0.6 * (row % 3) / 3))


def draw_llm(axes: Axes, x: float, y: float, width: float) -> None:
    """A pile of decoder layers, each with its cross-attention."""
    for number in range(3):
        bottom = y + number * 0.86
        box(axes, x, bottom, width, 0.74, MODEL, SOFT)
        parts = (("self-attention", INK), ("cross-attention", DISTANT), ("feed-forward", INK))
        for place, (name, color) in zip((0.12, 0.37, 0.62), parts, strict=True):
            axes.text(x + width / 2, bottom + place, name, ha="center", va="center", fontsize=8, color=color)


def draw(path: Path) -> None:
    """Write the whole picture."""
    distant, near = excerpt()
    pages = render(distant)
    figure, axes = plt.subplots(figsize=(12.4, 4.5), facecolor=PAPER)
    axes.axis("off")
    draw_text(axes, distant, 0.1, 1.55, 2.5, 2.3, DISTANT)
    caption(axes, 1.35, 4.12, "distant text", f"{len(distant):,} characters", DISTANT)
    arrow(axes, (2.7, 2.7), (3.2, 2.7))
    draw_pages(axes, pages, 3.3, 1.55, 2.3)
    caption(axes, 4.5, 4.12, "pages", f"{len(pages)} images of 224 × 224, 16 rows each", DISTANT)
    arrow(axes, (5.95, 2.7), (6.75, 2.7))
    axes.text(6.35, 2.8, "frozen\nencoder,\nResampler", ha="center", va="bottom", fontsize=8, color=SOFT)
    draw_tokens(axes, 6.95, 1.85, 1.7)
    caption(axes, 7.8, 4.12, "visual tokens", f"{TOKENS} for each page", DISTANT)
    arrow(axes, (8.75, 2.7), (9.5, 2.7), DISTANT)
    draw_llm(axes, 9.6, 1.42, 1.75)
    caption(axes, 10.48, 4.12, "language model", "frozen but for the cross-attention")
    draw_text(axes, near, 0.1, 0.1, 5.2, 0.75, NEAR)
    axes.text(0.1, 0.95, "near text: stays text", fontsize=11, fontweight="bold", color=NEAR, va="bottom")
    axes.plot([5.4, 10.48], [0.47, 0.47], color=NEAR, lw=1.4)
    arrow(axes, (10.48, 0.47), (10.48, 1.38), NEAR)
    axes.text(7.9, 0.53, "ordinary tokens", fontsize=8.5, color=NEAR, ha="center", va="bottom")
    arrow(axes, (11.4, 2.7), (11.9, 2.7))
    axes.text(11.98, 2.7, "next\ntokens", fontsize=10, fontweight="bold", va="center", color=INK)
    axes.set(xlim=(0, 12.5), ylim=(0, 4.5), aspect="equal")
    figure.savefig(path, dpi=170, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(TARGET)
    print(f"wrote {TARGET.name}, {TARGET.stat().st_size // 1024} kB")
