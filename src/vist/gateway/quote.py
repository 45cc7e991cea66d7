"""What drawn pages cost each family of models, beside their text.

Owns the table that compares them. Does not draw, and decides nothing.

Decisions
- Texts are counted class by class as they come and priced at the end, so a text of any length is read once.
- A page that a provider would shrink is priced as it is and marked: its letters are smaller for the model than on the
  page, so a low price is no bargain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vist.errors import VistError
from vist.gateway.estimate import count_classes, price_classes
from vist.gateway.profiles import PROFILES, Profile
from vist.gateway.sheets import is_seen_as_drawn, page_detail, price

FAMILIES = (
    "gpt-4o", "gpt-5", "gpt-5.2", "gpt-5.4", "gpt-4.1-mini", "claude", "claude-4.7", "gemini-2", "gemini-3",
    "qwen2-vl", "qwen3-vl", "glm-4v", "deepseek-ocr",
)  # fmt: skip


@dataclass(frozen=True)
class Quote:
    """What a text costs one family of models.

    Attributes:
        family: the name of the profile.
        text: tokens of the text, estimated.
        pages: tokens of the pages; None if the provider refuses one of them.
        characters: of the text, for each token of the pages.
        verdict: `pays`, `does not pay`, `shrunk` (the provider scales pages down) or `refused`.
    """

    family: str
    text: int
    pages: int | None
    characters: float
    verdict: str

    @property
    def saved(self) -> float:
        """Share of the text's tokens that the pages save; negative if they cost more."""
        return 1 - (self.pages or 0) / self.text if self.text and self.pages is not None else 0.0


class Tally:
    """Counts texts and pages as they come; `quotes` prices them."""

    def __init__(self) -> None:
        self.characters = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self._classes: Counter[str] = Counter()

    def add_text(self, text: str) -> None:
        """Count a stretch of the text."""
        self.characters += len(text)
        self._classes.update(count_classes(text))

    def add_page(self, width: int, height: int) -> None:
        """Count a page of a size in px."""
        self.sizes[width, height] += 1

    def quotes(self, families: tuple[str, ...] = FAMILIES, min_saving: float = 0.0) -> list[Quote]:
        """Return what it costs each of the families; it pays from a share of `min_saving` on."""
        known = {profile.name: profile for profile in PROFILES}
        return [self._quote(known[family], min_saving) for family in families]

    def _quote(self, profile: Profile, min_saving: float) -> Quote:
        text = price_classes(self._classes, profile.table)
        try:
            pages = sum(count * price(profile.name, *size) for size, count in self.sizes.items())
        except VistError:
            return Quote(profile.name, text, None, 0.0, "refused")
        density = self.characters / pages if pages else 0.0
        quote = Quote(profile.name, text, pages, density, "pays")
        if not all(is_seen_as_drawn(profile.rule, *size, page_detail(profile)) for size in self.sizes):
            return Quote(profile.name, text, pages, density, "shrunk")
        if not pages or pages >= text or quote.saved < min_saving:
            return Quote(profile.name, text, pages, density, "does not pay")
        return quote


def to_rows(quotes: list[Quote]) -> list[Mapping[str, object]]:
    """Return quotes as plain values that JSON can hold."""
    return [{**vars(quote), "saved": quote.saved} for quote in quotes]
