"""Sources of training text that are larger than memory: shards, the rows in them, and what is wrong with a row.

Owns reading Parquet, JSON Lines, plain text and streams of the `datasets` library, row by row, from any place in a
shard. Must not know about tokenizers, windows or ranks.

Decisions
- A shard has a size in bytes and can be read from any part of it, so a corpus can be cut into equal parts without
  reading it first. Parquet is cut between rows, JSON Lines and text at the first line that begins in the part.
- A row without usable text is not an error: it comes with the `fault`, and whoever reads counts it. A shard that ends
  too early is an error that names the shard: silently training on half of it would change what was trained on.
- The text is in `text` (RedPajama 1T, C4, most others), `raw_content` (RedPajama V2) or `content` (The Stack).
- `datasets` is imported only for its own streams.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vist.errors import VistError
from vist.train.corpus import TEXT_SUFFIXES

TEXT_KEYS = ("text", "raw_content", "content")
JSON_SUFFIXES = {".jsonl", ".ndjson"}
STREAM = "datasets:"
BLOCK = 1 << 16  # characters of plain text that count as one row


class Row(NamedTuple):
    """One row: its `text`, or the `fault` why it has none (both None for a blank line); `last` ends a document."""

    text: str | None
    fault: str | None
    place: str
    last: bool = True


@dataclass(frozen=True)
class Shard(ABC):
    """A file, or a stream, of rows. `size` in bytes; parts of it are given in positions from 0 to `length`."""

    name: str
    size: int
    length: int

    def position(self, offset: int) -> int:
        """The position that a byte offset stands for; the same offset always gives the same position."""
        return offset * self.length // max(1, self.size)

    @abstractmethod
    def rows(self, start: int, stop: int, skip: int = 0) -> Iterator[Row]:
        """Rows from `start` up to `stop`, without the first `skip` of them. Raises VistError on a damaged shard."""

    @abstractmethod
    def check(self) -> None:
        """Raise VistError, with the shard's name, if it can be seen without reading it all that it is damaged."""


class ParquetShard(Shard):
    """Rows of a Parquet file; positions are row numbers."""

    @classmethod
    def open(cls, path: Path) -> ParquetShard:
        """Read the footer. Raises VistError when the file is truncated, no Parquet, or has no text column."""
        metadata = _parquet(path).metadata
        paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        index = paths.index(_text_column(path, paths))
        groups = (metadata.row_group(number).column(index) for number in range(metadata.num_row_groups))
        return cls(str(path), sum(group.total_uncompressed_size for group in groups), metadata.num_rows)

    def check(self) -> None:
        """The footer was read when the shard was opened."""

    def rows(self, start: int, stop: int, skip: int = 0) -> Iterator[Row]:
        """Row groups outside the part are not read."""
        file = _parquet(Path(self.name))
        column = _text_column(Path(self.name), file.schema_arrow.names)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            low, high = max(start + skip - first, 0), min(stop - first, count)
            if low < high:
                yield from self._group(file, column, group, first, low, high)
            first += count

    def _group(self, file: pq.ParquetFile, column: str, group: int, first: int, low: int, high: int) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=16, row_groups=[group], columns=[column]):
                for value in batch.column(0):
                    if low <= number < high:
                        yield _row(value.as_py, f"{self.name} row {first + number}")
                    number += 1
        except (OSError, pa.ArrowException) as error:
            raise VistError(
                f"{self.name!r} is damaged in row group {group} ({_first_line(error)}); copy the shard again."
            ) from error


