"""How many characters of held-out pages a model's TextViT names right, by page style.

    python benchmarks/reading.py --data FOLDER [--split test] [--pages 200] [--json PATH]
    python benchmarks/reading.py --text src/vist/assets/texts/alice_in_wonderland.txt

A character counts as read when the slot of the patch that holds its centre names exactly it; a character outside the
encoder's alphabet counts as not read. Swallowed blanks at row ends are not drawn and not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import vist
from vist.render import PageStyle
from vist.train.corpus import corpus_files, documents, read_text
from vist.train.reading import PAGE_CHARACTERS, collate_pages, page_sample
from vist.vision.text_vit import EMPTY, OTHER, TextViTModel

STYLES = ("vist", "vist-9", "vist-8", "vist-7")
BATCH = 16


def texts(arguments: argparse.Namespace) -> list[str]:
    """Whole documents to read from."""
    if arguments.text:
        return [read_text(Path(arguments.text))]
    return [text for path in corpus_files(Path(arguments.data), "books", arguments.split) for text in documents(path)]


def pieces(sources: list[str], count: int, seed: int) -> Iterator[str]:
    """`count` pieces of a page's length, from every document in turn."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        source = sources[number % len(sources)]
        start = int(rng.integers(0, max(1, len(source) - PAGE_CHARACTERS)))
        yield source[start : start + PAGE_CHARACTERS]


@torch.no_grad()
def accuracy(encoder: TextViTModel, sources: list[str], style: str, count: int, seed: int) -> dict[str, float]:
    """Share of characters read right on `count` pages of one style."""
    right = total = 0
    page_style = PageStyle.named(style)
    samples = [page_sample(piece, page_style, encoder.config) for piece in pieces(sources, count, seed)]
    for start in tqdm(range(0, len(samples), BATCH), desc=style, leave=False):
        batch = collate_pages(samples[start : start + BATCH])
        named = encoder.read_logits(encoder(batch["pixel_values"], batch["ink_mask"])).argmax(-1)
        there = batch["labels"] != EMPTY
        right += int(((named == batch["labels"]) & there & (batch["labels"] != OTHER)).sum())
        total += int(there.sum())
    return {"characters": total, "right": right, "accuracy": right / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vist-nano", help="name or folder of a VIST model, or folder of a TextViT")
    parser.add_argument("--data", help="folder with corpus/books/<split>.parquet")
    parser.add_argument("--text", help="one text file instead of --data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    if bool(arguments.data) == bool(arguments.text):
        parser.error("give either --data or --text")
    folder = Path(arguments.model)
    if folder.is_dir() and json.loads((folder / "config.json").read_text())["model_type"] == "text_vit":
        encoder = TextViTModel.from_pretrained(folder, dtype=torch.float32)
    else:
        encoder = vist.load(arguments.model)[0].vision_tower
    encoder.eval()
    sources = texts(arguments)
    rows = {style: accuracy(encoder, sources, style, arguments.pages, arguments.seed) for style in STYLES}
    for style, row in rows.items():
        print(f"{style:8} {row['accuracy']:.2%} of {row['characters']:,} characters on {arguments.pages} pages")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"styles": rows, "arguments": vars(arguments)}, indent=1))


if __name__ == "__main__":
    main()
