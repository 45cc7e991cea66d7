"""What an image costs: the arithmetic by which providers and open models turn pixels into tokens.

Owns one small class for each way of counting, with the same method `count(width, height, detail)`. Knows nothing about
model names, sources or dates: `profiles` has those.

Decisions
- Exact integers, rounded as the provider documents it, or as it was measured where the document is silent.
- Where a provider publishes only a most (Gemini 3), the most is counted: a saving must never be promised too early.
- Tokens are the visual tokens. The one or two tokens by which a chat template frames an image belong to the template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vist.errors import VistError

AUTO = "auto"


class ImageRule(Protocol):
    """A way of counting: the levels of detail that it knows, the provider's own default first, and the count."""

    @property
    def details(self) -> tuple[str, ...]:
        """Levels of detail that `count` accepts."""

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the tokens of an image of `width` x `height` px."""


@dataclass(frozen=True)
class TileRule:
    """Tiles: fit into a square, bring the short side down, then a base and a price for each tile that is touched.

    Attributes:
        base: tokens of every image, and of an image at low detail.
        tile: tokens of each tile.
        fit: side in px of the square that the image is first made to fit, never enlarged.
        short: px that the short side is then brought down to.
        side: side of a tile in px.
    """

    base: int
    tile: int
    fit: int = 2048
    short: int = 768
    side: int = 512

    @property
    def details(self) -> tuple[str, ...]:
        """`auto` and `high` count tiles, `low` is the base alone."""
        return (AUTO, "high", "low")

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the base, plus the tiles unless detail is low."""
        if detail == "low":
            return self.base
        # Bills for 2049 x 513 and 2050 x 513 show that the first step rounds; the second is documented to round down.
        shrink = min(1.0, self.fit / max(width, height))
        width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
        short = min(width, height)
        if short > self.short:
            width, height = width * self.short // short, height * self.short // short
        return self.base + self.tile * _cells(width, height, self.side)


@dataclass(frozen=True)
class PatchRule:
    """Patches of a fixed size, with a budget for each level of detail, times a multiplier.

    Attributes:
        multiplier: tokens of a patch.
        limits: detail -> (longest side in px, most patches or None); what is larger is scaled down to both.
        side: side of a patch in px.
        refused: an image with more patches than this, after scaling, is rejected by the provider.
    """

    multiplier: float
    limits: Mapping[str, tuple[int, int | None]]
    side: int = 32
    refused: int = 30_000

    @property
    def details(self) -> tuple[str, ...]:
        """The levels that have limits."""
        return tuple(self.limits)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the tokens; VistError for an image that the provider rejects."""
        longest, budget = self.limits[detail]
        shrink = min(1.0, longest / max(width, height))
        width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
        if budget is not None and _cells(width, height, self.side) > budget:
            width, height = self._within(width, height, budget)
        patches = _cells(width, height, self.side)
        if patches > self.refused:
            raise VistError(
                f"An image of {width} x {height} px has {patches:,} patches and the provider takes {self.refused:,} "
                "at most; make the pages smaller."
            )
        return math.ceil(round(patches * self.multiplier, 6))  # 1.2 * 2,500 is not quite 3,000 in binary

    def _within(self, width: int, height: int, budget: int) -> tuple[int, int]:
        """Scale down to the budget, then on to whole patches along the side that is nearer to them."""
        side = self.side
        shrink = math.sqrt(side * side * budget / (width * height))
        across, down = width * shrink / side, height * shrink / side
        shrink *= min(max(1, math.floor(across)) / across, max(1, math.floor(down)) / down)
        # The product can miss a whole patch by a rounding error, and rounding down must not lose a pixel to it.
        return max(1, math.floor(width * shrink + 1e-6)), max(1, math.floor(height * shrink + 1e-6))


@dataclass(frozen=True)
class GridRule:
    """A token for each patch, after scaling down to a longest side and a most of tokens.

    Attributes:
        longest: most px of a side, counted in whole patches.
        most: most tokens of an image.
        side: side of a patch in px.
    """

    longest: int
    most: int
    side: int = 28

    @property
    def details(self) -> tuple[str, ...]:
        """No choice: the provider decides."""
        return (AUTO,)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the patches of the largest size of the same shape that fits."""
        return _cells(*self.resized(width, height), self.side)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the size in px that the model sees: the documented search for the longest side that fits."""
        if height > width:
            high, wide = self.resized(height, width)
            return wide, high
        low, high, shape = 1, width, height / width
        if self._fits(width, height):
            return width, height
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(middle, max(1, round(middle * shape))):
                low = middle
            else:
                high = middle - 1
        return low, max(1, round(low * shape))

    def _fits(self, width: int, height: int) -> bool:
        longest = math.ceil(max(width, height) / self.side) * self.side
        return longest <= self.longest and _cells(width, height, self.side) <= self.most


@dataclass(frozen=True)
class AreaRule:
    """A token for so many square px, after scaling down to a longest side and a most of tokens.

    Attributes:
        area: px² of a token.
        longest: most px of a side.
        most: most tokens of an image.
    """

    area: int
    longest: int
    most: int

    @property
    def details(self) -> tuple[str, ...]:
        """No choice."""
        return (AUTO,)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the area in tokens, rounded up."""
        shrink = min(1.0, self.longest / max(width, height))
        return min(self.most, math.ceil(width * shrink * height * shrink / self.area))


