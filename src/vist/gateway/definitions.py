"""Names that code defines: the words of a text that are definitions in some programming language and seldom occur.

Owns the judgement of what a definition is. Knows lines and words; no grammar, no language. What becomes of the names
is `guard`'s.

Decisions
- Prose must not match, or a book would lose its words: "let him", "a class of people", "the value = 5" define nothing.
  So a keyword defines a name only where code goes on behind it, and what prose could also have (a colon, the end of a
  line) counts only where nothing but modifiers stands before the keyword on its line.
- A typed declaration (C, C++, Java, Go) is looked for at the beginning of a line only. A type that could be any word
  needs more: a modifier or a built-in type beside it, or a line that ends as only code does.
- Linear in the text: a match begins at a keyword or at a line, and everything behind it is bounded or possessive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

_NAME = re.compile(r"([A-Za-z_$][\w$]*+)")
_WORD = r"[A-Za-z_$][\w$]{0,127}+"
_KEYWORD = re.compile(
    r"(?:def|class|func|fun|fn|function|struct|enum|union|interface|trait|record|protocol|macro_rules!"
    r"|const|let|var|val|type|#[ \t]{0,8}define)[ \t]{1,8}"
    rf"(?=((?:\([^()\n]{{0,80}}\)[ \t]{{0,8}})?(?:mut[ \t]{{1,8}})?)({_WORD}))"
)
_VALUES = frozenset(("const", "let", "var", "val"))
_GOES_ON = re.compile(r"[(<]|[ \t]{0,8}\{|[ \t]{0,8}=(?![=>])")  # behind a name that a keyword defines
_TYPED = re.compile(r"[ \t]{0,8}:[^=;\n]{1,80}[=;]|;")  # behind that of a value
_GO_VALUE = re.compile(r"[ \t]{1,8}[\w.*\[\]{}]{1,80}[ \t]{0,8}(?:=|\r?$)", re.MULTILINE)
_GO_TYPE = re.compile(
    r"[ \t]{1,8}(?:struct|interface|func|map|chan)\b|[ \t]{1,8}[*\[]"
    r"|[ \t]{1,8}(?:u?int\d{0,2}|float\d\d|string|bool|byte|rune|error)\r?$",
    re.MULTILINE,
)
_ENDS = re.compile(r"[ \t]{0,8}(?:[:;]?[ \t]{0,8}\r?$|:[^\n]{1,120}\{|(?:extends|implements|where)\b)", re.MULTILINE)
_UNLIKE_PROSE = re.compile(r"[A-Z_\d]\w*\Z")
_MODIFIERS = frozenset(
    "abstract async const constexpr consteval declare default explicit export extern final friend inline internal "
    "mutable native open override partial private protected pub public readonly register sealed signed static "
    "synchronized template thread_local transient typedef unsafe unsigned virtual volatile".split()
)
_BUILT_IN = frozenset(
    "int char bool boolean byte string String uint int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 "
    "i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 wchar_t size_t".split()
)
_ALSO_ENGLISH = frozenset("auto double float long short void struct enum union".split())  # types, too
_NO_TYPES = frozenset(
    "and as assert await break case catch continue defer del delete do echo elif else except extends finally for from "
    "global go goto if implements import in include is new not of or package print raise require return select switch "
    "throw throws try typeof use using when while with yield".split()
)
_RESERVED = _NO_TYPES | _MODIFIERS | _BUILT_IN | _ALSO_ENGLISH
_ANNOTATION = (
    r"[ \t]{0,8}:[ \t]{0,8}[A-Za-z_&*][\w.:]*+(?:\[[^\]=\n]{0,60}\]|<[^=\n]{0,60}>)?"
    r"(?:[ \t]?\|[ \t]?[\w.]{1,40}){0,3}"
)
_ASSIGNED = re.compile(rf"[ \t]{{0,64}}+({_WORD})(?:{_ANNOTATION})?([ \t]{{0,8}})(?::=|=(?![=>~]))")
_BEFORE_TYPES = r"(?:@[\w.]{1,60}(?:\([^()\n]{0,80}\))?[ \t]{1,8}){0,3}(?:template[ \t]?<[^{};\n]{0,120}>[ \t]{0,8})?"
_TYPE = (
    r"[A-Za-z_][\w.:]*+(?:<[^<>;=\n]{0,60}(?:<[^<>;=\n]{0,60}>)?[^<>;=\n]{0,20}>)?+(?:\[\])?"
    r"(?:[ \t]*+[*&]{1,3}[ \t]*+|[ \t]++)"
)
_DECLARED = re.compile(
    rf"[ \t]{{0,64}}+{_BEFORE_TYPES}((?:{_TYPE}){{1,6}})(?:[A-Za-z_]\w{{0,63}}::){{0,4}}({_WORD})"
    r"(?:\[[^\]\n]{0,40}\]){0,3}([ \t]{0,8}(?:=(?![=>~])|;)|\()"
)
_SHORTEST = 3  # characters of a name; the mark that would stand for it has four
_LONGEST_LINE = 400  # characters of a line that are looked at for its end


def find_identifiers(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Names that the text defines and that occur `most` times or fewer: every occurrence."""
    defined = {
        name for name in (*_by_keyword(text), *_by_line(text)) if len(name) >= _SHORTEST and name not in _RESERVED
    }
    if not defined:
        return
    pieces = _NAME.split(text)
    names = pieces[1::2]  # the others stand between them
    counts = Counter(filter(defined.__contains__, names))
    rare = {name for name, count in counts.items() if count <= most}
    if rare:
        ends = list(accumulate(map(len, pieces)))[1::2]
        yield from ((end - len(name), end) for name, end in zip(names, ends, strict=True) if name in rare)


