"""Rows of a data set that the `datasets` library knows: a Hub id, or a local folder it can read.

Owns the name `hub:ID` (or `hub:ID@CONFIGURATION`) and the reading of one split. Does not know schemas.

Decisions
- Everything that reads a benchmark's folder takes such a name in its place, so a data set of the documented columns
  needs no conversion. A column of class labels `label` also gives `label_name`, the names being in its schema.
- The library is optional and loaded when it is needed: `pip install 'vist[eval]'`.
"""

from __future__ import annotations

from typing import Any

from vist.errors import VistError

PREFIX = "hub:"


def is_hub(name: object) -> bool:
    """Whether a name or path asks for the `datasets` library."""
    return str(name).startswith(PREFIX)


def read_hub(name: object, split: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one split and its columns.

    Raises VistError when the library is not there, or the data set or split cannot be loaded.
    """
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError as error:
        raise VistError(f"{str(name)!r} needs the datasets library; pip install 'vist[eval]'.") from error
    source, _, configuration = str(name).removeprefix(PREFIX).partition("@")
    try:
        table = load_dataset(source, configuration or None, split=split)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VistError(f"The split {split!r} of {str(name)!r} cannot be loaded: {said}") from error
    rows = [dict(row) for row in table]
    label = table.features.get("label")
    if isinstance(label, ClassLabel) and "label_name" not in table.column_names:
        for row in rows:
            row["label_name"] = None if row["label"] in (None, -1) else label.int2str(row["label"])
    return rows, sorted(rows[0]) if rows else list(table.column_names)
