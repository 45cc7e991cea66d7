"""`vist encode`: the pages of a training run, rendered and encoded ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def encode(
    name: Annotated[str, typer.Argument(help="The recipe that will be trained, for example tinyllama.")],
    data: Annotated[
        str,
        typer.Option("--data", metavar="SOURCE", help="The training texts, as for `vist train`."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the features go; `vist train --features` reads them.")
    ],
    llm: Annotated[
        str | None, typer.Option("--llm", metavar="ID", help="LLM, for its tokenizer: Hub id or folder.")
    ] = None,
    vision: Annotated[
        str | None, typer.Option("--vision", metavar="ID", help="Vision tower: Hub id or folder. Else the recipe's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps that need pages. Else the recipe's.")
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", min=1, help="Samples of a step, on all devices together.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that encode. Else one for each GPU or core.")
    ] = None,
    shard_windows: Annotated[
        int | None, typer.Option("--shard-windows", min=1, help="Windows of the corpus in a shard. Else 8.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="As a Ray Data plan: on the cluster of RAY_ADDRESS, else on this machine.")
    ] = False,
) -> None:
    """Render and encode the pages of a training run ahead of it, into shards that the run reads instead.

    Started again with the same folder, it makes the shards that are missing; docs/training-at-scale.md.
    """
    from vist.cli.output import remark
    from vist.recipes import encode as encode_pages
    from vist.train.stream import skipped_sentence

    changes = {"llm": llm, "vision": vision, "steps": steps, "global_batch": global_batch}
    index = encode_pages(name, data, out, workers, ray, shard_windows, **changes)
    sentence = skipped_sentence(index["data"])
    if sentence:
        remark(sentence)
    sizes = index["shards"].values()
    remark(f"Finished: {out}, {index['data']['windows']:,} windows in {len(sizes):,} shards, {sum(sizes) / 1e9:.3f} GB")
