"""What an exact string looks like: one finder for each kind of string that must survive to the letter.

Owns the finders: each takes a text and yields (start, end) of what it takes for its kind. Which finders run, and what
becomes of overlaps, is `guard`'s; names that code defines are `definitions`'.

Decisions
- Every finder is linear in the text. Expressions begin with a class of characters and look behind only after it, so
  that the scan skips to candidates and a run of characters is tried once; repeats are possessive or bounded. What needs
  a judgement is judged once for each run, in Python.
- A finder would rather take too much than too little. What is a string to keep only in doubt (a bare `and/or`, a word
  of hex letters without a digit) is left to prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Ends = Iterator[tuple[int, int]]
Tokens = list[tuple[int, str]]  # start and characters

_TOKEN = re.compile(r"[A-Za-z0-9+/_-]{7,}+={0,2}+")
_DIGIT = re.compile(r"[0-9]")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{7,}+|[0-9A-F]{7,}+)(?![0-9A-Za-z])")
_LETTER = re.compile(r"[A-Za-z]")
_UUID = re.compile(
    r"[0-9A-Fa-f](?<![0-9A-Za-z][0-9A-Fa-f])[0-9A-Fa-f]{7}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
)
_TURN = re.compile(r"[a-z](?=[A-Z0-9])|[A-Z](?=[a-z0-9])|[0-9](?=[A-Za-z])")
_MIXED = 0.35  # share of neighbours that differ in class (upper, lower, digit): 0.62 in random base64, 0.2 in CamelCase
_JUDGED = 512  # characters of a run that are looked at
_PREFIXES = tuple(
    "sk- sk_ pk_ rk_ ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- AKIA ASIA AIza xoxb- xoxp- xoxa- xoxr- xoxs- hf_ npm_ "
    "pypi- dop_v1_ shpat_ whsec_".split()
)
# Keys that the runs above miss. With dots: JSON Web Tokens, SendGrid, Google OAuth. Without a digit: GitHub, AWS.
_OTHER_KEY = re.compile(
    r"(?:eyJ|SG\.|ya29\.)[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]++){0,4}+|gh[opsu]_[A-Za-z0-9]{20,}+|A[KS]IA(?<![A-Z0-9]A[KS]IA)[A-Z0-9]{16}"
)
_ARMOUR = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_RUN = re.compile(r"\d++(?:[.,'_:/\u00a0\u2009\u202f-]\d++)*+(?:[eE][+-]?\d++)?+%?")
_SPACED = re.compile(r"[+(\d](?<![\w+(.,][+(\d])[\d() ./+\u00a0\u2009\u202f-]{5,40}+")
_SPACED_DIGITS = 5  # fewer, apart, are a list
_LEFT_OF_NUMBER = re.compile(r"(?:[A-Za-z0-9_]+|(?<!\w)[-+]?[$€£¥]?)\Z")
_RIGHT_OF_NUMBER = re.compile(r"[A-Za-z0-9_]*+")
_HEX_LITERAL = re.compile(r"0[xX][0-9A-Fa-f_]{3,}+")
_TIME = re.compile(
    r"\d(?<!\d\d)\d{3}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?)?(?!\d)"
)
_DAYTIME = re.compile(r"\d\d?:[0-5]\d:[0-5]\d")
_CLOCK = re.compile(r"\d(?<![\w:.,-]\d)\d?:[0-5]\d:[0-5]\d(?![\w:]|[.,-]\d)")
_IBAN = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_VERSION = re.compile(
    r"[vV\d](?<![\w.][vV\d])\d*+(?:\.\d++){2,}+"
    r"(?:\.?(?:alpha|beta|dev|pre|post|rc|a|b|c)[0-9]*+)?+(?:[+-][0-9A-Za-z]++(?:[.+-][0-9A-Za-z]++)*+)?"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?:/\d{1,2}|:\d{1,5})?(?!\w)")
# Groups after the first: a literal colon lets the scan skip; the group before it is looked for from there.
_COLONS = re.compile(r":(?:[0-9A-Fa-f]{0,4}+:){1,9}+[0-9A-Fa-f]{0,4}+(?:/\d{1,3}|%\w{1,15})?(?![\w:])")
_LEFT_OF_COLON = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}\Z")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}")
_SCHEME = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]*\Z")
_ADDRESS = re.compile(r"""[^\s<>"'`{}|\\^\u00ab\u00bb\u201c\u201d\u3000-\u303f\uff00-\uffef]++""")
_LOCAL = re.compile(r"[A-Za-z0-9_.!#$%&'*+/=?^{|}~-]+\Z")
_DOMAIN = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?){1,8}"
)
_IN_PATH = r"""[^\s<>"'`()\[\]|,;\u00ab\u00bb\u2018-\u201f\u3000-\u303f]"""
_SLASH = re.compile(r"[/\\]")
_BEFORE_PATH = re.compile(rf"(?s:.*){_IN_PATH.replace('[^', '[', 1)}")  # to the last character that is in no path
_REST_OF_PATH = re.compile(rf"{_IN_PATH}*+")
_DRIVE = re.compile(
    r"""[A-Za-z](?<!\w[A-Za-z]):\\(?:[^\s\\/:*?"<>|,;]++(?:[ ][^\s\\/:*?"<>|,;]++){0,3}+\\)*+[^\s\\/:*?"<>|,;]*+"""
)
_SHARED = re.compile(r"(?:^|=)\\\\[A-Za-z0-9][^\\]*\\")  # \\server\share
_EXTENSION = re.compile(r"[^./\\]\.[A-Za-z][A-Za-z0-9]{0,7}\Z")
_QUOTE = re.compile(
    r"""["](?<!\w["])[^"\n]{1,500}+["]|['](?<!\w['])[^'\n]{1,500}+['](?!\w)|`[^`\n]{1,500}+`"""
    r"|\u201c[^\u201d\n]{1,500}+\u201d|\u2018[^\u2019\n]{1,500}+\u2019(?!\w)|\u00ab[^\u00bb\n]{1,500}+\u00bb"
)


