"""`vist eval readback`: the text of pages, written down again from their visual tokens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, visible
from vist.cli.options import (
    BatchOption,
    Device,
    DeviceOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    SeedOption,
    StylesOption,
)
from vist.cli.parts import LimitOption, OutOption, ResamplesOption, chosen, measure_parts


def readback(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    styles: StylesOption = None,
    pages: Annotated[int, typer.Option("--pages", min=2, help="Full pages that are read.")] = 100,
    ocr: Annotated[
        bool, typer.Option("--ocr/--no-ocr", help="Also let Tesseract read the pages, if it is installed.")
    ] = True,
    batch_size: BatchOption = 8,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Character and word error rates of pages read back from their visual tokens alone, by page style.

    Beside the four conditions: TextViT's reading head and Tesseract on the same pages.
    """
    from vist.cli.output import remark
    from vist.eval import ocr as engine
    from vist.eval.readback import evaluate_readback, plan_pages
    from vist.eval.windows import read_documents

    reader = load_reader(model, device)
    names = chosen(styles) or (reader.style.name,)
    readers = {name: reader.restyled(name) if styles else reader for name in names}
    texts = list(visible(read_documents(files)))
    reason = engine.why_not() if ocr else "not asked for"
    remark(f"Tesseract is left out: {reason}." if reason else engine.engine())
    count = pages if limit is None else max(2, min(pages, limit))

    def measure(name: str) -> list[dict[str, Any]]:
        planned, documents = plan_pages(readers[name], texts, count, seed)
        return evaluate_readback(readers[name], planned, documents, ocr, batch_size, resamples, seed)

    setup = {"files": [str(path) for path in files], "pages": count, "ocr": reason is None}
    measure_parts(
        "readback",
        {name: lambda name=name: measure(name) for name in names},  # type: ignore[misc]
        model=model,
        setup=setup,
        seed=seed,
        limit=limit,
        out=out,
        json=json,
    )
