"""The `vist` command: `main` is the entry point; each verb has its own file and imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vist` with these arguments (those of the process if None) and return its exit status.

    0 = done, 1 = bad input or a failed check, 2 = bad usage, 130 = stopped with Ctrl-C.
    """
    from vist.cli.app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="vist")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
