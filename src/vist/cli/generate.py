"""`vist generate`: continue a prompt after reading a context as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, read_whole
from vist.cli.options import (
    AdaptiveOption,
    Device,
    DeviceOption,
    JsonOption,
    ModelOption,
    RatioOption,
    SeedOption,
    VisualTokensOption,
)


def generate(
    prompt: Annotated[str, typer.Option("--prompt", help="The near text, which the model continues.")],
    context: Annotated[
        Path | None,
        typer.Option("--context", metavar="FILE", help="The distant text, read as pages; - is standard input."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens to write, at most.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    ratio: RatioOption = None,
    visual_tokens: VisualTokensOption = None,
    adaptive: AdaptiveOption = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they come.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Continue a prompt after reading a context as pages.

    The text goes to standard output, remarks go to standard error.
    """
    import time

    import torch

    from vist.cli.output import remark
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance
    from vist.model.dial import Dial

    dial = Dial(ratio, visual_tokens, adaptive)
    text = "" if context is None else read_whole(context)
    if context is not None and not text.strip():
        remark(f"vist: note: {str(context)!r} holds no text; the model reads the prompt alone.")
        text = ""
    reader = load_reader(model, device).dialled(dial)
    torch.manual_seed(seed)
    start = time.perf_counter()
    inputs, figures = _inputs(reader, text, prompt)
    sampling: dict[str, Any] = {"do_sample": temperature > 0, "num_beams": 1}
    if temperature > 0:
        sampling["temperature"] = temperature
    if stream:
        from transformers import TextStreamer

        sampling["streamer"] = TextStreamer(reader.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = reader.model.generate(**inputs, **sampling, max_new_tokens=max_new_tokens)
    new = output[0, inputs["input_ids"].shape[1] :]
    written = reader.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if not stream:
        print(written)
    figures |= {"new_tokens": len(new), "seconds": time.perf_counter() - start}
    remark(_summary(figures))
    if json is not None:
        write_json(json, provenance(model) | {"prompt": prompt, "text": written} | figures)


def _inputs(reader: Any, context: str, prompt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's inputs, and how many pages and tokens they are."""
    inputs = reader.text_inputs([reader.ids(prompt)])
    figures: dict[str, Any] = {"pages": 0, "context_characters": len(context), "text_tokens": 0, "context_tokens": 0}
    figures |= {"ratio": None, "loss": {}}
    if not context:
        return inputs, figures
    pages = reader.draw(context)
    seen = reader.encode_pages(reader.page_inputs([context]))
    text_tokens = len(reader.ids(context.encode("utf-8", "replace").decode()))
    visual_tokens = int(seen.mask.sum())
    figures |= {"pages": len(pages), "text_tokens": text_tokens, "context_tokens": visual_tokens}
    figures |= {"ratio": text_tokens / visual_tokens if visual_tokens else None, "loss": pages.loss.to_dict()}
    if pages.loss:
        from vist.cli.output import remark

        remark(f"vist: note: {pages.loss.sentence()}")
    return inputs | {"cross_states": seen.states, "cross_mask": seen.mask}, figures


def _summary(figures: dict[str, Any]) -> str:
    if not figures["pages"]:
        return f"{figures['new_tokens']} tokens in {figures['seconds']:.1f} s, no context."
    ratio = "" if figures["ratio"] is None else f" ({figures['ratio']:.2f} x)"
    return (
        f"{figures['new_tokens']} tokens in {figures['seconds']:.1f} s after {figures['pages']} pages: "
        f"{figures['context_tokens']} visual tokens for {figures['text_tokens']} text tokens{ratio}."
    )
