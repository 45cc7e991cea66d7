"""Adapter checkpoints: what was trained, and which two backbones it was trained on.

Owns the folder's format, recognising backbones, and publishing. Does not know how the model computes; it is mixed into
the model class for its two verbs.

Decisions
- The folder holds `config.json` (the model's), `adapter.json` (sources, revisions and types of the backbones),
  `adapter.safetensors` (the trained weights under the model's own names) and `backbones.safetensors` (a sample of the
  backbones' weights). A few hundred kilobytes beside the trained weights make sure that nobody runs an adapter on
  another model and gets nonsense.
- What belongs in it follows from the architecture, not from what happens to require gradients: Resampler,
  cross-attention, page codes, PVE projection, LoRA. Backbone weights that are being trained would be lost, so they are
  refused.
- Loading is as strict as for a whole checkpoint.
- Files are written beside their place and renamed; `adapter.json` comes last, and a folder without it is no adapter.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from vist.errors import CheckpointError, VistError
from vist.model.card import model_card, public_id
from vist.model.checkpoint import check_folder, first_line
from vist.model.configuration import VistConfig
from vist.model.fingerprint import fingerprint, first_difference, short_name
from vist.model.lora import is_lora

RECORD, WEIGHTS, SAMPLE, CARD = "adapter.json", "adapter.safetensors", "backbones.safetensors", "README.md"
FORMAT = "vist-adapter"
PARTS = {"llm": "language_model", "vision": "vision_tower"}
LABELS = {"llm": "language model", "vision": "vision tower"}


class AdapterMixin:
    """Saving, loading and publishing for a model with `language_model`, `vision_tower` and a `VistConfig`."""

    def save_adapter(self, folder: str | os.PathLike[str]) -> Path:
        """Write what was trained, with the sources and a fingerprint of the backbones, to `folder`.

        Raises VistError when weights of a backbone are in training: they would not be in the adapter.
        """
        model: Any = self
        _refuse_trained_backbones(model)
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / RECORD).unlink(missing_ok=True)
        record, samples = describe(model)
        model.config.save_pretrained(place)
        trained = {name: value.detach().contiguous().cpu() for name, value in trained_weights(model).items()}
        _write(place / WEIGHTS, lambda part: save_file(trained, part, metadata={"format": "pt"}))
        _write(place / SAMPLE, lambda part: save_file(samples, part, metadata={"format": "pt"}))
        text = json.dumps(record, indent=2) + "\n"
        _write(place / RECORD, lambda part: part.write_text(text, encoding="utf-8"))
        return place

    @classmethod
    def from_adapter(
        cls,
        source: str | os.PathLike[str],
        llm: str | os.PathLike[str] | PreTrainedModel | None = None,
        vision: str | os.PathLike[str] | PreTrainedModel | None = None,
        **options: Any,
    ) -> Self:
        """The backbones an adapter was trained on, with the adapter in place, in evaluation mode.

        `source`: a folder of `save_adapter` or a Hub id. `llm`, `vision`: where the backbones are now; None = where
        they were. `options`: `dtype`, `device_map`, `attn_implementation`, as for `from_backbones`.
        Raises CheckpointError when the folder is no adapter or is incomplete, a backbone is not the one it was trained
        on, or its weights do not fit.
        """
        folder = _folder(source)
        record = _read_record(folder)
        config = VistConfig.from_pretrained(folder)
        backbones = {
            part: given if given is not None else _recorded(folder, record, part)
            for part, given in (("llm", llm), ("vision", vision))
        }
        for part, given in (("llm", llm), ("vision", vision)):
            options[f"{part}_revision"] = record[part]["revision"] if given is None else None
        options["vision_layers"] = config.vision_config.num_hidden_layers
        model: Any = cls.from_backbones(**backbones, **options, **config.choices())  # type: ignore[attr-defined]
        _recognise(folder, record, model, backbones)
        _load(folder, model)
        return model.eval()

    def load_adapter_weights(self, folder: str | os.PathLike[str]) -> None:
        """Put the weights of a folder of `save_adapter` into this model, in place.

        Raises CheckpointError when the folder is incomplete, or belongs to other backbones or another shape.
        """
        model: Any = self
        record = _read_record(Path(folder))
        _recognise(Path(folder), record, model, {part: getattr(model, name) for part, name in PARTS.items()})
        _load(Path(folder), model)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        adapter: bool = False,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Publish the whole model, or with `adapter` only what was trained, with a generated card; returns the address.

        Local paths of backbones are left out. A card that the repository already has is kept; `tags` go into a new one.
        """
        model: Any = self
        api = HfApi(token=token)
        target = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if adapter:
                self.save_adapter(folder)
                record = _read_record(folder)
            else:
                model.save_pretrained(folder, max_shard_size=max_shard_size)
                record, _ = describe(model)
            _drop_local_paths(folder)
            if not api.file_exists(target, CARD):
                (folder / CARD).write_text(card_of(model, target, record, adapter, tags or []), encoding="utf-8")
            message = commit_message or f"Upload {'adapter' if adapter else 'model'}"
            return str(
                api.upload_folder(
                    repo_id=target,
                    folder_path=folder,
                    commit_message=message,
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )
            )


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Names and values of everything that is not a backbone's own."""
    return {name: value for name, value in model.named_parameters() if _is_trained(name)}


