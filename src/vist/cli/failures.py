"""What a person sees when something goes wrong: one sentence, and an exit status.

Owns the translation of exceptions into sentences. Does not know the verbs.

Decisions
- `VistError` is printed as it is; errors of the operating system get the path, what happened and what to do.
- Anything else is a bug of ours and keeps its traceback.
- The guard is around the verb, inside the command-line library, so that Ctrl-C is the same in every version of it.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from vist.errors import VistError

STOPPED = 130
_ADVICE = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file in it",
    errno.ENOTDIR: "a part of the path is a file; check it",
    errno.EEXIST: "choose another name",
    errno.EACCES: "change its permissions or choose another place",
    errno.EPERM: "change its permissions or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
}


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb end with a sentence and the right exit status instead of a traceback."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except VistError as error:
            raise failed(str(error)) from None
        except KeyboardInterrupt:
            raise failed("Stopped by Ctrl-C; files that are there are whole.", STOPPED) from None
        except BrokenPipeError:
            raise  # the reader of our output has left; the library and `main` end quietly
        except OSError as error:
            raise failed(os_sentence(error)) from error

    return run


def failed(message: str, status: int = 1) -> typer.Exit:
    """Print `vist: message` to standard error, on one line and with a full stop, and return the exit to raise."""
    sentence = " ".join(message.split())
    print(f"vist: {sentence}{'' if sentence.endswith(('.', '!', '?')) else '.'}", file=sys.stderr)
    return typer.Exit(status)


def os_sentence(error: OSError) -> str:
    """What the operating system refused, for which path, and what to do."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{str(error.filename)!r}: " if error.filename is not None else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{where}{what}{f'; {advice}' if advice else ''}."
