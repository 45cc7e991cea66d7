"""What a search varies: a page style in points, with the dots per inch as a gene of its own.

Owns `Genome`, the values that each gene may take (`Space`), chance, mutation and crossover. Does not know readers,
scores or generations.

Decisions
- Every gene has a short list of values: a critic can name them, a log can be read, and two searches can be compared.
- Lengths are in points (1/72 inch). `dpi` scales all of them, so it is the one gene that trades sharpness for tokens
  without changing the layout's proportions.
- Genes that do not fit together are repaired, not refused: rows grow to the letters, contrast to what can be told
  apart. So every genome has a style, and crossover cannot fail.
- A space may leave out the genes that came later (`LATER`); these keep their usual values and take no chance. So a log
  that was begun without them goes on as it would have, and a genome's key names them only where they are not as usual.
- `newline` has one value more than a style: `marks` runs lines on with a mark for each break.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vist.errors import VistError
from vist.gateway.flow import run_on
from vist.render import PageStyle

MARKS = "marks"
Value = int | str
Space = Mapping[str, tuple[Value, ...]]

SPACE: Space = {
    "dpi": (60, 72, 84, 96, 120),
    "width": (224, 288, 384, 504, 595, 768),
    "height": (224, 384, 504, 768, 842, 1120),
    "font": ("NotoSans-Regular", "DejaVuSansMono"),
    "font_size": (6, 7, 8, 9, 10, 11, 12),
    "row_height": (8, 9, 10, 11, 12, 13, 14, 16),
    "margin": (1, 4, 10, 20),
    "foreground": (0, 64, 255),
    "background": (255, 224, 0),
    "newline": ("space", "break", "blank", MARKS),
    "tab_width": (1, 4),
    "align": ("left", "right", "center", "justify"),
    "letter_spacing": (-1, 0, 1, 2),
}
_CONTRAST = 128  # levels of grey between letters and paper, at least
_SMALLEST_ROW, _SMALLEST_FONT = 8, 5  # px, what a style allows
_CLOSEST, _WIDEST = -1, 8  # px of letter spacing, what a style allows
LATER = ("align", "letter_spacing")  # genes that older logs do not know


@dataclass(frozen=True)
class Genome:
    """A page style as a search sees it; lengths in points, `margin` on both sides, greys from 0 to 255.

    `letter_spacing` is what every letter and blank gets besides its own width; below zero letters stand closer.
    """

    dpi: int = 72
    width: int = 595
    height: int = 842
    font: str = "NotoSans-Regular"
    font_size: int = 9
    row_height: int = 10
    margin: int = 10
    foreground: int = 0
    background: int = 255
    newline: str = "break"
    tab_width: int = 4
    align: str = "left"
    letter_spacing: int = 0

    @property
    def key(self) -> str:
        """The genes in one line, the same for the same genes."""
        named = {name: value for name, value in asdict(self).items() if name not in LATER or value != _USUAL[name]}
        return " ".join(f"{name}={value}" for name, value in named.items())

    def style(self) -> PageStyle:
        """Return the page style, in px. Raises VistError for genes out of a style's range."""
        row = max(_SMALLEST_ROW, self._px(self.row_height))
        margin = max(1, self._px(self.margin))
        return PageStyle(
            name="tuned",
            width=max(1, round(self._px(self.width) / row)) * row,
            height=max(1, round(self._px(self.height) / row)) * row,
            row_height=row,
            font=self.font,
            font_size=min(row, max(_SMALLEST_FONT, self._px(self.font_size))),
            margin_left=margin,
            margin_right=margin,
            foreground=self.foreground,
            background=self.background,
            newline="space" if self.newline == MARKS else self.newline,  # type: ignore[arg-type]
            tab_width=self.tab_width,
            align=self.align,  # type: ignore[arg-type]
            letter_spacing=min(_WIDEST, max(_CLOSEST, self._px(self.letter_spacing))),
        )

    def prepare(self, text: str) -> str:
        """Return the text as it is drawn: with marks for its line breaks if the genome says so."""
        marked = run_on(text) if self.newline == MARKS else None
        return text if marked is None else marked

    def _px(self, points: int) -> int:
        return round(points * self.dpi / 72)


