"""`vist eval longwrite`: pages as memory beside a full cache, a sliding window and attention sinks, at length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.inputs import VIST2_MODEL, load_vist2, visible
from vist.cli.options import Device, DeviceOption, FilesArgument, JsonOption, SeedOption
from vist.cli.parts import LimitOption, OutOption, Parts, measure_parts

if TYPE_CHECKING:
    from vist.eval.longwrite import LongWriteConfig, Plan
    from vist.eval.writers import Writer


def longwrite(
    files: FilesArgument,
    model: Annotated[
        str, typer.Option("--model", help="A VIST2 model: packaged, a folder written by save_pretrained, or a Hub id.")
    ] = VIST2_MODEL,
    llm: Annotated[
        str | None,
        typer.Option("--llm", metavar="ID", help="The LLM of the other methods. Else the VIST2 model's own."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of each text, and to write.")] = 4096,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Held-out texts.")] = 4,
    facts: Annotated[int, typer.Option("--facts", min=1, help="Facts in the plan of each.")] = 4,
    window: Annotated[
        int | None,
        typer.Option("--window", min=5, help="Tokens of window and sinks. Else as many as pages take at the end."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Of sampling.")] = 0.95,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Long writing: loss by distance, facts kept, repetition, and what the memory costs as the text grows.

    Four memories: finished chunks as pages (VIST2), a full cache, a sliding window, attention sinks (StreamingLLM).
    """
    from vist.cli.output import remark
    from vist.eval.longwrite import LongWriteConfig, make_plans
    from vist.eval.windows import read_documents
    from vist.eval.writers import equal_window, writers
    from vist.model.checkpoint import load_llm

    config = LongWriteConfig(tokens, texts if limit is None else min(texts, limit), facts, temperature, top_p, seed)
    loaded, processor = load_vist2(model, device)
    held = window or equal_window(processor, tokens)
    own = None if llm is None else load_llm(llm).to(loaded.device)
    methods = writers(loaded, processor, tokens, own, held)
    plans = make_plans(methods["pages"], list(visible(read_documents(files))), config)
    remark(f"{len(plans)} texts of {tokens} tokens; window and sinks hold {held} tokens; ratio {processor.ratio:g}.")
    measure_parts(
        "longwrite",
        _parts(methods, plans, config),
        model=model,
        setup={"files": [str(path) for path in files], "tokens": tokens, "texts": config.texts, "facts": facts}
        | {"window": held, "llm": llm, "ratio": processor.ratio, "temperature": temperature, "top_p": top_p},
        seed=seed,
        limit=limit,
        out=out,
        json=json,
    )


def _parts(methods: dict[str, Writer], plans: list[Plan], config: LongWriteConfig) -> Parts:
    """Losses and facts of all methods together, since they are paired; the writing of each by itself."""
    from vist.eval.longwrite import fact_rows, loss_rows, write_long

    def written(name: str) -> list[dict[str, Any]]:
        return write_long(methods[name], plans[0].prompt, config).rows(name, config)

    parts: dict[str, Any] = {
        "loss by distance": lambda: loss_rows(methods, plans, config),
        "facts by distance": lambda: fact_rows(methods, plans, config),
    }
    return parts | {f"writing, {name}": lambda name=name: written(name) for name in methods}
