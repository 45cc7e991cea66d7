"""How good a style is for a reader: the share of characters read right, and the tokens that a text costs.

Owns `Score` and `Objective`. Does not know where a genome comes from.

Decisions
- Accuracy is 1 minus the character error rate over all samples together, not below 0, blanks normalised as in
  `eval.edits`. It is that of the text as drawn: marks for line breaks have to be read, too.
- Characters that a style could not draw count as unread, whatever the reader makes of their substitutes.
- Tokens are for 1,000 characters of a longer text than is read, laid out and not drawn, so that a last page filled in
  part weighs as little as in use.
- Whoever prices a provider's pages prices what it sees: a style whose pages the provider would shrink or refuse has
  infinite tokens. A model of ours has so many tokens a page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vist.errors import VistError
from vist.eval.edits import character_errors
from vist.gateway.profiles import Profile
from vist.gateway.sheets import cut, is_seen_as_drawn, page_detail, price
from vist.render import Draft, PageStyle, render
from vist.tune.genome import Genome
from vist.tune.readers import PageReader

Pricing = Callable[[Draft], float]


@dataclass(frozen=True)
class Score:
    """What a style is worth: `accuracy` from 0 to 1, `tokens` for 1,000 characters (inf if the pages are no use)."""

    accuracy: float
    tokens: float


def provider_pricing(profile: Profile) -> Pricing:
    """Return the pricing of a provider's image rule, pages cut to their text."""

    def tokens(draft: Draft) -> float:
        style = draft.style
        if not is_seen_as_drawn(profile.rule, style.width, style.height, page_detail(profile)):
            return math.inf
        filled: list[tuple[int, int]] = [(right, bottom) for right, bottom in draft.filled().tolist()]
        return float(sum(price(profile.name, *size) for size in cut(profile.name, style, filled)))

    return tokens


def page_pricing(tokens_per_page: int) -> Pricing:
    """Return the pricing of a model that makes so many tokens of every page."""
    return lambda draft: float(tokens_per_page * len(draft))


@dataclass(frozen=True)
class Objective:
    """Scores genomes.

    Attributes:
        reader: who reads.
        pricing: tokens of a text that is laid out.
        samples: texts that are drawn and read.
        long: a text that is laid out to be priced.
    """

    reader: PageReader
    pricing: Pricing
    samples: Sequence[str]
    long: str = field(repr=False)

    def __post_init__(self) -> None:
        if not any(sample.strip() for sample in self.samples) or not self.long.strip():
            raise VistError("There is no text to read; give a longer text.")

    def score(self, genome: Genome) -> Score:
        """Return what a genome is worth; a style that cannot be, or costs without end, is not read."""
        try:
            tokens = self.tokens(genome, genome.style())
        except VistError:  # genes that no style takes
            return Score(0.0, math.inf)
        return Score(self.accuracy(genome, genome.style()) if tokens < math.inf else 0.0, tokens)

    def tokens(self, genome: Genome, style: PageStyle) -> float:
        """Return the tokens for 1,000 characters."""
        return 1000 * self.pricing(Draft(genome.prepare(self.long), style)) / len(self.long)

    def accuracy(self, genome: Genome, style: PageStyle) -> float:
        """Return the share of characters that the reader reads right."""
        errors = length = 0
        for sample in self.samples:
            pages = render(genome.prepare(sample), style)
            wrong, characters = character_errors(pages.text, self.reader.read(pages))
            errors += max(wrong, pages.loss.count())
            length += characters
        return max(0.0, 1 - errors / length) if length else 0.0


def take_samples(text: str, count: int, characters: int, seed: int) -> tuple[list[str], str]:
    """Return `count` stretches of a text, evenly spread from a place that hangs on the seed, and a long one to price.

    Raises VistError for a text with fewer characters than are to be read.
    """
    if len(text) < count * characters:
        raise VistError(
            f"The text has {len(text):,} characters and {count} x {characters:,} are to be read; "
            "give a longer text, or lower --samples or --characters."
        )
    stride = len(text) // count
    shift = seed * 7919 % max(1, stride - characters + 1)
    starts = [number * stride + shift for number in range(count)]
    return [_from_word(text[start : start + characters]) for start in starts], text[: max(characters, 30_000)]


def _from_word(text: str) -> str:
    """A stretch without the pieces of words at its ends."""
    first, last = text.find(" ") + 1, text.rfind(" ")
    return text[first:last] if 0 < first < last else text
