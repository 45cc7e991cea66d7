"""Windows of a corpus that is read once through, in constant memory: lanes, packing, and where a lane has got to.

Owns the division of a corpus into lanes, the packing of documents into windows of a fixed number of tokens, and the
cursor from which a lane goes on. Must not know about pages, batches or ranks.

Decisions
- A lane is one place of the global batch: the l-th sample of every step comes from lane l. Lanes are equal parts of
  the corpus by bytes, so sources mix in proportion to their size, and what a step trains on does not depend on how
  many devices or workers share the work. Changing their number changes nothing but speed.
- Documents follow each other with one end token between them and windows are cut anywhere, as in the paper: no padding,
  nothing left out.
- A cursor holds counts alone: part, row, token. Going on from it reads the row again and drops the tokens that were
  used; no text is kept.
- A lane that reaches its end begins again. So lanes of unequal length never leave a rank without data.
- The text of a token is what it stands for in the source, by the tokenizer's offsets: decoding ids is not always the
  way back.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from vist.errors import VistError
from vist.train.sources import Row, Shard, StreamShard

PIECE = 1 << 15  # characters that are tokenized at once
BETWEEN = "\n\n"  # what an end token looks like on a page


class Segment(NamedTuple):
    """A lane's part of one shard."""

    shard: Shard
    start: int
    stop: int


@dataclass(frozen=True)
class Cursor:
    """Where a lane goes on, in counts, and what it has met so far.

    `segment`, `row`, `token`: the next token is this one of this row of this part. `epoch` times around, `windows` cut,
    `documents` read to their end; `skipped`: fault -> how many rows, and the place of the first.
    """

    segment: int = 0
    row: int = 0
    token: int = 0
    epoch: int = 0
    windows: int = 0
    documents: int = 0
    skipped: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cursor:
        """What `to_dict` gave."""
        skipped = {fault: (count, place) for fault, (count, place) in values["skipped"].items()}
        return cls(**{**values, "skipped": skipped})


class Window(NamedTuple):
    """`ids` (tokens,) int64, and for each of them the `texts` it stands for; `cursor` after it."""

    ids: np.ndarray
    texts: list[str]
    cursor: Cursor


class _Run(NamedTuple):
    """Buffered tokens of one row: where the first of them is, and the faulty rows right before it."""

    segment: int
    row: int
    token: int
    epoch: int
    size: int = 0
    ends: bool = False
    faults: tuple[Row, ...] = ()


