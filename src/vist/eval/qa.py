"""Open-domain question answering: some passages found by BM25 as text, more of them as pages.

Owns the allocation of passages, the prompt, and the scores. Does not know files, ranking or tables.

Decisions
- Of the passages found, the best k_d stay text right before the question and the next k_e become pages; "swapped" gives
  the best k_e to the pages. k_d = 0 leaves the question alone as text.
- "none" has the k_d alone, "visual" the k_e as pages besides, "wrong" the pages of another question, "full" all of them
  as text.
- The best passage stands nearest to the question, as text and on pages. What does not fit the LLM is cut from the
  left, so the least relevant goes first, and is counted.
- An answer is what is written greedily up to the first line break. Worked questions of the train split come first, so
  that a base model sees what an answer looks like.
- B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vist.errors import VistError
from vist.eval.answers import exact_match, word_f1
from vist.eval.conditions import Condition, Method, OtherMethod, Passage, build_inputs, pairs_with
from vist.eval.reader import Reader
from vist.eval.retrieval import Question, TextPassage, is_retrieved
from vist.eval.scores import Row, score_rows

BETWEEN = "\n\n"
NEW_TOKENS = 24


class Allocation(StrEnum):
    """Which passages become pages."""

    TEXT_FIRST = "text-first"  # the best stay text (paper)
    PAGES_FIRST = "pages-first"  # swapped: the best become pages


@dataclass(frozen=True)
class QaConfig:
    """How much is read: k_e passages in pages, k_d as text, worked examples before the question, and the rest."""

    encoder_passages: int = 5
    decoder_passages: int = 10
    allocation: Allocation = Allocation.TEXT_FIRST
    shots: int = 2
    batch_size: int = 8
    resamples: int = 10_000
    seed: int = 42

    def __post_init__(self) -> None:
        if self.encoder_passages < 1:
            raise VistError(f"At least 1 passage goes to the pages, got {self.encoder_passages}.")
        if min(self.decoder_passages, self.shots) < 0:
            raise VistError("The numbers of passages as text and of worked examples must be 0 or more.")

    @property
    def passages(self) -> int:
        """Passages wanted for each question."""
        return self.encoder_passages + self.decoder_passages


@dataclass(frozen=True)
class Asked:
    """One question with its passages: those of the pages and those that stay text, best first."""

    question: Question
    paged: tuple[TextPassage, ...]
    near: tuple[TextPassage, ...]


def allocate(question: Question, found: Sequence[TextPassage], config: QaConfig) -> Asked:
    """Share the passages found, best first, between pages and text."""
    if config.allocation is Allocation.PAGES_FIRST:
        cut = config.encoder_passages
        return Asked(question, tuple(found[:cut]), tuple(found[cut : config.passages]))
    cut = config.decoder_passages
    return Asked(question, tuple(found[cut : config.passages]), tuple(found[:cut]))


def distant_text(asked: Asked) -> str:
    """The passages of the pages as one text, the best last."""
    return BETWEEN.join(passage.shown for passage in reversed(asked.paged))


def near_text(asked: Asked, examples: Sequence[Question]) -> tuple[str, str]:
    """The passages as text, best last, and what always stays: worked examples and the question."""
    passages = "".join(passage.shown + BETWEEN for passage in reversed(asked.near))
    worked = "".join(f"{_line(example)} {example.answers[0]}{BETWEEN}" for example in examples)
    return passages, f"{worked}{_line(asked.question)}"


def _line(question: Question) -> str:
    return f"Question: {question.text}\nAnswer:"


def evaluate_qa(
    reader: Reader,
    questions: Sequence[Question],
    found: Sequence[Sequence[TextPassage]],
    examples: Sequence[Question],
    config: QaConfig,
    beside: Mapping[str, Reader] | None = None,
) -> list[Row]:
    """Exact match and F1 under the four conditions, and how often the passage with the answer was among those found.

    Methods `beside` get the k_e passages in their own way, and the same text.

    Raises VistError for fewer than two questions: the pages of one are the wrong ones of another.
    """
    if len(questions) < 2:
        raise VistError(f"Question answering needs at least 2 questions, got {len(questions)}.")
    asked = [allocate(question, passages, config) for question, passages in zip(questions, found, strict=True)]
    wrong = _wrong_texts(asked)
    work: dict[Method, tuple[Reader, Condition]] = {condition: (reader, condition) for condition in Condition}
    work |= {OtherMethod(name): (own, Condition.VISUAL) for name, own in (beside or {}).items()}
    answers: dict[Method, list[str]] = {method: [] for method in work}
    tokens: dict[Method, list[float]] = {method: [] for method in work}
    cut: dict[Method, int] = dict.fromkeys(work, 0)
    with tqdm(total=len(work) * len(asked), desc="questions", delay=2, leave=False) as progress:
        for method, way in work.items():
            for start in range(0, len(asked), config.batch_size):
                batch = slice(start, start + config.batch_size)
                said, carried, lost = answer(*way, asked[batch], wrong[batch], examples)
                answers[method] += said
                tokens[method] += carried
                cut[method] += lost
                progress.update(len(said))
    return _rows(reader, questions, asked, found, answers, tokens, cut, config)


def answer(
    reader: Reader, condition: Condition, asked: Sequence[Asked], wrong: Sequence[str], examples: Sequence[Question]
) -> tuple[list[str], list[float], int]:
    """The answers of a batch, the context tokens each carried beyond its near text, and the text tokens cut."""
    passages, lost, near_kept = [], 0, []
    for item, other in zip(asked, wrong, strict=True):
        near, fixed = near_text(item, examples)
        always = reader.following(fixed)
        room = reader.context_limit - 1 - NEW_TOKENS - len(always)
        if room < 0:
            raise VistError(f"The question {item.question.text[:60]!r} alone fills the window; lower --shots.")
        kept = reader.following(near)
        lost += max(0, len(kept) - room)
        kept = kept[max(0, len(kept) - room) :]
        near_kept.append(len(kept))
        text = distant_text(item)
        shown = text + BETWEEN if condition is Condition.FULL else text
        passages.append(Passage(shown, other, tuple(kept + always)))
    inputs = build_inputs(reader, condition, passages, reserve=NEW_TOKENS)
    tensors = dict(inputs.tensors)
    carried = [float(count) for count in inputs.context_tokens]
    with torch.inference_mode():
        if condition.has_pages:
            context = reader.encode_pages(tensors)
            tensors |= {"cross_states": context.states, "cross_mask": context.mask}
            carried = [float(count) for count in context.mask.sum(1).tolist()]
        output = reader.model.generate(**tensors, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    new = output[:, tensors["input_ids"].shape[1] :]
    return [first_line(text) for text in reader.written(new.tolist())], carried, lost + sum(inputs.dropped_tokens)


def first_line(text: str) -> str:
    """What was answered: the first line that is not empty."""
    return text.strip().split("\n")[0].strip()


def _wrong_texts(asked: Sequence[Asked]) -> list[str]:
    """For each question the paged passages of the next one that shares none with it (the next one at all if none)."""
    texts = [distant_text(item) for item in asked]
    ids = [{passage.id for passage in item.paged} for item in asked]
    wrong = []
    for number in range(len(asked)):
        following = [(number + step) % len(asked) for step in range(1, len(asked))]
        wrong.append(texts[next((place for place in following if not ids[place] & ids[number]), following[0])])
    return wrong


def _rows(
    reader: Reader,
    questions: Sequence[Question],
    asked: Sequence[Asked],
    found: Sequence[Sequence[TextPassage]],
    answers: dict[Method, list[str]],
    tokens: dict[Method, list[float]],
    cut: dict[Method, int],
    config: QaConfig,
) -> list[Row]:
    groups = [question.passage or f"question {number}" for number, question in enumerate(questions)]
    methods = {method.value: method for method in answers}
    pairs = pairs_with(name for name, method in methods.items() if isinstance(method, OtherMethod))
    shared: dict[str, Any] = {"groups": groups, "resamples": config.resamples, "seed": config.seed, "pairs": pairs}
    rows: list[Row] = []
    for metric, score in (("exact", exact_match), ("f1", word_f1)):
        values = {
            name: [score(said, question.answers) for said, question in zip(answers[method], questions, strict=True)]
            for name, method in methods.items()
        }
        rows += score_rows(metric, values, **shared)
    text_tokens = float(np.mean([len(reader.ids(distant_text(item))) for item in asked]))
    for row in rows:
        method = methods[row["method"]]
        carried = float(np.mean(tokens[method]))
        row |= {"context_tokens": carried, "dropped_tokens": cut[method] / len(asked)}
        row["ratio"] = text_tokens / carried if carried and method is not Condition.FULL else None
    hits = [is_retrieved(question, passages) for question, passages in zip(questions, found, strict=True)]
    return rows + score_rows("retrieved", {"bm25": np.array(hits, dtype=float)}, **shared)
