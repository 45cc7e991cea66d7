"""A folder of pages written as they come.

Owns the streaming form of what `Pages.save` writes for a text that fits in memory: the same files, the same manifest.

Decisions
- Pages go to a folder beside the target, which is renamed at the end: it is there whole or not at all.
- The list of pages in the manifest is written page by page, so a book of any length takes the same memory.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from vist.errors import VistError
from vist.render import LossReport, Pages, PageStyle


class PageFolder:
    """Context manager: `add` stretches of pages; the folder appears when it is left without an error.

    Without a `target` nothing is written. `pages`, `characters` and `loss` count what was added; `seconds` is the time
    that writing took. Raises VistError when the target exists and is not empty.
    """

    def __init__(self, target: Path | None, style: PageStyle):
        self.target, self.style = target, style
        self.pages = self.characters = 0
        self.seconds = 0.0
        self.loss = LossReport()
        self._draft: Path | None = None
        self._manifest: IO[str] | None = None
        if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise VistError(f"{str(target)!r} exists already: give a new or an empty folder.")

    def __enter__(self) -> PageFolder:
        if self.target is not None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._draft = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
            self._manifest = (self._draft / "manifest.json").open("w", encoding="utf-8")
            self._manifest.write('{"pages": [')
        return self

    def add(self, stretch: Pages) -> None:
        """Write the pages of the next stretch of the text."""
        start = time.perf_counter()
        if self._draft is not None and self._manifest is not None:
            for number, entry in enumerate(stretch.manifest()["pages"]):
                entry["file"] = f"page-{self.pages + number:05d}.png"
                entry["span"] = [place + self.characters for place in entry["span"]]
                stretch.to_image(number).save(self._draft / entry["file"])
                separator = ",\n" if self.pages + number else "\n"
                self._manifest.write(separator + json.dumps(entry, ensure_ascii=False))
        self.pages += len(stretch)
        self.characters += len(stretch.text)
        self.loss = LossReport.total([self.loss, stretch.loss])
        self.seconds += time.perf_counter() - start

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._draft is None or self._manifest is None or self.target is None:
            return
        try:
            if kind is None:
                self._manifest.write("\n], " + json.dumps(self._head(), ensure_ascii=False)[1:])
            self._manifest.close()
            if kind is None:
                self._draft.chmod(0o755)
                self._draft.replace(self.target)
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)

    def _head(self) -> dict[str, Any]:
        """The manifest without its pages."""
        empty = Pages.concatenate([], self.style).manifest()
        del empty["pages"]
        return empty | {"characters": self.characters, "loss": self.loss.to_dict()}
