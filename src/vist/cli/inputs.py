"""What verbs read: models and texts.

Owns loading with the right sentences and without the libraries' own chatter. Does not know what is done with them.

Decisions
- Bytes that are not UTF-8 become lone surrogates, which the renderer draws as U+FFFD and counts: nothing is lost
  silently and nothing stops.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vist.cli.options import Device
from vist.errors import VistError

if TYPE_CHECKING:
    from vist.eval.reader import Reader

DEFAULT_MODEL, VIST2_MODEL = "vist-nano", "vist2-nano"
STDIN = "-"


def is_packaged(model: str) -> bool:
    """Whether the installation carries a model of this name."""
    import vist

    return (vist.PACKAGED_MODELS / model).is_dir()


def load_reader(model: str, device: Device) -> Reader:
    """A model and its processor, on its device, ready to be read with.

    Raises VistError when the packaged model is not there, there is no GPU, or loading fails (`vist.load`).
    """
    from vist.eval.reader import Reader
    from vist.eval.vist2_reader import memory_reader

    loaded, processor = _load(model, device)
    return memory_reader(loaded, processor) if loaded.config.model_type == "vist2" else Reader(loaded, processor)


def load_vist2(model: str, device: Device) -> tuple[Any, Any]:
    """A VIST2 model and its processor. Raises VistError as `load_reader` does, and for a model of another kind."""
    loaded, processor = _load(model, device)
    if loaded.config.model_type != "vist2":
        raise VistError(f"{model!r} is a {loaded.config.model_type} model; long writing is for VIST2 models.")
    return loaded, processor


def _load(model: str, device: Device) -> tuple[Any, Any]:
    import torch
    from transformers.utils import logging

    import vist

    if model in (DEFAULT_MODEL, VIST2_MODEL) and not is_packaged(model) and not Path(model).is_dir():
        raise VistError(f"This installation has no packaged model {model!r}; install it again or pass --model FOLDER.")
    if device is Device.CUDA and not torch.cuda.is_available():
        raise VistError("--device cuda was asked for, but torch sees no GPU; use --device cpu.")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    loaded: Any
    loaded, processor = vist.load(model)
    place = "cuda" if device is not Device.CPU and torch.cuda.is_available() else "cpu"
    return loaded.to(place), processor


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, or standard input for "-", as UTF-8 without byte order mark, line ends unchanged.

    Raises VistError for a folder; OSError for what cannot be opened.
    """
    if str(path) == STDIN:
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="")  # type: ignore[union-attr]
        yield sys.stdin
        return
    if path.is_dir():
        raise VistError(f"{str(path)!r} is a folder, not a text file; name a file in it.")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield file


def read_whole(path: Path) -> str:
    """All of a text file or of standard input; see `open_text`."""
    with open_text(path) as file:
        return file.read()


def read_clean(path: Path) -> str:
    """All of a text file, for a tokenizer: bytes that are not UTF-8 become U+FFFD, and standard error says so."""
    text = read_whole(path)
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if clean != text:
        print(f"vist: note: {str(path)!r} has bytes that are not UTF-8; they are read as U+FFFD.", file=sys.stderr)
    return clean


def visible(texts: Iterable[str]) -> Iterator[str]:
    """The documents that hold anything visible, one after the other. Raises VistError when none does."""
    found = False
    for text in texts:
        if text.strip():
            found = True
            yield text
    if not found:
        raise VistError("The files hold no text: every document is empty; choose other files.")


def name_of(path: Path) -> str:
    """What a file is called in tables: with its folder where the name says nothing."""
    return f"{path.parent.name}/{path.stem}" if path.suffix == ".parquet" else path.stem
