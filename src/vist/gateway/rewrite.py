"""One request, rewritten or not, and why.

Owns the way from a request's body to the body that is sent on. Knows nothing about HTTP, processes or time.

Decisions
- What was not rewritten is sent on as it came: `body` is None then, and the caller has the original.
- A body that cannot be read is no error of ours. The API will say what it thinks of it.
- Everything that can go wrong inside comes back as a value with a reason. Reasons name what was wrong, never what was
  in the texts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vist.errors import VistError
from vist.gateway.cache import PageCache
from vist.gateway.messages import CompressionPolicy, compress_messages
from vist.gateway.profiles import resolve_profile
from vist.gateway.report import Report
from vist.gateway.settings import Settings, read_policy
from vist.gateway.splice import Member, read_elements, read_members, write_elements

Shape = Literal["openai", "anthropic", "responses"]
COMPRESSED, UNCHANGED, SKIPPED, FAILED = "compressed", "unchanged", "skipped", "failed"
ENDPOINTS: Mapping[str, tuple[Shape, str]] = {
    "/v1/chat/completions": ("openai", "messages"),
    "/v1/responses": ("responses", "input"),
    "/v1/messages": ("anthropic", "messages"),
}


@dataclass(frozen=True)
class Asked:
    """What a request's headers ask of the gateway: a policy in a line, and the model by whose row is counted."""

    policy: str = ""
    model: str = ""


@dataclass(frozen=True)
class Rewritten:
    """What became of a request.

    Attributes:
        status: `compressed`, `unchanged` (nothing in it pays), `skipped` (not for us) or `failed` (an error of ours).
        reason: a sentence.
        model: the model's name as the request has it, "" if unknown.
        body: the new body; None where the original goes on.
        report: what became of each part; None if it was not looked at.
        seconds: time that it took.
    """

    status: str
    reason: str
    model: str = ""
    body: bytes | None = None
    report: Report | None = None
    seconds: float = 0.0


def rewrite(body: bytes, path: str, asked: Asked, settings: Settings, cache: PageCache | None = None) -> Rewritten:
    """Return what becomes of a request to one of `ENDPOINTS`; never raises."""
    start = time.perf_counter()
    try:
        done = _rewrite(body, path, asked, settings, cache)
    except VistError as error:
        done = Rewritten(FAILED, str(error))
    except Exception as error:  # whatever it is, the request must get through
        done = Rewritten(FAILED, f"The gateway failed with {type(error).__name__}{_place(error)}.")
    return replace(done, seconds=time.perf_counter() - start)


def _rewrite(body: bytes, path: str, asked: Asked, settings: Settings, cache: PageCache | None) -> Rewritten:
    shape, field = ENDPOINTS[path]
    try:
        text = body.decode("utf-8")
        members = read_members(text)
    except UnicodeDecodeError:
        return Rewritten(SKIPPED, "The body is not UTF-8.")
    except RecursionError:
        return Rewritten(SKIPPED, "The body is nested too deeply.")
    except ValueError as error:
        return Rewritten(SKIPPED, f"The body is not a JSON object that can be read: {_short(error)}.")
    model = members["model"].value if "model" in members else None
    if not isinstance(model, str) or not model:
        return Rewritten(SKIPPED, "The request names no model.")
    if not settings.allows(model):
        return Rewritten(SKIPPED, "The model is not on the gateway's list.", model)
    policy = replace(read_policy(asked.policy, settings.policy), shape=shape)
    counted_as = asked.model or model
    try:
        resolve_profile(counted_as)
    except VistError:
        return Rewritten(SKIPPED, "No image-token rule is known for the model; X-Vist-Model can name one.", model)
    return replace(_compressed(text, members, field, counted_as, policy, cache), model=model)


def _compressed(
    text: str, members: Mapping[str, Member], field: str, model: str, policy: CompressionPolicy, cache: PageCache | None
) -> Rewritten:
    if field not in members:
        return Rewritten(SKIPPED, f"The request has no {field}.")
    place = members[field]
    given: list[Member] = []
    if isinstance(place.value, list):
        given = read_elements(text, place.start)
    elif isinstance(place.value, str) and field == "input":
        given = [Member({"role": "user", "content": place.value}, place.start, place.end)]
    else:
        return Rewritten(SKIPPED, f"The request's {field} is no list.")
    if not all(isinstance(member.value, dict) for member in given):
        return Rewritten(SKIPPED, f"The request's {field} holds something that is no object.")
    try:
        done = compress_messages([member.value for member in given], model, policy, cache=cache)
    except VistError as error:  # a message without a role and the like: the API's business
        return Rewritten(SKIPPED, str(error))
    report = done.report
    if not report.imaged:
        return Rewritten(UNCHANGED, _why_nothing(report), report=report)
    written = write_elements(text, given, done.messages)
    return Rewritten(
        COMPRESSED, report.sentence(), body=(text[: place.start] + written + text[place.end :]).encode(), report=report
    )


def _why_nothing(report: Report) -> str:
    """The reason for which the largest of the texts stayed."""
    largest = max(report.parts, key=lambda part: part.before, default=None)
    return f"Nothing became pages. Its largest text: {largest.reason}" if largest else "There is no text in it."


def _short(error: ValueError) -> str:
    """A decoder's complaint without what it complains about."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at character {error.pos}"
    return str(error)


def _place(error: BaseException) -> str:
    """The file and line at which an error arose; its message could quote a text."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""
