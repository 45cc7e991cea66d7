"""From strings to the inputs of a model with a text context.

Owns what a context becomes: token ids instead of pages. All else is VIST's processor.

Decisions
- The page style stays with the processor though nothing is drawn: evaluation measures distant text in pages, so that
  every method reads the same windows.
"""

from __future__ import annotations

import numpy as np

from vist.errors import VistError
from vist.model.dial import Dial
from vist.model.processing import VistProcessor


class TextContextProcessor(VistProcessor):
    """Tokenizer for prompts and contexts behind VIST's call: `processor(context=..., prompt=...)`.

    Returns `context_ids` (B,L) and `context_mask` (B,L) bool, padded on the right, where VIST's returns pages.
    """

    model_input_names = ["input_ids", "attention_mask", "context_ids", "context_mask"]

    def _context_inputs(self, contexts: list[str | None], max_pages: int | None, dial: Dial) -> dict[str, np.ndarray]:
        if max_pages is not None:
            raise VistError(f"max_pages ({max_pages}) limits pages, but this model reads text; leave it out.")
        if dial.turned:
            raise VistError("This model has no dial: training fixed its ratio; leave ratio and visual_tokens out.")
        rows = [self.tokenizer(text, add_special_tokens=False).input_ids if text else [] for text in contexts]
        longest = max((len(row) for row in rows), default=0)
        if longest == 0:
            return {}
        ids = np.full((len(rows), longest), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, True
        return {"context_ids": ids, "context_mask": mask}
