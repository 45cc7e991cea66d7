"""A folder of pages written as they come.

Owns the streaming form of what `Pages.save` writes for a text that fits in memory: the same PNG files and manifest;
and, asked for, other formats, pages cut to their text, and where in which source each page's text came from.

Decisions
- Pages go to a folder beside the target, which is renamed at the end: it is there whole or not at all.
- The list of pages in the manifest is written page by page, so a book of any length takes the same memory. An NPZ
  alone is held until the end: it begins with the number of its pages.
- A page is cut only below its last row of text: pages keep one width, and rows their height.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from vist.errors import VistError
from vist.render import LossReport, Pages, PageStyle
from vist.render.encode import PdfWriter, encode_webp, write_npz

FORMATS = ("png", "webp", "pdf", "npz")
Origin = Callable[[int, int], list[tuple[str, int, int]]]


class PageFolder:
    """Context manager: `add` stretches of pages; the folder appears when it is left without an error.

    Without a `target` nothing is written. `origin` gives (source, first, end) for a stretch of the text. `pages`,
    `characters` and `loss` count what was added, `sizes` lists each page's (width, height); `seconds` is the time that
    writing took. Raises VistError when the target exists and is not empty.
    """

    def __init__(
        self,
        target: Path | None,
        style: PageStyle,
        kind: str = "png",
        crop: bool = False,
        origin: Origin | None = None,
    ):
        self.target, self.style = target, style
        self.pages = self.characters = 0
        self.sizes: list[tuple[int, int]] = []
        self.seconds = 0.0
        self.loss = LossReport()
        self._kind, self._crop, self._origin = kind, crop and kind != "npz", origin
        self._draft: Path | None = None
        self._manifest: IO[str] | None = None
        self._whole: BinaryIO | None = None
        self._pdf: PdfWriter | None = None
        self._held: list[Pages] = []
        if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise VistError(f"{str(target)!r} exists already: give a new or an empty folder.")

    def __enter__(self) -> PageFolder:
        if self.target is not None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._draft = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
            self._manifest = (self._draft / "manifest.json").open("w", encoding="utf-8")
            self._manifest.write('{"pages": [')
            if self._kind in ("pdf", "npz"):
                self._whole = (self._draft / f"pages.{self._kind}").open("wb")
                self._pdf = PdfWriter(self._whole) if self._kind == "pdf" else None
        return self

    def add(self, stretch: Pages) -> None:
        """Write the pages of the next stretch of the text."""
        start = time.perf_counter()
        heights = self._heights(stretch)
        if self._draft is not None and self._manifest is not None:
            for number, entry in enumerate(stretch.manifest()["pages"]):
                self._write(stretch, number, heights[number], entry)
                separator = ",\n" if self.pages + number else "\n"
                self._manifest.write(separator + json.dumps(entry, ensure_ascii=False))
            if self._kind == "npz":
                self._held.append(stretch)
        self.sizes += [(self.style.width, height) for height in heights]
        self.pages += len(stretch)
        self.characters += len(stretch.text)
        self.loss = LossReport.total([self.loss, stretch.loss])
        self.seconds += time.perf_counter() - start

    def _heights(self, stretch: Pages) -> list[int]:
        """Px of each page that are kept."""
        if not self._crop:
            return [self.style.height] * len(stretch)
        rows: np.ndarray = np.any(stretch.ink, axis=2)
        last = np.where(np.any(rows, axis=1), stretch.ink.shape[1] - np.argmax(rows[:, ::-1], axis=1), 1)
        return (last * self.style.row_height).tolist()

    def _write(self, stretch: Pages, number: int, height: int, entry: dict[str, Any]) -> None:
        """Write a page, and put into its entry where it is and where its text came from."""
        assert self._draft is not None
        first, end = (place + self.characters for place in entry["span"])
        entry["span"] = [first, end]
        pixels = stretch.pixels[number][:height]
        if self._kind in ("pdf", "npz"):
            entry |= {"file": f"pages.{self._kind}", "index": self.pages + number}
        else:
            entry["file"] = f"page-{self.pages + number:05d}.{self._kind}"
        if self._pdf is not None:
            self._pdf.add(pixels)
        elif self._kind == "webp":
            (self._draft / entry["file"]).write_bytes(encode_webp(pixels))
        elif self._kind == "png" and height == self.style.height:
            stretch.to_image(number).save(self._draft / entry["file"])
        elif self._kind == "png":
            stretch.to_image(number).crop((0, 0, self.style.width, height)).save(self._draft / entry["file"])
        if self._crop:
            entry["size"] = [self.style.width, height]
        if self._origin is not None:
            entry["sources"] = [{"source": name, "span": [a, b]} for name, a, b in self._origin(first, end)]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._draft is None or self._manifest is None or self.target is None:
            return
        try:
            if kind is None:
                self._finish()
                self._manifest.write("\n], " + json.dumps(self._head(), ensure_ascii=False)[1:])
            self._manifest.close()
            if self._whole is not None:
                self._whole.close()
            if kind is None:
                self._draft.chmod(0o755)
                self._draft.replace(self.target)
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)

    def _finish(self) -> None:
        if self._pdf is not None:
            self._pdf.finish()
        elif self._whole is not None:
            parts = Pages.concatenate(self._held, self.style)
            write_npz(self._whole, {"pixels": parts.pixels, "ink": parts.ink, "spans": parts.spans})

    def _head(self) -> dict[str, Any]:
        """The manifest without its pages."""
        empty = Pages.concatenate([], self.style).manifest()
        del empty["pages"]
        return empty | {"characters": self.characters, "loss": self.loss.to_dict()}
