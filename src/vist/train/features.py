"""Windows whose pages were encoded before: sharded safetensors with an index, on disk.

Owns the folder's format, what it belongs to, and reading windows back from it. Must not know how pages are drawn or
encoded (encoding.py), nor about ranks.

Decisions
- A shard holds consecutive windows of one lane: the token ids, the features of the patches with ink, which patches
  these are, and the lane's cursor after each window. So training needs neither text nor tower while it reads, memory is
  one window for each lane, and a checkpoint of such a run is that of a run without features: it can go on either way.
- `index.json` says what the features are of: the corpus, tokenizer, window and lanes (as one fingerprint), page style,
  font and renderer, and the tower. Anything else is refused, since features of other pages train without complaint.
- The tower is recognised by a sample of its weights, as adapters recognise their backbones, not by its name.
- A shard is written beside and renamed, so one that is there is whole; the index lists the size of each at the end, so
  that one which was copied in part is found before the first step.
- Metadata are one entry of a shard's header: safetensors keeps no order among several, and bytes must repeat.
- Y inked patches, X pages, P pages of a window, N patches of a page, D width, T tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vist.errors import VistError
from vist.model.fingerprint import fingerprint, first_difference, short_name
from vist.train.stream import Cursor
from vist.vision.encoder import PageFeatures

INDEX, TOWER = "index.json", "tower.safetensors"
FORMAT, VERSION = "vist-features", 1

#: What the index says the features are of, in the order in which it is compared, and what a person calls it.
IDENTITY = {
    "renderer": "the renderer's version",
    "style": "the page style",
    "page": "the fingerprint of style and font",
    "distant": "T_e",
    "proximal": "T_d",
    "lanes": "the global batch",
    "corpus": "the fingerprint of corpus and tokenizer",
    "vision_layers": "the layers of the vision tower",
    "vision_drop_blank": "the leaving out of blank patches",
}


class EncodedWindow(NamedTuple):
    """`ids` (tokens,) int64, what the tower `seen` of its pages (1,P,N,D), and the `cursor` after it."""

    ids: np.ndarray
    seen: PageFeatures
    cursor: Cursor


class ShardPlace(NamedTuple):
    """A shard by its lane and its number in the lane."""

    lane: int
    number: int

    def path(self, folder: Path) -> Path:
        """Where it is."""
        return folder / f"lane-{self.lane:05d}" / f"{self.number:06d}.safetensors"


class FeatureStore:
    """A finished folder of features, for reading.

    Raises VistError when the folder is none or not finished, or a shard is missing or truncated.
    """

    def __init__(self, folder: Path):
        index = read_index(folder)
        if index is None:
            raise VistError(f"There are no features in {str(folder)!r} (no {INDEX}); give a folder of `vist encode`.")
        if "shards" not in index:
            raise VistError(f"The features in {str(folder)!r} are not finished; run the same `vist encode` again.")
        self.folder, self.index = folder, index
        for name, size in index["shards"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise damaged(path, "missing" if not path.is_file() else "truncated")

    def check(self, identity: Mapping[str, Any], windows: int) -> None:
        """Raise VistError unless the features are of this identity, with so many windows in each lane."""
        check_identity(self.folder, self.index, identity)
        if self.index["windows"] < windows:
            raise VistError(
                f"The features in {str(self.folder)!r} are {self.index['windows']} windows of each lane and the run "
                f"takes {windows}; run `vist encode` with --steps {windows} on the same folder, it adds the rest."
            )

    def check_tower(self, tower: nn.Module) -> None:
        """Raise VistError unless this is the tower that the features are of."""
        check_tower(self.folder, tower)

    def windows(self, lane: int, start: int = 0) -> Iterator[EncodedWindow]:
        """The windows of a lane from number `start` on. Raises VistError on a damaged shard and after the last."""
        size = self.index["shard_windows"]
        for number in range(start // size, self.index["windows"] // size):
            yield from read_shard(ShardPlace(lane, number).path(self.folder), max(0, start - number * size))
        raise VistError(f"The features in {str(self.folder)!r} end after {self.index['windows']} windows of each lane.")


def write_shard(path: Path, ids_WT: np.ndarray, seen: list[PageFeatures], cursors: list[Cursor]) -> int:
    """Write a shard of windows, whole or not at all -> its bytes. Raises OSError or SafetensorError on a full disk.

    `ids_WT` (windows, T); `seen`: of each window (1,P,N,D), zero where the mask is not set.
    """
    mask_XN = torch.cat([window.mask[0] for window in seen])
    tensors = {
        "ids": torch.from_numpy(ids_WT.astype(np.int32)),
        "pages": torch.tensor([window.mask.shape[1] for window in seen], dtype=torch.int32),
        "mask": mask_XN,
        "features": torch.cat([window.features[window.mask] for window in seen]).contiguous(),
    }
    about = json.dumps({"cursors": [cursor.to_dict() for cursor in cursors]}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole(path, lambda part: save_file(tensors, part, metadata={"vist": about}))
    return path.stat().st_size


def read_shard(path: Path, skip: int = 0) -> Iterator[EncodedWindow]:
    """The windows of a shard, without the first `skip`; one is in memory at a time. Raises VistError if damaged."""
    try:
        with safe_open(path, "pt") as file:
            cursors = json.loads(file.metadata()["vist"])["cursors"]
            ids, mask = file.get_tensor("ids").numpy().astype(np.int64), file.get_tensor("mask")
            features = file.get_slice("features")
            page = patch = 0
            for number, pages in enumerate(file.get_tensor("pages").tolist()):
                mask_PN = mask[page : page + pages]
                inked = int(mask_PN.sum())
                if number >= skip:
                    seen = _unpacked(features[patch : patch + inked], mask_PN)
                    yield EncodedWindow(ids[number], seen, Cursor.from_dict(cursors[number]))
                page, patch = page + pages, patch + inked
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, "truncated" if path.exists() else "missing") from error


def _unpacked(features_YD: Tensor, mask_PN: Tensor) -> PageFeatures:
    features_PND = features_YD.new_zeros(*mask_PN.shape, features_YD.shape[-1])
    features_PND[mask_PN] = features_YD
    return PageFeatures(features_PND[None], mask_PN[None])


def last_cursor(path: Path) -> Cursor | None:
    """Where the lane goes on after a shard; None when there is no whole shard."""
    try:
        with safe_open(path, "pt") as file:
            return Cursor.from_dict(json.loads(file.metadata()["vist"])["cursors"][-1])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder; None when it has none. Raises VistError when it cannot be read or is of another format."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        known = (index["format"], index["version"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VistError(f"{str(path)!r} cannot be read ({error}); copy the folder again.") from error
    if known != (FORMAT, VERSION):
        raise VistError(f"{str(path)!r} is of format {known[0]} {known[1]}, here {FORMAT} {VERSION}; encode again.")
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "version": VERSION, **index}, indent=1) + "\n"
    whole(folder / INDEX, lambda part: part.write_text(text, encoding="utf-8"))


def write_tower(folder: Path, tower: nn.Module) -> str:
    """Write the sample by which the tower is recognised -> its short name."""
    sample = fingerprint(dict(tower.named_parameters()))
    folder.mkdir(parents=True, exist_ok=True)
    whole(folder / TOWER, lambda part: save_file(sample, part))
    return short_name(sample)


def check_identity(folder: Path, index: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise VistError, naming the first difference, unless an index is of this identity."""
    for name, label in IDENTITY.items():
        if index.get(name) != identity[name]:
            raise VistError(
                f"The features in {str(folder)!r} are of something else: {label} is {index.get(name)!r} there and "
                f"{identity[name]!r} here; give features of the same, or encode into another folder."
            )


def check_tower(folder: Path, tower: nn.Module) -> None:
    """Raise VistError unless this is the tower that the features of a folder are of."""
    try:
        known = load_file(folder / TOWER)
    except (OSError, SafetensorError) as error:
        raise damaged(folder / TOWER, "missing or truncated") from error
    found = fingerprint(dict(tower.named_parameters()))
    name = first_difference(known, found, set())
    if name is not None:
        raise VistError(
            f"The features in {str(folder)!r} are of another vision tower, with fingerprint {short_name(known)}; this "
            f"one has {short_name(found)} and differs first in {name}; give features of the same tower, or encode into "
            "another folder."
        )


def damaged(path: Path, how: str) -> VistError:
    """What to do about a file of a folder of features that cannot be used."""
    return VistError(
        f"{str(path)!r} is {how}; run the same `vist encode` again (it makes such shards anew) or copy it."
    )


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and rename it; nothing stays behind on failure."""
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
