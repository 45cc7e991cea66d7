"""`vist eval qa`: open-domain questions, passages found by BM25 as text and as pages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.beside import BesideOption, load_beside
from vist.cli.inputs import DEFAULT_MODEL, load_reader
from vist.cli.options import BatchOption, Device, DeviceOption, JsonOption, ModelOption, SeedOption
from vist.cli.parts import DataOption, LimitOption, OutOption, ResamplesOption, measure_parts


class Allocate(StrEnum):
    """Which of the passages found become pages."""

    TEXT_FIRST = "text-first"
    PAGES_FIRST = "pages-first"
    BOTH = "both"


def qa(
    data: DataOption,
    questions: Annotated[
        Path | None, typer.Option("--questions", metavar="FILE", help="Questions; the default is FOLDER/qa/questions.")
    ] = None,
    passages: Annotated[
        list[Path] | None,
        typer.Option("--passages", metavar="FILE", help="Passages, may be given several times; FOLDER/qa/passages."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the questions, where they have one.")] = "test",
    model: ModelOption = DEFAULT_MODEL,
    encoder_passages: Annotated[int, typer.Option("--encoder-passages", min=1, help="k_e: passages in pages.")] = 5,
    decoder_passages: Annotated[int, typer.Option("--decoder-passages", min=0, help="k_d: passages as text.")] = 10,
    allocation: Annotated[
        Allocate, typer.Option("--allocation", help="The best passages stay text (paper), become pages, or both runs.")
    ] = Allocate.BOTH,
    shots: Annotated[int, typer.Option("--shots", min=0, help="Worked questions before the one that is asked.")] = 2,
    examples: Annotated[int, typer.Option("--examples", min=2, help="Questions that are asked.")] = 500,
    batch_size: BatchOption = 8,
    beside: BesideOption = None,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 42,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Open-domain questions: exact match and F1 with passages in pages, under four conditions.

    BM25 ranks the passages. Also says how often the passage that holds the answer was among those found.
    """
    from vist.eval.qa import Allocation, QaConfig, evaluate_qa

    file = questions or data / "qa" / "questions.parquet"
    count = examples if limit is None else max(2, min(examples, limit))
    read = _read(file, passages or [data / "qa" / "passages.parquet"], split, count, shots, seed)
    found = read.rank(encoder_passages + decoder_passages)
    reader = load_reader(model, device)
    others = load_beside(reader, beside, device)
    wanted = [Allocation(allocation.value)] if allocation is not Allocate.BOTH else list(Allocation)
    parts: dict[str, Any] = {}
    for kind in wanted:
        config = QaConfig(encoder_passages, decoder_passages, kind, shots, batch_size, resamples, seed)
        name = f"k_e {encoder_passages}, k_d {decoder_passages}, {kind.value}"
        parts[name] = partial(evaluate_qa, reader, read.asked, found, read.worked, config, others)
    setup: dict[str, Any] = {
        "data": str(data),
        "questions": str(file),
        "passages": [str(path) for path in passages or []],
    }
    setup |= {"split": split, "collection": len(read.collection), "asked": len(read.asked), "shots": shots}
    setup |= {"style": reader.style.to_dict(), "beside": beside}
    measure_parts("qa", parts, model=model, setup=setup, seed=seed, limit=limit, out=out, json=json)


@dataclass(frozen=True)
class _Questions:
    """The questions that are asked, worked ones to show first, and the passages."""

    asked: list[Any]
    worked: list[Any]
    collection: list[Any]

    def rank(self, count: int) -> list[list[Any]]:
        """The best `count` passages of each question."""
        from vist.eval.retrieval import rank

        return rank(self.collection, self.asked, count)


def _read(file: Path, passages: list[Path], split: str, count: int, shots: int, seed: int) -> _Questions:
    """`count` questions of a split in random order, and what goes with them."""
    import numpy as np

    from vist.eval.retrieval import read_passages, read_questions, worked_examples

    there = read_questions(file, split)
    order = np.random.default_rng(seed).permutation(len(there))
    asked = [there[place] for place in order[:count]]
    return _Questions(asked, worked_examples(file, asked, shots, seed), read_passages(passages))
