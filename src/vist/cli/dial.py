"""`vist eval dial`: one model at many ratios."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, visible
from vist.cli.options import (
    BatchOption,
    ContextsOption,
    Device,
    DeviceOption,
    DocumentsOption,
    FactsOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    PagesOption,
    ProximalOption,
    SeedOption,
    WindowsOption,
)
from vist.cli.parts import LimitOption, OutOption, ResamplesOption, measure_parts


def dial(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    ratios: Annotated[
        str, typer.Option("--ratios", metavar="X,Y", help="Text tokens per visual token, with commas between.")
    ] = "4,6,8,12,16,24",
    fixed: Annotated[
        list[str] | None,
        typer.Option("--fixed", metavar="MODEL", help="Also another model at its own number; may be repeated."),
    ] = None,
    pages: PagesOption = 4,
    proximal: ProximalOption = 256,
    windows: WindowsOption = 4,
    contexts: ContextsOption = 24,
    facts: FactsOption = 6,
    documents: DocumentsOption = None,
    batch_size: BatchOption = 4,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, as SVG; beside it one for dark pages.")
    ] = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Perplexity and exact recall against the ratio: the same ratio on every page, and tokens shared by information."""
    from vist.cli.output import dial_tables
    from vist.eval.dial import DialMeasure
    from vist.eval.recall import plan_contexts
    from vist.eval.windows import cut_windows, read_documents, with_wrong_texts

    wanted = ratios_of(ratios)
    reader = load_reader(model, device)
    others = {name: load_reader(name, device) for name in fixed or ()}
    count = contexts if limit is None else max(2, min(contexts, limit))
    texts = list(islice(visible(read_documents(files, documents)), documents or count))
    found, short = cut_windows(reader, texts, pages, proximal, windows)
    found = found[:limit]
    measure = DialMeasure(
        reader,
        with_wrong_texts(reader, found, pages),
        [window.document for window in found],
        plan_contexts(reader, texts, count, facts, pages, seed=seed),
        others,
        batch_size,
        resamples,
        seed,
    )
    parts: dict[str, Any] = {f"ratio {ratio:g}": partial(measure.at_ratio, ratio) for ratio in wanted}
    parts |= {f"fixed: {name}": partial(measure.at_own, name) for name in others}
    setup = {"files": [str(path) for path in files], "pages": pages, "proximal_tokens": proximal, "windows": len(found)}
    setup |= {"documents": documents, "contexts": count, "facts": facts, "skipped_documents": short}
    setup |= {"style": reader.style.to_dict()}
    named: dict[str, Any] = {"model": model, "setup": setup, "seed": seed, "limit": limit, "out": out, "json": json}
    rows = measure_parts("dial", parts, tables=dial_tables, **named)
    if plot is not None:
        _draw(rows, plot)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from vist.eval.files import write_whole
    from vist.eval.plots import dial_plot

    drawn = dial_plot(rows)
    write_whole(path, drawn["light"])
    write_whole(path.with_stem(f"{path.stem}-dark"), drawn["dark"])


def ratios_of(text: str) -> tuple[float, ...]:
    """The ratios of a list with commas. Raises VistError on anything that is no number above 0."""
    from vist.errors import VistError

    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise VistError(f"--ratios takes numbers with commas between them, got {text!r}.") from None
    if not all(0 < ratio < float("inf") for ratio in found):
        raise VistError(f"--ratios takes numbers above 0, got {text!r}.")
    return found