GENES = tuple(field.name for field in fields(Genome))
_USUAL = asdict(Genome())


def narrow(space: Space, fixed: Mapping[str, tuple[Value, ...]]) -> Space:
    """Return a space in which some genes have other values.

    Raises VistError for a gene that there is not, or one without values.
    """
    for name, values in fixed.items():
        if name not in GENES or not values:
            raise VistError(f"{name}={values!r} narrows no gene; the genes are {', '.join(GENES)}.")
    return {**space, **fixed}


def repair(genome: Genome, space: Space) -> Genome:
    """Return a genome whose values are all in the space and fit together: the nearest values, the largest contrast."""
    nearest = {name: _nearest(getattr(genome, name), values) for name, values in space.items()}
    values: dict[str, Value] = {**_USUAL, **nearest}
    if values["font_size"] > values["row_height"]:  # type: ignore[operator]
        fitting = [row for row in space["row_height"] if row >= values["font_size"]]  # type: ignore[operator]
        values["row_height"] = min(fitting, default=max(space["row_height"]))  # type: ignore[type-var]
        small = [size for size in space["font_size"] if size <= values["row_height"]]  # type: ignore[operator]
        values["font_size"] = _nearest(values["font_size"], tuple(small) or space["font_size"])
    if abs(values["foreground"] - values["background"]) < _CONTRAST:  # type: ignore[operator]
        pairs = [(ink, paper) for ink in space["foreground"] for paper in space["background"]]
        same_paper = [pair for pair in pairs if pair[1] == values["background"]]
        chosen = max(same_paper or pairs, key=lambda pair: abs(pair[0] - pair[1]))  # type: ignore[operator]
        values["foreground"], values["background"] = chosen
    return Genome(**values)  # type: ignore[arg-type]


def _nearest(value: Value, values: tuple[Value, ...]) -> Value:
    if value in values:
        return value
    numbers = [each for each in values if isinstance(each, int)]
    if isinstance(value, int | float) and numbers:
        return min(numbers, key=lambda each: (abs(each - value), each))
    return values[0]


def draw(rng: random.Random, space: Space) -> Genome:
    """Return a genome by chance."""
    genes = {name: rng.choice(space[name]) for name in GENES if name in space}
    return repair(Genome(**genes), space)  # type: ignore[arg-type]


def mutate(genome: Genome, rng: random.Random, space: Space, rate: float) -> Genome:
    """Return a genome with about a share `rate` of its genes changed, one at least: numbers to a neighbour, if any."""
    free = [name for name in GENES if len(space.get(name, ())) > 1]
    chosen = [name for name in free if rng.random() < rate] or [rng.choice(free)] if free else []
    changes = {name: _moved(getattr(genome, name), space[name], rng) for name in chosen}
    return repair(replace(genome, **changes), space)  # type: ignore[arg-type]


def _moved(value: Value, values: tuple[Value, ...], rng: random.Random) -> Value:
    """Another value: for numbers one or two places up or down their list, else any."""
    others = [each for each in values if each != value]
    if isinstance(value, int) and value in values and len(values) > 2:
        order = sorted(values)  # type: ignore[type-var]
        place = order.index(value)
        others = [order[at] for at in range(max(0, place - 2), min(len(order), place + 3)) if at != place]
    return rng.choice(others) if others else value


def cross(first: Genome, second: Genome, rng: random.Random, space: Space) -> Genome:
    """Return a genome that has each gene from one of two by chance."""
    genes = {name: getattr(rng.choice((first, second)), name) for name in GENES if name in space}
    return repair(Genome(**genes), space)


def from_dict(values: Mapping[str, Any], space: Space) -> Genome:
    """Return the genome that a mapping describes, missing genes as in `Genome()`, foreign values to the nearest.

    Raises VistError for a gene that there is not.
    """
    unknown = sorted(set(values) - set(GENES))
    if unknown:
        raise VistError(f"A genome has no gene {unknown[0]!r}: its genes are {', '.join(GENES)}.")
    wanted = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    return repair(replace(Genome(), **wanted), space)  # type: ignore[arg-type]
