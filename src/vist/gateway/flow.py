"""Lines run on: line breaks and indents as marks, so that short lines fill their rows.

Owns the marks, the way there and the way back. Knows nothing about pages or prices.

Decisions
- Code, lists and logs fill half of a page or less if every line has a row of its own. With marks they cost as much as
  prose.
- A line break becomes a pilcrow and a blank, where the row may end. Four blanks of an indent become one mark and each
  one left over a dot: blanks at a row's end would leave no ink, and the indent would be gone.
- The marks are Latin-1, which every font has. A text that has one of them already is not run on: the reader could not
  tell them apart.
"""

from __future__ import annotations

import re

BREAK, INDENT, BLANK = "\u00b6", "\u00bb", "\u00b7"
LEGEND = f"{BREAK} is a line break, {INDENT} four blanks, {BLANK} one"
_LINE = re.compile(r"\n( *)")
_MARKED = re.compile(f"{BREAK} ({INDENT}*)({BLANK}*)")


def run_on(text: str) -> str | None:
    """Return a text in one line with marks; None if it has no lines to join or has a mark of its own."""
    if "\n" not in text or any(mark in text for mark in (BREAK, INDENT, BLANK)):
        return None
    return _LINE.sub(lambda line: f"{BREAK} {INDENT * (len(line[1]) // 4)}{BLANK * (len(line[1]) % 4)}", text)


def break_up(text: str) -> str:
    """Return the text from which `run_on` made this, to the character."""
    return _MARKED.sub(lambda line: "\n" + " " * (4 * len(line[1]) + len(line[2])), text)
