"""`vist eval icl`: in-context learning with demonstrations in pages."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.beside import BesideOption, load_beside
from vist.cli.inputs import DEFAULT_MODEL, load_reader
from vist.cli.options import Device, DeviceOption, JsonOption, ModelOption
from vist.cli.parts import (
    DataOption,
    LimitOption,
    OutOption,
    ResamplesOption,
    chosen,
    measure_parts,
    whole_numbers,
)

if TYPE_CHECKING:
    from vist.eval.icl import IclConfig
    from vist.eval.reader import Reader


class OnPages(StrEnum):
    """How demonstrations are put on pages."""

    BLANK = "blank"
    LINES = "lines"
    JOINED = "joined"
    SEPARATE = "separate"
    ALL = "all"


def icl(
    data: DataOption,
    sets: Annotated[
        str | None, typer.Option("--sets", metavar="A,B", help="Sets to read, or hub:ID; all under FOLDER/icl.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    encoder_shots: Annotated[int, typer.Option("--encoder-shots", min=1, help="n_e: demonstrations in pages.")] = 18,
    decoder_shots: Annotated[int, typer.Option("--decoder-shots", min=0, help="n_d: demonstrations as text.")] = 2,
    examples: Annotated[int, typer.Option("--examples", min=1, help="Test examples of each set.")] = 250,
    seeds: Annotated[str, typer.Option("--seeds", metavar="A,B", help="Seeds of the draws.")] = "42,43,44",
    per_draw: Annotated[
        int, typer.Option("--per-draw", min=1, help="Test examples that share a draw of demonstrations.")
    ] = 25,
    strategy: Annotated[
        OnPages, typer.Option("--strategy", help="Demonstrations on pages: a blank line after each, ..., or all four.")
    ] = OnPages.BLANK,
    beside: BesideOption = None,
    resamples: ResamplesOption = 10_000,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """In-context learning: demonstrations in pages, the label chosen by its likelihood, under four conditions.

    Accuracy of each set, by likelihood as it is, per token, calibrated, and both; the table shows the first.
    """
    from vist.cli.output import remark
    from vist.eval.hub import is_hub
    from vist.eval.icl import IclConfig, Strategy
    from vist.eval.labelled import RESEARCH_ONLY, find_sets

    folders = find_sets(data, chosen(sets))
    numbers = whole_numbers(seeds, "--seeds")
    count = examples if limit is None else min(examples, limit)
    config = IclConfig(encoder_shots, decoder_shots, count, numbers, per_draw, Strategy.BLANK, resamples)
    reader = load_reader(model, device)
    for name in RESEARCH_ONLY:
        if name in folders:
            remark(f"{name}: its licence allows research and other non-commercial use only.")
    there = folders | (find_sets(data, ()) if not all(map(is_hub, folders)) else {})
    setup = {key: getattr(config, key) for key in config.__dataclass_fields__}
    setup |= {"strategy": strategy.value, "data": str(data), "beside": beside}
    others = load_beside(reader, beside, device)
    parts = {}
    for name, kind in product(folders, list(Strategy) if strategy is OnPages.ALL else [Strategy(strategy.value)]):
        part = name if strategy is OnPages.BLANK else f"{name}, {kind.value}"
        parts[part] = partial(_measure, reader, there, name, replace(config, strategy=kind), others)
    measure_parts(
        "icl",
        parts,
        model=model,
        setup=setup | {"style": reader.style.to_dict()},
        seed=numbers[0],
        limit=limit,
        out=out,
        json=json,
        metrics=("nll_acc",),
    )


def _measure(
    reader: Reader, there: dict[str, Path], name: str, config: IclConfig, others: dict[str, Reader]
) -> list[dict[str, Any]]:
    """One set; the wrong pages come from the set before it that can be read."""
    from vist.cli.output import remark
    from vist.errors import VistError
    from vist.eval.icl import evaluate_icl
    from vist.eval.labelled import read_labelled

    source, other = read_labelled(there[name]), None
    names = list(there)
    for step in range(1, len(names)):
        try:
            other = read_labelled(there[names[names.index(name) - step]])
            break
        except VistError:  # that set's own part says what is wrong with it
            continue
    rows = evaluate_icl(reader, source, other, config, others)
    if rows[0]["long_questions"]:
        remark(f"{name}: {rows[0]['long_questions']} questions were cut from the left to half of the window.")
    return rows