def find_uuids(text: str) -> Ends:
    """UUIDs of any version, with hyphens."""
    return (match.span() for match in _UUID.finditer(text))


def find_tokens(text: str) -> Tokens:
    """Runs of 7 characters or more that ids are made of, a digit among them: what three finders look into."""
    return [(token.start(), token[0]) for token in _TOKEN.finditer(text) if _DIGIT.search(token[0])]


def find_hashes(tokens: Tokens) -> Ends:
    """Hex digests, and git's short hashes: 7 hex digits or more of one case, a letter and a digit among them."""
    for start, token in tokens:
        for piece in _HEX.finditer(token):
            if _DIGIT.search(piece[0]) and _LETTER.search(piece[0]):
                yield start + piece.start(), start + piece.end()


def find_keys(text: str, tokens: Tokens) -> Ends:
    """API keys and tokens: known prefixes, JSON Web Tokens, armoured blocks, base64 of high entropy."""
    for start, token in tokens:
        if len(token) >= 16 and (token.startswith(_PREFIXES) or (len(token) >= 20 and _looks_random(token[:_JUDGED]))):
            yield start, start + len(token)
    yield from (match.span() for match in _OTHER_KEY.finditer(text))
    end = 0
    for opening in _ARMOUR.finditer(text):
        if opening.start() >= end:
            closing = f"-----END {opening[1]}-----"
            at = text.find(closing, opening.end())
            end = at + len(closing) if at >= 0 else len(text)
            yield opening.start(), end


def _looks_random(run: str) -> bool:
    """Upper case, lower case and digits in no order: encoded bytes rather than words."""
    return not (run.islower() or run.isupper()) and len(_TURN.findall(run)) >= _MIXED * (len(run) - 1)


def find_numbers(text: str, tokens: Tokens, min_digits: int) -> Ends:
    """Numbers and ids of `min_digits` digits or more: with separators, signs, currency; groups apart; in words."""
    for run in _RUN.finditer(text):
        start, end = run.span()
        if end - start >= min_digits and _digits(run[0]) >= min_digits and not _DAYTIME.fullmatch(run[0]):
            yield _whole(text, start, end)
    for run in _SPACED.finditer(text):
        written = run[0].rstrip(" ./-\u00a0\u2009\u202f")
        start = run.start()
        if written.startswith("(") and ")" not in written:  # a bracket of the sentence
            written, start = written[1:], start + 1
        elif "(" not in written:
            written = written.rstrip(") ./-")
        if not written.isdecimal() and _digits(written) >= max(min_digits, _SPACED_DIGITS):
            yield start, start + len(written)
    for start, token in tokens:
        if _digits(token) >= min_digits:
            stripped = token.strip("-_/+=")
            start += token.index(stripped)
            yield start, start + len(stripped)
    yield from (match.span() for match in _HEX_LITERAL.finditer(text))


def _digits(run: str) -> int:
    return sum(map(str.isdecimal, run))


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """A number with its sign, its currency and the letters that it stands among."""
    if start and not text[start - 1].isspace():
        left = _LEFT_OF_NUMBER.search(text, max(0, start - 64), start)
        start = left.start() if left else start
    right = _RIGHT_OF_NUMBER.match(text, end)
    return start, (right.end() if right else end)


def find_dates(text: str) -> Ends:
    """ISO dates and timestamps."""
    return (match.span() for match in _TIME.finditer(text))


