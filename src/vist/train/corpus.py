"""Text corpora as one memory-mapped file of UTF-8 that any worker can read at any place.

Owns: reading documents (Parquet with a `text` column, JSON Lines, plain text), packing them, and cutting windows.
Must not know about tokenizers, pages or models.

Decisions
- A sample is a pure function of (seed, index): `window(rng, characters)` draws a document in proportion to its length
  and a place in it. So any worker, any rank and any resumed run gets the same sample for the same index, and nothing
  is held in memory: the operating system pages the packed file in and out.
- Packing streams the source once and writes beside and renames: an interrupted packing leaves nothing behind.
- Domains are mixed by weight, not by size, since one source is far larger than the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from vist.errors import VistError

TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py", ".tex"}


def read_text(path: Path) -> str:
    """The text of a file, as UTF-8; invalid bytes become U+FFFD, a byte order mark is dropped.

    Raises:
        VistError: the path is missing, a folder or not readable.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError as error:
        raise VistError(f"There is no file {str(path)!r}; check the path.") from error
    except IsADirectoryError as error:
        raise VistError(f"{str(path)!r} is a folder, not a text file; name a file in it.") from error
    except PermissionError as error:
        raise VistError(f"No permission to read {str(path)!r}; change its mode or choose another file.") from error


def documents(path: Path) -> Iterator[str]:
    """The documents of one file, one after the other, without holding more than a batch of rows.

    Raises:
        VistError: a file that is missing or cannot be read, a Parquet file without a `text` column, a broken JSON line.
    """
    if path.suffix == ".parquet":
        yield from _parquet_documents(path)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from _json_documents(path)
    else:
        yield read_text(path)


def _parquet_documents(path: Path) -> Iterator[str]:
    try:
        table = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise VistError(f"{str(path)!r} cannot be read as Parquet ({error}); check the file.") from error
    if "text" not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise VistError(f"{str(path)!r} has no column 'text' (it has: {names}); rename the text column.")
    for batch in table.iter_batches(batch_size=16, columns=["text"]):
        yield from (text for text in batch["text"].to_pylist() if text)


def _json_documents(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            text = json.loads(line).get("text") if line.strip() else None
        except (json.JSONDecodeError, AttributeError) as error:
            raise VistError(f"Line {number} of {str(path)!r} is not a JSON object: {error}; mend the line.") from error
        if text:
            yield text


def corpus_files(root: Path, domain: str, split: str) -> list[Path]:
    """Files of `root/corpus/<domain>/<split>*`, or of `root/<domain>/<split>*`, sorted by name.

    Raises:
        VistError: there is none.
    """
    for base in (root / "corpus" / domain, root / domain):
        found = sorted(base.glob(f"{split}*.parquet")) + sorted(base.glob(f"{split}*.jsonl"))
        if found:
            return found
    raise VistError(f"No {split} files of domain {domain!r} under {str(root)!r}; pass --data FOLDER with that layout.")


@dataclass(frozen=True)
class PackedCorpus:
    """Documents of one split, by domain, in one memory-mapped file of UTF-8 bytes.

    Attributes:
        data: (bytes,) uint8, memory-mapped.
        starts: domain name -> (documents + 1,) int64 byte offsets of its documents.
    """

    data: np.ndarray
    starts: dict[str, np.ndarray]

    @classmethod
    def build(cls, root: Path, domains: Iterable[str], split: str, cache: Path) -> PackedCorpus:
        """Pack the split of these domains to `cache` (once), then map it.

        Raises:
            VistError: see `corpus_files` and `documents`; what is packed in `cache` already lacks one of the domains.
        """
        wanted = list(domains)
        index_path, data_path = cache / f"{split}.index.npz", cache / f"{split}.utf8"
        if not index_path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            part = data_path.with_suffix(".part")
            starts: dict[str, np.ndarray] = {}
            try:
                with part.open("wb") as file:
                    for domain in wanted:
                        starts[domain] = _pack_domain(file, corpus_files(root, domain, split))
                os.replace(part, data_path)
            finally:
                part.unlink(missing_ok=True)
            index_part = cache / f"{split}.index.part.npz"
            np.savez(index_part, **starts)  # type: ignore[arg-type]  # numpy types every keyword as its own flag
            os.replace(index_part, index_path)
        with np.load(index_path) as index:
            table = {name: index[name] for name in index.files}
        missing = [domain for domain in wanted if domain not in table]
        if missing:
            raise VistError(
                f"The corpus packed in {str(cache)!r} holds {', '.join(table)} and not {missing[0]!r}; remove that "
                "folder, or train in another one."
            )
        return cls(np.memmap(data_path, mode="r", dtype=np.uint8), table)

    def document(self, domain: str, number: int) -> str:
        """The whole text of one document."""
        start, stop = self.starts[domain][number : number + 2]
        return self.data[start:stop].tobytes().decode()

    def window(self, rng: np.random.Generator, weights: Mapping[str, float], characters: int) -> str:
        """A piece of one document, cut at blanks: `characters` bytes of UTF-8 or the whole document if shorter."""
        names = list(weights)
        shares = np.array([weights[name] for name in names])
        starts = self.starts[names[rng.choice(len(names), p=shares / shares.sum())]]
        place = int(rng.integers(starts[0], starts[-1]))
        number = int(np.searchsorted(starts, place, side="right")) - 1
        first, last = int(starts[number]), int(starts[number + 1])
        start = max(first, min(place, last - characters))
        text = self.data[start : min(last, start + characters)].tobytes().decode(errors="ignore")
        if start > first:  # begin with a whole word
            text = text[text.find(" ") + 1 :] if " " in text[:200] else text
        return text


def _pack_domain(file: BinaryIO, paths: list[Path]) -> np.ndarray:
    offsets = [file.tell()]
    for path in paths:
        for text in documents(path):
            file.write(text.encode("utf-8", errors="replace"))
            offsets.append(file.tell())
    return np.array(offsets, dtype=np.int64)