@dataclass(frozen=True)
class CropRule:
    """One price for a small image, and one for each crop of a larger one.

    Attributes:
        tokens: tokens of a small image and of a crop.
        small: an image with no side longer than this (px) is not cropped.
        fraction: a crop's side is the image's short side divided by this,
        least: but no less than this (px)
        most: and no more than this (px).
    """

    tokens: int = 258
    small: int = 384
    fraction: float = 1.5
    least: int = 256
    most: int = 768

    @property
    def details(self) -> tuple[str, ...]:
        """No choice."""
        return (AUTO,)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the tokens of all crops."""
        if max(width, height) <= self.small:
            return self.tokens
        side = min(self.most, max(self.least, math.floor(min(width, height) / self.fraction)))
        return self.tokens * _cells(width, height, side)


@dataclass(frozen=True)
class LevelRule:
    """One price for each level of detail, whatever the size. `levels` maps detail -> most tokens."""

    levels: Mapping[str, int]

    @property
    def details(self) -> tuple[str, ...]:
        """The levels that have a price."""
        return tuple(self.levels)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the price of the level."""
        return self.levels[detail]


@dataclass(frozen=True)
class MergeRule:
    """Native resolution: sides rounded to whole cells, scaled into a range of px; a token for each cell.

    Attributes:
        side: side of a cell in px: the patch times the patches merged along a side.
        least: fewest px of the resized image.
        most: most px of the resized image.
        enlarge: an image narrower than a cell is first enlarged to it (else the cells are only rounded up).
        slimmest: the processor refuses sides in a larger ratio than this.
    """

    side: int
    least: int
    most: int
    enlarge: bool = False
    slimmest: int = 200

    @property
    def details(self) -> tuple[str, ...]:
        """No choice; the range of px is the processor's."""
        return (AUTO,)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the cells; VistError for an image that is too slim for the processor."""
        short = min(width, height)
        if self.enlarge and short < self.side:
            width, height = int(width * (self.side / short)), int(height * (self.side / short))
        if max(width, height) > self.slimmest * min(width, height):
            raise VistError(
                f"An image of {width} x {height} px is too slim for this model, which takes sides in a ratio of "
                f"{self.slimmest} at most; make the page wider or shorter."
            )
        return math.prod(self._cells(width, height))

    def _cells(self, width: int, height: int) -> tuple[int, int]:
        side = self.side
        across, down = round(width / side), round(height / side)
        area = across * down * side * side
        if area > self.most:
            shrink = math.sqrt(width * height / self.most)
            return max(1, math.floor(width / shrink / side)), max(1, math.floor(height / shrink / side))
        if area < self.least:
            grow = math.sqrt(self.least / (width * height))
            return math.ceil(width * grow / side), math.ceil(height * grow / side)
        return across, down


@dataclass(frozen=True)
class ModeRule:
    """Fixed modes, and a mode that adds crops of a page to an overview.

    Attributes:
        modes: detail -> tokens of an image.
        crop: tokens of a crop.
        overview: tokens of the overview that goes with the crops.
        small: px; an image with no longer side has no crops.
        crops: fewest and most crops.
    """

    modes: Mapping[str, int]
    crop: int
    overview: int
    small: int
    crops: tuple[int, int]

    @property
    def details(self) -> tuple[str, ...]:
        """`auto` is the cropping mode, which the models' own scripts run by default."""
        return (AUTO, "gundam", *self.modes)

    def count(self, width: int, height: int, detail: str) -> int:
        """Return the tokens of the mode."""
        if detail in self.modes:
            return self.modes[detail]
        if max(width, height) <= self.small:
            return self.overview
        return self.overview + self.crop * math.prod(self._grid(width, height))

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Crops across and down: the grid whose shape is nearest to the image's; of equals the largest it can fill."""
        least, most = self.crops
        grids = [(across, down) for across in range(1, most + 1) for down in range(1, most // across + 1)]
        grids = sorted((grid for grid in grids if least <= math.prod(grid) <= most), key=math.prod)
        best, distance = grids[0], math.inf
        for across, down in grids:
            off = abs(width / height - across / down)
            filled = width * height > 0.5 * self.small**2 * across * down
            if off < distance or (off == distance and filled):
                best, distance = (across, down), off
        return best


def _cells(width: int, height: int, side: int) -> int:
    """Squares of `side` px that cover an image."""
    return math.ceil(width / side) * math.ceil(height / side)