def find_times(text: str) -> Ends:
    """Times of day with seconds, without a day and without fractions of a second."""
    return (match.span() for match in _CLOCK.finditer(text))


def find_accounts(text: str) -> Ends:
    """International bank account numbers, in groups or not."""
    return (match.span() for match in _IBAN.finditer(text))


def find_versions(text: str) -> Ends:
    """Version numbers of three components or more, with their suffix."""
    return (match.span() for match in _VERSION.finditer(text))


def find_addresses(text: str, tokens: Tokens) -> Ends:
    """IPv4 and IPv6 addresses, with port or prefix length, and MAC addresses."""
    yield from (match.span() for match in _IPV4.finditer(text))
    for match in _COLONS.finditer(text):  # IPv6, and MAC with colons
        first = _LEFT_OF_COLON.search(text, max(0, match.start() - 6), match.start())
        start = first.start() if first else match.start()
        if not first and not match[0].startswith("::"):  # the colon of the sentence
            start += 1
        end = match.end()
        if text[end - 1] == ":" and text[end - 2] != ":":  # and one behind it
            end -= 1
        colons = text.count(":", start, end)
        # Fewer groups are a time, a slice or a ratio, unless there are letters in as many as none of those has.
        written = colons in (5, 7) or "::" in text[start:end] or (colons > 3 and _LETTER.search(text, start, end))
        if colons > 1 and written and _DIGIT.search(text, start, end):
            yield start, end
    yield from ((start, start + len(token)) for start, token in tokens if _MAC.fullmatch(token))


def find_urls(text: str) -> Ends:
    """Addresses with a scheme, or that begin with www."""
    at = text.find("://")
    while at >= 0:
        scheme = _SCHEME.search(text, max(0, at - 24), at)
        rest = _ADDRESS.match(text, at + 3) if scheme else None
        if scheme and rest:
            yield scheme.start(), _trimmed(text, at + 3, rest.end())
        at = text.find("://", rest.end() if rest else at + 3)
    for match in re.finditer(r"www\.(?<!\wwww\.)(?=\w)", text):
        rest = _ADDRESS.match(text, match.end())
        if rest:
            yield match.start(), _trimmed(text, match.end(), min(rest.end(), match.end() + 2048))


def _trimmed(text: str, start: int, end: int) -> int:
    """Where an address ends, without the punctuation of the sentence around it; closing brackets stay if opened."""
    kept = text[start:end].rstrip(".,;:!?)]'*")
    opened = kept.count("(") - kept.count(")")
    last = start + len(kept)
    while opened > 0 and last < end and text[last] == ")":
        last, opened = last + 1, opened - 1
    return last


def find_emails(text: str) -> Ends:
    """E-mail addresses."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text, max(0, at - 64), at) if domain else None
        if domain and local:
            yield local.start(), domain.end()
        at = text.find("@", at + 1)


def find_paths(text: str) -> Ends:
    """Paths of files and folders, of Unix and of Windows."""
    if "/" in text or "\\" in text:
        for start, end in _runs_with_slash(text):
            opened = start > 0 and text[start - 1] == "<"  # a closing tag
            if not opened and _is_path(text[start : min(end, start + _JUDGED)].rstrip(".:!?")):
                yield start, start + len(text[start:end].rstrip(".:!?"))
        yield from (match.span() for match in _DRIVE.finditer(text) if len(match[0]) > 3)


def _runs_with_slash(text: str) -> Ends:
    """Runs of characters of paths that have a slash among them, whole."""
    end = 0
    while slash := _SLASH.search(text, end):
        before = _BEFORE_PATH.match(text, end, slash.start())
        start = before.end() if before else end
        rest = _REST_OF_PATH.match(text, slash.end())
        end = rest.end() if rest else slash.end()
        yield start, end


def _is_path(run: str) -> bool:
    """Whether a run of characters with a slash in it is a path: rooted, of three parts, or with a file's ending."""
    if not any(map(str.isalnum, run)):
        return False
    if "\\" in run:
        rooted = _SHARED.search(run) or run.startswith((".\\", "..\\"))
        return bool(rooted or ("{" not in run and _EXTENSION.search(run)))  # a brace: LaTeX
    if (
        run.startswith(("/", "./", "../", "~", "$"))
        or run[1:3] == ":/"
        or sum(map(bool, run.split("/"))) + run.endswith("/") > 2
    ):
        return True
    return bool(_EXTENSION.search(run)) or any(character.isdigit() or character == "_" for character in run)


def find_quotes(text: str) -> Ends:
    """Quoted strings of up to 500 characters on one line, with their quotation marks."""
    return (match.span() for match in _QUOTE.finditer(text))
