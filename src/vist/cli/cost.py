"""`vist cost`: what a long context costs, by count for any backbones, or measured on this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader
from vist.cli.options import Device, DeviceOption, JsonOption, ModelOption

if TYPE_CHECKING:
    from vist.eval.cost_table import Backbones


class Preset(StrEnum):
    """Which rows: Table 1 of VIST, its methods beside what this library offers, every baseline, or VIST2."""

    TABLE1 = "table1"
    BEYOND = "beyond"
    BASELINES = "baselines"
    VIST2 = "vist2"


def cost(
    preset: Annotated[
        Preset, typer.Option("--preset", help="The paper's Table 1, its methods beside ours, all baselines, or VIST2.")
    ] = Preset.BEYOND,
    llm: Annotated[
        str | None, typer.Option("--llm", metavar="ID", help="Config of an LLM: Hub id or folder. Else TinyLlama-1.1B.")
    ] = None,
    vision: Annotated[
        str | None, typer.Option("--vision", metavar="ID", help="Config of a vision tower. Else CLIP ViT-L/14.")
    ] = None,
    te: Annotated[
        int | None, typer.Option("--te", min=1, help="Distant tokens. Else 14,336, vist2 32,768, measured 1,024.")
    ] = None,
    td: Annotated[
        int | None, typer.Option("--td", min=1, help="Proximal tokens. Else 2,048, vist2 128, measured 256.")
    ] = None,
    visual_tokens: Annotated[int, typer.Option("--visual-tokens", min=1, help="Visual tokens of a page.")] = 64,
    run: Annotated[bool, typer.Option("--run", help="Measure --model on this machine instead of counting.")] = False,
    model: ModelOption = DEFAULT_MODEL,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens written with --run.")] = 256,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """TFLOPs by part, keys and values, and peak memory of one forward pass, counted without weights.

    With --run a model reads the packaged book on this machine: time to first token, tokens per second with tokenizing
    and rendering inside the clock, peak memory.
    """
    from vist.cli.output import console, cost_table, measured_table, remark, vist2_table
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance

    setup: dict[str, Any] = {"preset": None if run else preset.value, "llm": llm, "vision": vision}
    if run:
        rows = _measured(model, device, te or 1024, td or 256, new_tokens)
        console().print(measured_table(rows))
    else:
        rows = _counted(preset, llm, vision, te, td, visual_tokens)
        if preset is Preset.VIST2:
            console().print(vist2_table(rows))
            remark("Reading up to the first new token, batch 1; 2-byte values; by count (docs/vist2.md).")
        else:
            console().print(cost_table(rows))
            remark("One forward pass, batch 1, all proximal positions scored; 2-byte values; by count (docs/cost.md).")
    if json is not None:
        write_json(json, provenance(model if run else "none") | {"setup": setup, "rows": rows})


def _counted(
    preset: Preset, llm: str | None, vision: str | None, te: int | None, td: int | None, visual_tokens: int
) -> list[dict[str, Any]]:
    from vist.errors import VistError
    from vist.eval.cost_baselines import baselines
    from vist.eval.cost_table import beyond, table1
    from vist.eval.cost_vist2 import CHUNK, CONTEXT, vist2_table

    if preset is Preset.TABLE1 and (te or td):
        raise VistError("The lengths of Table 1 are the paper's; use --preset beyond with --te and --td.")
    backbones = _backbones(llm, vision, visual_tokens)
    if preset is Preset.VIST2:
        llms = None if llm is None else {llm: backbones.llm}
        tower = None if vision is None else backbones.tower
        return [row.to_dict() for row in vist2_table(llms, tower, te or CONTEXT, td or CHUNK)]
    rows = beyond if preset is Preset.BEYOND else baselines
    found = table1(backbones) if preset is Preset.TABLE1 else rows(backbones, te or 14336, td or 2048)
    return [row.to_dict() for row in found]


def _backbones(llm: str | None, vision: str | None, visual_tokens: int) -> Backbones:
    """The configs that the table is about. Raises VistError when one cannot be read or is not supported."""
    from transformers import AutoConfig

    from vist.errors import VistError
    from vist.eval.cost_table import Backbones
    from vist.fuse.families import check_family
    from vist.vision.encoder import vision_config

    found: dict[str, Any] = {}
    for part, source in (("llm", llm), ("tower", vision)):
        if source is None:
            continue
        try:
            config = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise VistError(f"Cannot read a config from {source!r}: {str(error).splitlines()[0]}") from error
        found[part] = config.get_text_config(decoder=True) if part == "llm" else vision_config(config)
    if "llm" in found:
        check_family(found["llm"])
    return Backbones(num_visual_tokens=visual_tokens, **found)


def _measured(model: str, device: Device, te: int, td: int, new_tokens: int) -> list[dict[str, Any]]:
    from vist.eval.cost_run import measure_rows
    from vist.eval.windows import BOOK, packaged_text

    return list(measure_rows(load_reader(model, device), packaged_text(BOOK), te, td, new_tokens))
