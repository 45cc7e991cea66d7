"""Visual order of a row that holds right-to-left characters: the Unicode Bidirectional Algorithm (UAX 9).

Owns levels, order and mirroring. Knows characters only; nothing about fonts, widths or pages.

Decisions
- Every row is resolved by itself, with the base direction of its paragraph. Compared with the whole algorithm, only
  neutrals and numbers at a row's edge can differ.
- Explicit embeddings, overrides and isolates are not obeyed: they are invisible characters, dropped and counted.
- Rows without right-to-left characters are left as they are.
- A row's types are a string with one letter for each character, and the rules are replacements in it: `re` and `str` do
  for a whole row what Python would do one by one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import chain, groupby

_PAIRS = "()[]{}<>«»‹›⁅⁆⁽⁾₍₎≤≥⟨⟩⟪⟫⟦⟧⟮⟯⦃⦄⦅⦆〈〉《》「」『』【】〔〕〖〗〘〙〚〛（）［］｛｝＜＞｢｣"
_TWINS = list(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
MIRRORED = {ord(a): ord(b) for pair in _TWINS for a, b in (pair, pair[::-1])}
_NOT_BRACKETS = frozenset("<>«»‹›≤≥＜＞")
_OPENING = {a: b for a, b in _TWINS if a not in _NOT_BRACKETS}
_CLOSING = {b: a for a, b in _OPENING.items()}
_BRACKET = re.compile("[" + re.escape("".join([*_OPENING, *_CLOSING])) + "]")
_IGNORED = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", ""))

# Letters for the types: "b" for blanks of all kinds, "i" for what is invisible, "o" for all other neutrals.
_LETTERS = {
    "L": "L", "R": "R", "AL": "A", "EN": "E", "AN": "N", "ES": "S", "ET": "T", "CS": "C", "NSM": "M",
    "BN": "i", "B": "b", "S": "b", "WS": "b", "ON": "o",
}  # fmt: skip
_MARKS = re.compile("([^iM])([iM]+)")
_ARABIC = re.compile("A[^LR]*")
_BETWEEN_NUMBERS = re.compile("(?<=E)[CS](?=E)|(?<=N)C(?=N)")
_BESIDE_NUMBERS = re.compile("(?<=E)T+|(?<!T)T+(?=E)")
_LATIN = re.compile("L[^R]*")
_NEUTRAL = str.maketrans("CSTbi", "ooooo")
_BETWEEN = {"R": re.compile("(?<=L)o+(?=L)"), "L": re.compile("(?<=[REN])o+(?=[REN])")}  # neutrals against the base
_AGAINST = {"R": "L", "L": "R"}
_LEVELS = tuple(bytes.maketrans(b"LREN", level) for level in (b"\0\1\2\2", b"\2\1\2\2"))  # I1, I2


@lru_cache(maxsize=1 << 14)
def bidi_type(char: str) -> str:
    """Return a character's bidirectional type, with every ignored kind as "BN"."""
    kind = unicodedata.bidirectional(char)
    return "BN" if kind in _IGNORED else kind


class _Letters(dict[int, str]):
    """The letter of each code point that was met, for `str.translate`; begun anew before it grows large."""

    def __missing__(self, code: int) -> str:
        if len(self) >= 1 << 14:
            self.clear()
        letter = self[code] = _LETTERS[bidi_type(chr(code))]
        return letter


_LETTER_OF = _Letters()


def base_level(text: str, start: int = 0) -> int | None:
    """Return the direction of the paragraph at `start`: that of its first strong character (P2).

    1 is right-to-left, 0 left-to-right, None a paragraph without a strong character.
    """
    for position in range(start, len(text)):  # `islice` would step over all that stands before
        kind = bidi_type(text[position])
        if kind in ("R", "AL"):
            return 1
        if kind == "L":
            return 0
        if kind == "B":
            break
    return None


def levels(row: str, base: int) -> list[int]:
    """Return the embedding level of each character of one row for a base level 0 or 1."""
    types = row.translate(_LETTER_OF)
    edge = "R" if base else "L"
    resolved = _resolve_neutral(_resolve_brackets(row, _resolve_weak(types, edge), edge), edge)
    result = list(resolved.encode().translate(_LEVELS[base]))
    inked = len(types.rstrip("bi"))
    result[inked:] = [base] * (len(row) - inked)  # L1: blanks at the end of a row follow the base
    return result


def _resolve_weak(types: str, edge: str) -> str:
    """Resolve marks, numbers and their separators (W1 to W7); left are L, R, E and N, and "o" for all neutrals."""
    types = edge + types
    if "M" in types:
        types = _MARKS.sub(lambda run: run[1] + run[2].replace("M", run[1]), types)
    if "E" in types and "A" in types:
        types = _ARABIC.sub(lambda run: run[0].replace("E", "N"), types)
    if "E" in types or "N" in types:
        types = _BETWEEN_NUMBERS.sub(lambda sign: types[sign.start() - 1], types)
        types = _BESIDE_NUMBERS.sub(lambda run: "E" * len(run[0]), types)
    types = types.replace("A", "R").translate(_NEUTRAL)
    if "E" in types:
        types = _LATIN.sub(lambda run: run[0].replace("E", "L"), types)
    return types[1:]


def _resolve_brackets(row: str, types: str, edge: str) -> str:
    """Give both brackets of a pair the direction of what they enclose (N0)."""
    for opening, closing in _bracket_pairs(row):
        inside = set(types[opening + 1 : closing])
        sides = {"L"} & inside | ({"R"} if inside & {"R", "E", "N"} else set())
        if not sides:
            continue
        direction = edge
        if edge not in sides:
            before = types[:opening].rstrip("o") or edge
            direction = "L" if before[-1] == "L" else "R"
        types = f"{types[:opening]}{direction}{types[opening + 1 : closing]}{direction}{types[closing + 1 :]}"
    return types


def _bracket_pairs(row: str) -> list[tuple[int, int]]:
    stack: list[tuple[str, int]] = []
    pairs = []
    for found in _BRACKET.finditer(row):
        char, position = found[0], found.start()
        if char in _OPENING:
            stack.append((char, position))
            continue
        depth = next((i for i in range(len(stack) - 1, -1, -1) if stack[i][0] == _CLOSING[char]), None)
        if depth is not None:
            pairs.append((stack[depth][1], position))
            del stack[depth:]
    return sorted(pairs)


def _resolve_neutral(types: str, edge: str) -> str:
    """Give stretches of neutrals the direction of both sides if they agree, else the base's (N1, N2)."""
    against = _AGAINST[edge]
    types = _BETWEEN[edge].sub(lambda run: against * len(run[0]), types)
    return types.replace("o", edge)  # at a row's edges one side is the base's


def visual_order(row_levels: list[int]) -> list[int]:
    """Return the characters' numbers from left to right for their levels in reading order (L2)."""
    runs: list[tuple[int, range]] = []  # of one level, from left to right
    end = 0
    for level, run in groupby(row_levels):
        start, end = end, end + len(list(run))
        runs.append((level, range(start, end) if level % 2 == 0 else range(end - 1, start - 1, -1)))
    for level in range(max(row_levels, default=0), 0, -1):
        position = 0
        while position < len(runs):
            end = position
            while end < len(runs) and runs[end][0] >= level:
                end += 1
            if end > position + 1:
                runs[position:end] = runs[position:end][::-1]
            position = max(end, position + 1)
    return list(chain.from_iterable(run for _, run in runs))
