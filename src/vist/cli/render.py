"""`vist render`: draw a text as pages, in constant memory."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vist.cli.inputs import open_text
from vist.cli.options import JsonOption


class OnLoss(StrEnum):
    """What to do when a character cannot be drawn."""

    REPORT = "report"
    RAISE = "raise"


def render(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text file; - is standard input.")],
    style: Annotated[str, typer.Option("--style", help="Page style: vist, vist-9, vist-8, vist-7, icl or code.")] = "vist",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for the PNG pages and manifest.json.")
    ] = None,
    on_loss: Annotated[
        OnLoss, typer.Option("--on-loss", help="Report characters that cannot be drawn, or fail.")
    ] = OnLoss.REPORT,
    json: JsonOption = None,
) -> None:
    """Draw a text as pages and say what was lost. Without --out pages are counted and not kept.

    A text of any length takes the same memory.
    """
    import time

    from tqdm import tqdm

    from vist.cli.page_folder import PageFolder
    from vist.eval.files import write_json
    from vist.render import LossReport, PageStyle, iter_pages

    chosen = PageStyle.named(style)
    losses: list[LossReport] = []
    pages = characters = 0
    start = time.perf_counter()
    with open_text(file) as source, PageFolder(out, chosen) as folder:
        with tqdm(desc="rendering", unit=" pages", delay=2, leave=False) as progress:
            for stretch in iter_pages(source, chosen, on_loss.value):
                folder.add(stretch)
                losses = [LossReport.total([*losses, stretch.loss])]
                pages, characters = pages + len(stretch), characters + len(stretch.text)
                progress.update(len(stretch))
    seconds = time.perf_counter() - start
    loss = LossReport.total(losses)
    where = f" in {out}" if out is not None else ""
    print(f"{pages:,} pages{where}, {characters:,} characters, {seconds:.2f} s ({characters / seconds / 1e6:.1f} M/s)")
    print(loss.sentence())
    if json is not None:
        figures = {"pages": pages, "characters": characters, "render_s": seconds}
        write_json(json, figures | {"loss": loss.to_dict(), "style": chosen.to_dict()})
