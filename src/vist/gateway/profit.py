"""The profit gate: what a text would cost as pages, and whether that is worth it.

Owns the weighing of one text, from its guard to its PNG files. Knows nothing about messages; `sheets` knows which page
sizes there are.

Decisions
- The pages must win with everything that goes with them: the kept strings and the line that introduces the pages are
  counted as text on their side.
- Words with characters that a page would not show are kept as text like the guard's own finds, invisible characters
  included: a model cannot know what it was not shown. The renderer's loss report is asked again about what was drawn.
- Refusals come back as a sentence, never as an exception: a text that cannot become pages is an ordinary text.
- Steps that can refuse stand in the order of their price: length, guard, layout, drawing, compression.
- The widths of the lines tell about how many rows each page width would take; only the two widths that promise most
  are laid out in full. Of those the cheaper, or the one with fewer pages if it is nearly as cheap.
- Lines keep rows of their own unless running them on (`flow`) saves a good part of the pages. Where the widths of the
  lines leave no doubt which of the two it will be, only that one is laid out.
- What was laid out to be weighed is what is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vist.errors import VistError
from vist.gateway import flow
from vist.gateway.accounting import text_tokens
from vist.gateway.guard import FOREIGN, GuardPolicy, Span, find_verbatim
from vist.gateway.markers import Guarded, annotate
from vist.gateway.profiles import Profile
from vist.gateway.sheets import SMALLEST_FONT, Detail, Sheet, cut, find_sheets, level_of, price, price_of_rows
from vist.render import Draft, measure, undrawn
from vist.render.png import encode_png

Tokenizer = Callable[[str], Any]
LineBreaks = Literal["auto", "rows", "marks"]
_NARROWEST = 2  # px; hardly any glyph with ink is narrower, so a text has at least so many pages
_CHARACTERS = 4  # of a token, about, where a text is too long to be read
_SAMPLE = 60_000  # characters whose lines are measured
_TRIED = 2  # widths laid out in full
_NEARLY = 1.03  # of the fewest tokens: fewer pages are worth the rest
_ROWS = 1.15  # times the tokens of marks that lines with rows of their own may cost
_HOPELESS = 1.4  # times the tokens that marks promise: rows that promise more are not tried
_BREAK = re.compile("\n")
_WORD = 40  # characters on both sides that are kept with one that cannot be drawn
_RAGGED = 0.97  # of a row's width is filled when words do not break


@dataclass(frozen=True)
class Gate:
    """What it takes to become pages.

    Attributes:
        min_saving: share of the tokens that must be saved, from 0 to below 1.
        min_tokens: a text with fewer tokens is not worth a page.
        max_pages: a text that needs more stays text.
        max_characters: a longer text is not even looked at.
        font_size: px; below 10 hosted models misread.
        line_breaks: `rows` keeps a row for every line, `marks` runs lines on where it can, `auto` does so where it is
            much cheaper.
        detail: where a model charges by the level of detail (Gemini 3), `high` sends all pages at `high`, what a host
            that does not pass the level on bills anyway; `fit` sends each at the lowest level that shows it as drawn.
        guard: what is kept as text.

    Raises:
        VistError: a value out of range.
    """

    min_saving: float = 0.3
    min_tokens: int = 300
    max_pages: int = 80
    max_characters: int = 2_000_000
    font_size: int = SMALLEST_FONT
    line_breaks: LineBreaks = "auto"
    detail: Detail = "high"
    guard: GuardPolicy = GuardPolicy()

    def __post_init__(self) -> None:
        saving = self.min_saving
        if isinstance(saving, bool) or not isinstance(saving, int | float) or not 0 <= saving < 1:
            raise VistError(f"min_saving is {saving!r}; give a share from 0 to below 1, such as 0.3.")
        for name, least, most in (
            ("min_tokens", 0, 2**31),
            ("max_pages", 0, 2**31),
            ("max_characters", 0, 2**31),
            ("font_size", 5, 40),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise VistError(f"{name} is {value!r}; give a whole number from {least} to {most:,}.")
        for name, choices in (("line_breaks", get_args(LineBreaks)), ("detail", get_args(Detail))):
            if getattr(self, name) not in choices:
                raise VistError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        if not isinstance(self.guard, GuardPolicy):
            raise VistError(f"guard is {type(self.guard).__name__}; give a GuardPolicy.")


@dataclass(frozen=True)
class Weighed:
    """What became of a text at the gate.

    Attributes:
        reason: one sentence: why it stays text, or what the pages save.
        before: tokens of the text.
        after: tokens of the pages, the kept strings and the introduction; `before` when it stays text.
        exact: whether the texts were counted by the model's own tokenizer.
        guarded: the text on the pages and the kept strings; None when it stays text.
        introduction: what stands as text before the pages, kept strings included.
        pages: PNG files; none when it stays text.
        sizes: (width, height) of each page in px.
        details: the level of detail of each page, by which it was counted and with which it has to be sent.
    """

    reason: str
    before: int
    after: int
    exact: bool
    guarded: Guarded | None = None
    introduction: str = ""
    pages: tuple[bytes, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    details: tuple[str, ...] = ()

    @property
    def pays(self) -> bool:
        """Whether the text becomes pages."""
        return self.guarded is not None


class _Promise(NamedTuple):
    """What a text should cost on a sheet, in tokens, and whether it should need too many pages."""

    crowded: bool
    tokens: int
    sheet: Sheet


class _Table(NamedTuple):
    """What the plans of a text are made from: a model's row, how pages get their level, the sheets, room for pages."""

    family: str
    detail: Detail
    sheets: Sequence[Sheet]
    room: int


