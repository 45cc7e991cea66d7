"""Results as JSON Lines: one row a line, each with all that is needed to judge and repeat it.

Owns the file, what counts as finished, and which rows may stand in one table. Does not know measures or layouts.

Decisions
- Every row carries the whole head (commit, versions, command, date, model, hardware) and the setup, so rows of many
  runs can be joined with `cat` and none loses where it comes from.
- A part (a data set, a style, a language) is written when it is finished, the file beside its place and renamed: an
  interrupted run loses the part it was in and nothing else.
- Finished means: the same task, part, model, setup and commit. Another commit measures again.
- Figures of two commits differ for reasons that no table shows, so they are joined only on request, and then every row
  of the table says its commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vist.errors import VistError
from vist.eval.files import finite, write_whole
from vist.eval.scores import Row

NEEDED = ("task", "part", "metric", "method", "value", "low", "high", "n", "commit", "model", "command", "seed")


def read_records(paths: Sequence[Path]) -> list[Row]:
    """The rows of JSON Lines files, in order.

    Raises VistError for a line that is no row of results, and for files without a single row.
    """
    rows: list[Row] = []
    for path in paths:
        rows += _read(path)
    if not rows:
        raise VistError(f"No results in {', '.join(str(path) for path in paths)}; write some with --out.")
    return rows


def _read(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [key for key in NEEDED if key not in row]
        except (json.JSONDecodeError, TypeError) as error:
            raise VistError(
                f"Line {number} of {str(path)!r} is no JSON object ({error}); mend or remove it."
            ) from error
        if missing:
            raise VistError(f"Line {number} of {str(path)!r} lacks {missing[0]!r}; it is no row of `vist eval --out`.")
        rows.append(row)
    return rows


def one_commit(rows: Sequence[Row], mixed: bool = False) -> bool:
    """Whether all rows come from one commit.

    Raises VistError when they do not and `mixed` does not allow it.
    """
    commits = list(dict.fromkeys(str(row["commit"]) for row in rows))
    if len(commits) > 1 and not mixed:
        raise VistError(
            f"The rows come from {len(commits)} commits ({', '.join(commit[:12] for commit in commits)}); measure them "
            "with one, or pass --mixed to have every row marked with its own."
        )
    return len(commits) == 1


def setup_digest(setup: Mapping[str, Any]) -> str:
    """A short digest of a setup: parts measured under different choices are never taken for one another."""
    canonical = json.dumps(finite(dict(setup)), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


@dataclass
class Ledger:
    """The rows of one run, and the file they go to part by part; `path` None keeps them in memory only.

    `head` is `vist.eval.provenance.provenance`'s, with `seed` and `limit`; `setup` what else decides the figures.
    """

    path: Path | None
    task: str
    head: Mapping[str, Any]
    setup: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.digest = setup_digest(self.setup)
        if self.path is not None and self.path.exists():
            found = _read(self.path)
            self._lines = [_line(row) for row in found]
            self.rows = [row for row in found if self._is_ours(row)]

    def _is_ours(self, row: Row) -> bool:
        same = all(row.get(key) == self.head[key] for key in ("commit", "model", "seed", "limit"))
        return same and row["task"] == self.task and row.get("setup_digest") == self.digest

    def has(self, part: str) -> bool:
        """Whether this part was finished by an earlier run of the same kind."""
        return any(row["part"] == part for row in self.rows)

    def add(self, part: str, rows: Iterable[Row]) -> None:
        """Note the rows of a finished part, in the file too."""
        known = dict(self.head) | {"setup": dict(self.setup), "setup_digest": self.digest}
        added = [{"task": self.task, "part": part} | row | known for row in rows]
        self.rows += added
        self._lines += [_line(row) for row in added]
        if self.path is not None:
            write_whole(self.path, "\n".join(self._lines) + "\n")


def _line(row: Row) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False, default=str)


def run_parts(
    ledger: Ledger, parts: Mapping[str, Callable[[], list[Row]]], tell: Callable[[str], None] = lambda message: None
) -> None:
    """Measure every part that is not finished; one that fails does not stop the others.

    Raises VistError at the end that names what failed; anything that is not bad input is raised again as it came,
    after the other parts are done.
    """
    refused: dict[str, VistError] = {}
    broken: Exception | None = None
    for number, (part, measure) in enumerate(parts.items(), start=1):
        if ledger.has(part):
            tell(f"{part}: finished by an earlier run, kept.")
            continue
        tell(f"{part} ({number} of {len(parts)})")
        try:
            ledger.add(part, measure())
        except VistError as error:
            refused[part] = error
        except Exception as error:  # a bug or a full memory: the other parts are still worth having
            broken = broken or error
            tell(f"{part}: {type(error).__name__}: {error}")
    if broken is not None:
        raise broken
    if refused:
        part, first = next(iter(refused.items()))
        kept = "" if ledger.path is None else f" The others are in {str(ledger.path)!r}; run again to go on."
        raise VistError(f"{len(refused)} of {len(parts)} parts failed, the first being {part!r}: {first}{kept}")
