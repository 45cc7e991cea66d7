"""From strings to what a VIST2 model reads: token ids for generation, interleaved sequences for training and scoring.

Owns the batch: stretches of tokens and pages as padded tensors, and which place predicts which token. Does not know
what the model does with them.

Decisions
- `generate` takes plain token ids; the model asks `sequence` and `pack` here for the visual form of a chunk. So the
  same code cuts, draws and numbers a text whether it is read, written or trained on.
- The first token after a full chunk is predicted by the last visual token of that chunk: by then the chunk's text is
  gone. Its last text token predicts nothing and is never computed while writing. A special token that cuts a chunk
  short was predicted by the text before it.
- `shift_labels` holds, at every place, the token that this place predicts (-100 = none): with dropped text between
  two tokens, "the next place" would be the wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from vist.errors import CheckpointError, VistError
from vist.fuse.interleave import Role, Span, lay_spans
from vist.model.checkpoint import check_folder, first_line
from vist.model.chunks import Budget, ChunkRule, DrawnChunk, Piece, Undrawn, decode, draw_chunk
from vist.model.vist2_configuration import Vist2Config
from vist.render import PAGE_STYLES, PageStyle

IGNORED = -100
ON_REQUEST = Undrawn("The caller keeps it as text.", "")


@dataclass
class Stretch:
    """Neighbouring places of one role: token ids, or the pages of a chunk. `predicts` one token per place.

    `undrawn` says of KEPT text why it is no page.
    """

    role: Role
    ids: list[int]
    pages: DrawnChunk | None = None
    undrawn: Undrawn | None = None
    predicts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.predicts = self.predicts or [IGNORED] * len(self.ids)


class Vist2Processor(ProcessorMixin):
    """Tokenizer, chunk rule and page renderer behind one call.

    `style` is the name of a page style, a `PageStyle` or its `to_dict`. `chunk_size`, `tolerance`: see `ChunkRule`;
    `ratio`, `patches_per_token`, `max_visual_tokens`: see `Budget` (the last two as in the model's config).
    `border_ids` are two special tokens to put before and after the visual tokens of every chunk, or None.
    Raises VistError for a ratio that needs more visual tokens than a chunk can have.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        style: str | dict[str, Any] | PageStyle = "vist",
        chunk_size: int = 128,
        tolerance: int = 16,
        ratio: float = 4.0,
        patches_per_token: int | None = 8,
        max_visual_tokens: int | None = None,
        border_ids: Sequence[int] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.page_style = PageStyle.from_dict(style) if isinstance(style, dict) else PageStyle.named(style)
        preset = PAGE_STYLES.get(self.page_style.name) == self.page_style
        self.style = self.page_style.name if preset else self.page_style.to_dict()
        self.rule = ChunkRule(chunk_size, tolerance)
        self.budget = Budget(ratio, patches_per_token, max_visual_tokens)
        if max_visual_tokens is not None and self.budget.asked(chunk_size) > max_visual_tokens:
            raise VistError(
                f"The aligner cannot give a ratio of {ratio:g}: a chunk of {chunk_size} tokens would take "
                f"{self.budget.asked(chunk_size)} visual tokens, but max_visual_tokens is {max_visual_tokens}; raise "
                "the ratio or make chunks smaller."
            )
        self.chunk_size, self.tolerance, self.ratio = chunk_size, tolerance, ratio
        self.patches_per_token, self.max_visual_tokens = patches_per_token, max_visual_tokens
        if border_ids is not None and len(border_ids) != 2:
            raise VistError(f"border_ids are two token ids, before and after a chunk; got {list(border_ids)}.")
        self.border_ids = None if border_ids is None else list(border_ids)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(tokenizer, chat_template=chat_template)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        **tokenizer_options: Any,
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` (B,T) of context and prompt in one, padded on the left, for `generate`.

        Raises VistError when there is no text or one has no tokens.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        if not texts:
            raise VistError("Nothing to process: pass text=..., the context and the prompt in one string.")
        encoded = self.tokenizer(texts, padding=padding, padding_side="left", **tokenizer_options)
        for number, mask in enumerate(encoded["attention_mask"]):
            if not any(mask):
                raise VistError(f"Text {number} ({texts[number]!r}) has no tokens; the model needs at least one.")
        inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        return BatchFeature(inputs, tensor_type=return_tensors)

    def interleaved(self, texts: str | Sequence[str] | Sequence[Sequence[int]]) -> BatchFeature:
        """Texts (or their token ids) with each finished chunk followed by its pages, as `forward` takes them.

        Returns what `pack` returns: the teacher-forced form of writing these texts.
        Raises VistError when the aligner cannot give the ratio.
        """
        texts = [texts] if isinstance(texts, str) else texts
        rows = [self.sequence(self.tokenizer(text).input_ids if isinstance(text, str) else text) for text in texts]
        self.check_ratio(rows)
        return BatchFeature(self.pack([[row] for row in rows]))

    def sequence(
        self,
        ids: Sequence[int],
        finished_text: bool = True,
        budget: Budget | None = None,
        as_text: Collection[int] = (),
    ) -> list[Stretch]:
        """The stretches of one text. Without `finished_text` the text of drawn chunks is left out, as in the cache.

        `budget` replaces the processor's own; the chunks numbered in `as_text` stay text and are not drawn.
        """
        stretches: list[Stretch] = []
        asker: tuple[Stretch, int] | None = None  # the place that predicts the next token
        chunks = 0
        for piece in self.rule.cut(list(ids), self.tokenizer):
            drawn: DrawnChunk | Undrawn | None = None
            if piece.kind == "chunk":
                drawn = ON_REQUEST if chunks in as_text else self.draw(piece.ids, budget)
                chunks += 1
            pages = drawn if isinstance(drawn, DrawnChunk) else None
            undrawn = drawn if isinstance(drawn, Undrawn) else None
            role = Role.KEPT if piece.kind == "special" or undrawn is not None else Role.TEXT
            text = Stretch(role, list(piece.ids), undrawn=undrawn, predicts=[*piece.ids[1:], IGNORED])
            if asker is not None:
                asker[0].predicts[asker[1]] = piece.ids[0]
            asker = (text, len(piece.ids) - 1)
            if pages is None or finished_text:
                stretches.append(text)
            if pages is not None:
                visual = self.frame(pages)
                stretches += visual
                asker = (visual[-1], len(visual[-1].ids) - 1) if piece.full else asker
        return stretches

    def frame(self, pages: DrawnChunk) -> list[Stretch]:
        """The visual tokens of a chunk, between border tokens where there are any."""
        visual = Stretch(Role.VISUAL, [self.tokenizer.pad_token_id] * pages.count, pages)
        if self.border_ids is None:
            return [visual]
        before, after = self.border_ids
        return [Stretch(Role.KEPT, [before]), visual, Stretch(Role.KEPT, [after])]

    def draw(self, ids: Sequence[int], budget: Budget | None = None) -> DrawnChunk | Undrawn:
        """The pages of a chunk, or why it stays text."""
        return draw_chunk(decode(self.tokenizer, ids), len(ids), self.page_style, budget or self.budget)

    def check_ratio(self, rows: Sequence[Sequence[Stretch]]) -> None:
        """Raises VistError when the chunks of these sequences are far from the ratio; see `Budget.check`."""
        drawn = [stretch.pages for row in rows for stretch in row if stretch.pages is not None]
        self.budget.check([(pages.tokens, pages.count) for pages in drawn])

    def pack(self, rows: Sequence[Sequence[Sequence[Stretch]]], padding_side: str = "right") -> dict[str, torch.Tensor]:
        """Rows of documents of stretches as the model's arguments.

        `input_ids`, `roles`, `spans`, `documents`, `shift_labels` (B,T); and, if there are pages, `pixel_values`
        (B,P,H,W) uint8, `ink_mask` (B,P,rows,cols) bool, `page_chunks` (B,P), the chunk of each page (-1 = padding),
        and `visual_counts` (B,C), visual tokens of each chunk.
        """
        spans = [[[Span(stretch.role, len(stretch.ids)) for stretch in document] for document in row] for row in rows]
        layout = lay_spans(spans, padding_side)
        flat = [[stretch for document in row for stretch in document] for row in rows]
        ids = [[token for stretch in row for token in stretch.ids] for row in flat]
        predicts = [[token for stretch in row for token in stretch.predicts] for row in flat]
        length = layout.roles.shape[1]
        batch = {
            "input_ids": _pad(ids, self.tokenizer.pad_token_id, length, padding_side),
            "roles": layout.roles,
            "spans": layout.spans,
            "documents": layout.documents,
            "shift_labels": _pad(predicts, IGNORED, length, padding_side),
        }
        return {**batch, **self._pack_pages([[s.pages for s in row if s.pages is not None] for row in flat])}

    def _pack_pages(self, rows: list[list[DrawnChunk]]) -> dict[str, torch.Tensor]:
        if not any(rows):
            return {}
        style = self.page_style
        pages = max(1, *(sum(len(chunk.pixels) for chunk in row) for row in rows))
        pixels = np.full((len(rows), pages, style.height, style.width), style.background, dtype=np.uint8)
        ink = np.zeros((len(rows), pages, style.rows, style.cols), dtype=bool)
        owner = np.full((len(rows), pages), -1, dtype=np.int64)
        counts = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for sample, row in enumerate(rows):
            place = 0
            for number, chunk in enumerate(row):
                there = slice(place, place + len(chunk.pixels))
                pixels[sample, there], ink[sample, there], owner[sample, there] = chunk.pixels, chunk.ink, number
                counts[sample, number] = chunk.count
                place = there.stop
        arrays = {"pixel_values": pixels, "ink_mask": ink, "page_chunks": owner, "visual_counts": counts}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """How a text is cut; see `ChunkRule.cut`."""
        return list(self.rule.cut(list(ids), self.tokenizer))

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Text of one sequence of token ids."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Texts of several sequences of token ids."""
        return self.tokenizer.batch_decode(sequences, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved processor. Raises CheckpointError with one sentence when it is missing or unreadable."""
        check_folder(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, TypeError, KeyError, ValueError) as error:
            source = str(pretrained_model_name_or_path)
            raise CheckpointError(f"Cannot load a VIST2 processor from {source!r}: {first_line(error)}") from error


def _pad(rows: list[list[int]], filler: int, length: int, side: str) -> torch.Tensor:
    padding = [[filler] * (length - len(row)) for row in rows]
    full = [gap + row if side == "left" else row + gap for row, gap in zip(rows, padding, strict=True)]
    return torch.tensor(full, dtype=torch.long).reshape(len(rows), length)


AutoProcessor.register(Vist2Config, Vist2Processor, exist_ok=True)