@dataclass(frozen=True)
class _Plan:
    """A sheet with a text on it: the sizes to which its pages are cut, and their tokens."""

    draft: Draft
    sheet: Sheet
    sizes: list[tuple[int, int]]
    tokens: int


def weigh(
    text: str,
    profile: Profile,
    gate: Gate | None = None,
    tokenizer: Tokenizer | None = None,
    extra: str = "",
    max_pages: int | None = None,
) -> Weighed:
    """Return what a text costs as text and as pages, with the pages if they pay.

    Args:
        text: any text.
        profile: the model's row, from `resolve_profile`.
        gate: what it takes; Gate() by default.
        tokenizer: the model's own, as `text_tokens` takes it.
        extra: text that has to be sent in addition if the pages are; it is counted with them.
        max_pages: fewer pages than the gate allows.
    """
    gate = gate or Gate()
    room = gate.max_pages if max_pages is None else min(gate.max_pages, max_pages)
    before, exact = count_text(text, profile, tokenizer, gate.max_characters)
    if len(text) > gate.max_characters:
        return Weighed(f"It is longer than {gate.max_characters:,} characters.", before, before, exact)
    if before < max(1, gate.min_tokens):
        return Weighed(f"It has fewer than {gate.min_tokens} tokens.", before, before, exact)
    try:
        guarded = annotate(text, find_verbatim(text, gate.guard, _foreign(text, profile, gate)))
        plan = _best_plan(guarded.text, profile, gate, room)
    except VistError as error:
        return Weighed(str(error), before, before, exact)
    if plan is None:
        return Weighed(f"It needs more pages than the {room} that are left.", before, before, exact)
    introduction = introduce(guarded, len(plan.sizes), marked=plan.draft.text is not guarded.text)
    after = plan.tokens + text_tokens(profile, introduction + extra, tokenizer).count
    if after > before * (1 - gate.min_saving):
        saving = f"{before:,} tokens as text, {after:,} as pages, less than {gate.min_saving:.0%} saved"
        return Weighed(f"It does not pay: {saving}.", before, before, exact)
    drawn = plan.draft.draw()
    if drawn.loss:
        return Weighed(f"Pages would not show all of it. {drawn.loss.sentence()}", before, before, exact)
    pages = tuple(encode_png(page[:high, :wide]) for page, (wide, high) in zip(drawn.pixels, plan.sizes, strict=True))
    reason = f"It pays: {before:,} tokens as text, {after:,} as pages."
    details = tuple(level_of(profile, *size, gate.detail) for size in plan.sizes)
    return Weighed(reason, before, after, exact, guarded, introduction, pages, tuple(plan.sizes), details)


def _foreign(text: str, profile: Profile, gate: Gate) -> list[Span]:
    """The words of a text that pages would not show as they are; of very long ones only the characters themselves."""
    places = undrawn(text, find_sheets(profile.name, gate.font_size, gate.detail)[0].style).tolist()
    spans: list[Span] = []
    for place in places:
        if (spans and place < spans[-1].end) or 0xD800 <= ord(text[place]) < 0xE000:  # half a character is no text
            continue
        start, end = place, place + 1
        while start and place - start < _WORD and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and end - place < _WORD and not text[end].isspace():
            end += 1
        spans.append(Span(start, end, FOREIGN))
    return spans


