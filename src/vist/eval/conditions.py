"""The four conditions under which a model is read: no context, visual context, wrong pages, full text.

Owns what each condition gives the model. Does not know what is measured.

Decisions
- A gain counts only against its controls in the same run, so every measurement goes through all four.
- "wrong" is the visual path with another text's pages: what it gains comes from having pages, not from reading them.
- "full" is cut from the left to what the LLM can carry, and says how many tokens it lost.
- B batch, P pages, T text tokens, M visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from vist.eval.reader import Reader


class Condition(StrEnum):
    """What stands before the proximal text; the value is the stable key in files."""

    NONE = "none"
    VISUAL = "visual"
    WRONG = "wrong"
    FULL = "full"

    @property
    def label(self) -> str:
        """The name people read."""
        return LABELS[self]

    @property
    def has_pages(self) -> bool:
        """Whether the context is shown as pages."""
        return self in (Condition.VISUAL, Condition.WRONG)


LABELS = {
    Condition.NONE: "no context",
    Condition.VISUAL: "visual context",
    Condition.WRONG: "wrong pages",
    Condition.FULL: "full text",
}


@dataclass(frozen=True)
class OtherMethod:
    """Another way of reading the distant text, measured beside the conditions of a model: its key and name."""

    value: str

    @property
    def label(self) -> str:
        """The name people read."""
        return self.value


Method = Condition | OtherMethod
CONTROLS = (("visual", "none"), ("visual", "wrong"), ("visual", "full"))


def pairs_with(others: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The differences that are reported: visual against its controls, and each other method against none and visual."""
    names = list(others)
    return (*CONTROLS, *((name, "none") for name in names), *(("visual", name) for name in names))


@dataclass(frozen=True)
class Passage:
    """One thing to read: `distant` text, the `wrong` text shown in its place as control, `proximal` token ids."""

    distant: str
    wrong: str
    proximal: tuple[int, ...]


@dataclass(frozen=True)
class Inputs:
    """What the model gets for a batch.

    `tensors`: `input_ids` and `attention_mask` (B,T), with pages also what the model's processor makes of a context:
    for VIST `pixel_values` (B,P,H,W) and `ink_mask`.
    `context_tokens`, `dropped_tokens`: for each row, tokens of the distant text that the LLM carries as text, and
    those that did not fit.
    """

    tensors: dict[str, Tensor]
    context_tokens: list[int]
    dropped_tokens: list[int]


def build_inputs(reader: Reader, condition: Condition, passages: Sequence[Passage], reserve: int = 0) -> Inputs:
    """The model's inputs for a batch of passages; `reserve` tokens of the LLM's context are left for its answer."""
    rows = [list(passage.proximal) for passage in passages]
    carried, dropped = [0] * len(rows), [0] * len(rows)
    if condition is Condition.FULL:
        for number, passage in enumerate(passages):
            distant = reader.ids(passage.distant)
            room = max(0, reader.context_limit - len(rows[number]) - 1 - reserve)
            kept = distant[len(distant) - min(room, len(distant)) :]
            carried[number], dropped[number] = len(kept), len(distant) - len(kept)
            rows[number] = kept + rows[number]
    tensors = reader.text_inputs(rows)
    if condition.has_pages:
        texts = [passage.wrong if condition is Condition.WRONG else passage.distant for passage in passages]
        tensors |= reader.page_inputs(texts)
    return Inputs(tensors, carried, dropped)
