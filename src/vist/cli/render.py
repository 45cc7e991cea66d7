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
    style: Annotated[
        str, typer.Option("--style", help="Page style: vist, vist-9, vist-8, vist-7, icl or code.")
    ] = "vist",
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
    from vist.render import PageStyle, iter_pages

    chosen = PageStyle.named(style)
    start = time.perf_counter()
    with (
        open_text(file) as source,
        PageFolder(out, chosen) as folder,
        tqdm(desc="rendering", unit=" pages", delay=2, leave=False) as progress,
    ):
        for stretch in iter_pages(source, chosen, on_loss.value):
            folder.add(stretch)
            progress.update(len(stretch))
    drawing = time.perf_counter() - start - folder.seconds
    speed = folder.characters / max(drawing, 1e-9)
    written = f", written to {out} in {folder.seconds:.2f} s" if out is not None else ""
    print(
        f"{folder.pages:,} pages, {folder.characters:,} characters, drawn in {drawing:.2f} s "
        f"({speed / 1e6:.1f} M characters/s){written}"
    )
    print(folder.loss.sentence())
    if json is not None:
        figures = {
            "pages": folder.pages,
            "characters": folder.characters,
            "render_s": drawing,
            "characters_per_s": speed,
        }
        write_json(json, figures | {"loss": folder.loss.to_dict(), "style": chosen.to_dict()})
