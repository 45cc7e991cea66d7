"""What methods cost at full-size shapes, measured: time and peak memory beside the counts of `vist cost`.

    python benchmarks/full_size.py --json full_size.json      # a GPU of 80 GB, 7 minutes at most
    python benchmarks/full_size.py --device cpu --tiny        # every row at tiny sizes, to test the script

Weights are random, so nothing here says how well anything reads; shapes are those of `vist cost`, in bfloat16.

- Part A (this file, full_size_methods.py): TinyLlama-1.1B with CLIP ViT-L/14, batch 1; one forward pass that scores
  all T_d positions after T_e distant tokens, and the time to a first token (context projected once, one position
  scored).
- Part B (full_size_vist2.py): Qwen3 of four sizes with SigLIP2 ViT-L/16; prefill and decoding at 32,768 tokens.
- Part C (gpu_checks.py): whether models compute on this device what they compute on a CPU.

Decisions
- The scoring pass projects keys and values layer by layer, so it never holds all of them, which the count does; the
  first token's pass holds them.
- "scores written out" is transformers' eager attention in every part.
- T_e distant tokens (te), T_d proximal tokens (td).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import full_size_vist2
import gpu_checks
from full_size_methods import Method, Sizes, cepe, full_text, methods, tiny_sizes, visual_method
from measuring import Facts, Record, counted, measure, random_ids, table, weight_bytes
from vist.eval.cost_table import Visual
from vist.eval.provenance import provenance

COMPARED = ("full text", "CEPE*", "VIST", "7 px, TextViT")  # at every length
MAIN_COLUMNS = {
    "T_e": ("te", 0),
    "pages": ("pages", 0),
    "s": ("seconds", 1),
    "first token s": ("first_token_s", 1),
    "peak GB": ("peak_bytes", 1e9),
    "weights GB": ("weight_bytes", 1e9),
    "rise GB": ("rise_bytes", 1e9),
    "counted GB": ("counted_peak_bytes", 1e9),
    "counted TFLOPs": ("counted_tflops", 1),
}


def first_token(model: Any, ids: Tensor, context: dict[str, Tensor]) -> Any:
    """The pass before the first new token: context encoded and projected once, one position scored."""
    options = {"use_cache": True, "logits_to_keep": 1}
    if not hasattr(model, "project_context") or "cross_kv" in context:
        return model(input_ids=ids, **context, **options)
    seen = model.encode_context(**context)
    projected = {"cross_kv": model.project_context(seen.states), "cross_mask": seen.mask}
    return model(input_ids=ids, **projected, **options)


def kernels(model: nn.Module) -> list[str]:
    """The attention kernels that the parts of a model use."""
    parts = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return sorted({str(part.config._attn_implementation) for part in parts})


@torch.inference_mode()
def measured(method: Method, model: Any, te: int, td: int, device: torch.device) -> Facts:
    """The row of one method at one length."""
    context = method.inputs(model, te)
    ids = context.pop("input_ids", None)
    if ids is None:
        ids = random_ids(model.config.text_config, td, device)
    needed = weight_bytes(model)
    scored = measure(lambda: model(input_ids=ids, **context, use_cache=True, logits_to_keep=td), device)
    first = measure(lambda: first_token(model, ids, context), device, repeats=3)
    row = method.count(te)
    return {
        **scored,
        "weight_bytes": needed,
        "peak_bytes": needed + scored["rise_bytes"],
        "first_token_s": first["seconds"],
        "first_token_peak_bytes": needed + first["rise_bytes"],
        "pages": context["pixel_values"].shape[1] if "pixel_values" in context else 0,
        "kernels": kernels(model),
        **counted(row),
    }


def read_lengths(
    record: Record, sizes: Sizes, method: Method, lengths: tuple[int, ...], dtype: torch.dtype, needs: float = 0.0
) -> Facts | None:
    """One model, built once, at several lengths; a row each. Returns the last row, None without one."""
    held: dict[str, Any] = {}

    def run(te: int) -> Facts:
        if not held:
            held["model"] = method.model(record.device, dtype, method.kernel)
        return measured(method, held["model"], te, sizes.td, record.device)

    last = None
    for te in lengths:
        facts = {"part": "A", "method": method.name, "te": te, "td": sizes.td, "kernel": method.kernel}
        last = record.row(facts, lambda te=te: run(te), needs)
    return last


def main_length(record: Record, sizes: Sizes, dtype: torch.dtype) -> None:
    """All methods at the main length."""
    for method in methods(sizes):
        read_lengths(record, sizes, method, (sizes.te,), dtype)


def other_lengths(record: Record, sizes: Sizes, dtype: torch.dtype) -> None:
    """The compared methods at other lengths, and those of the paper's Table 1 with scores written out."""
    for method in (method for method in methods(sizes) if method.name in COMPARED):
        read_lengths(record, sizes, method, sizes.others, dtype)
    for method in (full_text(sizes), cepe(sizes, True), visual_method(sizes, "VIST", Visual(sizes.vist()))):
        read_lengths(record, sizes, method.written_out(), sizes.others[:2], dtype)


def doubling(record: Record, sizes: Sizes, dtype: torch.dtype) -> None:
    """The compared methods at ever longer texts, each until it fails or the budget cannot hold its next row."""
    te = 2 * 2 ** (max(sizes.others[-1], sizes.te) - 1).bit_length()
    going = [method for method in methods(sizes) if method.name in COMPARED]
    spent = {row["method"]: row["row_s"] for row in record.rows if row["part"] == "A" and row["te"] < te}
    while going and te <= sizes.longest:
        for method in tuple(going):
            row = read_lengths(record, sizes, method, (te,), dtype, needs=4 * spent.get(method.name, 0))
            if row is None or "error" in row:
                going.remove(method)
            else:
                spent[method.name] = row["row_s"]
        te *= 2


def report(rows: list[Facts]) -> str:
    """The tables of all parts that have rows."""
    parts = {"A": MAIN_COLUMNS, "B": full_size_vist2.COLUMNS, "C": gpu_checks.COLUMNS}
    chosen = {part: [row for row in rows if row["part"] == part] for part in parts}
    return "\n\n".join(f"Part {part}\n{table(found, parts[part])}" for part, found in chosen.items() if found)


def main() -> None:
    """Measure what the budget allows, the most important rows first, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and lengths")
    parser.add_argument("--seconds", type=float, default=420, help="no row begins later")
    parser.add_argument("--part", default="A,B,C")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device, parts = torch.device(options.device), options.part.upper().split(",")
    torch.manual_seed(0)
    head = provenance("random weights of the shapes of vist cost") | {"tiny": options.tiny, "dtype": "bfloat16"}
    record = Record(head, options.seconds, options.json, device)
    sizes, dtype = tiny_sizes() if options.tiny else Sizes(), torch.bfloat16
    stages: list[tuple[str, Callable[[], None]]] = [
        ("A", lambda: main_length(record, sizes, dtype)),
        ("A", lambda: other_lengths(record, sizes, dtype)),
        ("B", lambda: full_size_vist2.prefill_and_decode(record, options.tiny, dtype)),
        ("C", lambda: gpu_checks.run(record)),
        ("B", lambda: full_size_vist2.flex(record, options.tiny, dtype)),
        ("A", lambda: doubling(record, sizes, dtype)),
    ]
    for part, stage in stages:
        if part in parts:
            stage()
    record.write()
    print(report(record.rows))


if __name__ == "__main__":
    main()
