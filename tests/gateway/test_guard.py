"""The verbatim guard: what it keeps and what not, how it decides, that nothing is lost and nothing takes forever."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vist
from gateway.labelled import STRINGS, covered, plant
from vist.errors import VistError
from vist.gateway import (
    CompressionPolicy,
    GuardPolicy,
    Span,
    annotate,
    compress_messages,
    find_verbatim,
    restore,
)
from vist.gateway.guard import DEFAULT_KINDS, FOREIGN, KINDS, UNCLOSED, VERBATIM

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")

KEPT = [
    ("hash", "d41d8cd98f00b204e9800998ecf8427e"),
    ("hash", "3f2a9bc"),
    ("hash", "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"),
    ("uuid", "123e4567-e89b-12d3-a456-426614174000"),
    ("key", "sk-proj-Ab12Cd34Ef56Gh78"),
    ("key", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    ("key", "AKIAIOSFODNNEXAMPLEX"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    ("key", "dGhpcyBpcyBhIHRlc3Qgb2YgYmFzZTY0IQ=="),
    ("url", "https://example.com/a_(b)?x=1&y=2#z"),
    ("url", "www.example.org/page"),
    ("email", "bob.smith+tag@mail.example.org"),
    ("date", "2024-01-15"),
    ("date", "2024-01-15T10:22:33.123+02:00"),
    ("account", "GB29 NWBK 6016 1331 9268 19"),
    ("address", "10.0.0.1"),
    ("address", "fe80::1ff:fe23:4567:890a"),
    ("address", "00:1a:2b:3c:4d:5e"),
    ("version", "1.2.3"),
    ("version", "v2.10.0-rc.1+build.5"),
    ("path", "/usr/local/lib/libx.so.1"),
    ("path", "~/.config/app"),
    ("path", "src/main.rs"),
    ("path", r"C:\Program Files\App\x.exe"),
    ("path", r"\\server\share\file"),
    ("number", "12345"),
    ("number", "-1,234.56"),
    ("number", "$10,000"),
    ("number", "6.02214076e23"),
    ("number", "INV-2024-00123"),
    ("number", "x12345b"),
    ("number", "12 345 678"),
    ("number", "+44 (0)20 7946 0958"),
    ("number", "4111 1111 1111 1111"),
    ("number", "١٢٣٤٥"),
    ("number", "0xDEADBEEF"),
]
LEFT = [
    "1984",
    "3.14",
    "10:30",
    "and/or",
    "km/h",
    "deadbeef",
    "defaced",
    "feedface-2",
    "well-known",
    "CamelCaseIdentifierOfClass",
    r"\alpha + \beta",
    "a: b:: c",
    "std::vec::Vec",
    "e.g. this, i.e. that.",
    "</div>",
    "@mention",
    "----------------",
    "x = y / z",
    "not://",
]


def found(text: str, **policy: object) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for start, end, kind in find_verbatim(text, GuardPolicy(**policy))]  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "exact"), KEPT, ids=[exact[:20] for _, exact in KEPT])
@pytest.mark.parametrize("frame", ["{}", "It is {}, they said.", "({})", "See '{}'.", "id={}\n"])
def test_exact_strings_are_kept_whole(kind: str, exact: str, frame: str) -> None:
    text = frame.format(exact)
    start = text.index(exact)
    span = next(span for span in find_verbatim(text) if span.start <= start and start + len(exact) <= span.end)
    if frame == "It is {}, they said.":
        assert span == (start, start + len(exact), kind)


@pytest.mark.parametrize("prose", LEFT)
def test_what_a_reader_can_guess_is_left(prose: str) -> None:
    assert found(f"So {prose} it was.") == []


@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_a_kind_that_is_not_asked_for_is_not_looked_for(kind: str) -> None:
    exact = next(exact for name, exact in KEPT if name == kind)
    assert (kind, exact) in found(f"a {exact} b", kinds=(kind,))
    others = tuple(name for name in DEFAULT_KINDS if name != kind)
    assert kind not in dict(found(f"a {exact} b", kinds=others))


def test_the_fewest_digits_of_a_number_can_be_chosen() -> None:
    assert found("in 1984 or 12345", min_digits=4) == [("number", "1984"), ("number", "12345")]
    assert found("in 1984 or 12345", min_digits=6) == []


def test_overlaps_become_one_span_named_after_the_longest() -> None:
    assert found("at https://x.org/3f2a9bc?id=12345 now") == [("url", "https://x.org/3f2a9bc?id=12345")]
    assert found("abcdefgh", patterns=("abcde", "defgh", "c")) == [("pattern", "abcdefgh")]
    assert found("ab 123456", kinds=("number",), patterns=("ab 12",)) == [("number", "ab 123456")]


def test_punctuation_of_the_sentence_stays_outside() -> None:
    assert found("(see https://x.org/a_(b)), or www.y.org.") == [("url", "https://x.org/a_(b)"), ("url", "www.y.org")]
    assert found("in /etc/hosts. Then") == [("path", "/etc/hosts")]


def test_times_of_day_are_no_addresses_and_kept_on_request_only() -> None:
    log = "23:59:07 INFO took 12:30 s, slice 1:20:2 and [a:b:c], then 9:05:00."
    assert found(log) == []
    assert found(log, times=True) == [("time", "23:59:07"), ("time", "9:05:00")]
    dated = "2026-01-02 23:59:07"
    assert found(dated) == [("date", dated)] and found("at 23:59:07.123456") != []
    assert found("::1:2 and 1:2:3:4:5:6:7:8 and aa:bb:0c:0d:0e:0f") == [
        ("address", "::1:2"), ("address", "1:2:3:4:5:6:7:8"), ("address", "aa:bb:0c:0d:0e:0f"),
    ]  # fmt: skip


@pytest.mark.parametrize("before", ["", "see:", "id=", "to "])
@pytest.mark.parametrize("after", [":", ": it", ",", ".", ""])
@pytest.mark.parametrize(
    "address", ["7e:34:56:49:c9:e7", "2001:db8:1:2:3:4:5:6", "2001:db8::8a2e:370", "2001:db8:1:2:f985"]
)
def test_a_colon_beside_an_address_is_the_sentences(address: str, before: str, after: str) -> None:
    assert found(f"{before}{address}{after}") == [("address", address)]


def test_marked_spans_are_obeyed_first() -> None:
    assert found("a <verbatim>b 12345</verbatim> c") == [(VERBATIM, "<verbatim>b 12345</verbatim>")]
    assert found("<verbatim>a <verbatim>b</verbatim> c</verbatim> d") == [
        (VERBATIM, "<verbatim>a <verbatim>b</verbatim> c</verbatim>")
    ]
    assert found("12345<VERBATIM>x</Verbatim>67890", kinds=()) == [(VERBATIM, "<VERBATIM>x</Verbatim>")]
    assert found("a </verbatim> b") == []


def test_nothing_else_reaches_into_a_marked_span() -> None:
    text = "ab<verbatim>cd</verbatim>ef<verbatim>g</verbatim>h"
    assert found(text, patterns=("b.*h",)) == [
        ("pattern", "b"),
        (VERBATIM, "<verbatim>cd</verbatim>"),
        ("pattern", "ef"),
        (VERBATIM, "<verbatim>g</verbatim>"),
        ("pattern", "h"),
    ]


def test_a_tag_that_is_never_closed_reaches_to_the_end_and_is_reported() -> None:
    text = "a <verbatim>b</verbatim> <verbatim>c 12345 d"
    assert found(text) == [(VERBATIM, "<verbatim>b</verbatim>"), (UNCLOSED, "<verbatim>c 12345 d")]
    guarded = annotate(text, find_verbatim(text))
    assert guarded.unclosed and [kept.text for kept in guarded.kept] == ["b", "c 12345 d"]
    assert not annotate("a", []).unclosed


def test_names_are_kept_unless_switched_off_and_quotes_on_request_only() -> None:
    code = "def parse_header(x):\n    limit = 3\n    return limit + x + limit\nparse_header(1)\nlet other = x;\n"
    assert found(code, identifiers=False) == []
    assert found(code) == [
        ("identifier", "parse_header"),
        ("identifier", "parse_header"),
        ("identifier", "other"),
    ]
    assert ("identifier", "limit") in found(code, identifier_uses=3)
    said = "She said “so be it”, 'no' and \"yes\"; it's the dog's."
    assert found(said, quotes=True) == [("quote", "“so be it”"), ("quote", "'no'"), ("quote", '"yes"')]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def parse_header(x):", "parse_header"),
        ("async def fetch_rows():", "fetch_rows"),
        ("class LexerState:", "LexerState"),
        ("func (s *Server) ListenAll() error {", "ListenAll"),
        ("pub fn next_token(&mut self) {", "next_token"),
        ("export const MAX_DEPTH = 3;", "MAX_DEPTH"),
        ("fun readAll(): String {", "readAll"),
        ("#define RING_SIZE 64", "RING_SIZE"),
        ("macro_rules! try_all {", "try_all"),
        ("let mut cursor = 0;", "cursor"),
        ("retries: int = 3", "retries"),
        ("names: list[str] | None = None", "names"),
        ("  $total = 3", "$total"),
        ("static const int kFoo = 3;", "kFoo"),
        ("int parse_it(char *x) {", "parse_it"),
        ("static int helper(void)", "helper"),
        ("int *find_node(int key);", "find_node"),
        ('const char *const kName = "x";', "kName"),
        ("uint32_t mask_of;", "mask_of"),
        ("struct node *next_of;", "next_of"),
        ("std::map<std::string, int> counts;", "counts"),
        ("Foo total = make();", "total"),
        ("void Server::listen_all(int port) {", "listen_all"),
        ("template <typename T> T max_of(T a, T b) {", "max_of"),
        ("enum class Colour { Red };", "Colour"),
        ("class Widget : public Base {", "Widget"),
        ("public String getName() {", "getName"),
        ("  private final Map<String, List<Integer>> byName;", "byName"),
        ("@Override public void onClick(View v) {", "onClick"),
        ("public class Main extends Base {", "Main"),
        ("func ReadAll(", "ReadAll"),
        ("type Server struct", "Server"),
        ("type Celsius float64", "Celsius"),
        ("const MaxDepth int = 3", "MaxDepth"),
        ("count := 3", "count"),
        ("type UserId = string;", "UserId"),
        ("export default function Page() {", "Page"),
    ],
)
def test_a_name_that_code_defines_once_is_kept(code: str, name: str) -> None:
    assert found(f"// first\n{code}\n", kinds=()) == [("identifier", name)]
    assert found(f"// first\n{code}\n", kinds=(), identifiers=False) == []
    often = f"{code}\n" + f"use {name} here\n" * 3
    assert ("identifier", name) not in found(often)


@pytest.mark.parametrize(
    "line",
    [
        "let him go (or not) and let me know.",
        "the value = 5 in this case",
        "a class of people, a second-class citizen: he",
        "class struggle",
        "type of thing: many",
        "It was a long time;",
        "private life; public opinion;",
        "private life;",
        "public opinion (as was said)",
        "double trouble;",
        "float away;",
        "In short order;",
        "the final decision;",
        "function follows form.",
        "interface between two",
        "struct and union types",
        "Use the function called:",
        "import static foo.bar;",
        "return foo;",
        "return foo(x) {",
        "else foo(x);",
        "throw new Error(x);",
        "} else if (y) {",
        "while (foo(x)) {",
        "for (int i = 0; i < n; i++) {",
        "case FOO: x = 3;",
        "foo(bar);",
        "  x == y",
        "    timeout=30,",
        "See https://x.org?a=b",
    ],
)
def test_prose_and_statements_define_nothing(line: str) -> None:
    assert "identifier" not in dict(found(f"It began.\n{line}\nIt ended.\n"))


def test_a_book_defines_nothing() -> None:
    assert found(PROSE, kinds=()) == []


EVERY_KIND = [
    *((kind, next(exact for name, exact in KEPT if name == kind)) for kind in DEFAULT_KINDS),
    ("time", "23:59:07"),
    ("identifier", "parse_header"),
    ("quote", "\u201cas you were\u201d"),
    ("pattern", "Room Seven"),
    (VERBATIM, "keep this line"),
    (FOREIGN, "zero\u200bwidth"),
]


@pytest.mark.parametrize(("kind", "exact"), EVERY_KIND, ids=[kind for kind, _ in EVERY_KIND])
@pytest.mark.parametrize(
    ("shape", "model"),
    [("openai", "gpt-4o"), ("openai", "gemini-3-pro"), ("responses", "gpt-4o"), ("anthropic", "claude-sonnet-4-5")],
)
def test_every_kind_is_text_in_the_messages_that_are_sent(kind: str, exact: str, shape: Any, model: str) -> None:
    """From the policy to the wire: the string is in a text block, tied to its mark, and not on the pages."""
    planted = {VERBATIM: f"<verbatim>{exact}</verbatim>", "identifier": f"\ndef {exact}(x):\n"}.get(kind, exact)
    text = f"{PROSE[1000:6000]} {planted} {PROSE[6000:9000]}"
    guard = GuardPolicy(quotes=kind == "quote", times=True, patterns=("Room Seven",))
    policy = CompressionPolicy(keep_recent=0, step=1, shape=shape, detail="fit", guard=guard)
    done = compress_messages([{"role": "user", "content": text}], model, policy)
    blocks = done.messages[0]["content"]
    assert [block["type"] in ("text", "input_text") for block in blocks] == [True] + [False] * (len(blocks) - 1)
    (part,) = done.report.imaged
    assert part.guarded is not None and restore(part.guarded) == text
    kept = next(kept for kept in part.guarded.kept if kept.text == exact)
    assert kept.kind == kind and f"{part.guarded.marker(kept.number)} {exact}" in blocks[0]["text"].split("\n")
    assert exact not in part.guarded.text


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"patterns": ("a(",)}, r"'a\('.*not a regular expression"),
        ({"patterns": ("x*",)}, r"'x\*'.*nothing"),
        ({"patterns": ("(a+)+$",)}, r"repeats a repeat"),
        ({"patterns": (r"(?:\w*x)*y",)}, r"repeats a repeat"),
        ({"patterns": "abc"}, r"'abc'.*tuple of strings"),
        ({"kinds": ("hash", "colour")}, r"'colour'.*choose among uuid"),
        ({"min_digits": 0}, r"min_digits is 0.*at least 1"),
        ({"min_digits": 2.5}, r"min_digits is 2.5"),
        ({"identifier_uses": True}, r"identifier_uses is True"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_in_one_sentence(policy: dict[str, object], message: str) -> None:
    with pytest.raises(VistError, match=message) as refused:
        GuardPolicy(**policy)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pattern", [r"(?:a+){1,8}b", r"[(+]+x", r"\(+\)+", r"(?:ab)+", r"a+b+", r"(?:a++)+b"])
def test_expressions_that_end_soon_are_taken(pattern: str) -> None:
    GuardPolicy(patterns=(pattern,))


ADVERSARIES = {
    "letters": "a" * 1_000_000,
    "slashes": "/" * 1_000_000,
    "backslashes": "\\" * 1_000_000,
    "numbers": "1," * 500_000,
    "tags": "<verbatim>" * 100_000,
    "closed tags": "<verbatim></verbatim>" * 50_000,
    "colons": ":a" * 500_000,
    "at signs": "a@" * 500_000,
    "schemes": "://" * 333_000,
    "brackets": "(" * 1_000_000,
    "closing": "http://a" + ")" * 1_000_000,
    "hex": "a1" * 500_000,
    "drives": ("C:\\" + "a " * 10) * 40_000,
    "armour": "-----BEGIN A-----" * 60_000,
    "quotes": "\"'a " * 250_000,
    "markers": "[#" * 500_000,
    "definitions": "def " * 250_000,
    "assigned": "ab = 1\n" * 140_000,
    "different names": "".join(f"n{number:x}=1\n" for number in range(110_000)),
    "types": "a<b " * 250_000,
    "typed": "int a<b, c<d>> " * 66_000,
    "lines": "\n" * 1_000_000,
    "annotations": "@a(b) " * 166_000,
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_a_megabyte_of_anything_takes_linear_time(name: str) -> None:
    text = ADVERSARIES[name]
    policy = GuardPolicy(quotes=True)
    began = time.process_time()
    spans = find_verbatim(text, policy)
    assert restore(annotate(text, spans)) == text
    # 1 to 2 s on a slow core; what is quadratic takes minutes.
    assert time.process_time() - began < 15


def test_planted_strings_are_kept_and_prose_is_left() -> None:
    rng = random.Random(5)
    kept = total = 0
    for start in range(0, 100_000, 10_000):
        text, planted = plant(PROSE[start : start + 10_000], rng, each=3)
        spans = find_verbatim(text)
        kept += sum(covered(label, spans) for label in planted)
        total += len(planted)
    assert total == 10 * 3 * len(STRINGS)
    assert kept / total >= 0.99
    false_alarms = sum(span.end - span.start for span in find_verbatim(PROSE)) / len(PROSE)
    assert false_alarms < 0.02


def test_equal_strings_share_a_number_and_the_legend_says_what_they_are() -> None:
    text = "3f2a9bc, then 12345, then 3f2a9bc and <verbatim>12345</verbatim>."
    guarded = annotate(text, find_verbatim(text))
    assert guarded.text == "[#1], then [#2], then [#1] and [#3]."
    assert [(kept.number, kept.text, kept.kind) for kept in guarded.kept] == [
        (1, "3f2a9bc", "hash"),
        (2, "12345", "number"),
        (3, "12345", VERBATIM),
    ]
    assert guarded.legend() == "[#1] 3f2a9bc\n[#2] 12345\n[#3] 12345"
    assert restore(guarded) == text


def test_markers_are_none_of_the_texts_own() -> None:
    text = "As [#1] and [###2] say: 12345 [##x]"
    guarded = annotate(text, find_verbatim(text))
    assert guarded.text == "As [#1] and [###2] say: [##1] [##x]"
    assert restore(guarded) == text


def test_our_font_draws_a_marker() -> None:
    from vist.render import PageStyle, render

    pages = render(annotate("12345", [Span(0, 5, "number")]).text, PageStyle.named("vist"))
    assert pages.pixels.shape[0] == 1 and not pages.loss


@pytest.mark.parametrize("spans", [[(3, 5), (1, 2)], [(0, 3), (2, 4)], [(0, 9)], [(2, 2)], [(-1, 2)]])
def test_spans_of_another_text_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(VistError, match="out of order or outside the text of 6 characters"):
        annotate("abcdef", [Span(start, end, "number") for start, end in spans])


PIECES = st.sampled_from(
    [
        "12345",
        "3f2a9bc",
        "[#1]",
        "[##1]",
        "[#",
        "#]",
        "<verbatim>",
        "</verbatim>",
        " ",
        "\n",
        "a/b/c",
        "x@y.org",
        "“",
        '"',
        "é",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=30).map("".join))
def test_any_text_comes_back_exactly(text: str) -> None:
    spans = find_verbatim(text, GuardPolicy(quotes=True, min_digits=3))
    assert all(left.end <= right.start for left, right in zip(spans, spans[1:], strict=False))
    assert all(0 <= span.start < span.end <= len(text) and span.kind in KINDS for span in spans)
    guarded = annotate(text, spans)
    assert restore(guarded) == text
    assert len({kept.source for kept in guarded.kept}) == len(guarded.kept)
