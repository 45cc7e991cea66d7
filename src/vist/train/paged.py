"""Batches of windows for training at scale: distant tokens as pages, proximal ones as ids, from lanes to the Trainer.

Owns what a window becomes, which rank and which worker makes it, and the cursors that come along with every batch.
Must not know how documents are packed (stream.py) or how a model is trained.

Decisions
- A window is T_e + T_d places: T_e distant tokens, drawn on as many pages as their text takes, and T_d proximal ones,
  the first of which is BOS where the tokenizer has one.
- In every forward pass the ranks take neighbouring lanes, so two ranks see, pass by pass, what one rank with twice the
  batch sees; with PVE's negatives gathered over ranks the losses are the same.
- A worker owns lanes, not steps: each lane is read, tokenized and drawn in one place.
- Where pages were encoded before (features.py), a lane's windows come from there: the same samples, with features in
  place of pages.
- Cursors travel with the batches. What the trainer has used is what a checkpoint knows, however far workers are ahead.

B batch, P pages, N patches, D width, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from vist.compress.frequency import MaskingStrategy, frequency_mask
from vist.errors import VistError
from vist.render import Pages, PageStyle, render
from vist.train.features import EncodedWindow, FeatureStore
from vist.train.stream import Cursor, Lane, Segment, Window
from vist.train.trainer import ignore_sigterm

Sample = dict[str, Any]


@dataclass(frozen=True)
class WindowShape:
    """What a window is cut into.

    Attributes:
        distant: T_e, tokens that are drawn on pages.
        proximal: T_d, tokens that the LLM reads, BOS included.
        masking: which distant tokens PVE leaves out.
        masking_rate: share of them.
    """

    distant: int
    proximal: int
    masking: MaskingStrategy = "frequency"
    masking_rate: float = 0.5

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens of the corpus in one window: BOS is not from there."""
        return self.distant + self.proximal - (tokenizer.bos_token_id is not None)


@dataclass(frozen=True)
class WindowReader:
    """From a window of tokens to what the model takes of one sample. `importance` (V,) is s_w of every token."""

    tokenizer: PreTrainedTokenizerBase
    style: PageStyle
    shape: WindowShape
    importance: np.ndarray
    seed: int

    def sample(self, window: Window | EncodedWindow, lane: int) -> Sample:
        """`prompt` (T_d,), `context` and `keep` (T_e,), and `pixels` (P,H,W), `ink` (P,rows,cols).

        Of a window that was encoded before, `features` (P,N,D) and `mask` (P,N) in place of the last two.
        """
        distant = self.shape.distant
        bos = self.tokenizer.bos_token_id
        prompt = window.ids[distant:] if bos is None else np.concatenate([[bos], window.ids[distant:]])
        context = torch.from_numpy(window.ids[:distant])
        return {
            "prompt": torch.from_numpy(prompt),
            "context": context,
            "keep": self._keep(context, lane, window.cursor.windows),
            **self._seen(window),
        }

    def _seen(self, window: Window | EncodedWindow) -> Sample:
        if isinstance(window, EncodedWindow):
            return {"features": window.seen.features[0], "mask": window.seen.mask[0]}
        pages = window_pages(window, self.shape.distant, self.style)
        return {"pixels": torch.from_numpy(pages.pixels), "ink": torch.from_numpy(pages.ink)}

    def _keep(self, context: torch.Tensor, lane: int, number: int) -> torch.Tensor:
        """The distant tokens that PVE sees, drawn anew for every window; the ends of documents never."""
        seed = int(np.random.default_rng((self.seed, lane, number)).integers(2**62))
        valid = context != (-1 if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id)
        generator = torch.Generator().manual_seed(seed)
        shape = self.shape
        return frequency_mask(context, self.importance, shape.masking_rate, shape.masking, generator, valid)

    def collate(self, rows: Sequence[Sample]) -> dict[str, Any]:
        """The model's arguments; samples with fewer pages get blank ones behind theirs."""
        prompts = torch.stack([row["prompt"] for row in rows])
        return {
            "input_ids": prompts,
            "labels": prompts,
            **self._padded(rows),
            "context_ids": torch.stack([row["context"] for row in rows]),
            "context_keep": torch.stack([row["keep"] for row in rows]),
            "use_cache": False,
        }

    def _padded(self, rows: Sequence[Sample]) -> dict[str, torch.Tensor]:
        if "features" in rows[0]:
            return {
                "page_features": pad_sequence([row["features"] for row in rows], True),
                "page_mask": pad_sequence([row["mask"] for row in rows], True, False),
            }
        return {
            "pixel_values": pad_sequence([row["pixels"] for row in rows], True, self.style.background),
            "ink_mask": pad_sequence([row["ink"] for row in rows], True, False),
        }


