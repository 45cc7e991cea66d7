"""Visual order of a row that holds right-to-left characters: the Unicode Bidirectional Algorithm (UAX 9).

Owns levels, order and mirroring. Knows characters only; nothing about fonts, widths or pages.

Decisions
- Every row is resolved by itself, with the base direction of its paragraph. Compared with the whole algorithm, only
  neutrals and numbers at a row's edge can differ.
- Explicit embeddings, overrides and isolates are not obeyed: they are invisible characters, dropped and counted.
- Rows without right-to-left characters are left as they are.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import islice

_PAIRS = "()[]{}<>«»‹›⁅⁆⁽⁾₍₎≤≥⟨⟩⟪⟫⟦⟧⟮⟯⦃⦄⦅⦆〈〉《》「」『』【】〔〕〖〗〘〙〚〛（）［］｛｝＜＞｢｣"
_TWINS = list(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
MIRRORED = {ord(a): ord(b) for pair in _TWINS for a, b in (pair, pair[::-1])}
MIRRORABLE = frozenset(_PAIRS)
_NOT_BRACKETS = frozenset("<>«»‹›≤≥＜＞")
_OPENING = {a: b for a, b in _TWINS if a not in _NOT_BRACKETS}
_CLOSING = {b: a for a, b in _OPENING.items()}
_NEUTRAL = frozenset(("B", "S", "WS", "ON", "BN"))
_IGNORED = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", ""))


@lru_cache(maxsize=1 << 14)
def bidi_type(char: str) -> str:
    """Return a character's bidirectional type, with every ignored kind as "BN"."""
    kind = unicodedata.bidirectional(char)
    return "BN" if kind in _IGNORED else kind


def base_level(text: str, start: int = 0) -> int | None:
    """Return the direction of the paragraph at `start`: that of its first strong character (P2).

    1 is right-to-left, 0 left-to-right, None a paragraph without a strong character.
    """
    for char in islice(text, start, None):
        kind = bidi_type(char)
        if kind in ("R", "AL"):
            return 1
        if kind == "L":
            return 0
        if kind == "B":
            break
    return None


def levels(row: str, base: int) -> list[int]:
    """Return the embedding level of each character of one row for a base level 0 or 1."""
    kinds = [bidi_type(char) for char in row]
    edge = "R" if base else "L"
    _resolve_weak(kinds, edge)
    _resolve_brackets(row, kinds, edge)
    _resolve_neutral(kinds, edge)
    result = [_implicit(kind, base) for kind in kinds]
    for position in range(len(row) - 1, -1, -1):  # L1: blanks at the end of a row follow the base
        if bidi_type(row[position]) not in ("WS", "B", "S", "BN"):
            break
        result[position] = base
    return result


def _implicit(kind: str, base: int) -> int:
    """Return the level of a resolved type (I1, I2)."""
    if base:
        return 1 if kind == "R" else 2
    return {"L": 0, "R": 1}.get(kind, 2)


def _resolve_weak(kinds: list[str], edge: str) -> None:
    """Resolve marks, numbers and their separators in place (W1 to W7)."""
    before, strong = edge, edge
    for position, kind in enumerate(kinds):
        if kind in ("NSM", "BN"):
            kind = before if kind == "NSM" else kind
        elif kind == "EN" and strong == "AL":
            kind = "AN"
        elif kind in ("L", "R", "AL"):
            strong = kind
        kinds[position] = kind
        before = kind if kind != "BN" else before
    _resolve_separators(kinds)
    strong = edge
    for position, kind in enumerate(kinds):
        if kind == "AL":
            kinds[position] = kind = "R"
        if kind in ("L", "R"):
            strong = kind
        elif kind == "EN" and strong == "L":
            kinds[position] = "L"


def _resolve_separators(kinds: list[str]) -> None:
    """Give separators between numbers and signs beside them the numbers' type; the rest become neutral (W4 to W6)."""
    for position in range(1, len(kinds) - 1):
        left, kind, right = kinds[position - 1 : position + 2]
        if left == right and (kind == "CS" and left in ("EN", "AN") or kind == "ES" and left == "EN"):
            kinds[position] = left
    position = 0
    while position < len(kinds):
        end = position
        while end < len(kinds) and kinds[end] == "ET":
            end += 1
        if end > position:
            beside = (position > 0 and kinds[position - 1] == "EN") or (end < len(kinds) and kinds[end] == "EN")
            kinds[position:end] = ["EN" if beside else "ON"] * (end - position)
        position = max(end, position + 1)
    for position, kind in enumerate(kinds):
        if kind in ("CS", "ES"):
            kinds[position] = "ON"


def _side(kind: str) -> str:
    return "R" if kind in ("R", "EN", "AN") else kind


def _resolve_brackets(row: str, kinds: list[str], edge: str) -> None:
    """Give both brackets of a pair the direction of what they enclose (N0)."""
    for opening, closing in _bracket_pairs(row, kinds):
        inside = {_side(kind) for kind in kinds[opening + 1 : closing]} & {"L", "R"}
        if not inside:
            continue
        direction = edge
        if edge not in inside:
            context = next((_side(k) for k in reversed(kinds[:opening]) if _side(k) in ("L", "R")), edge)
            direction = context if context != edge else edge
        kinds[opening] = kinds[closing] = direction


def _bracket_pairs(row: str, kinds: list[str]) -> list[tuple[int, int]]:
    stack: list[tuple[str, int]] = []
    pairs = []
    for position, char in enumerate(row):
        if kinds[position] != "ON":
            continue
        if char in _OPENING:
            stack.append((char, position))
        elif char in _CLOSING:
            depth = next((i for i in range(len(stack) - 1, -1, -1) if stack[i][0] == _CLOSING[char]), None)
            if depth is not None:
                pairs.append((stack[depth][1], position))
                del stack[depth:]
    return sorted(pairs)


def _resolve_neutral(kinds: list[str], edge: str) -> None:
    """Give stretches of neutrals the direction of both sides if they agree, else the base's (N1, N2)."""
    position = 0
    while position < len(kinds):
        end = position
        while end < len(kinds) and kinds[end] in _NEUTRAL:
            end += 1
        if end > position:
            left = _side(kinds[position - 1]) if position else edge
            right = _side(kinds[end]) if end < len(kinds) else edge
            kinds[position:end] = [left if left == right else edge] * (end - position)
        position = max(end, position + 1)


def visual_order(row_levels: list[int]) -> list[int]:
    """Return the characters' numbers from left to right for their levels in reading order (L2)."""
    order = list(range(len(row_levels)))
    for level in range(max(row_levels, default=0), 0, -1):
        position = 0
        while position < len(order):
            end = position
            while end < len(order) and row_levels[order[end]] >= level:
                end += 1
            if end > position:
                order[position:end] = reversed(order[position:end])
            position = max(end, position + 1)
    return order