def introduce(guarded: Guarded, pages: int, marked: bool) -> str:
    """Return the text that stands before pages: that they are to be read as text, and what the markers stand for."""
    images = "image shows" if pages == 1 else f"{pages} images show"
    legend = f"; {flow.LEGEND}" if marked else ""
    if not guarded.kept:
        return f"[The next {images} text that belongs here{legend}.]"
    return f"[The next {images} text that belongs here{legend}; marks stand for:]\n{guarded.legend()}"


def count_text(text: str, profile: Profile, tokenizer: Tokenizer | None, most: int) -> tuple[int, bool]:
    """Return the tokens of a text and whether they are exact; a text beyond `most` characters is not read at all."""
    if len(text) > most:
        return len(text) // _CHARACTERS, False
    counted = text_tokens(profile, text, tokenizer)
    return counted.count, counted.exact


def _best_plan(text: str, profile: Profile, gate: Gate, room: int) -> _Plan | None:
    """The way to draw a text, of those that the gate allows, in no more pages than there is room for."""
    table = _Table(profile.name, gate.detail, find_sheets(profile.name, gate.font_size, gate.detail), room)
    marked = flow.run_on(text) if gate.line_breaks != "rows" else None
    if marked is None:
        return _cheapest(text, table, _promising(text, table))
    promise, marked_promise = (_promising(each, table) for each in (text, marked))
    if gate.line_breaks == "marks" or promise[0].tokens > _HOPELESS * marked_promise[0].tokens:
        marks = _cheapest(marked, table, marked_promise)
        return marks or _cheapest(text, table, promise)
    rows = _cheapest(text, table, promise)
    if rows and promise[0].tokens < marked_promise[0].tokens:
        return rows
    marks = _cheapest(marked, table, marked_promise)
    return rows if marks is None or (rows and rows.tokens <= _ROWS * marks.tokens) else marks


def _cheapest(text: str, table: _Table, promise: Sequence[_Promise]) -> _Plan | None:
    """The cheapest sheets for a text as it is; None if it needs more pages than there is room for."""
    most = max(sheet.style.rows * sheet.style.text_width for sheet in table.sheets)
    if not text or len(text) * _NARROWEST > table.room * most:
        return None
    plans = [_plan(text, choice.sheet, table) for choice in promise]
    plans = [plan for plan in plans if 0 < len(plan.sizes) <= table.room]
    least = min((plan.tokens for plan in plans), default=0)
    near = [plan for plan in plans if plan.tokens <= _NEARLY * least]
    return min(near, key=lambda plan: (len(plan.sizes), plan.tokens), default=None)


def _plan(text: str, sheet: Sheet, table: _Table) -> _Plan:
    """The text laid out on a sheet."""
    draft = Draft(text, sheet.style)
    filled: list[tuple[int, int]] = [(right, bottom) for right, bottom in draft.filled().tolist()]
    sizes = cut(table.family, sheet.style, filled, table.detail)
    return _Plan(draft, sheet, sizes, sum(price(table.family, *size, table.detail) for size in sizes))


def _promising(text: str, table: _Table) -> list[_Promise]:
    """The sheets on which the lines of a text should cost least and the tokens that it should cost, the best first.

    Those that should need more pages than there is room for come last.
    """
    sample = text[:_SAMPLE]
    breaks = np.array([at.start() for at in _BREAK.finditer(sample)], np.int64) + 1
    starts = np.append(0, breaks[breaks < len(sample)])
    lengths = np.add.reduceat(measure(sample, table.sheets[0].style), starts)  # px of each line

    widths = {sheet.style.text_width for sheet in table.sheets}  # of which several sheets can have the same
    rows = {width: float(np.maximum(1, np.ceil(lengths / (_RAGGED * width))).sum()) for width in widths}

    def promise(sheet: Sheet) -> _Promise:
        whole, rest = divmod(math.ceil(rows[sheet.style.text_width] * len(text) / len(sample)), sheet.style.rows)
        tokens = whole * sheet.tokens + price_of_rows(table.family, sheet.style, rest, table.detail)
        return _Promise(whole + (rest > 0) > table.room, tokens, sheet)

    return sorted(map(promise, table.sheets), key=lambda choice: choice[:2])[:_TRIED]
