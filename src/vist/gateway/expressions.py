"""Regular expressions that come with a request: read from its policy, and refused where they could hold up others.

Owns what such an expression may be. That it is one at all, and matches something, is `guard`'s to say.

Decisions
- Python's `re` cannot be stopped, and one expression of a few characters can take hours on one text. A time limit would
  free the request and not the worker. So what an expression can cost is worked out before it is used: the steps that
  it takes at most from one place of a text, over every way to match. There `\\w{1,30}` counts 30, two
  of them in a row 930.
- Without an end to a repeat there is no such number, so `+` and `*` are refused: `{1,80}` says as much. So are
  references to groups.
- Percent-encoded, because a policy has commas between its parts; what is no percent-encoding is refused, not guessed.
"""

from __future__ import annotations

import re
from re import _constants as op  # type: ignore[attr-defined]  # the parser that `re` itself uses; there is no public one
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any
from urllib.parse import unquote

from vist.errors import VistError

MOST = 8  # expressions of a request
LONGEST = 200  # characters of one
MOST_STEPS = 1_000  # from one place of a text, of all expressions of a request together
_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ONE_STEP = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.AT)
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)


def read_expression(value: str) -> str:
    """Return an expression from its percent-encoded form.

    Raises:
        ValueError: it is empty or no percent-encoded UTF-8.
    """
    if not value or _BROKEN.search(value):
        raise ValueError(value)
    return unquote(value, errors="strict")


def check_expressions(expressions: tuple[str, ...]) -> None:
    """Refuse expressions of a request that are too many, too long, or could take too long on a text.

    Raises:
        VistError: with the expression and what to do.
    """
    if len(expressions) > MOST:
        raise VistError(f"The policy has {len(expressions)} expressions to keep; give at most {MOST}.")
    total = 0
    for expression in expressions:
        if len(expression) > LONGEST:
            raise VistError(f"The expression {expression[:40]!r}... has more than {LONGEST} characters; shorten it.")
        total += _steps(expression)
        if total > MOST_STEPS:
            raise VistError(
                f"The expression {expression!r} could take too long on a text; give repeats smaller bounds."
            )


def _steps(expression: str) -> int:
    """Steps from one place of a text at most; 1 for what is no expression, which others refuse."""
    try:
        return _cost(parser.parse(expression), expression)[1]
    except (re.error, OverflowError, RecursionError):
        return 1


def _cost(items: Any, expression: str) -> tuple[int, int]:
    """Ways to match a sequence of parsed items, and the steps to try all of them."""
    ways, steps = 1, 0
    for kind, value in items:
        if kind in _ONE_STEP:
            more, cost = 1, 1
        elif kind in _REPEATS:
            least, most, repeated = value
            more, cost = _repeated(least, most, repeated, expression)
        elif kind is op.BRANCH:
            more, cost = (sum(each) for each in zip(*(_cost(branch, expression) for branch in value[1]), strict=True))
        elif kind is op.SUBPATTERN:
            more, cost = _cost(value[3], expression)
        elif kind is op.ATOMIC_GROUP:
            more, cost = _cost(value, expression)
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            more, cost = 1, _cost(value[1], expression)[1]
        else:
            raise VistError(f"The expression {expression!r} refers to a group, which can take long; write it out.")
        ways, steps = min(ways * more, MOST_STEPS + 1), min(steps + ways * cost, MOST_STEPS + 1)
    return ways, steps


def _repeated(least: int, most: Any, items: Any, expression: str) -> tuple[int, int]:
    """Ways and steps of what is repeated."""
    if most is op.MAXREPEAT:
        raise VistError(f"The expression {expression!r} repeats without end; write {{1,80}} for +, and {{0,80}} for *.")
    ways, steps = _cost(items, expression)
    most, far = min(int(most), MOST_STEPS + 1), MOST_STEPS + 1
    reached, total, cost = 1, int(least == 0), 0  # ways to have matched so many times; of those that will do; steps
    for count in range(1, most + 1):
        cost = min(cost + reached * steps, far)
        reached = min(reached * ways, far)
        total = min(total + reached * (count >= least), far)
    return max(total, 1), cost
