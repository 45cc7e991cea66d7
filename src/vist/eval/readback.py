"""Read-back: how much of a page's text can be written down again from its visual tokens alone.

Owns the pages that are read, the prompt, and the counting of errors. Does not know styles' files, plots or tables.

Decisions
- One full page at a time, so the ratio is that of the style. The prompt is a blank line and the first words of the page
  (`CUE` characters at least), as in the model's read-back training; they are not scored. A base model would otherwise
  not know that it is to read aloud.
- As many tokens are written as the rest of the page has, greedily, and nothing stops it: what is invented counts as
  errors, and there is not much more of it than there is text.
- Beside the four conditions stand two readers of the same pixels that do not go through the LLM: TextViT's reading
  head, which names the characters of every patch, and Tesseract, where it is installed.
- Errors are Levenshtein over characters and over words, blanks normalised; a rate is errors over the text's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vist.errors import VistError
from vist.eval import ocr
from vist.eval.conditions import Condition, Passage, build_inputs
from vist.eval.edits import character_errors, word_errors
from vist.eval.reader import Reader
from vist.eval.scores import PAIRS, Row, score_rows
from vist.eval.windows import next_border
from vist.render import Pages

CUE = 14
ENCODER, TESSERACT = "encoder", "tesseract"


@dataclass(frozen=True)
class PageText:
    """One full page: its pixels, the words given as cue, and the rest that is to be read."""

    pages: Pages
    cue: str
    rest: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.cue + self.rest


def plan_pages(reader: Reader, texts: Sequence[str], count: int, seed: int = 0) -> tuple[list[PageText], list[int]]:
    """`count` full pages from different places of the texts, and the number of each one's document.

    Raises VistError when the texts do not have so many full pages.
    """
    candidates = [(number, text) for number, text in enumerate(texts) if text.strip()]
    found: list[PageText] = []
    documents: list[int] = []
    rng = np.random.default_rng(seed)
    for turn in range(4 * count):
        if len(found) == count or not candidates:
            break
        number, text = candidates[turn % len(candidates)]
        reach = reader.style.rows * reader.style.text_width  # characters: more than a page holds
        start = next_border(text, int(rng.integers(0, max(1, len(text) - reach // 4))))
        drawn = reader.draw(text[start : start + reach].lstrip())
        if len(drawn) < 2:  # only a page that another one follows is known to be full
            continue
        page = drawn[0]
        cut = next_border(page.text, CUE)
        if page.text[cut:].strip():
            found.append(PageText(page, page.text[:cut], page.text[cut:]))
            documents.append(number)
    if len(found) < max(2, count):
        raise VistError(f"The texts have {len(found)} full pages and {max(2, count)} are wanted; give longer texts.")
    return found, documents


def evaluate_readback(
    reader: Reader,
    pages: Sequence[PageText],
    documents: Sequence[int],
    with_ocr: bool = True,
    batch_size: int = 8,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Row]:
    """Character and word error rates of every reader of these pages; keys: docs/evaluation.md."""
    read: dict[str, list[str]] = {}
    tokens: dict[str, list[float]] = {}
    with tqdm(total=4 * len(pages), desc="read-back", unit="page", delay=2, leave=False) as progress:
        for condition in Condition:
            read[condition.value], tokens[condition.value] = [], []
            for start in range(0, len(pages), batch_size):
                batch = range(start, min(start + batch_size, len(pages)))
                said, carried = _write(reader, condition, pages, batch)
                read[condition.value] += said
                tokens[condition.value] += carried
                progress.update(len(said))
    if reader.reads_pages and hasattr(reader.model.vision_tower, "read_logits"):
        read[ENCODER] = [text[len(page.cue) :] for text, page in zip(encoder_reads(reader, pages), pages, strict=True)]
    if with_ocr and ocr.why_not() is None:
        texts = ocr.read_images([page.pages.to_image(0) for page in pages])
        read[TESSERACT] = [_after(text, page.cue) for text, page in zip(texts, pages, strict=True)]
    return _rows(reader, pages, documents, read, tokens, resamples, seed)


def _write(
    reader: Reader, condition: Condition, pages: Sequence[PageText], batch: Sequence[int]
) -> tuple[list[str], list[float]]:
    """What is written for each page of a batch, and the context tokens it was written from."""
    wanted = [len(reader.following(pages[number].rest)) for number in batch]
    passages = [
        Passage(
            pages[number].text,
            pages[(number + 1) % len(pages)].text,
            tuple(reader.following(f"\n\n{pages[number].cue}")),
        )
        for number in batch
    ]
    inputs = build_inputs(reader, condition, passages, reserve=max(wanted))
    tensors = dict(inputs.tensors)
    carried = [float(count) for count in inputs.context_tokens]
    with torch.inference_mode():
        if condition.has_pages:
            context = reader.encode_pages(tensors)
            tensors |= {"cross_states": context.states, "cross_mask": context.mask}
            carried = [float(count) for count in context.mask.sum(1).tolist()]
        output = reader.model.generate(**tensors, max_new_tokens=max(wanted), do_sample=False, num_beams=1)
    new = output[:, tensors["input_ids"].shape[1] :]
    return reader.written(row[:count] for row, count in zip(new.tolist(), wanted, strict=True)), carried


@torch.inference_mode()
def encoder_reads(reader: Reader, pages: Sequence[PageText]) -> list[str]:
    """The text that TextViT's reading head names on each page, rows joined by blanks."""
    tower, read = reader.tower("Reading back"), []
    for page in pages:
        stacked = reader.stack_pages([[page.pages]])
        features = tower(stacked["pixel_values"][0], stacked["ink_mask"][0].flatten(1))
        patches = tower.read(features)[0]
        ink = page.pages.ink[0]
        rows = [
            "".join(text for text, there in zip(patches[at * ink.shape[1] :], ink[at], strict=False) if there)
            for at in range(ink.shape[0])
        ]
        read.append(" ".join(row.strip() for row in rows if row.strip()))
    return read


def _after(text: str, cue: str) -> str:
    """What was read, without the words of the cue, which are not scored."""
    return " ".join(text.split()[len(cue.split()) :])


def _rows(
    reader: Reader,
    pages: Sequence[PageText],
    documents: Sequence[int],
    read: dict[str, list[str]],
    tokens: dict[str, list[float]],
    resamples: int,
    seed: int,
) -> list[Row]:
    rows: list[Row] = []
    shared: dict[str, Any] = {"groups": list(documents), "resamples": resamples, "seed": seed}
    pairs = (*PAIRS, ("visual", TESSERACT))
    for metric, count in (("cer", character_errors), ("wer", word_errors)):
        counted = {
            name: np.array([count(page.rest, text) for page, text in zip(pages, texts, strict=True)])
            for name, texts in read.items()
        }
        errors = {name: pair[:, 0] for name, pair in counted.items()}
        lengths = {name: pair[:, 1] for name, pair in counted.items()}
        rows += score_rows(metric, errors, lengths, pairs=pairs, **shared)
    text_tokens = float(np.mean([len(reader.ids(page.text)) for page in pages]))
    for row in rows:
        carried = float(np.mean(tokens.get(row["method"], [0.0])))
        row |= {"context_tokens": carried, "text_tokens": text_tokens, "font_px": reader.style.font_size}
        row["ratio"] = text_tokens / carried if row["method"] in ("visual", "wrong") and carried else None
    return rows