def window_pages(window: Window, distant: int, style: PageStyle) -> Pages:
    """The pages of a window: the text of its first `distant` tokens, drawn."""
    return render("".join(window.texts[:distant]), style)


@dataclass(frozen=True)
class Share:
    """What one rank does of every step: `batch_size` samples a pass, `accumulation` passes, of `world` ranks."""

    rank: int
    world: int
    batch_size: int
    accumulation: int

    @classmethod
    def of(cls, lanes: int, batch_size: int, rank: int, world: int) -> Share:
        """Divide a global batch. Raises VistError when ranks or passes would have unequal shares."""
        together = batch_size * world
        if lanes % together:
            raise VistError(
                f"A global batch of {lanes} cannot be divided among {world} ranks with {batch_size} samples each; "
                f"choose a --batch-size so that {world} times it divides {lanes}."
            )
        return cls(rank, world, batch_size, lanes // together)

    @property
    def lanes(self) -> list[int]:
        """The lanes of this rank in the order of a step's samples."""
        together = self.batch_size * self.world
        starts = (step * together + self.rank * self.batch_size for step in range(self.accumulation))
        return [start + sample for start in starts for sample in range(self.batch_size)]


class _Samples(IterableDataset):
    """The samples of a rank's lanes in turn, without end; of a worker, those of the lanes it owns."""

    def __init__(
        self,
        lanes: list[int],
        segments: Sequence[Sequence[Segment]],
        reader: WindowReader,
        cursors: Mapping[int, Cursor],
        features: FeatureStore | None,
    ):
        self.lanes, self.segments, self.reader, self.cursors = lanes, segments, reader, cursors
        self.features = features

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        own = self.lanes if worker is None else self.lanes[worker.id :: worker.num_workers]
        windows = {lane: self._windows(lane) for lane in own}
        try:
            while True:
                for lane in own:
                    window = next(windows[lane])
                    yield {**self.reader.sample(window, lane), "lane": lane, "cursor": window.cursor}
        except VistError as error:  # across processes an exception would lose its sentence
            yield {"error": str(error)}

    def _windows(self, lane: int) -> Iterator[Window | EncodedWindow]:
        cursor = self.cursors.get(lane, Cursor())
        if self.features is not None:
            return self.features.windows(lane, cursor.windows)
        tokenizer = self.reader.tokenizer
        return Lane(self.segments[lane], tokenizer, self.reader.shape.tokens(tokenizer), cursor)


class WindowBatches:
    """What transformers' Trainer iterates over: batches of a rank's lanes, with the `cursors` of their samples.

    `segments` are those of all lanes (`cut_lanes`). `workers` processes read, tokenize and draw; as many of them are
    used as divide the rank's share of a step. Has the length of the whole run, `steps`. `features`: where the pages
    of these lanes were encoded before.
    """

    def __init__(
        self,
        segments: Sequence[Sequence[Segment]],
        reader: WindowReader,
        share: Share,
        steps: int,
        workers: int = 0,
        fingerprint: str = "",
        features: FeatureStore | None = None,
    ):
        self.segments, self.reader, self.share, self.steps = segments, reader, share, steps
        self.features = features
        self.fingerprint = fingerprint
        self.cursors: dict[int, Cursor] = {}
        own = len(share.lanes)
        self.workers = max((count for count in range(1, workers + 1) if own % count == 0), default=0)

    def __len__(self) -> int:
        return self.steps * self.share.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from the cursors on. Raises VistError as `Lane` does."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        samples = _Samples(self.share.lanes, self.segments, self.reader, dict(self.cursors), self.features)
        rows: list[Sample] = []
        loader = DataLoader(samples, batch_size=None, num_workers=self.workers, worker_init_fn=ignore_sigterm)
        for row in loader:
            if "error" in row:
                raise VistError(row["error"])
            rows.append(row)
            if len(rows) == self.share.batch_size:
                cursors = {taken["lane"]: taken["cursor"] for taken in rows}
                yield {**self.reader.collate(rows), "cursors": cursors}
                rows = []

    def used(self, cursors: Mapping[int, Cursor]) -> None:
        """Note that the samples up to these cursors were trained on."""
        self.cursors |= cursors

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this rank's lanes."""
        cursors = {str(lane): cursor.to_dict() for lane, cursor in self.cursors.items()}
        return {"fingerprint": self.fingerprint, "cursors": cursors}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from a checkpoint of all ranks, of however many. Raises VistError when it is of other data."""
        for state in states:
            if state["fingerprint"] != self.fingerprint:
                raise VistError(
                    "The checkpoint was made with other training data, another tokenizer, window or global batch; "
                    "go on with the same ones, or start anew in another --out folder."
                )
            self.cursors |= {int(lane): Cursor.from_dict(values) for lane, values in state["cursors"].items()}
