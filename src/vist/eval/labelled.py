"""Labelled texts for in-context learning: reading them, checking them, drawing label-balanced demonstrations.

Owns `LabelledSet`, the prompt of each known set and the draw. Does not know models or pages.

Decisions
- The schema is `text`, `label`, `label_name`; other columns are left unread. A set is a folder with `train` and `test`.
- Demonstrations come from `train`, test examples from `test`. The test examples are the same for every seed, so that
  seeds differ in their demonstrations alone.
- Balanced: rounds through all labels in random order, each round giving every label once, until there are enough. With
  fewer demonstrations than labels each label is there at most once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vist.errors import VistError
from vist.eval.hub import is_hub, read_hub

COLUMNS = ("text", "label", "label_name")
SETS = ("sst2", "mr", "agnews", "sst5", "trec_coarse", "trec_fine", "dbpedia") + (
    "nlu_scenario",
    "nlu_intent",
    "banking77",
    "clinc150",
)
# What a text of the set is called and what its label is called, as in the paper's predecessors.
FIELDS = {
    "sst2": ("Review", "Sentiment"),
    "mr": ("Review", "Sentiment"),
    "sst5": ("Review", "Sentiment"),
    "agnews": ("Article", "Topic"),
    "trec_coarse": ("Question", "Type"),
    "trec_fine": ("Question", "Type"),
    "dbpedia": ("Article", "Category"),
    "nlu_scenario": ("Utterance", "Scenario"),
    "nlu_intent": ("Utterance", "Intent"),
    "banking77": ("Query", "Intent"),
    "clinc150": ("Utterance", "Intent"),
}
OTHER_FIELDS = ("Text", "Label")
RESEARCH_ONLY = ("agnews",)  # its licence allows research and other non-commercial use


@dataclass(frozen=True)
class Example:
    """One text with the name of its label."""

    text: str
    label: str


@dataclass(frozen=True)
class LabelledSet:
    """A set: demonstrations come from `train`, questions from `test`; `labels` in the order of their numbers."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]

    def query(self, text: str) -> str:
        """What is asked about a text; the label follows after a blank."""
        what, label = FIELDS.get(self.name, OTHER_FIELDS)
        return f"{what}: {' '.join(text.split())}\n{label}:"

    def demonstration(self, example: Example) -> str:
        """A question with its answer."""
        return f"{self.query(example.text)} {example.label}"


def read_labelled(folder: Path) -> LabelledSet:
    """The set in a folder with train and test as Parquet or JSON Lines.

    Raises VistError for a split that is missing, empty, lacks a column, or has a row without text or label name, for a
    single label, and for test labels that no demonstration could show.
    """
    splits = {split: _read_split(folder, split) for split in ("train", "test")}
    named = {label: number for number, label in sorted((row["label"], row["label_name"]) for row in splits["train"])}
    labels = tuple(sorted(named, key=lambda name: (_number(named[name]), name)))
    if len(labels) < 2:
        raise VistError(f"{str(folder)!r} has {len(labels)} label ({', '.join(labels)}); a choice needs at least two.")
    unseen = sorted({row["label_name"] for row in splits["test"]} - set(labels))
    if unseen:
        raise VistError(f"The test label {unseen[0]!r} of {str(folder)!r} is not in its train split; mend the labels.")
    train, test = (tuple(Example(row["text"], row["label_name"]) for row in rows) for rows in splits.values())
    return LabelledSet(folder.name, train, test, labels)


def _number(label: Any) -> tuple[int, str]:
    return (int(label), "") if str(label).isdigit() else (1 << 30, str(label))


def _read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    rows = read_table(folder, split, COLUMNS)
    for number, row in enumerate(rows):
        if not str(row["text"] or "").strip():
            raise VistError(f"Row {number} of {split} in {str(folder)!r} has no text; remove it.")
        if not str(row["label_name"] or "").strip():
            raise VistError(
                f"Row {number} of {split} in {str(folder)!r} has no label_name; the name is what is scored."
            )
    return [{**row, "label": str(row["label"]), "label_name": str(row["label_name"]).strip()} for row in rows]


def read_table(folder: Path, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of `folder/name.parquet` or `.jsonl` with these columns; others are left unread.

    A folder `hub:ID` is a data set of the `datasets` library, `name` its split (`vist.eval.hub`).
    Raises VistError when there is no such file, it cannot be read, a column is missing or there is no row.
    """
    if is_hub(folder):
        rows, found = read_hub(folder, name)
        return _with_columns(folder / name, rows, found, columns)
    for path in (folder / f"{name}.parquet", folder / f"{name}.jsonl"):
        if path.is_file():
            break
    else:
        raise VistError(f"There is no {name}.parquet or {name}.jsonl in {str(folder)!r}; check --data.")
    try:
        if path.suffix == ".parquet":
            found = pq.ParquetFile(path).schema_arrow.names
            rows = pq.read_table(path, columns=[column for column in columns if column in found]).to_pylist()
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            found = sorted(set.intersection(*(set(row) for row in rows))) if rows else list(columns)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VistError(f"{str(path)!r} cannot be read ({str(error).splitlines()[0]}); check the file.") from error
    return _with_columns(path, rows, found, columns)


def _with_columns(
    path: Path, rows: list[dict[str, Any]], found: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    if not rows:
        raise VistError(f"{str(path)!r} is empty; give a file with rows.")
    missing = [column for column in columns if column not in found]
    if missing:
        raise VistError(f"{str(path)!r} has no column {missing[0]!r} (it has: {', '.join(found)}); rename one.")
    return [{column: row[column] for column in columns} for row in rows]


def find_sets(data: Path, names: Sequence[str]) -> dict[str, Path]:
    """The folders of these sets under `data/icl` or `data`; without names all that are there, the known ones first.

    A name `hub:ID` stands for itself (`vist.eval.hub`).
    Raises VistError when one is not there.
    """
    root = data / "icl" if (data / "icl").is_dir() else data
    there = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    there |= {name: Path(name) for name in names if is_hub(name)}
    wanted = list(names) or [*(name for name in SETS if name in there), *(name for name in there if name not in SETS)]
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise VistError(
            f"There is no set {missing[0] if missing else ''!r} under {str(root)!r}; it needs a folder with train and "
            f"test. There are: {', '.join(there) or 'none'}."
        )
    return {name: there[name] for name in wanted}


def draw_demonstrations(source: LabelledSet, count: int, rng: np.random.Generator) -> list[Example]:
    """`count` different examples of the train split, balanced over labels, in random order.

    Raises VistError when the split, or one label's share of it, has too few.
    """
    if count > len(source.train):
        raise VistError(
            f"{count} demonstrations were asked for and {source.name!r} has {len(source.train)}; lower --encoder-shots "
            "or --decoder-shots."
        )
    pools = {label: [example for example in source.train if example.label == label] for label in source.labels}
    queues = {label: [pool[place] for place in rng.permutation(len(pool))] for label, pool in pools.items()}
    drawn: list[Example] = []
    while len(drawn) < count:
        for place in rng.permutation(len(source.labels)):
            queue = queues[source.labels[place]]
            if queue and len(drawn) < count:
                drawn.append(queue.pop())
    return [drawn[place] for place in rng.permutation(count)]


def pick_test_examples(source: LabelledSet, count: int) -> list[Example]:
    """At most `count` test examples, drawn without regard to labels and the same in every run."""
    order = np.random.default_rng(0).permutation(len(source.test))
    return [source.test[place] for place in order[:count]]