def cut_lanes(shards: Sequence[Shard], lanes: int) -> list[list[Segment]]:
    """The parts of each lane. Raises VistError when a stream is mixed with files."""
    streams = [shard for shard in shards if isinstance(shard, StreamShard)]
    if streams:
        if len(shards) > 1:
            raise VistError("A stream cannot be mixed with other sources; write it to Parquet first.")
        return [[Segment(streams[0], lane, lanes)] for lane in range(lanes)]
    total = sum(shard.size for shard in shards)
    return [_part(shards, total * lane // lanes, total * (lane + 1) // lanes) for lane in range(lanes)]


def _part(shards: Sequence[Shard], low: int, high: int) -> list[Segment]:
    found, first = [], 0
    for shard in shards:
        start, stop = max(low - first, 0), min(high - first, shard.size)
        if start < stop:
            found.append(Segment(shard, shard.position(start), shard.position(stop)))
        first += shard.size
    return found


class Lane:
    """The windows of one lane, from a cursor on, without end.

    Raises VistError when a tokenizer has no offsets, a shard is damaged, or the whole lane has no text.
    """

    def __init__(
        self, segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, tokens: int, cursor: Cursor | None = None
    ):
        if not tokenizer.is_fast:
            raise VistError(f"The tokenizer {type(tokenizer).__name__} is a slow one; convert it to a fast one.")
        self.segments, self.tokenizer, self.tokens = segments, tokenizer, tokens
        self.cursor = cursor or Cursor()
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._runs: deque[_Run] = deque()
        self._rows = self._read(self.cursor)

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        while len(self._ids) <= self.tokens:  # one more, so that the cursor knows where the next window begins
            next(self._rows)
        ids, texts = np.array(self._ids[: self.tokens]), self._texts[: self.tokens]
        del self._ids[: self.tokens], self._texts[: self.tokens]
        self._advance()
        return Window(ids, texts, self.cursor)

    def _advance(self) -> None:
        """Move the cursor over a window's tokens, and over the faulty rows between them."""
        left, ended, skipped = self.tokens, 0, dict(self.cursor.skipped)
        while True:
            run = self._runs.popleft()
            for row in run.faults:
                count, place = skipped.get(str(row.fault), (0, row.place))
                skipped[str(row.fault)] = (count + 1, place)
            if left < run.size:
                break
            left, ended = left - run.size, ended + run.ends
        run = run._replace(token=run.token + left, size=run.size - left, faults=())
        self._runs.appendleft(run)
        windows, documents = self.cursor.windows + 1, self.cursor.documents + ended
        self.cursor = Cursor(run.segment, run.row, run.token, run.epoch, windows, documents, skipped)

    def _read(self, start: Cursor) -> Iterator[None]:
        """Buffer the tokens of one row after the other."""
        segment, row, token, epoch = start.segment, start.row, start.token, start.epoch
        faults: list[Row] = []
        empty = 0
        while empty < 2:  # the first time around may have begun near the end
            empty += 1
            for number in range(segment, len(self.segments)):
                shard, low, high = self.segments[number]
                for place, found in enumerate(shard.rows(low, high, row), row):
                    if found.text is None:
                        faults += [found] if found.fault else []
                    elif self._buffer(found, _Run(number, place, token, epoch, faults=tuple(faults))):
                        faults, empty = [], 0
                        yield
                    token = 0
                row = 0
            segment, epoch = 0, epoch + 1
        kinds = ", ".join(sorted({str(row.fault) for row in faults})) or "no rows"
        raise VistError(
            f"A part of the corpus has no text at all ({kinds}); give more documents or lower the global batch, "
            "which is the number of parts."
        )

    def _buffer(self, row: Row, run: _Run) -> bool:
        """Add the tokens of a row from `run.token` on; False if there are none."""
        ids, texts = self._tokens(row)
        count = max(0, len(ids) - run.token)
        if count:
            self._ids += ids[run.token :]
            self._texts += texts[run.token :]
            self._runs.append(run._replace(size=count, ends=row.last))
        return count > 0

    def _tokens(self, row: Row) -> tuple[list[int], list[str]]:
        assert row.text is not None
        ids: list[int] = []
        texts: list[str] = []
        for piece in pieces(row.text):
            encoded = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            starts = [0, *(start for start, _ in encoded.offset_mapping[1:]), len(piece)]
            ids += encoded.input_ids
            texts += [piece[low:high] for low, high in zip(starts, starts[1:], strict=False)][: len(encoded.input_ids)]
        if row.last and self.tokenizer.eos_token_id is not None:
            return [*ids, self.tokenizer.eos_token_id], [*texts, BETWEEN]
        return ids, texts


def pieces(text: str) -> Iterator[str]:
    """A long text in pieces of about `PIECE` characters, cut before blanks, which joined give it back."""
    start = 0
    while len(text) - start > PIECE:
        stop = text.rfind(" ", start + PIECE // 2, start + PIECE)
        stop = stop if stop > start else start + PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]


def fingerprint(shards: Sequence[Shard], tokenizer: PreTrainedTokenizerBase, tokens: int, lanes: int) -> str:
    """What cursors belong to: the shards and their sizes, the tokenizer, the window and the number of lanes."""
    known = [[shard.name.rsplit("/", 1)[-1], shard.size] for shard in shards]
    words = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    return hashlib.sha256(json.dumps([known, words, tokens, lanes]).encode()).hexdigest()[:16]


def report(cursors: Sequence[Cursor]) -> dict[str, Any]:
    """What lanes have met together: `windows`, `documents`, `epochs` (fewest, most), `skipped` rows by fault."""
    skipped: dict[str, tuple[int, str]] = {}
    for cursor in cursors:
        for fault, (count, place) in cursor.skipped.items():
            before, first = skipped.get(fault, (0, place))
            skipped[fault] = (before + count, first)
    return {
        "windows": sum(cursor.windows for cursor in cursors),
        "documents": sum(cursor.documents for cursor in cursors),
        "epochs": [min(cursor.epoch for cursor in cursors), max(cursor.epoch for cursor in cursors)],
        "skipped": {fault: {"rows": count, "first": place} for fault, (count, place) in sorted(skipped.items())},
    }


def skipped_sentence(found: Mapping[str, Any]) -> str:
    """The skipped rows of a report in one sentence; empty if there are none."""
    if not found["skipped"]:
        return ""
    parts = (f"{value['rows']} {fault} (first: {value['first']})" for fault, value in found["skipped"].items())
    return f"Skipped rows: {', '.join(parts)}."
