"""Questions, passages, and the passages that BM25 finds for a question.

Owns reading both, checking them, and the ranking. Does not know models or pages.

Decisions
- Passages are ranked by their title and text with bm25s (Lucene's variant, k1 1.5, b 0.75), English stop words left
  out, no stemmer: nothing beyond the extra has to be installed, and a test holds it to the plain formula.
- Questions without a passage of their own (open-domain lists) are read too; for them "retrieved" means that an accepted
  answer stands in one of the passages found.
- A passage file may be given several times; passage ids must be unique over all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vist.errors import VistError
from vist.eval.answers import normalize
from vist.eval.labelled import read_table


@dataclass(frozen=True)
class TextPassage:
    """One passage of the collection."""

    id: str
    title: str
    text: str

    @property
    def shown(self) -> str:
        """As the model sees it."""
        return f"{self.title}: {' '.join(self.text.split())}" if self.title else " ".join(self.text.split())


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers; `passage` is the id of the passage that holds one, "" if unknown."""

    text: str
    answers: tuple[str, ...]
    passage: str


def read_passages(files: Sequence[Path]) -> list[TextPassage]:
    """The passages of Parquet or JSON Lines files with `passage_id`, `title` and `text`.

    Raises VistError for a missing file, column or text, and for an id that comes twice.
    """
    found: dict[str, TextPassage] = {}
    for file in files:
        for number, row in enumerate(read_table(file.parent, file.stem, ("passage_id", "title", "text"))):
            name = str(row["passage_id"])
            if not str(row["text"] or "").strip():
                raise VistError(f"Row {number} of {str(file)!r} has no text; remove it.")
            if name in found:
                raise VistError(f"The passage id {name!r} of {str(file)!r} is there already; ids must be unique.")
            found[name] = TextPassage(name, str(row["title"] or ""), str(row["text"]))
    return list(found.values())


def read_questions(file: Path, split: str | None = "test") -> list[Question]:
    """The questions of a file with `question` and `answers`; `passage_id` and `split` are used where they are there.

    Raises VistError for a question without text or answers, and when no question is left.
    """
    columns = ["question", "answers"]
    present = _columns(file)
    columns += [name for name in ("passage_id", "split") if name in present]
    rows = read_table(file.parent, file.stem, columns)
    splits = sorted({str(row["split"]) for row in rows}) if "split" in columns else []
    if split is not None and splits:
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise VistError(f"{str(file)!r} has no split {split!r} (it has: {', '.join(splits)}); pass --split.")
    return [_question(row, number, file) for number, row in enumerate(rows)]


def worked_examples(file: Path, asked: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` questions of the train split to show with their answers; of the whole file where it has no splits.

    Raises VistError when there are not enough that are not asked themselves.
    """
    if count == 0:
        return []
    taken = set(asked)
    pool = [question for question in read_questions(file, "train") if question not in taken]
    if len(pool) < count:
        raise VistError(
            f"{str(file)!r} has {len(pool)} questions that are not asked, and {count} are wanted as examples."
        )
    return [pool[place] for place in np.random.default_rng(seed).permutation(len(pool))[:count]]


def _columns(file: Path) -> set[str]:
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return set(pq.ParquetFile(file).schema_arrow.names)
        with file.open(encoding="utf-8") as lines:
            return set(json.loads(next(lines, "{}")))
    except (OSError, ValueError, TypeError):  # read_table says what is wrong with it
        return set()


def _question(row: dict[str, Any], number: int, file: Path) -> Question:
    answers = row["answers"] if isinstance(row["answers"], list) else [row["answers"]]
    accepted = tuple(str(answer) for answer in answers if str(answer or "").strip())
    if not str(row["question"] or "").strip() or not accepted:
        raise VistError(f"Row {number} of {str(file)!r} has no question or no answer; remove it.")
    return Question(str(row["question"]).strip(), accepted, str(row.get("passage_id") or ""))


def rank(passages: Sequence[TextPassage], questions: Sequence[Question], count: int) -> list[list[TextPassage]]:
    """The `count` best passages of each question, best first.

    Raises VistError when the package bm25s is missing or there are fewer passages.
    """
    if count > len(passages):
        raise VistError(f"{count} passages were asked for and there are {len(passages)}; lower --encoder-passages.")
    try:
        import bm25s
    except ImportError:
        raise VistError("Ranking passages needs the package bm25s; install it with pip install 'vist[eval]'.") from None
    quiet = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize([f"{item.title} {item.text}" for item in passages], **quiet), show_progress=False)
    asked = bm25s.tokenize([question.text for question in questions], **quiet)
    places, _ = index.retrieve(asked, k=count, show_progress=False, sorted=True)
    return [[passages[place] for place in np.asarray(row).tolist()] for row in places]


def is_retrieved(question: Question, found: Sequence[TextPassage]) -> bool:
    """Whether the passage that holds the answer (unknown: any with an accepted answer) is among those found."""
    if question.passage:
        return any(passage.id == question.passage for passage in found)
    texts = [f" {normalize(passage.shown)} " for passage in found]
    return any(f" {normalize(answer)} " in text for answer in question.answers for text in texts)
