"""`vist eval lm` and `vist eval recall`: measure any model on any texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader
from vist.cli.options import (
    BatchOption,
    Device,
    DeviceOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    PagesOption,
    SeedOption,
)

DocumentsOption = Annotated[
    int | None, typer.Option("--documents", min=1, help="Read only the first documents of the files.")
]


class Kind(StrEnum):
    """Which facts are planted."""

    NUMBER = "number"
    NAME = "name"
    BOTH = "both"


def lm(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: PagesOption = 4,
    proximal: Annotated[int, typer.Option("--proximal", min=2, help="Tokens of text after the pages.")] = 256,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Places in each document, evenly spread.")] = 4,
    documents: DocumentsOption = None,
    batch_size: BatchOption = 8,
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples.")] = 10_000,
    cost: Annotated[bool, typer.Option("--cost", help="Also measure FLOPs, memory, time and speed.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Perplexity of the last 256 tokens under four conditions, with paired bootstrap intervals."""
    from vist.cli.output import console, differences_table, methods_table, remark
    from vist.eval.conditions import LABELS, Condition
    from vist.eval.cost import measure_cost
    from vist.eval.files import write_json
    from vist.eval.lm import evaluate_lm
    from vist.eval.provenance import provenance
    from vist.eval.windows import cut_windows, read_documents, with_wrong_texts

    reader = load_reader(model, device)
    texts = _visible(read_documents(files, documents))
    found, short = cut_windows(reader, texts, pages, proximal, windows)
    passages = with_wrong_texts(reader, found, pages)
    result = evaluate_lm(reader, passages, [window.document for window in found], batch_size, resamples, seed)
    methods = [result.method_dict(condition) for condition in Condition]
    if cost:
        middle = passages[len(passages) // 2]
        methods = [row | measure_cost(reader, Condition(row["name"]), middle).to_dict() for row in methods]
    figures = result.to_dict()
    screen = console()
    screen.print(methods_table(methods, result.scored))
    screen.print()
    screen.print(differences_table(figures, {condition.value: label for condition, label in LABELS.items()}))
    remark(f"{result.windows} windows of {result.documents} documents; bootstrap by {result.unit}; {_skipped(short)}.")
    if json is not None:
        setup = {"files": [str(path) for path in files], "pages": pages, "proximal_tokens": proximal, "seed": seed}
        setup |= {"skipped_documents": short, "style": reader.style.to_dict()}
        write_json(json, provenance(model) | {"setup": setup, "methods": methods, "lm": figures})


def recall(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: PagesOption = 4,
    contexts: Annotated[int, typer.Option("--contexts", min=2, help="Texts in which facts are planted.")] = 50,
    facts: Annotated[int, typer.Option("--facts", min=1, help="Facts planted in each.")] = 6,
    kind: Annotated[Kind, typer.Option("--kind", help="Four-digit numbers, names, or both in turn.")] = Kind.BOTH,
    documents: DocumentsOption = None,
    batch_size: BatchOption = 4,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Exact recall of facts planted in real text, under four conditions, by kind and by page."""
    from vist.cli.output import console, recall_table, remark
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance
    from vist.eval.recall import KINDS, evaluate_recall, plan_contexts
    from vist.eval.windows import read_documents

    reader = load_reader(model, device)
    texts = list(islice(_visible(read_documents(files, documents)), contexts))
    kinds = KINDS if kind is Kind.BOTH else (kind.value,)
    planned = plan_contexts(reader, texts, contexts, facts, pages, kinds, seed)
    result = evaluate_recall(reader, planned, pages, batch_size)
    console().print(recall_table(result.rows()))
    remark(f"{contexts} contexts of {pages} pages, {facts} facts in each; Wilson 95 % intervals.")
    if json is not None:
        setup = {"files": [str(path) for path in files], "pages": pages, "contexts": contexts, "facts": facts}
        setup |= {"seed": seed, "style": reader.style.to_dict()}
        figures = {"setup": setup, "recall": result.rows(), "recall_by_page": result.depth_rows()}
        write_json(json, provenance(model) | figures)


def _visible(texts: Iterable[str]) -> Iterator[str]:
    """The documents that hold anything visible, one after the other. Raises VistError when none does."""
    from vist.errors import VistError

    found = False
    for text in texts:
        if text.strip():
            found = True
            yield text
    if not found:
        raise VistError("The files hold no text: every document is empty; choose other files.")


def _skipped(short: int) -> str:
    return f"{short} too short and left out" if short else "none was too short"
