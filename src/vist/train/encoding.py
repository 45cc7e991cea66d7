"""A corpus rendered and encoded ahead of time: the plan, and its way through plain processes.

Owns which shards are still to be made, how one is made, and the order of the whole. Must not know the shards' format
(features.py) or what reads them; the same plan on a Ray cluster is ray_encoding.py.

Decisions
- The windows are those of training: the same lanes, tokens and pages, from the same code. A recipe's run with the
  features has the losses it has without.
- Work is divided by lanes, since a lane is read in order. A stretch of missing shards begins at the cursor that the
  shard before it ends with, so nothing that is finished is read again. A shard that is truncated counts as missing.
- One shard is in a process's memory at a time.
- Every window goes through the tower by itself, on one thread of a CPU: a window's features depend on nothing beside
  it, neither on the number of processes nor on what carries them out. So the files repeat byte for byte.
- Whole shards only: the number of windows is rounded up, so that a longer run only adds shards.
- What a process meets comes back as a sentence among the records.
- W windows, P pages of a window, X pages of a shard, R x C cells of a page, T tokens.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vist.errors import VistError
from vist.render import PageStyle
from vist.train import features
from vist.train.features import ShardPlace
from vist.train.paged import window_pages
from vist.train.paper import DTYPES, PaperRecipe, PaperRun
from vist.train.precision import resolved_precision
from vist.train.stream import Cursor, Lane, Segment, report
from vist.train.trainer import is_full
from vist.vision.encoder import PageFeatures, encode, freeze, load_vision_tower

SHARD_WINDOWS = 8

#: Of a finished shard: `lane`, `number`, `pages`, `bytes`; or `error`, a sentence.
Record = dict[str, Any]
Records = Generator[Record, None, None]


@dataclass(frozen=True)
class EncodingPlan:
    """All that a process needs to make shards: how windows are read, drawn and encoded, and where they go."""

    folder: Path
    segments: Sequence[Sequence[Segment]]
    tokenizer: PreTrainedTokenizerBase
    tokens: int
    distant: int
    style: PageStyle
    vision: str
    vision_layers: int | None
    drop_blank: bool
    precision: str
    shard_windows: int

    @classmethod
    def of(cls, run: PaperRun, folder: Path, shard_windows: int) -> EncodingPlan:
        """The plan for the windows of a run."""
        recipe, known = run.recipe, run.identity()
        return cls(
            folder,
            run.segments,
            run.tokenizer,
            run.tokens,
            recipe.window.distant,
            run.style,
            recipe.vision,
            known["vision_layers"],
            known["vision_drop_blank"],
            resolved_precision(recipe.stage.precision),
            shard_windows,
        )

    def tower(self) -> PreTrainedModel:
        """The frozen tower, as training has it."""
        tower = load_vision_tower(self.vision, dtype=DTYPES[self.precision], layers=self.vision_layers)
        freeze(tower)
        return tower


class Stretch(NamedTuple):
    """Missing shards of a lane that follow each other, `start` to `stop`, and where the lane stands before them."""

    lane: int
    start: int
    stop: int
    cursor: Cursor


class DrawnShard(NamedTuple):
    """The windows of a shard before they are encoded."""

    place: ShardPlace
    ids_WT: np.ndarray
    pages_W: np.ndarray  # how many of the X pages each window has
    pixels_XHW: np.ndarray
    ink_XRC: np.ndarray
    cursors: list[Cursor]


def draw_shards(plan: EncodingPlan, stretch: Stretch) -> Iterator[DrawnShard]:
    """Read, tokenize and draw the shards of a stretch. Raises VistError as `Lane` does."""
    lane = Lane(plan.segments[stretch.lane], plan.tokenizer, plan.tokens, stretch.cursor)
    for number in range(stretch.start, stretch.stop):
        windows = [next(lane) for _ in range(plan.shard_windows)]
        drawn = [window_pages(window, plan.distant, plan.style) for window in windows]
        yield DrawnShard(
            ShardPlace(stretch.lane, number),
            np.stack([window.ids for window in windows]),
            np.array([len(pages) for pages in drawn]),
            np.concatenate([pages.pixels for pages in drawn]),
            np.concatenate([pages.ink for pages in drawn]),
            [window.cursor for window in windows],
        )


class ShardEncoder:
    """A tower in memory that turns drawn shards into files."""

    def __init__(self, plan: EncodingPlan, device: torch.device):
        self.plan, self.device = plan, device
        self.tower = plan.tower().to(device)  # type: ignore[arg-type]

    def write(self, drawn: DrawnShard) -> Record:
        """Encode a shard and write it, whole or not at all -> its record, which may be an error."""
        path = drawn.place.path(self.plan.folder)
        ends = np.cumsum(drawn.pages_W)
        try:
            seen = [
                self._encode(drawn.pixels_XHW[start:end], drawn.ink_XRC[start:end])
                for start, end in zip(ends - drawn.pages_W, ends, strict=True)
            ]
            size = features.write_shard(path, drawn.ids_WT, seen, drawn.cursors)
        except (OSError, SafetensorError) as error:
            if not is_full(error, self.plan.folder):
                raise
            return {"error": _full_sentence(path)}
        return {"lane": drawn.place.lane, "number": drawn.place.number, "pages": int(ends[-1]), "bytes": size}

    def _encode(self, pixels_PHW: np.ndarray, ink_PRC: np.ndarray) -> PageFeatures:
        pixels, ink = (torch.from_numpy(values.copy())[None].to(self.device) for values in (pixels_PHW, ink_PRC))
        precision = self.plan.precision
        with (
            one_thread(self.device),
            torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"),
        ):
            seen = encode(self.tower, pixels, ink, drop_blank=self.plan.drop_blank)
        return PageFeatures(seen.features.cpu(), seen.mask.cpu())


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One thread of a CPU, since sums that several threads share out round differently; of a GPU nothing changes."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode_corpus(
    recipe: PaperRecipe,
    data: Any,
    folder: Path,
    workers: int | None = 1,
    on_ray: bool = False,
    shard_windows: int | None = None,
) -> dict[str, Any]:
    """Render and encode every window that a recipe's run takes, into a folder; what is there already stays.

    `data`: as for `train_paper`. `workers`: processes that draw and encode (on Ray: encoders); None = one for each GPU,
    else for each core, of this machine or of the cluster. `shard_windows`: windows of a shard; None = those the folder
    has, or 8. -> the index of the folder.
    Raises VistError when tower, tokenizer or data cannot be read, the folder holds features of something else, or the
    disk is full.
    """
    index = features.read_index(folder)
    shard_windows = _shard_windows(folder, index, shard_windows, recipe.stage.steps)
    run = PaperRun(recipe, data, folder)
    plan = EncodingPlan.of(run, folder, shard_windows)
    shards = -(-recipe.stage.steps // shard_windows)
    known = {**run.identity(), "shard_windows": shard_windows, "precision": plan.precision}
    _begin(plan, index, {**known, "windows": shards * shard_windows})
    stretches = missing(plan, len(run.segments), shards)
    _carry_out(plan, stretches, workers, on_ray)
    return _finish(folder, len(run.segments))


def _shard_windows(folder: Path, index: dict[str, Any] | None, wanted: int | None, steps: int) -> int:
    if index is None:
        return min(wanted or SHARD_WINDOWS, steps)
    if wanted is not None and wanted != index["shard_windows"]:
        raise VistError(
            f"The shards in {str(folder)!r} have {index['shard_windows']} windows each, not {wanted}; leave "
            "--shard-windows out, or encode into another folder."
        )
    return index["shard_windows"]


def _begin(plan: EncodingPlan, before: dict[str, Any] | None, index: dict[str, Any]) -> None:
    """Check that a folder is of these features, or begin one; take away what an interruption left."""
    folder, tower = plan.folder, plan.tower()
    if before is None:
        index["tower"] = {"source": plan.vision, "fingerprint": features.write_tower(folder, tower)}
    else:
        features.check_identity(folder, before, index)
        if before["precision"] != plan.precision:
            raise VistError(
                f"The features in {str(folder)!r} are of {before['precision']}, this machine computes in "
                f"{plan.precision}; go on where they were begun, or encode into another folder."
            )
        features.check_tower(folder, tower)
        index["tower"] = before["tower"]
        index["windows"] = max(before["windows"], index["windows"])
    for part in folder.glob("lane-*/*.part"):
        part.unlink()
    features.write_index(folder, index)


def missing(plan: EncodingPlan, lanes: int, shards: int) -> list[Stretch]:
    """The stretches of shards that are not there, or not whole, of so many lanes with so many shards each."""
    found = []
    for lane in range(lanes):
        start: int | None = None
        cursor = after = Cursor()
        for number in range(shards):
            end = features.last_cursor(ShardPlace(lane, number).path(plan.folder))
            if end is None and start is None:
                start, cursor = number, after
            elif end is not None and start is not None:
                found.append(Stretch(lane, start, number, cursor))
                start = None
            after = end or after
        if start is not None:
            found.append(Stretch(lane, start, shards, cursor))
    return found


def _carry_out(plan: EncodingPlan, stretches: list[Stretch], workers: int | None, on_ray: bool) -> None:
    """Make the missing shards. Raises VistError with what a process met, and when what is left will not fit."""
    count = sum(stretch.stop - stretch.start for stretch in stretches)
    if not count:
        return
    if on_ray:
        from vist.train.ray_encoding import encode_on_ray

        records = encode_on_ray(plan, stretches, workers)
    else:
        records = encode_in_processes(plan, stretches, workers or default_workers())
    with closing(records), tqdm(total=count, unit="shard") as bar:  # closing ends the processes, also on an error
        for record in records:
            if "error" in record:
                raise VistError(record["error"])
            if bar.n == 0:
                _check_room(plan.folder, record["bytes"] * (count - 1))
            bar.update()


def encode_in_processes(plan: EncodingPlan, stretches: list[Stretch], workers: int) -> Records:
    """The records of all shards, as they are finished, from `workers` processes; 1 is this one."""
    work = _Work(plan, stretches)
    if workers == 1:
        yield from work
        return
    context = "spawn" if torch.cuda.is_available() else None  # a GPU cannot be used in a fork
    loader = DataLoader(work, batch_size=None, num_workers=workers, multiprocessing_context=context, in_order=False)
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
            raise
        raise VistError(
            "A process that encodes was killed, perhaps for want of memory; its finished shards are whole; run the "
            "same command again, with fewer --workers if memory was short."
        ) from error


class _Work(IterableDataset):
    """The records of all stretches; of a worker those of its share."""

    def __init__(self, plan: EncodingPlan, stretches: list[Stretch]):
        self.plan, self.stretches = plan, stretches

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            encoder = ShardEncoder(self.plan, device_of(number))
            for stretch in self.stretches[number::count]:
                for drawn in draw_shards(self.plan, stretch):
                    yield encoder.write(drawn)
        except VistError as error:
            yield {"error": str(error)}


def device_of(number: int) -> torch.device:
    """The device of a process: the GPUs in turn, else the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", number % count) if count else torch.device("cpu")


def default_workers() -> int:
    """A process for each GPU, else for each core."""
    return torch.cuda.device_count() if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise VistError(
            f"No space for the features in {str(folder)!r}: the missing shards take {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; free some space, lower --steps, or choose another --out."
        )


def _full_sentence(path: Path) -> str:
    return (
        f"No space left for {str(path)!r}; the finished shards are whole; free some space and run the same command "
        "again, it goes on from there."
    )


def _finish(folder: Path, lanes: int) -> dict[str, Any]:
    """Write the index of a finished folder: every shard with its size, and what was read and skipped."""
    index = features.read_index(folder)
    assert index is not None
    shards = index["windows"] // index["shard_windows"]
    paths = [ShardPlace(lane, number).path(folder) for lane in range(lanes) for number in range(shards)]
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:  # a longer run was begun here and is not finished
        raise VistError(f"{str(absent)!r} is still missing; run `vist encode` with --steps {index['windows']}.")
    cursors = [features.last_cursor(ShardPlace(lane, shards - 1).path(folder)) for lane in range(lanes)]
    index["shards"] = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    index["data"] = report([cursor for cursor in cursors if cursor is not None])
    features.write_index(folder, index)
    return json.loads(json.dumps(index))