def _by_keyword(text: str) -> Iterator[str]:
    """Names behind a keyword."""
    for found in _KEYWORD.finditer(text):
        start, end = found.start(), found.end(2)
        before = text[start - 1 : start]
        if before.isalnum() or before in ("_", "-", "."):
            continue
        keyword = found[0].split()[0]
        if keyword.startswith("#") or keyword == "macro_rules!":
            yield found[2]
        elif "(" in found[1] and keyword != "func":
            continue  # only Go has something in brackets before the name
        elif _goes_on(text, keyword, end) or _stands_alone(text, keyword, start, end):
            yield found[2]


def _goes_on(text: str, keyword: str, end: int) -> bool:
    """Whether what stands behind the name can only be code."""
    if _GOES_ON.match(text, end):
        return True
    if keyword in _VALUES:
        return bool(_TYPED.match(text, end) or (keyword in ("const", "var") and _GO_VALUE.match(text, end)))
    return keyword == "type" and bool(_GO_TYPE.match(text, end))


def _stands_alone(text: str, keyword: str, at: int, end: int) -> bool:
    """Whether a definition is all that a line has, up to the colon or the brace: nothing but modifiers before it."""
    ends = _ENDS.match(text, end)
    if ends is None or (keyword != "def" and not ends[0].strip() and not _UNLIKE_PROSE.search(text, at, end)):
        return False
    start = text.rfind("\n", max(0, at - 80), at) + 1
    if start == 0 and at > 80:
        return False
    return all(word.partition("(")[0] in _MODIFIERS for word in text[start:at].split())


def _by_line(text: str) -> Iterator[str]:
    """Names that a line begins with and assigns to, or declares with their type."""
    for line in text.split("\n"):
        assigned = _ASSIGNED.match(line) if "=" in line else None
        if assigned:
            if assigned[2] or not _line_ends(line, assigned.end(), ","):  # name=value, is an argument
                yield assigned[1]
        elif "(" in line or ";" in line or "=" in line:
            declared = _DECLARED.match(line)
            if declared and _declares(line, declared):
                yield declared[2]


def _line_ends(line: str, start: int, mark: str) -> bool:
    """Whether a line ends with a mark; a longer line than is looked at does not."""
    return len(line) - start <= _LONGEST_LINE and line[start:].rstrip().endswith(mark)


def _declares(line: str, found: re.Match[str]) -> bool:
    """Whether words before a name are a type, and the line a declaration rather than prose or a statement."""
    mark, types = found[3].strip(), found[1]
    words = types.replace("*", " ").replace("&", " ").split()
    if any(word in _NO_TYPES or word.endswith(":") for word in words):
        return False
    built_in = any(word in _BUILT_IN or word.endswith("_t") for word in words)
    modified = any(word in _MODIFIERS for word in words)
    if mark == ";":  # "a long time;" ends many a line
        typed = words[-1] in _ALSO_ENGLISH or words[-1][0].isupper()
        return built_in or any(sign in types for sign in ("*", "::", ">")) or (modified and typed and len(words) > 1)
    if built_in or modified or any(word in _ALSO_ENGLISH for word in words):
        return True
    return _line_ends(line, found.end(), ";" if mark == "=" else "{")
