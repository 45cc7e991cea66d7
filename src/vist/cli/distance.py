"""`vist eval distance`: masking rare or frequent tokens against the distance of text and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, name_of, visible
from vist.cli.options import Device, DeviceOption, FilesArgument, JsonOption, ModelOption, SeedOption
from vist.cli.parts import LimitOption, OutOption, ResamplesOption, measure_parts


def distance(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: Annotated[int, typer.Option("--pages", min=1, help="Pages of each text.")] = 2,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Texts of each document, evenly spread.")] = 2,
    documents: Annotated[int, typer.Option("--documents", min=1, help="Documents of each file, at most.")] = 50,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Distance between pages and masked text, and information kept, by masking rate and order; one part for each file.

    Rare tokens first, frequent ones first, or random (paper, Figures 3 to 5). `vist eval report` draws the curves.
    """
    from vist.eval.distance import distance_rows
    from vist.eval.importance import token_importance
    from vist.eval.windows import cut_windows, read_documents

    reader = load_reader(model, device)
    count = documents if limit is None else max(2, min(documents, limit))

    def measure(file: Path) -> list[dict[str, Any]]:
        texts = list(visible(read_documents([file], count)))
        importance, source = token_importance(reader, "\n\n".join(texts))
        found, _ = cut_windows(reader, texts, pages, 8, windows)
        rows = distance_rows(
            reader,
            [window.distant for window in found],
            [window.document for window in found],
            importance,
            resamples=resamples,
            seed=seed,
        )
        return [row | {"counted": source} for row in rows]

    names = {name_of(file): file for file in files}
    measure_parts(
        "distance",
        {name: lambda file=file: measure(file) for name, file in names.items()},  # type: ignore[misc]
        model=model,
        setup={"files": [str(path) for path in files], "pages": pages, "windows": windows, "documents": count},
        seed=seed,
        limit=limit,
        out=out,
        json=json,
    )
