"""`--beside`: other methods that read the same texts in the same run as the model.

Owns the names of those that need no training, and the check that a trained one speaks of the same tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vist.cli.inputs import load_reader
from vist.cli.options import Device
from vist.cli.parts import chosen

if TYPE_CHECKING:
    from vist.eval.reader import Reader

BesideOption = Annotated[
    str | None,
    typer.Option(
        "--beside",
        metavar="NAME,...",
        help="Other methods on the same texts: streaming[:TOKENS IN THE CACHE], replug[:PASSAGES], or model folders.",
    ),
]


def load_beside(reader: Reader, names: str | None, device: Device) -> dict[str, Reader]:
    """The methods of a list with commas, each ready to be read with.

    Raises VistError for a number that is none, a folder that cannot be loaded, a model with other tokens, and two
    folders that tables could not tell apart.
    """
    from vist.errors import VistError

    found: dict[str, Reader] = {}
    for name in chosen(names):
        label = _label(name)
        if label in found:
            raise VistError(f"--beside has two methods called {label!r} in tables; rename one of the folders.")
        found[label] = _load(reader, name, device)
    return found


def _label(name: str) -> str:
    """A run's folder is named by the part that tells it from others: RUN/baseline-pooled/model/final."""
    parts = [part for part in Path(name).parts if part not in ("model", "final")]
    return parts[-1] if parts else name


def _load(reader: Reader, name: str, device: Device) -> Reader:
    from vist.errors import VistError

    kind, _, number = name.partition(":")
    if kind in ("streaming", "replug") and not Path(name).is_dir():
        if number and not (number.isdigit() and int(number) > 0):
            raise VistError(f"--beside {name!r}: after the colon comes a whole number above 0, got {number!r}.")
        return _untrained(reader, kind, int(number) if number else None)
    other = load_reader(name, device)
    if other.tokenizer.get_vocab() != reader.tokenizer.get_vocab():
        raise VistError(f"--beside {name!r} has another tokenizer than the model; their losses cannot be compared.")
    return other


def _untrained(reader: Reader, kind: str, number: int | None) -> Reader:
    from vist.baselines.processing import TextContextProcessor
    from vist.baselines.replug import PASSAGES, ReplugModel
    from vist.baselines.streaming import StreamingModel
    from vist.eval.reader import Reader

    llm = reader.model.language_model
    model = StreamingModel(llm, number) if kind == "streaming" else ReplugModel(llm, number or PASSAGES)
    return Reader(model, TextContextProcessor(reader.tokenizer, style=reader.style))
