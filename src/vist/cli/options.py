"""Options that several verbs share, so that one name means one thing everywhere.

Owns names, defaults' types and help texts. Does not know what verbs do.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where a model runs; `auto` takes a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


ModelOption = Annotated[
    str, typer.Option("--model", help="A packaged model, a folder written by save_pretrained, or a Hub id.")
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where the model runs; auto takes a GPU if there is one.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Also write the figures to this file, as JSON.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn at random.")]
PagesOption = Annotated[int, typer.Option("--pages", min=1, help="Pages of distant text before each place.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Texts read at once; lower it to save memory.")]
FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Text, Parquet or JSON Lines files (column or key 'text').")
]
DocumentsOption = Annotated[
    int | None, typer.Option("--documents", min=1, help="Read only the first documents of the files.")
]
ProximalOption = Annotated[int, typer.Option("--proximal", min=2, help="Tokens of text after the pages.")]
WindowsOption = Annotated[int, typer.Option("--windows", min=1, help="Places in each document, evenly spread.")]
ContextsOption = Annotated[int, typer.Option("--contexts", min=2, help="Texts in which facts are planted.")]
FactsOption = Annotated[int, typer.Option("--facts", min=1, help="Facts planted in each.")]
StylesOption = Annotated[
    str | None,
    typer.Option(
        "--styles", metavar="A,B", help="Page styles, for example vist,vist-9,vist-8,vist-7; the model's own."
    ),
]
RatioOption = Annotated[
    float | None,
    typer.Option("--ratio", metavar="X", help="Text tokens per visual token; the default is what the model gives."),
]
VisualTokensOption = Annotated[
    int | None, typer.Option("--visual-tokens", min=1, help="Visual tokens per page, instead of --ratio.")
]
AdaptiveOption = Annotated[
    bool, typer.Option("--adaptive", help="Give pages of rare words more of the visual tokens, others fewer.")
]
