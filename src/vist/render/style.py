"""How a page looks: size, row height, font, margins, colours, alignment, what a newline and a tab become.

Owns `PageStyle` and the named presets. Knows nothing about text, glyphs or pixels.

Decisions
- A row is as high as an encoder's patch (14 px), so a page is a grid of `rows` x `cols` square cells and one cell of
  the grid is one patch. Width and height are multiples of the row height for that reason.
- `vist` is the page of the paper: Noto Sans, 10 px, a strip of 14 x 3,584 px folded into 16 rows of 224 px. Ours
  folds between words, which costs 5 to 7 % of the space and never cuts a glyph in two.
- `glyph` is an A4 page at 72 dots an inch and `glyph-96` at 96 (Glyph, arXiv 2510.17800), `dense` a page of small
  letters of one width, for code and tables. All keep lines as rows.
- The margins are one pixel wide: they take the antialiased edge that a glyph puts outside its advance box.
- Letters may be set one pixel closer and no more: at 10 px that is where neighbours begin to touch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from vist.errors import VistError

Newline = Literal["space", "break", "blank"]
Align = Literal["left", "right", "center", "justify"]


@dataclass(frozen=True)
class PageStyle:
    """Everything that decides the pixels of a page, apart from the text and the font files.

    Lengths are in pixels. `font` is the name of a bundled font or the path of a font file. `fallback` names the fonts
    that draw what `font` has no glyph for, best first; None means the installed ones, () none. `newline` is what a line
    break of the text becomes: a blank ("space"), a new row ("break"), or a new row with an empty row before it
    ("blank"). `tab_width` is the distance of tab stops in widths of a blank; 1 means that a tab is one blank. `align`
    is where rows stand between the margins, in both directions of reading; "justify" stretches blanks until a row ends
    at the right margin, except in the last row of a paragraph. `letter_spacing` is added to the advance of every
    letter and blank, half of it on each side.
    `max_pages` limits what one call may draw; None is no limit. Source: paper, section 3 and appendix on rendering.
    """

    name: str = "vist"
    width: int = 224
    height: int = 224
    row_height: int = 14
    font: str = "NotoSans-Regular"
    fallback: tuple[str, ...] | None = None
    font_size: int = 10
    margin_left: int = 1
    margin_right: int = 1
    foreground: int = 0
    background: int = 255
    newline: Newline = "space"
    tab_width: int = 1
    max_pages: int | None = None
    align: Align = "left"
    letter_spacing: int = 0

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            _check_integer(name, getattr(self, name))
        for name in ("width", "height"):
            _check_multiple(name, getattr(self, name), self.row_height)
        self._check_room()
        if self.newline not in get_args(Newline):
            raise VistError(f"newline={self.newline!r} is not known: use one of {', '.join(get_args(Newline))}.")
        if self.align not in get_args(Align):
            raise VistError(f"align={self.align!r} is not known: use one of {', '.join(get_args(Align))}.")
        if self.foreground == self.background:
            raise VistError(f"foreground and background are both {self.foreground}: nothing could be read, change one.")
        if not isinstance(self.font, str) or not self.font:
            raise VistError(f"font={self.font!r} is no font: give a bundled name or the path of a font file.")
        if isinstance(self.fallback, str):
            raise VistError(f"fallback={self.fallback!r} is one name: give a list of font names or paths.")
        if self.fallback is not None:  # a list, as JSON has it, would leave the style without a hash
            object.__setattr__(self, "fallback", tuple(self.fallback))

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        """Worked out once: a style is part of the key of every cache of the renderer."""
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hash, which another process would work out differently."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _check_room(self) -> None:
        if self.font_size > self.row_height:
            raise VistError(
                f"font_size={self.font_size} does not fit rows of {self.row_height} px: "
                "lower font_size or raise row_height."
            )
        letter = self.font_size + max(self.letter_spacing, 0)
        if self.text_width < 4 * letter:
            needed = "font_size" if letter == self.font_size else "(font_size + letter_spacing)"
            raise VistError(
                f"margins {self.margin_left} + {self.margin_right} px leave {self.text_width} of {self.width} px, "
                f"and rows need at least 4 x {needed} = {4 * letter} px: widen the page or shrink the margins."
            )

    @property
    def rows(self) -> int:
        """Rows of text on a page."""
        return self.height // self.row_height

    @property
    def cols(self) -> int:
        """Patch columns of a page: cells are square, `row_height` wide."""
        return self.width // self.row_height

    @property
    def text_width(self) -> int:
        """Pixels that the text of a row may fill."""
        return self.width - self.margin_left - self.margin_right

    @property
    def space_before(self) -> int:
        """Pixels of the letter spacing that stand left of a letter; the rest stands right of it."""
        return max(self.letter_spacing, 0) // 2

    @classmethod
    def named(cls, style: str | PageStyle) -> PageStyle:
        """Return the preset of that name; a `PageStyle` is returned as it is.

        Raises VistError when there is no such preset.
        """
        if isinstance(style, PageStyle):
            return style
        if style not in PAGE_STYLES:
            raise VistError(f"There is no page style {style!r}: use one of {', '.join(PAGE_STYLES)}, or a PageStyle.")
        return PAGE_STYLES[style]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PageStyle:
        """Build a style from `to_dict`'s result.

        Raises VistError for a field that no style has or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise VistError(f"A page style has no field {unknown[0]!r}: its fields are {', '.join(sorted(known))}.")
        return cls(**values)


# field -> smallest and largest value
_INTEGERS: dict[str, tuple[int, int]] = {
    "width": (14, 16384),
    "height": (8, 16384),
    "row_height": (8, 64),
    "font_size": (5, 64),
    "margin_left": (0, 4096),
    "margin_right": (0, 4096),
    "foreground": (0, 255),
    "background": (0, 255),
    "tab_width": (1, 64),
    "max_pages": (1, 2**31 - 1),
    "letter_spacing": (-1, 8),
}


def _check_integer(name: str, value: object) -> None:
    low, high = _INTEGERS[name]
    if value is None and name == "max_pages":
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise VistError(f"{name}={value!r} is out of range: give a whole number from {low} to {high}.")


def _check_multiple(name: str, value: int, row_height: int) -> None:
    if value % row_height:
        lower = max(value // row_height, 1) * row_height
        raise VistError(
            f"{name}={value} is not a multiple of row_height={row_height}, so cells would not be patches: "
            f"use {lower} or {lower + row_height}."
        )


PAGE_STYLES: dict[str, PageStyle] = {
    style.name: style
    for style in (
        PageStyle(),
        PageStyle(name="vist-9", font_size=9),
        PageStyle(name="vist-8", font_size=8),
        PageStyle(name="vist-7", font_size=7),
        PageStyle(name="icl", newline="blank"),
        PageStyle(name="code", newline="break", tab_width=4),
        PageStyle(
            name="glyph", width=590, height=840, row_height=10, font_size=9, margin_left=10, margin_right=10,
            newline="break", tab_width=4,
        ),
        PageStyle(
            name="glyph-96", width=784, height=1120, font_size=12, margin_left=14, margin_right=14, newline="break",
            tab_width=4,
        ),
        PageStyle(
            name="dense", width=780, height=1560, row_height=10, font="DejaVuSansMono", font_size=8, newline="break",
            tab_width=4,
        ),
    )
}  # fmt: skip