def describe(model: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `adapter.json` says, and the samples of both backbones under "llm/..." and "vision/..."."""
    record: dict[str, Any] = {"format": FORMAT, "version": 1}
    samples: dict[str, torch.Tensor] = {}
    for part, attribute in PARTS.items():
        backbone = getattr(model, attribute)
        sample = fingerprint(_own_weights(backbone))
        record[part] = {
            "id": backbone.config._name_or_path or None,
            "revision": getattr(backbone.config, "_commit_hash", None),
            "model_type": backbone.config.model_type,
            "fingerprint": short_name(sample),
            "packed": sorted(_packed(_own_weights(backbone))),
        }
        samples |= {f"{part}/{name}": value for name, value in sample.items()}
    return record, samples


def card_of(model: Any, name: str, record: dict[str, Any], adapter: bool, tags: list[str]) -> str:
    """The card of this model under that name, with further tags."""
    counts = {
        "trained": sum(value.numel() for value in trained_weights(model).values()),
        "total": sum(value.numel() for value in model.parameters()),
    }
    return model_card(name, model.config, record, counts, adapter, tags)


def _is_trained(name: str) -> bool:
    return not name.startswith(tuple(f"{part}." for part in PARTS.values())) or ".cross_attn." in name or is_lora(name)


def _own_weights(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """The backbone's weights under the names they have without cross-attention and LoRA."""
    return {
        name.replace(".base_layer.", "."): value
        for name, value in backbone.named_parameters()
        if ".cross_attn." not in name and not is_lora(name)
    }


def _packed(weights: dict[str, nn.Parameter]) -> set[str]:
    """Names of weights that a quantisation has packed: they hold no values to compare."""
    return {name for name, value in weights.items() if not value.is_floating_point()}


def _refuse_trained_backbones(model: nn.Module) -> None:
    trained = [name for name, value in model.named_parameters() if value.requires_grad and not _is_trained(name)]
    if trained:
        raise VistError(
            f"{len(trained)} weights of a backbone are being trained, for example {trained[0]}, and an adapter "
            "holds none of them; save the whole model with save_pretrained, or train the LLM with lora_rank=."
        )


def _write(path: Path, write: Any) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _drop_local_paths(folder: Path) -> None:
    """Leave of the backbones' sources in a folder's JSON files only those that others can fetch."""
    for file, key, names in (
        (RECORD, "id", PARTS),
        ("config.json", "_name_or_path", ("text_config", "vision_config")),
    ):
        if (folder / file).exists():
            values = json.loads((folder / file).read_text(encoding="utf-8"))
            for name in names:
                values[name][key] = public_id(values[name].get(key))
            (folder / file).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _folder(source: str | os.PathLike[str]) -> Path:
    check_folder(source)
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), allow_patterns=[RECORD, WEIGHTS, SAMPLE, "*.json"]))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise CheckpointError(f"Cannot load an adapter from {str(source)!r}: {first_line(error)}") from error


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        complete = record["format"] == FORMAT and all({"id", "revision"} <= set(record[part]) for part in PARTS)
    except FileNotFoundError:
        raise CheckpointError(f"{str(folder)!r} has no {RECORD}; give a folder written by save_adapter.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{RECORD} in {str(folder)!r} cannot be read: {first_line(error)}") from error
    if not complete:
        raise CheckpointError(f"{RECORD} in {str(folder)!r} is not of the format {FORMAT}; write the adapter again.")
    return record


def _recorded(folder: Path, record: dict[str, Any], part: str) -> str:
    """Where that backbone was. Raises CheckpointError when the adapter does not know."""
    if record[part]["id"] is None:
        raise CheckpointError(
            f"The adapter in {str(folder)!r} does not say where its {LABELS[part]} is; pass {part}=FOLDER."
        )
    return record[part]["id"]


def _recognise(folder: Path, record: dict[str, Any], model: Any, backbones: dict[str, Any]) -> None:
    """Raises CheckpointError unless both backbones are those the adapter was trained on."""
    samples = _read_tensors(folder / SAMPLE)
    for part, attribute in PARTS.items():
        weights = _own_weights(getattr(model, attribute))
        known = {name.removeprefix(f"{part}/"): value for name, value in samples.items() if name.startswith(f"{part}/")}
        packed = _packed(weights) | set(record[part].get("packed", ()))
        found = fingerprint(weights)
        name = first_difference(known, found, packed)
        if name is not None:
            given = backbones[part]
            name_now = given.config._name_or_path if isinstance(given, PreTrainedModel) else str(given)
            now = repr(name_now) if name_now else "this one"
            raise CheckpointError(
                f"The adapter in {str(folder)!r} was trained on another {LABELS[part]}, {record[part]['id']!r} with "
                f"fingerprint {record[part]['fingerprint']}; {now} has {short_name(found)} and differs "
                f"first in {name}; load the backbone it was trained on."
            )


def _load(folder: Path, model: nn.Module) -> None:
    """Copy the adapter's weights into the model. Raises CheckpointError unless they fit exactly."""
    found, wanted = _read_tensors(folder / WEIGHTS), trained_weights(model)
    odd = sorted(found.keys() ^ wanted.keys())
    if odd:
        which = "lacks" if odd[0] in wanted else "has an unknown weight"
        raise CheckpointError(f"{WEIGHTS} in {str(folder)!r} {which} {odd[0]}; it does not belong to its config.json.")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"The weight {name} in {str(folder)!r} has shape {tuple(value.shape)}, the config asks for "
                f"{tuple(wanted[name].shape)}; config.json and weights are of different models."
            )
    with torch.no_grad():
        for name, value in found.items():
            wanted[name].copy_(value)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} in {str(path.parent)!r} cannot be read: {first_line(error)}") from error
