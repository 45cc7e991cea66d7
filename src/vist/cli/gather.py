"""What `vist render` draws: files, folders, globs, standard input, and the changes that git shows.

Owns the finding of sources. Does not know what is done with their text.

Decisions
- A folder gives its text files in the order of their paths; what is hidden or binary is left out and counted.
- A file that is named is drawn, whatever it is.
- A pattern is expanded here where the shell did not do it.
"""

from __future__ import annotations

import glob
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vist.cli.inputs import STDIN, open_text
from vist.errors import VistError
from vist.render.weave import Source

_READ = 1 << 16  # characters at a time
_LOOKED_AT = 8192  # bytes that tell whether a file is binary


@dataclass
class Gathered:
    """The sources that were asked for; `left_out` counts the binary files of folders."""

    paths: list[Path]
    ref: str | None = None
    left_out: int = 0
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.paths and self.ref is None:
            raise VistError("Nothing to draw was named; give a file, a folder, a pattern, - or --git-diff REF.")
        for path in self.paths:
            self.files += self._files(path)

    def _files(self, path: Path) -> list[Path]:
        if str(path) == STDIN or path.is_file():
            return [path]
        if path.is_dir():
            return self._below(path)
        found = sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(str(path)) else []
        if not found:
            return [path]  # opening it says what is wrong
        return [file for each in found for file in ([each] if each.is_file() else [])]

    def _below(self, folder: Path) -> list[Path]:
        files = []
        for path in sorted(folder.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if hidden or not path.is_file():
                continue
            if _is_binary(path):
                self.left_out += 1
            else:
                files.append(path)
        if not files:
            raise VistError(f"The folder {str(folder)!r} has no text files; name another.")
        return files

    def __iter__(self) -> Iterator[Source]:
        for path in self.files:
            yield Source(str(path), _pieces(path))
        if self.ref is not None:
            yield Source(f"git diff {self.ref}", [git_diff(self.ref)])


def _pieces(path: Path) -> Iterator[str]:
    with open_text(path) as file:
        yield from iter(lambda: file.read(_READ), "")


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(_LOOKED_AT)


def git_diff(ref: str) -> str:
    """Return what `git diff REF` shows in the working folder, without colours and pagers.

    Raises VistError when git is not there or refuses.
    """
    if ref.startswith("-"):
        raise VistError(f"{ref!r} is an option, not a commit; give a commit, a branch or a range such as main...HEAD.")
    command = ["git", "--no-pager", "diff", "--no-color", "--no-ext-diff", ref, "--"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        raise VistError("git is not installed, and --git-diff needs it.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise VistError(f"git diff {ref!r} failed ({said}); give a commit, a branch or a range.")
    return done.stdout.decode("utf-8", "surrogateescape")
