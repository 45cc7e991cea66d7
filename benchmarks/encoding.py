"""Cheaper encoding at inference: what each option costs and what it does to perplexity, beside the plain encoder.

    python benchmarks/encoding.py [--text FILE] [--windows 12] [--pages 4] [--json PATH]

One text (the packaged book, unless another is named) is cut into windows of some pages and the 256 tokens after them.
Each row encodes the pages of every window in its own way; Resampler, cross-attention and language model are the same
for all, and nothing is trained for an option. The plain row computes every patch of every page in every layer.

Columns: pages of a window; GFLOPs of encoding one window, counted; milliseconds of it, the median over the windows; the
perplexity of the tokens after it; the difference to the plain row in nats per token, and its 95 % interval, paired by
window; the change in perplexity. No context at all is the last row. Times are of this machine alone and only as good as
it is idle.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vist
from vist.eval.bootstrap import interval, resampled_means
from vist.eval.conditions import Condition, Passage
from vist.eval.cost import flop_counter
from vist.eval.files import write_json
from vist.eval.lm import condition_loss
from vist.eval.provenance import provenance
from vist.eval.reader import Reader
from vist.eval.windows import cut_windows, packaged_text, with_wrong_texts
from vist.vision.encoder import PageFeatures, encode, shorten
from vist.vision.feature_cache import FeatureCache

PLAIN = "plain: every patch"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Way:
    """One way of encoding pixels (B,P,H,W) with ink (B,P,rows,cols), and the style that the pages are drawn in."""

    name: str
    encode: Callable[[Tensor, Tensor], PageFeatures]
    style: str = "vist"


def ways(model: Any) -> list[Way]:
    """The plain encoder first, then every option."""
    tower = model.vision_tower
    kept, dense_kept = FeatureCache(tower), FeatureCache(tower)
    found = [
        Way(PLAIN, lambda pixels, ink: every_patch(tower, pixels, ink)),
        Way("blank patches dropped", lambda pixels, ink: encode(tower, pixels, ink)),
        Way("... one page per pass", lambda pixels, ink: encode(tower, pixels, ink, pages_per_pass=1)),
        Way("... features kept, read again", kept.encode),
    ]
    for layers in range(tower.config.num_hidden_layers - 1, 0, -1):
        earlier = copy.deepcopy(tower)
        shorten(earlier, layers)
        found.append(Way(f"... layer {layers} of {tower.config.num_hidden_layers}", short_encoder(earlier)))
    for size in (9, 8, 7):
        found.append(Way(f"... {size} px pages", lambda pixels, ink: encode(tower, pixels, ink), f"vist-{size}"))
    found.append(Way("... 7 px pages, kept, read again", dense_kept.encode, "vist-7"))
    return found


def short_encoder(tower: Any) -> Callable[[Tensor, Tensor], PageFeatures]:
    """Encoding with a tower of its own."""
    return lambda pixels, ink: encode(tower, pixels, ink)


def every_patch(tower: Any, pixels: Tensor, ink: Tensor) -> PageFeatures:
    """All patches through all layers; blank ones are masked afterwards, as the paper does."""
    whole = encode(tower, pixels, torch.ones_like(ink))
    mask = encode_mask(ink, whole)
    return PageFeatures(whole.features.masked_fill(~mask.unsqueeze(-1), 0), mask)


def encode_mask(ink: Tensor, whole: PageFeatures) -> Tensor:
    """Which patches hold text; one cell of the style is one patch of this tower."""
    mask = ink.flatten(2)
    if mask.shape != whole.mask.shape:
        raise SystemExit("The plain row needs a tower whose patches are the cells of the page style.")
    return mask


@dataclass(frozen=True)
class _Own:
    """What a reader takes for a cache of features: anything that encodes."""

    encode: Callable[[Tensor, Tensor], PageFeatures]


def measure(reader: Reader, way: Way, passages: list[Passage]) -> tuple[dict[str, Any], np.ndarray]:
    """Pages, FLOPs and time of a way, and the loss of every window (windows,)."""
    own = replace(reader.restyled(way.style), cache=_Own(way.encode))  # type: ignore[arg-type]
    losses = condition_loss(own, Condition.VISUAL, passages, scored_tokens(passages), batch_size=1).loss
    pages, flops, times = [], [], []
    for passage in passages:  # everything ran once above, so what is kept is found here
        inputs = own.page_inputs([passage.distant])
        start = time.perf_counter()
        with torch.inference_mode():
            way.encode(inputs["pixel_values"], inputs["ink_mask"])
        times.append(time.perf_counter() - start)
        with torch.inference_mode(), flop_counter() as counter:
            way.encode(inputs["pixel_values"], inputs["ink_mask"])
        flops.append(counter.get_total_flops())
        pages.append(inputs["pixel_values"].shape[1])
    row = {"name": way.name, "pages": float(np.mean(pages)), "gflops": float(np.mean(flops)) / 1e9}
    return row | {"milliseconds": 1e3 * statistics.median(times)}, losses


def scored_tokens(passages: list[Passage]) -> int:
    """Tokens after the pages that every window has."""
    return min(256, min(len(passage.proximal) for passage in passages))


def compared(rows: list[dict[str, Any]], losses: list[np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Each row with its perplexity and its difference to the first."""
    values = np.stack(losses, axis=1)
    drawn = resampled_means(values, np.arange(len(values)), RESAMPLES, seed)
    done = []
    for number, row in enumerate(rows):
        more = interval(float((values[:, number] - values[:, 0]).mean()), drawn[:, number] - drawn[:, 0])
        perplexity = math.exp(values[:, number].mean())
        change = math.exp(more.estimate) - 1
        done.append(row | {"perplexity": perplexity, "change": change, "difference": more.to_dict()})
    return done


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| encoding | pages | GFLOPs | ms | perplexity | nats more than plain | perplexity, change |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        more = row["difference"]
        figures = "- | - | -" if row["pages"] is None else f"{row['pages']:.1f} | {row['gflops']:.2f} | "
        figures += "" if row["pages"] is None else f"{row['milliseconds']:.0f}"
        lines.append(
            f"| {row['name']} | {figures} | {row['perplexity']:.2f} | "
            f"{more['estimate']:+.4f} [{more['low']:+.4f}, {more['high']:+.4f}] | {row['change']:+.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vist-nano", help="name or folder of a VIST model")
    parser.add_argument("--text", help="a text file instead of the packaged book")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    model, processor = vist.load(arguments.model)
    reader = Reader(model, processor)
    text = Path(arguments.text).read_text(encoding="utf-8") if arguments.text else packaged_text("alice_in_wonderland")
    found, _ = cut_windows(reader, [text], arguments.pages, 256, arguments.windows)
    passages = with_wrong_texts(reader, found, arguments.pages)
    measured = [measure(reader, way, passages) for way in ways(model)]
    none = condition_loss(reader, Condition.NONE, passages, scored_tokens(passages), batch_size=1).loss
    rows = [row for row, _ in measured] + [{"name": "no context", "pages": None, "gflops": 0.0, "milliseconds": 0.0}]
    rows = compared(rows, [losses for _, losses in measured] + [none], arguments.seed)
    print(table(rows))
    head = provenance(arguments.model)
    print(f"\n{len(passages)} windows; commit {head['commit']}; {json.dumps(head['machine'])}")
    if arguments.json:
        write_json(Path(arguments.json), head | {"arguments": vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
