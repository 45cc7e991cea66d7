"""`vist demo`: read a book with the packaged model and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vist.cli.beside import load_beside
from vist.cli.inputs import DEFAULT_MODEL, VIST2_MODEL, load_reader, read_clean
from vist.cli.options import (
    ContextsOption,
    Device,
    DeviceOption,
    FactsOption,
    JsonOption,
    ModelOption,
    PagesOption,
    SeedOption,
)

TITLES = {"alice_in_wonderland": "Alice in Wonderland"}


def demo(
    model: ModelOption = DEFAULT_MODEL,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="A text to read instead of the packaged book.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where report.html and report.json are written.")
    ] = Path("."),
    pages: PagesOption = 4,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Places at which the loss is read.")] = 32,
    contexts: ContextsOption = 16,
    facts: FactsOption = 6,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens written to measure speed.")] = 64,
    vist2: Annotated[
        bool, typer.Option("--vist2", help="Measure the packaged vist2-nano beside them; half as long again.")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Read a whole book: render it, measure the model under four conditions, plant facts and ask for them.

    The packaged book is Alice's Adventures in Wonderland, which the packaged model was never trained on. Prints the
    tables and writes report.html (self-contained) and report.json (the same figures).
    """
    from vist.cli.output import console, differences_table, methods_table, recall_table, remark
    from vist.eval.demo import DemoConfig, run_demo
    from vist.eval.files import write_json, write_whole
    from vist.eval.provenance import provenance
    from vist.eval.report import render_report
    from vist.eval.windows import BOOK, packaged_text

    out.mkdir(parents=True, exist_ok=True)
    title = TITLES[BOOK] if text is None else text.stem
    content = packaged_text(BOOK) if text is None else read_clean(text)
    reader = load_reader(model, device)
    remark(f"{title}, read by {model}.")
    config = DemoConfig(pages=pages, windows=windows, contexts=contexts, facts=facts, new_tokens=new_tokens, seed=seed)
    beside = load_beside(reader, VIST2_MODEL, device) if vist2 else {}
    result = run_demo(reader, content, config, remark, beside)
    head, figures = provenance(model), result.to_dict()
    screen = console()
    for table in (
        methods_table(figures["methods"], figures["lm"]["scored_tokens"]),
        differences_table(figures["lm"], {row["name"]: row["label"] for row in figures["methods"]}),
        recall_table(figures["recall"]),
    ):
        screen.print()
        screen.print(table)
    values = head | {"text": title, "style": reader.style.to_dict()} | figures
    write_whole(out / "report.html", render_report(reader, content, result, head, title))
    write_json(out / "report.json", values)
    if json is not None:
        write_json(json, values)
    screen.print(f"\n{out / 'report.html'}\n{out / 'report.json'}", soft_wrap=True)
