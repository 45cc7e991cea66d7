"""What reading a long context costs on the device at hand: the rows of `vist cost --run`.

Owns cutting the passage and the three ways it is read. Does not know how time and memory are measured (cost.py).

Decisions
- Throughput as the paper defines it: new tokens by the seconds from text to the last of them, with tokenizing and
  rendering inside the clock. The paper writes 256.
- The same passage is read without its distant part, with it as pages, and with it as text, cut to what the LLM carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vist.errors import VistError
from vist.eval.conditions import Condition, Passage
from vist.eval.cost import measure_cost
from vist.eval.reader import Reader

NEW_TOKENS = 256
METHODS = {Condition.NONE: "text alone", Condition.VISUAL: "VIST", Condition.FULL: "text in full"}


def cut_passage(reader: Reader, text: str, te: int, td: int) -> Passage:
    """The first `te` tokens of a text as distant text and the next `td` as proximal ids.

    Raises VistError when the text is shorter.
    """
    ids, places = reader.ids_with_places(text)
    if len(ids) < te + td:
        raise VistError(f"The text has {len(ids)} tokens, but --te {te} and --td {td} want {te + td}; lower them.")
    return Passage(text[: places[te]], "", tuple(ids[te : te + td]))


def measure_rows(reader: Reader, text: str, te: int, td: int, new_tokens: int = NEW_TOKENS) -> Iterator[dict[str, Any]]:
    """One row for each way of reading, as it is measured: method, te, td, new_tokens and the keys of `Cost`.

    Raises VistError when the LLM cannot carry the proximal text and the new tokens.
    """
    room = reader.context_limit - 1 - new_tokens
    if td > room:
        carried = room + new_tokens
        raise VistError(
            f"--td {td} and {new_tokens} new tokens do not fit this LLM, which carries {carried}; lower them."
        )
    passage = cut_passage(reader, text, te, td)
    for condition, method in METHODS.items():
        cost = measure_cost(reader, condition, passage, new_tokens, repeats=1)
        read = 0 if condition is Condition.NONE else min(te, room - td) if condition is Condition.FULL else te
        yield {"method": method, "te": read, "td": td, "new_tokens": new_tokens, **cost.to_dict()}
