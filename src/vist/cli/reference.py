"""`python -m vist.cli.reference`: the help of every verb as Markdown, for docs/cli.md.

Owns the form of that page. It is made from the verbs' signatures, which are where the help comes from, not from printed
help: so it depends neither on the width of a terminal nor on the look of the library's version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

HEAD = """# The `vist` command

Generated from the help texts by `python -m vist.cli.reference`; a test checks that it is current.

Every verb has `-h`. Exit status: 0 done, 1 bad input or a failed check (one sentence on standard error), 2 bad usage,
130 stopped with Ctrl-C. Files are written beside their place and renamed: they are there whole or not at all. The keys
of the JSON files are in [json.md](json.md).
"""


def reference() -> str:
    """The whole page."""
    from vist.cli.app import app, evaluation

    verbs = [("vist", command.callback) for command in app.registered_commands]
    verbs += [("vist eval", command.callback) for command in evaluation.registered_commands]
    return "\n".join([HEAD, *(_section(group, callback) for group, callback in verbs if callback is not None)])


def _section(group: str, callback: Callable[..., Any]) -> str:
    """Name, description, usage and options of one verb."""
    name = f"{group} {callback.__name__}"
    hints = get_type_hints(callback, include_extras=True)
    parameters = [
        Parameter(item.name, hints[item.name].__origin__, hints[item.name].__metadata__[0], item.default)
        for item in inspect.signature(callback).parameters.values()
    ]
    required = [
        f"{item.option} {item.metavar}"
        for item in parameters
        if item.option and item.default is inspect.Parameter.empty
    ]
    arguments = [item.metavar for item in parameters if not item.option]
    usage = " ".join([name, *required, "[OPTIONS]", *arguments])
    rows = ["| | | default |", "|---|---|---|", *(item.row() for item in parameters)]
    return f"## `{name}`\n\n{_paragraphs(callback.__doc__)}\n\n```\n{usage}\n```\n\n" + "\n".join(rows) + "\n"


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n"))


@dataclass(frozen=True)
class Parameter:
    """One argument or option: the function's name and type for it, what was told to the library, and its default."""

    name: str
    kind: Any
    info: OptionInfo | ArgumentInfo
    default: Any

    @property
    def option(self) -> str:
        """`--name` of an option, empty for an argument."""
        if not isinstance(self.info, OptionInfo):
            return ""
        names = (self.info.default, *(self.info.param_decls or ()))  # in Annotated the first name takes default's place
        return next(name for name in names if isinstance(name, str) and name.startswith("--"))

    @property
    def metavar(self) -> str:
        """What stands for its value; empty for a flag."""
        kind = next((part for part in get_args(self.kind) if part is not NoneType), self.kind)
        if self.info.metavar or kind is bool:
            return str(self.info.metavar or "")
        if isinstance(kind, type) and issubclass(kind, Enum):
            return "{" + ",".join(str(choice.value) for choice in kind) + "}"
        if not self.option:
            return self.name.upper()
        return {int: "N", float: "X"}.get(kind, "TEXT")

    def row(self) -> str:
        """Its line of the table."""
        low = "" if self.info.min is None else f" At least {self.info.min:g}."
        if self.default is inspect.Parameter.empty:
            default = "required"
        elif self.default is None or self.default is False:
            default = ""
        else:
            default = f"`{getattr(self.default, 'value', self.default)}`"
        name = f"{self.option} {self.metavar}".strip()
        return f"| `{name}` | {self.info.help}{low} | {default} |"


if __name__ == "__main__":
    print(reference(), end="")
