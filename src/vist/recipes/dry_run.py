"""What a run would be, before it is one: its configuration, sizes and cost, and whether its inputs can be read.

Owns the checks and the figures of `vist train NAME --dry-run`. Nothing is trained and no weight is loaded.

Decisions
- Backbones are read as configs and, in a folder, by the headers of their weight files: a missing or truncated one shows
  without loading 26 GB. Of a Hub id config and tokenizer are fetched, the weights are not looked at.
- Data: every shard is opened (Parquet footers, the last row of JSON Lines), and the first window of some lanes is cut
  and drawn, which says how many pages a window takes here.
- Figures are by count (`vist.eval.training_cost`) on the shapes that were found.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from vist.compress.ranks import world_size
from vist.errors import VistError
from vist.eval.training_cost import meta_model, parameters_by_part, training_memory, training_work
from vist.model.configuration import VistConfig
from vist.model.vist import VistForConditionalGeneration
from vist.render import render
from vist.train.paged import Share
from vist.train.paper import OPTIMIZER_BYTES, PaperRecipe, PaperRun, read_config
from vist.train.precision import resolved_precision
from vist.train.stream import Cursor, Lane, report
from vist.vision.encoder import num_patches, vision_config

SAMPLED = 8  # lanes whose first window is drawn
PAPER_PAGES = 28 / 4096  # of a distant token, for the paper's renderer


def dry_run(recipe: PaperRecipe, data: Any, out: Path, features: Path | None = None) -> dict[str, Any]:
    """Everything that can be said about a run, by stable keys (docs/training-at-scale.md).

    Raises VistError when a backbone, its tokenizer, the data or the features cannot be read, they do not belong
    together, or the global batch cannot be shared among the processes there are.
    """
    weights = {part: check_weights(source) for part, source in (("llm", recipe.llm), ("vision", recipe.vision))}
    run = PaperRun(recipe, data, out, features)
    stage = recipe.stage
    share = Share.of(recipe.global_batch, stage.batch_size, 0, world_size())
    windows = _first_windows(run)
    model = _model(recipe)
    pages = round(windows["pages_per_window"] + 0.5)
    precision = resolved_precision(stage.precision)
    config: Any = model.config
    work = training_work(config, recipe.window.proximal, pages, stage.checkpointing)
    per_sample = sum(part.total for part in work.values())
    memory = training_memory(
        model, recipe.window.proximal, pages, stage.batch_size, 4 if precision == "fp32" else 2, recipe.llm_bits
    )
    parameters = parameters_by_part(model)
    return {
        "config": recipe.to_dict(),
        "processes": world_size(),
        "accumulation": share.accumulation,
        "precision": precision,
        "backbones": weights,
        "parameters": parameters,
        "data": {
            "shards": len(run.shards),
            "bytes": sum(shard.size for shard in run.shards),
            **windows,
        },
        "tokens": recipe.tokens,
        "tokens_per_step": recipe.tokens // stage.steps,
        "steps": stage.steps,
        "flops_per_step": per_sample * recipe.global_batch,
        "flops_per_sample_by_part": {part: count.total for part, count in work.items()},
        "memory_per_device": {**memory, "total": sum(memory.values())},
        "checkpoint_bytes": parameters["trained"] * OPTIMIZER_BYTES,
        "feature_bytes": _feature_bytes(model, recipe, windows["pages_per_window"], 4 if precision == "fp32" else 2),
        "free_bytes": shutil.disk_usage(_existing(out)).free,
    }


def check_weights(source: str) -> dict[str, Any]:
    """Read the headers of a folder's weight files. Raises VistError when there is none or one is truncated."""
    folder = Path(source)
    if not folder.is_dir():
        return {"source": source, "weights": "not looked at (Hub id)"}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt") as header:
                header.keys()
        except (SafetensorError, OSError) as error:
            raise VistError(f"{str(file)!r} cannot be read ({error}); copy the backbone again.") from error
    if not files and not list(folder.glob("*.bin")):
        raise VistError(f"{source!r} holds no weights (*.safetensors); name the folder of a whole backbone.")
    return {"source": source, "weights": f"{len(files)} files", "bytes": sum(file.stat().st_size for file in files)}


def _model(recipe: PaperRecipe) -> VistForConditionalGeneration:
    """The model on the meta device, from the backbones' configs."""
    tower: PreTrainedConfig = vision_config(read_config(recipe.vision))
    config = VistConfig(text_config=read_config(recipe.llm), vision_config=tower, **recipe.choices)
    model = meta_model(config).train()
    if recipe.stage.checkpointing:
        model.checkpoint_activations()
    return model


def _feature_bytes(model: VistForConditionalGeneration, recipe: PaperRecipe, pages: float, item: int) -> int:
    """What the features of all windows take on disk when they are encoded ahead, every patch with ink."""
    tower: PreTrainedConfig = model.config.vision_config
    windows = recipe.stage.steps * recipe.global_batch
    return round(windows * pages * num_patches(tower) * tower.hidden_size * item)


def _first_windows(run: PaperRun) -> dict[str, Any]:
    """Pages and characters of the first windows of some lanes, and what was skipped on the way to them."""
    distant = run.recipe.window.distant
    lanes = run.segments[:: max(1, len(run.segments) // SAMPLED)][:SAMPLED]
    pages, characters, cursors = [], [], list[Cursor]()
    for segments in lanes:
        window = next(Lane(segments, run.tokenizer, run.tokens))
        text = "".join(window.texts[:distant])
        pages.append(len(render(text, run.style)))
        characters.append(len(text))
        cursors.append(window.cursor)
    return {
        "sampled_windows": len(pages),
        "pages_per_window": sum(pages) / len(pages),
        "paper_pages_per_window": distant * PAPER_PAGES,
        "characters_per_token": sum(characters) / len(characters) / distant,
        "skipped": report(cursors)["skipped"],
    }


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
