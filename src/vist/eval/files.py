"""Writing results so that a file is either whole or not there.

Owns the write beside and the rename. Does not know what is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then rename it there; on failure nothing stays behind.

    Raises OSError with the target's name, not the partial file's: that is the path the user gave.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode("utf-8", errors="replace") if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        if part.exists():
            part.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; NaN and infinities become null, which every reader of JSON understands."""
    write_whole(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The value with every number that JSON does not know replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value
