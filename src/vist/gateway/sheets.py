"""Which page pays for a model: the sizes whose characters cost the fewest image tokens and are still seen as drawn.

Owns the search for a page size, the test that a provider does not shrink it, and the cut of a page to its text. Knows
nothing about messages, legends or what a text costs.

Decisions
- A page that the provider scales down is no bargain: 10 px letters become 7 px. So a size counts only where the rule
  leaves it as large as it is drawn, up to 2 % (open models round sides to whole cells).
- Where a rule charges by the image, whatever its size, nothing says how far it is scaled down. There a page has no
  more than CELL px of area for a token, the largest patch that any published rule counts as one.
- The search is over pairs of a few sides that stand just below the edges of tiles and patches. Each width keeps the
  tallest page that is nearly as cheap as its best, and the text decides among the widths: code has short rows, which a
  wide page would waste.
- Pages are cut to their text: all to the widest row, the last to its last row, as far as that is cheaper. A cut can
  cost more (Gemini's crops are as small as the short side says), so every cut is priced, and no cut makes an image
  slimmer than 20 to 1.
- Where a rule has a least price for an image, short texts would pay for paper. So beside the cheapest characters stand
  the cheapest ones of sheets that cost half as much or less.
- Where a price goes by a level of detail (Gemini 3), a page can be sent at the lowest level that shows it as drawn. The
  level follows from the page's size alone, so its price and what its message says cannot differ. Levels above the
  default are not used: a character costs the same there, and a host that ignores them would shrink the page.
- Levels below the default only where the caller says `fit`: a host that ignores them bills every page at the default.
- Line breaks stay line breaks, and rows are 1.3 times as high as letters: lower ones would move or shrink letters, and
  higher ones only part the lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from vist.errors import VistError
from vist.gateway.accounting import image_tokens
from vist.gateway.profiles import PROFILES, Profile
from vist.gateway.rules import (
    AUTO,
    AreaRule,
    GridRule,
    ImageRule,
    LevelRule,
    MergeRule,
    ModeRule,
    PatchRule,
    TileRule,
)
from vist.render import PageStyle

Detail = Literal["fit", "high"]  # of a page: the lowest level that shows it as drawn, or the one of `page_detail`
CELL = 32 * 32  # px², see above
SMALLEST_FONT = 10  # px; hosted models misread smaller letters
_ROW = 1.3  # height of a row in font sizes
_SIDES = (280, 384, 420, 512, 640, 768, 784, 924, 1024, 1092, 1120, 1280, 1344, 1536, 1568, 2048)
_FEWEST_ROWS = 8  # of a page
_MANY_IMAGES = 2000  # px; Anthropic refuses larger images in requests with more than 20 of them
_NEARLY = 0.97  # of the best: fewer and larger pages are worth the rest
_WORTH_TRYING = 0.85  # of the best: as much as short rows can make good
_KEPT_SCALE = 0.98
_SLIMMEST = 20  # ratio of sides; processors refuse 200, and bills of slim images were seen to be higher than the rule


@dataclass(frozen=True)
class Sheet:
    """A page size for a model: how it is drawn, at which detail it is sent, and what a full one costs."""

    style: PageStyle
    detail: str
    tokens: int

    @property
    def area_per_token(self) -> float:
        """Px² of text area for a token: the more, the cheaper the characters."""
        return self.style.text_width * self.style.height / self.tokens


@lru_cache(maxsize=256)
def find_sheets(family: str, font_size: int = SMALLEST_FONT, detail: Detail = "high") -> tuple[Sheet, ...]:
    """Return the page sizes worth trying for a model, the cheapest characters first.

    Args:
        family: the name of a profile, as `Profile.name` has it.
        font_size: px, at least 5; below 10 hosted models misread.
        detail: `fit` tries pages for every level of detail up to the default, `high` for that one alone.

    Raises:
        VistError: no size of the search is seen as it is drawn.
    """
    profile, row = _profile(family), math.ceil(_ROW * font_size)
    sheets = [
        Sheet(_style(*size, row, font_size), level_of(profile, *size, detail), price(family, *size, detail))
        for size in _sizes(profile.rule, row)
        if is_seen_as_drawn(profile.rule, *size, level_of(profile, *size, detail))
    ]
    if not sheets:
        raise VistError(
            f"{profile.name} shrinks every page with letters of {font_size} px; choose a smaller font_size."
        )
    groups: dict[tuple[int, str], list[Sheet]] = {}
    for sheet in sheets:
        groups.setdefault((sheet.style.width, sheet.detail), []).append(sheet)
    kept = sorted(map(_tallest, groups.values()), key=lambda sheet: -sheet.area_per_token)
    kept = [sheet for sheet in kept if sheet.area_per_token >= _WORTH_TRYING * kept[0].area_per_token]
    if any(2 * price_of_rows(family, sheet.style, 1, detail) <= sheet.tokens for sheet in kept):  # cut, it costs less
        return tuple(kept)
    small = [sheet for sheet in sheets if 2 * sheet.tokens <= kept[0].tokens]
    return (*kept, _tallest(small)) if small else tuple(kept)


def _sizes(rule: ImageRule, row: int) -> list[tuple[int, int]]:
    """The page sizes of the search, in whole rows: pairs of sides, and with levels the largest page of each."""
    longest = _MANY_IMAGES if isinstance(rule, GridRule) else max(_SIDES)
    sides = sorted({min(side, longest) // row * row for side in _SIDES if side >= _FEWEST_ROWS * row})
    sizes = {(width, height) for width in sides for height in sides}
    if isinstance(rule, LevelRule):
        largest = {(width, CELL * tokens // width // row * row) for width in sides for tokens in rule.levels.values()}
        sizes |= {size for size in largest if _FEWEST_ROWS * row <= size[1] <= longest}
    return sorted(sizes)


def _tallest(sheets: list[Sheet]) -> Sheet:
    """Of pages of one width the tallest that is nearly as cheap as the best."""
    best = max(sheet.area_per_token for sheet in sheets)
    near = [sheet for sheet in sheets if sheet.area_per_token >= _NEARLY * best]
    return max(near, key=lambda sheet: sheet.style.height)


def page_detail(profile: Profile) -> str:
    """Return the level of detail at which pages of any size are sent: `high` where there is one, else the default."""
    return "high" if "high" in profile.rule.details else AUTO


def level_of(profile: Profile, width: int, height: int, detail: Detail = "high") -> str:
    """Return the level of detail at which a page of this size is sent: with `fit` the lowest that shows it as drawn."""
    rule, most = profile.rule, page_detail(profile)
    if detail == "high" or not isinstance(rule, LevelRule):
        return most
    lower = sorted((tokens, level) for level, tokens in rule.levels.items() if tokens < rule.levels[most])
    return next((level for _, level in lower if is_seen_as_drawn(rule, width, height, level)), most)


@lru_cache(maxsize=1 << 16)
def price(family: str, width: int, height: int, detail: Detail = "high") -> int:
    """Return the tokens of a page of this size, at the level of detail at which it is sent."""
    profile = _profile(family)
    return image_tokens(profile, width, height, level_of(profile, width, height, detail))


def is_seen_as_drawn(rule: ImageRule, width: int, height: int, detail: str) -> bool:
    """Tell whether the model sees an image of this size unshrunk; False also for one that the provider refuses."""
    long, short = max(width, height), min(width, height)
    match rule:
        case TileRule():
            return detail != "low" and long <= rule.fit and short <= rule.short
        case PatchRule():
            longest, budget = rule.limits[detail]
            patches = math.ceil(width / rule.side) * math.ceil(height / rule.side)
            return long <= longest and patches <= min(budget or rule.refused, rule.refused)
        case GridRule():
            return rule.resized(width, height) == (width, height)
        case AreaRule():
            return long <= rule.longest and width * height <= rule.area * rule.most
        case LevelRule():
            return width * height <= CELL * rule.levels[detail]
        case MergeRule():
            return _merged_scale(rule, width, height) >= _KEPT_SCALE
        case ModeRule():
            return long <= rule.small or _fits_crops(rule, width, height)
    return True  # CropRule never scales down


def cut(
    family: str, style: PageStyle, filled: Sequence[tuple[int, int]], detail: Detail = "high"
) -> list[tuple[int, int]]:
    """Return the size in px to which each page is cut, the cheapest that shows all text.

    Args:
        family: the name of a profile.
        style: how the pages are drawn.
        filled: for each page the px from its left edge and from its top that text fills.
        detail: how the level of detail of each page is chosen, as in `find_sheets`.
    """
    step, count = style.row_height, len(filled)
    widest = max(right for right, _ in filled)
    narrow = min(style.width, math.ceil(widest / step) * step)
    width, last = _cut(family, detail, step, (narrow, style.width), (filled[-1][1], style.height), count)
    return [(width, style.height)] * (count - 1) + [(width, last)]


def price_of_rows(family: str, style: PageStyle, rows: int, detail: Detail = "high") -> int:
    """Return the tokens of a page of a style that is cut below its first rows, 0 for none; not narrowed."""
    if not rows:
        return 0
    step, width = style.row_height, style.width
    return price(family, *_cut(family, detail, step, (width, width), (rows * step, style.height), 1), detail)


@lru_cache(maxsize=1 << 14)
def _cut(
    family: str, detail: Detail, step: int, widths: tuple[int, int], heights: tuple[int, int], count: int
) -> tuple[int, int]:
    """The cheapest width, from the narrowest to the full one, of `count` pages, and the height of the last."""
    best: tuple[int, int, int] | None = None
    for width in range(widths[0], widths[1] + 1, step):
        full = _price_if_allowed(family, width, heights[1], detail)
        if full is None and count > 1:
            continue
        for height in range(math.ceil(heights[0] / step) * step, heights[1] + 1, step):
            last = _price_if_allowed(family, width, height, detail)
            if last is not None:
                cost = ((count - 1) * (full or 0) + last, width, height)
                best = min(best or cost, cost)
    return best[1:] if best else (widths[1], heights[1])


@lru_cache(maxsize=1 << 16)
def _price_if_allowed(family: str, width: int, height: int, detail: Detail) -> int | None:
    """The tokens of a page; None for one that is too slim, refused or not seen as drawn."""
    profile = _profile(family)
    slim = max(width, height) > _SLIMMEST * min(width, height)
    seen = not slim and is_seen_as_drawn(profile.rule, width, height, level_of(profile, width, height, detail))
    return price(family, width, height, detail) if seen else None


def _style(width: int, height: int, row: int, font_size: int) -> PageStyle:
    return PageStyle(
        name=f"gateway-{width}x{height}-{font_size}",
        width=width,
        height=height,
        row_height=row,
        font_size=font_size,
        newline="break",
        tab_width=4,
    )


def _merged_scale(rule: MergeRule, width: int, height: int) -> float:
    """How large the smaller of the two scales is by which a native-resolution processor resizes an image."""
    if max(width, height) > rule.slimmest * min(width, height):
        return 0.0
    across, down = round(width / rule.side), round(height / rule.side)
    if not (across and down) or across * down * rule.side**2 > rule.most:
        return 0.0
    return min(across * rule.side / width, down * rule.side / height)


def _fits_crops(rule: ModeRule, width: int, height: int) -> bool:
    """Whether the crops that the rule counts hold the image at its own size."""
    crops = (rule.count(width, height, "auto") - rule.overview) // rule.crop
    across = math.ceil(width / rule.small)
    down = math.ceil(height / rule.small)
    return across * down == crops


@lru_cache(maxsize=64)
def _profile(family: str) -> Profile:
    for profile in PROFILES:
        if profile.name == family:
            return profile
    raise VistError(f"There is no profile {family!r}; resolve_profile gives the one of a model.")
