"""A tiny run in the shape of the paper's: backbones on disk in the real format, a corpus, a recipe of a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tiny_backbones import WORDS, tiny_llm, tiny_tokenizer, tiny_tower
from vist.recipes.paper import tinyllama
from vist.train.paper import PaperRecipe


def save_backbones(folder: Path) -> tuple[Path, Path]:
    """Folders of a tiny LLM with its tokenizer and of a tiny tower."""
    llm, vision = folder / "llm", folder / "vision"
    tiny_llm().save_pretrained(llm)
    tiny_tokenizer().save_pretrained(llm)
    tiny_tower().save_pretrained(vision)
    return llm, vision


def sentences(seed: int, words: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[place] for place in rng.integers(0, len(WORDS), words))


def write_corpus(folder: Path, documents: int = 40, words: int = 90) -> Path:
    """JSON Lines in RedPajama's schema."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = (
        {"text": sentences(number, words + number), "meta": {"url": f"page-{number}"}, "red_pajama_subset": "c4"}
        for number in range(documents)
    )
    (folder / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny_recipe(llm: Path, vision: Path, **stage: object) -> PaperRecipe:
    """The paper's main run with small numbers; `stage` changes its `StageConfig`."""
    recipe = tinyllama()
    small = {"steps": 4, "batch_size": 2, "precision": "fp32", "workers": 0, "log_every": 1, "save_every": 2}
    small["learning_rate"] = 1e-3
    return replace(
        recipe,
        llm=str(llm),
        vision=str(vision),
        window=replace(recipe.window, distant=120, proximal=24),
        choices={
            **recipe.choices,
            "num_visual_tokens": 4,
            "resampler_layers": 1,
            "resampler_heads": 2,
            "resampler_size": 16,
        },
        stage=replace(recipe.stage, **{**small, **stage}),
        global_batch=4,
        frequency_windows=4,
    )
