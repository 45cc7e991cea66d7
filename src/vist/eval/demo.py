"""The demonstration: one long text, read under the four conditions, measured and written down.

Owns the order of the measurements and the shape of `report.json`. Does not print: `vist demo` does.

Decisions
- The whole text is rendered once, for the page count, the speed and the loss report; quality is read at windows
  spread over it, since a book is longer than any LLM's context.
- The wrong pages come from another packaged book, so that the control has pages of the same kind of text.
- B batch, P pages, K visual tokens per page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vist.errors import VistError
from vist.eval.conditions import Method, Passage
from vist.eval.cost import NEW_TOKENS, Cost, costs_of
from vist.eval.lm import LanguageModelling, evaluate_lm
from vist.eval.reader import Reader
from vist.eval.recall import KINDS, Recall, evaluate_recall, plan_contexts
from vist.eval.windows import cut_windows, with_wrong_texts
from vist.render import LossReport, iter_pages

_WARM_UP = 2_000


@dataclass(frozen=True)
class DemoConfig:
    """How much is read.

    Attributes:
        pages: pages of distant text before each window.
        proximal: tokens of text after them.
        windows: places at which the loss is read.
        contexts, facts: texts with planted facts, and facts in each.
        new_tokens: tokens written to measure speed.
        seed: of facts and intervals.
    """

    pages: int = 4
    proximal: int = 256
    windows: int = 32
    contexts: int = 16
    facts: int = 6
    new_tokens: int = NEW_TOKENS
    seed: int = 0


@dataclass(frozen=True)
class Rendering:
    """The whole text as pages: how many, how fast, what was lost, and how many tokens it is as text."""

    characters: int
    pages: int
    tokens: int
    seconds: float
    loss: LossReport

    def to_dict(self) -> dict[str, Any]:
        """The figures under their stable keys (docs/json.md)."""
        return {
            "characters": self.characters,
            "pages": self.pages,
            "tokens": self.tokens,
            "render_s": self.seconds,
            "characters_per_s": self.characters / self.seconds if self.seconds else None,
            "loss": self.loss.to_dict(),
        }


@dataclass(frozen=True)
class Demo:
    """Everything that was measured, and the passage whose pages the report shows."""

    config: DemoConfig
    rendering: Rendering
    language_modelling: LanguageModelling
    costs: dict[Method, Cost]
    recall: Recall
    passage: Passage

    def methods(self) -> list[dict[str, Any]]:
        """Quality and cost of each condition, one row each, under their stable keys (docs/json.md)."""
        return [self.language_modelling.method_dict(name) | cost.to_dict() for name, cost in self.costs.items()]

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`, without what the caller knows: command, versions, names."""
        return {
            "rendering": self.rendering.to_dict(),
            "methods": self.methods(),
            "lm": self.language_modelling.to_dict(),
            "recall": self.recall.rows(),
            "recall_by_page": self.recall.depth_rows(),
        }


def render_whole(reader: Reader, text: str) -> Rendering:
    """Draw the whole text once, in constant memory.

    Raises VistError for a text without a character that is not blank.
    """
    if not text.strip():
        raise VistError(f"The text is empty ({len(text)} characters, none of them visible); choose another file.")
    reader.draw(text[:_WARM_UP])  # reading fonts and drawing each glyph once is not the speed of drawing text
    start = time.perf_counter()
    stretches = [(len(pages), pages.loss) for pages in iter_pages(text, reader.style)]
    seconds = time.perf_counter() - start
    total = LossReport.total(loss for _, loss in stretches)
    return Rendering(len(text), sum(count for count, _ in stretches), len(reader.ids(text)), seconds, total)


def run_demo(
    reader: Reader,
    text: str,
    config: DemoConfig,
    tell: Callable[[str], None] = lambda message: None,
    beside: Mapping[str, Reader] | None = None,
) -> Demo:
    """Measure everything on one text; `tell` is called with a sentence before each part.

    `beside`: other methods by name, measured on the same windows and facts.

    Raises VistError when the text is empty or too short for the pages and the tokens after them.
    """
    rendering = render_whole(reader, text)
    tell(_rendered(rendering))
    windows, _ = cut_windows(reader, [text], config.pages, config.proximal, config.windows)
    passages = with_wrong_texts(reader, windows, config.pages)
    tell(f"Reading {len(windows)} places of the text under four conditions.")
    modelling = evaluate_lm(reader, passages, [0] * len(windows), seed=config.seed, beside=beside)
    tell("Measuring FLOPs, memory and speed.")
    middle = passages[len(passages) // 2]
    costs = costs_of(reader, beside, middle, config.new_tokens)
    tell(f"Planting {config.contexts * config.facts} facts on {config.pages} pages each time and asking for them.")
    contexts = plan_contexts(reader, [text], config.contexts, config.facts, config.pages, KINDS, config.seed)
    recalled = evaluate_recall(reader, contexts, config.pages, beside=beside)
    return Demo(config, rendering, modelling, costs, recalled, middle)


def _rendered(rendering: Rendering) -> str:
    speed = rendering.characters / max(rendering.seconds, 1e-9)
    return (
        f"{rendering.characters:,} characters ({rendering.tokens:,} tokens) are {rendering.pages:,} pages, drawn in "
        f"{rendering.seconds:.2f} s ({speed / 1e6:.1f} M characters/s). {rendering.loss.sentence()}"
    )
