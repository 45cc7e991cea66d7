"""A request's own regular expressions: they keep what they match, and none of them can hold up the gateway."""

import json
import time
from urllib.parse import quote

import pytest

from vist.errors import VistError
from vist.gateway import CompressionPolicy, GuardPolicy, find_verbatim
from vist.gateway.expressions import LONGEST, MOST, check_expressions
from vist.gateway.rewrite import Asked, rewrite
from vist.gateway.settings import Settings, read_policy

BASE = CompressionPolicy(guard=GuardPolicy(patterns=("Room Seven",)))


def asked(*expressions: str) -> str:
    return ", ".join(f"keep={quote(each, safe='')}" for each in expressions)


def test_expressions_come_on_top_of_the_gateways_own() -> None:
    policy = read_policy(asked(r"INV-\d{1,8}", "é, =%"), BASE)
    assert policy.guard.patterns == ("Room Seven", r"INV-\d{1,8}", "é, =%")
    assert read_policy(r"keep=INV-\d\d, quotes=on", BASE).guard == GuardPolicy(
        patterns=("Room Seven", r"INV-\d\d"), quotes=True
    )
    assert BASE.guard.patterns == ("Room Seven",)


def test_what_matches_stays_text_in_the_request_that_is_sent_on() -> None:
    secret = "the third door, on the left"
    text = "It was said again and again, and nobody would hear of it. " * 100 + secret + " was said once. " * 30
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()
    policy = "keep_recent=0, step=1"

    def texts(line: str) -> str:
        done = rewrite(body, "/v1/chat/completions", Asked(policy=line), Settings("http://127.0.0.1"))
        assert done.status == "compressed" and done.body is not None
        blocks = json.loads(done.body)["messages"][0]["content"]
        return "".join(block.get("text", "") for block in blocks)

    assert secret in texts(f"{policy}, {asked('the third door, on the (?:left|right)')}")
    assert secret not in texts(policy)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("keep=a(", r"'a\(' is not a regular expression"),
        ("keep=", "keep is ''"),
        ("keep=100%", "keep is '100%'"),
        ("keep=%ff", "keep is '%ff'"),
        ("keep=%20", "matches nothing or a blank"),
        ("keep=a%7B0%2C3%7D", "matches nothing or a blank"),
        (asked("a+b"), r"repeats without end; write \{1,80\}"),
        (asked("a*+b"), "repeats without end"),
        (asked(r"(a)\1"), "refers to a group"),
        (asked(r"(a{1,9}){1,9}b"), "smaller bounds"),
        (asked(r"(?:a|a){1,20}b"), "smaller bounds"),
        (asked(r"\w{1,20}x\w{1,20}y", r"\w{1,80}x\d{1,3}"), "smaller bounds"),
        (asked("a" * (LONGEST + 1)), "more than 200 characters"),
        (asked(*"abcdefghi"), f"9 expressions to keep; give at most {MOST}"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused_in_one_sentence(line: str, said: str) -> None:
    with pytest.raises(VistError, match=said) as refused:
        read_policy(line, BASE)
    assert "\n" not in str(refused.value)
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}]}'
    done = rewrite(body, "/v1/chat/completions", Asked(policy=line), Settings("http://127.0.0.1"))
    assert (done.status, done.body, done.reason) == ("failed", None, str(refused.value))


ALLOWED = [
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"https?://\S{1,200}\b",
    r"(?i)(?<=#)ticket \d{1,9}|order",
    r"\w{1,30}@\w{1,30}",
    r"(?>a{1,3}|b)c??",
    r"\w{1,20}x\w{1,20}y",
    r"(?:a|a){1,8}b",
]


@pytest.mark.parametrize("expression", ALLOWED)
@pytest.mark.parametrize("text", ["a" * 100_000, "ax" * 50_000, "https://" * 12_000, "a@" * 50_000])
def test_what_is_allowed_ends_soon_on_every_text(expression: str, text: str) -> None:
    policy = read_policy(asked(expression), CompressionPolicy(guard=GuardPolicy(kinds=(), identifiers=False)))
    began = time.process_time()
    find_verbatim(text, policy.guard)
    # Up to 1 s on a slow core; `(?:a|a){1,40}b` would take longer than anyone lives.
    assert time.process_time() - began < 10


def test_the_count_is_of_the_worst_that_can_happen() -> None:
    check_expressions((r"\w{1,31}" * 2,))  # 31 + 31 * 31
    with pytest.raises(VistError, match="smaller bounds"):
        check_expressions((r"\w{1,32}" * 2,))
    check_expressions((r"\d{4}" * 40,))  # in one way only
