"""`vist render`: draw texts as pages, in constant memory, and say what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.options import JsonOption

if TYPE_CHECKING:
    from vist.cli.page_folder import PageFolder
    from vist.gateway.quote import Quote, Tally
    from vist.render import PageStyle


class OnLoss(StrEnum):
    """What to do when a character cannot be drawn."""

    REPORT = "report"
    RAISE = "raise"


class Format(StrEnum):
    """How pages are written."""

    PNG = "png"
    WEBP = "webp"
    PDF = "pdf"
    NPZ = "npz"


InputsArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[INPUT...]", help="Files, folders or patterns; - is standard input.")
]
StyleOption = Annotated[
    str,
    typer.Option(
        "--style", help="Page style: vist, vist-9, vist-8, vist-7, icl, code, glyph, glyph-96, dense, single."
    ),
]
ForOption = Annotated[
    str | None, typer.Option("--for", metavar="MODEL", help="Page size and prices of this model, such as gpt-4o.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="A new folder for the pages and manifest.json.")
]


def render(
    inputs: InputsArgument = None,
    style: StyleOption = "vist",
    model: ForOption = None,
    out: OutOption = None,
    kind: Annotated[Format, typer.Option("--format", help="Lossless all of them; npz holds arrays.")] = Format.PNG,
    crop: Annotated[bool, typer.Option("--crop", help="Cut pages below their last row of text.")] = False,
    git_diff: Annotated[
        str | None, typer.Option("--git-diff", metavar="REF", help="Also draw what git diff REF shows.")
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", help="A line with its name before each source.")] = False,
    line_numbers: Annotated[bool, typer.Option("--line-numbers", help="Number the lines of each source.")] = False,
    fold: Annotated[bool, typer.Option("--fold", help="One line in place of lines that repeat the one above.")] = False,
    prices: Annotated[bool, typer.Option("--prices", help="Compare tokens as text and as pages, by model.")] = False,
    on_loss: Annotated[
        OnLoss, typer.Option("--on-loss", help="Report characters that cannot be drawn, or fail.")
    ] = OnLoss.REPORT,
    json: JsonOption = None,
) -> None:
    """Draw texts as pages and say what was lost. Without --out pages are counted and not kept.

    A text of any length takes the same memory, except with --format npz and --style single.
    """
    import time

    from tqdm import tqdm

    from vist.cli.gather import Gathered
    from vist.cli.page_folder import PageFolder
    from vist.gateway.quote import Tally
    from vist.render import iter_pages
    from vist.render.weave import Weaving, Woven

    gathered = Gathered(inputs or [], git_diff)
    woven = Woven(gathered, Weaving(headers, line_numbers, fold))
    chosen, text = _style(style, model, woven)
    tally = Tally() if prices or model else None
    start = time.perf_counter()
    with (
        PageFolder(out, chosen, kind.value, crop or model is not None, woven.spans) as folder,
        tqdm(desc="rendering", unit=" pages", delay=2, leave=False) as progress,
    ):
        for stretch in iter_pages(text, chosen, on_loss.value):
            folder.add(stretch)
            if tally is not None:
                tally.add_text(stretch.text)
            progress.update(len(stretch))
    drawing = time.perf_counter() - start - folder.seconds
    figures = _report(folder, drawing, out)
    if gathered.left_out:
        print(f"{gathered.left_out:,} binary files were left out.")
    quotes = _quotes(tally, folder, model) if tally is not None else []
    if json is not None:
        from vist.eval.files import write_json
        from vist.gateway.quote import to_rows

        figures |= {"loss": folder.loss.to_dict(), "style": chosen.to_dict(), "sources": woven.names}
        write_json(json, figures | ({"prices": to_rows(quotes)} if quotes else {}))


def _style(name: str, model: str | None, text: Iterable[str]) -> tuple[PageStyle, Iterable[str]]:
    """The style that was asked for, and the text, which a style may have to be fitted to."""
    from vist.errors import VistError
    from vist.gateway import find_sheets, resolve_profile
    from vist.render import PageStyle
    from vist.render.single import single_page

    if model is not None:
        if name != "vist":
            raise VistError(f"--for {model} has pages of its own; leave out --style {name}.")
        return find_sheets(resolve_profile(model).name)[0].style, text
    if name != "single":
        return PageStyle.named(name), text
    whole = "".join(text)
    return single_page(whole), [whole]


def _report(folder: PageFolder, drawing: float, out: Path | None) -> dict[str, Any]:
    """Print what was drawn, and return its figures."""
    speed = folder.characters / max(drawing, 1e-9)
    written = f", written to {out} in {folder.seconds:.2f} s" if out is not None else ""
    print(
        f"{folder.pages:,} pages, {folder.characters:,} characters, drawn in {drawing:.2f} s "
        f"({speed / 1e6:.1f} M characters/s){written}"
    )
    print(folder.loss.sentence())
    return {"pages": folder.pages, "characters": folder.characters, "render_s": drawing, "characters_per_s": speed}


def _quotes(tally: Tally, folder: PageFolder, model: str | None) -> list[Quote]:
    """Print what the pages cost by family of models, and return it."""
    from vist.cli.output import console, prices_table
    from vist.gateway import resolve_profile
    from vist.gateway.quote import FAMILIES

    for size in folder.sizes:
        tally.add_page(*size)
    quotes = tally.quotes((resolve_profile(model).name,) if model is not None else FAMILIES)
    console().print(prices_table(quotes))
    return quotes