class _LineShard(Shard):
    """Lines of a file; positions are bytes."""

    @classmethod
    def open(cls, path: Path) -> Any:
        """Look up the size. Raises VistError when the file cannot be read."""
        try:
            with path.open("rb"):
                size = path.stat().st_size
        except OSError as error:
            raise VistError(f"{str(path)!r} cannot be read ({error.strerror}); check path and permissions.") from error
        return cls(str(path), size, size)

    def lines(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Every line that begins at or after byte `start` and before `stop`, with that place."""
        with open(self.name, "rb") as file:
            if start > 0:
                file.seek(start - 1)
                file.readline()  # the rest of a line that began before
            while (place := file.tell()) < stop and (line := file.readline()):
                yield place, line


class JsonShard(_LineShard):
    """JSON Lines, one object per line."""

    def check(self) -> None:
        """A copy that broke off ends inside a row: no line break, and no whole object after the last one."""
        with open(self.name, "rb") as file:
            file.seek(max(0, self.size - (1 << 24)))
            last = file.read().rpartition(b"\n")[2]
        if last.strip() and _json_text(last) == "not JSON":
            raise VistError(f"{self.name!r} is truncated: it ends inside a row; copy the shard again.")

    def rows(self, start: int, stop: int, skip: int = 0) -> Iterator[Row]:
        """A line is a row, also a blank one."""
        for place, line in islice(self.lines(start, stop), skip, None):
            where = f"{self.name} byte {place}"
            found = _json_text(line) if line.strip() else Row(None, None, where)
            yield Row(None, found, where) if isinstance(found, str) else found._replace(place=where)


class TextShard(_LineShard):
    """A plain text file: one document, or as many as it has parts, in rows of about `BLOCK` characters."""

    def check(self) -> None:
        """Any file is whole text."""

    def rows(self, start: int, stop: int, skip: int = 0) -> Iterator[Row]:
        """Bytes that are no UTF-8 become U+FFFD."""
        waiting: Row | None = None
        for number, block in enumerate(self._blocks(start, stop)):
            if waiting is not None:
                yield waiting._replace(last=False)
            waiting = Row(block, None, self.name) if number >= skip else None
        if waiting is not None:
            yield waiting if (waiting.text or "").strip() else waiting._replace(text=None, fault="empty")

    def _blocks(self, start: int, stop: int) -> Iterator[str]:
        block: list[bytes] = []
        size = 0
        for _, line in self.lines(start, stop):
            block.append(line)
            size += len(line)
            if size >= BLOCK:
                yield b"".join(block).decode("utf-8-sig", errors="replace")
                block, size = [], 0
        if block:
            yield b"".join(block).decode("utf-8-sig", errors="replace")


@dataclass(frozen=True)
class StreamShard(Shard):
    """A stream of the `datasets` library; part k of n is every n-th row, since nothing says how long it is."""

    stream: Any = None

    def check(self) -> None:
        """Read one row. Raises VistError when there is none or it cannot be fetched."""
        if next(self.rows(0, 1), None) is None:
            raise VistError(f"The stream {self.name!r} has no rows; check its name, configuration and split.")

    def rows(self, start: int, stop: int, skip: int = 0) -> Iterator[Row]:
        """Part `start` of `stop`: whole files of the stream where it has enough, else every so many rows of one."""
        files = max(1, self.stream.num_shards)
        if files >= stop:
            part, step, first = self.stream.shard(num_shards=stop, index=start), 1, 0
        else:
            part = self.stream.shard(num_shards=files, index=start % files) if files > 1 else self.stream
            step, first = len(range(start % files, stop, files)), start // files
        begin = first + skip * step
        try:
            for number, row in enumerate(part.skip(begin) if begin else part):
                if number % step == 0:
                    yield _row(lambda row=row: _text_of(row), f"{self.name} row {begin + number} of part {start}")
        except (OSError, pa.ArrowException, EOFError) as error:
            raise VistError(f"The stream {self.name!r} broke off ({_first_line(error)}); run again later.") from error


def open_shards(source: str | Path | Any) -> list[Shard]:
    """The shards of a file, of a folder (every text file in it, at any depth, by name), or of a `datasets` stream.

    `source`: a path, `datasets:NAME[@CONFIG][#SPLIT]` (NAME may be a folder), or an `IterableDataset`.
    Raises VistError when there is nothing to read, a shard is damaged, or `datasets` is wanted and not installed.
    """
    if not isinstance(source, (str, Path)):
        return [StreamShard("datasets stream", 0, 0, source)]
    if str(source).startswith(STREAM):
        return [StreamShard(str(source), 0, 0, _load_stream(str(source).removeprefix(STREAM)))]
    path = Path(source)
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    known = {".parquet", *JSON_SUFFIXES, *TEXT_SUFFIXES}
    files = [file for file in files if file.suffix in known and file.stat().st_size] if path.is_dir() else files
    if not files:
        raise VistError(f"No training text in {str(path)!r}: it holds no file ending in {', '.join(sorted(known))}.")
    shards = [_open(file) for file in files]
    for shard in shards:
        shard.check()
    return shards


def _open(path: Path) -> Shard:
    if not path.exists():
        raise VistError(f"There is no file or folder {str(path)!r} with training texts; pass --data.")
    if path.suffix == ".parquet":
        return ParquetShard.open(path)
    return (JsonShard if path.suffix in JSON_SUFFIXES else TextShard).open(path)


def _load_stream(name: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise VistError("Streams need the `datasets` library: pip install 'vist[datasets]'.") from error
    name, _, split = name.partition("#")
    name, _, config = name.partition("@")
    try:
        return load_dataset(name, config or None, split=split or "train", streaming=True)
    except (OSError, ValueError) as error:
        raise VistError(f"The data set {name!r} cannot be opened: {_first_line(error)}") from error


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise VistError(
            f"{str(path)!r} is truncated or no Parquet file ({_first_line(error)}); copy the shard again."
        ) from error


def _text_column(path: Path, names: list[str]) -> str:
    for key in TEXT_KEYS:
        if key in names:
            return key
    raise VistError(f"{str(path)!r} has none of the columns {', '.join(TEXT_KEYS)} (it has: {', '.join(names)}).")


def _json_text(line: bytes) -> Row | str:
    """The row of a line, or its fault."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError:
        return "not JSON"
    found = _row(lambda: _text_of(value), "")
    return found.fault or found


def _text_of(value: Any) -> Any:
    return next((value[key] for key in TEXT_KEYS if key in value), ...) if isinstance(value, dict) else ...


def _row(read: Any, place: str) -> Row:
    """A row from what `read` returns: its text, or what is wrong with it."""
    try:
        text = read()
        if isinstance(text, str):
            text.encode()  # a lone surrogate from a JSON escape is no text
    except UnicodeError:
        return Row(None, "not UTF-8", place)
    if text is ...:
        return Row(None, "no text", place)
    if text is not None and not isinstance(text, str):
        return Row(None, "not text", place)
    return Row(text, None, place) if text and text.strip() else Row(None, "empty", place)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
