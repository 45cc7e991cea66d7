"""Conversations with their older texts as pages: `compress_messages` and its policy.

Owns which parts of a conversation may become pages: the recent window, the roles, the pages that are left. `shapes`
knows the APIs' messages, `profit` whether a text pays.

Decisions
- The window moves in steps. With n messages, those before the largest multiple of `step` that leaves `keep_recent` are
  old. So from turn to turn nothing but the end of the conversation changes, and every `step` messages some texts become
  pages, for good: a part's fate hangs on itself and on what stands before it, never on what comes after.
- The tool results of one call are old only together: their pages stand behind the last of them.
- `max_pages` is for the whole conversation, counted from its start, with the images that were there.
- A page is sent below the default level of detail only where its message carries the level to the model: in user
  messages of OpenAI's two shapes. Anthropic's images have none, and hosts that hand the Responses API on to another one
  drop it in the outputs of tools.
- The input is not changed; what is not rewritten is returned as the same objects.
- What the conversation lacks in form (no content, unknown blocks, results without a call) passes through untouched:
  refusing it is the API's business. Only what cannot be walked at all is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

from vist.errors import VistError
from vist.gateway import items, shapes
from vist.gateway.cache import PageCache
from vist.gateway.places import Place, get, role_of
from vist.gateway.profiles import Profile, resolve_profile
from vist.gateway.profit import Gate, Tokenizer, Weighed, count_text, weigh
from vist.gateway.report import IMAGED, KEPT, Compressed, Part, Report

_RECENT = "It is among the recent messages."
_NO_CALL = "The tool result follows no tool call."
_ASKED = "The policy keeps tool results."
_STAYS = {
    "tool_call": "Tool calls stay as they are.",
    "image": "It is an image already.",
    "other": "It is no text that could be drawn.",
}
_NO_IMAGES = "The API takes no images in messages of role {!r}."
_FIELDS = "Its other fields are about the text."


@dataclass(frozen=True)
class CompressionPolicy(Gate):
    """What of a conversation becomes pages, beyond what `Gate` asks of each text.

    Attributes:
        keep_recent: so many of the last messages stay as they are, or up to step - 1 more.
        step: the window moves by so many messages at a time; 1 changes the prefix most often.
        tool_results: `pages`, or `text` to keep all of them.
        shape: `openai`, `anthropic`, `responses` (the input items of OpenAI's Responses API), or `auto` to go by the
            messages and, where they do not tell, by the model.
        unknown_model: `raise` a VistError, or `pass` the messages through.

    Raises:
        VistError: a value out of range.
    """

    keep_recent: int = 2
    step: int = 4
    tool_results: Literal["pages", "text"] = "pages"
    shape: Literal["auto", "openai", "anthropic", "responses"] = "auto"
    unknown_model: Literal["raise", "pass"] = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("keep_recent", 0), ("step", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise VistError(f"{name} is {value!r}; give a whole number of at least {least}.")
        annotations = (
            ("tool_results", ("pages", "text")),
            ("shape", ("auto", *get_args(shapes.Shape))),
            ("unknown_model", ("raise", "pass")),
        )
        for name, choices in annotations:
            if getattr(self, name) not in choices:
                raise VistError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")

    def boundary(self, count: int) -> int:
        """Return how many of the first messages of `count` are old."""
        return max(0, count - self.keep_recent) // self.step * self.step


def compress_messages(
    messages: Sequence[Any],
    model: str,
    policy: CompressionPolicy | None = None,
    tokenizer: Tokenizer | None = None,
    cache: PageCache | None = None,
) -> Compressed:
    """Return a conversation with its older texts, documents and tool results as pages, where that pays.

    Args:
        messages: OpenAI's chat messages or input items, or Anthropic's messages, as the client takes them; they are not
            changed.
        model: the model's name as the request has it.
        policy: CompressionPolicy() by default.
        tokenizer: the model's own, as `text_tokens` takes it; texts are estimated without.
        cache: pages of earlier calls, for whoever sends growing conversations; the result is the same without.

    Raises:
        VistError: messages that are no list, a message without a role, or a model without a profile.
    """
    policy = policy or CompressionPolicy()
    _check(messages)
    try:
        if not isinstance(model, str):
            raise VistError(f"model is {type(model).__name__}; give its name.")
        profile = resolve_profile(model)
    except VistError:
        if policy.unknown_model == "raise":
            raise
        reason = "No image-token rule is known for the model."
        parts = [
            Part(index, *place[:2], _speaker(message), place.kind, KEPT, reason)
            for index, message in enumerate(messages)
            for _, place in (items.texts_of_item if items.has_sign(message) else shapes.texts_of)(message)
        ]
        return Compressed(list(messages), Report(tuple(parts), None), len(messages))
    return _Run(messages, profile, policy, tokenizer, cache).compress()


def _check(messages: Any) -> None:
    if not isinstance(messages, list | tuple):
        raise VistError(f"messages is {type(messages).__name__}; give the list of messages that the client takes.")
    for index, message in enumerate(messages):
        if role_of(message) is None and not items.is_item(message):
            raise VistError(f"Message {index} has no role; give it one, such as 'user'.")


def _speaker(message: Any) -> str:
    """The role of a message or of an item."""
    return items.role_of_item(message) if items.is_item(message) else role_of(message) or ""


@dataclass
class _Run:
    """One pass over a conversation, from its start."""

    given: Sequence[Any]
    profile: Profile
    policy: CompressionPolicy
    tokenizer: Tokenizer | None
    cache: PageCache | None
    shape: str = "openai"
    parts: list[Part] = field(default_factory=list)
    images: int = 0

    def compress(self) -> Compressed:
        policy, given = self.policy, self.given
        default: shapes.Shape = "anthropic" if self.profile.name.startswith("claude") else "openai"
        self.shape = shapes.detect_shape(given, default) if policy.shape == "auto" else policy.shape
        out: list[Any] = []
        boundary, at, settled = policy.boundary(len(given)), 0, 0
        while at < len(given):
            end = _end_of_tools(given, at) if self.shape == "openai" else at + 1
            out += self._group(at, end, len(out), end <= boundary)
            may_grow = self.shape == "openai" and end == len(given) and role_of(given[at]) == "tool"
            settled = len(out) if end <= boundary and not may_grow else settled
            at = end
        return Compressed(out, Report(tuple(self.parts), self.profile.name), settled)

    def _group(self, at: int, end: int, place: int, old: bool) -> list[Any]:
        """What stands in place of the messages from `at` to `end`: one, or the tool results of one call."""
        group, role = self.given[at:end], role_of(self.given[at])
        before = len(self.parts)
        if not old:
            written, reason = list(group), _RECENT
        elif self.shape == "responses":
            written, reason = self._item(group[0], at, place)
        elif role == "tool" and self.shape == "openai":
            written, reason = self._tools(group, at, place)
        elif role == "user" and isinstance(group[0], dict) and isinstance(group[0].get("content"), str | list):
            put = shapes.openai_user if self.shape == "openai" else shapes.anthropic_user
            written, reason = [put(group[0], partial(self._press, at, place))], _FIELDS
        else:
            written, reason = list(group), _NO_IMAGES.format(role)
        self._note_kept(at, group, reason, before)
        return written

    def _item(self, item: Any, at: int, place: int) -> tuple[list[Any], str]:
        if not items.can_press(item):
            return [item], _NO_IMAGES.format(_speaker(item))
        return [items.press_item(item, partial(self._press, at, place))], _FIELDS

    def _tools(self, group: Sequence[Any], at: int, place: int) -> tuple[list[Any], str]:
        if self.policy.tool_results == "text":
            return list(group), _ASKED
        if at == 0 or not get(self.given[at - 1], "tool_calls"):
            return list(group), _NO_CALL
        presses = [partial(self._press, at + index, place + len(group)) for index in range(len(group))]
        return shapes.openai_tools(group, presses), _FIELDS

    def _press(self, message: int, pages_in: int, text: str, place: Place, extra: str) -> Weighed | None:
        """Weigh a text and note what became of it; None if it stays."""
        policy = self.policy
        if place.kind == "tool_result" and policy.tool_results == "text":
            return None
        carried = self.shape == "openai" or (self.shape == "responses" and place.kind == "text")
        gate = policy if carried else replace(policy, detail="high")
        weighed = self._weigh(text, gate, extra, max(0, policy.max_pages - self.images))
        self.parts.append(
            Part(
                message,
                place.block,
                place.inner,
                _speaker(self.given[message]),
                place.kind,
                IMAGED if weighed.pays else KEPT,
                weighed.reason,
                weighed.before,
                weighed.after,
                weighed.exact,
                pages_in if weighed.pays else None,
                weighed.sizes,
                weighed.guarded,
                weighed.pages,
            )
        )
        self.images += len(weighed.pages)
        return weighed if weighed.pays else None

    def _weigh(self, text: str, gate: Gate, extra: str, room: int) -> Weighed:
        if self.cache is None or self.tokenizer is not None:
            return weigh(text, self.profile, gate, self.tokenizer, extra, room)
        key = self.cache.key(text, self.profile.name, gate, extra, room)
        weighed = self.cache.get(key)
        if weighed is None:
            weighed = weigh(text, self.profile, gate, None, extra, room)
            self.cache.put(key, weighed)
        return weighed

    def _note_kept(self, at: int, group: Sequence[Any], reason: str, before: int) -> None:
        """Note every part of the messages that was not weighed, and put all of them in order."""
        texts_of = items.texts_of_item if self.shape == "responses" else shapes.texts_of
        noted = {(part.message, part.block, part.inner, part.kind) for part in self.parts[before:]}
        for index, message in enumerate(group, at):
            role = _speaker(message)
            for text, place in texts_of(message):
                self.images += place.kind == "image"
                if (index, *place) not in noted:
                    asked = place.kind == "tool_result" and self.policy.tool_results == "text" and reason == _FIELDS
                    why = _ASKED if asked else _STAYS.get(place.kind, reason)
                    count, exact = count_text(text, self.profile, self.tokenizer, self.policy.max_characters)
                    self.parts.append(Part(index, *place[:2], role, place.kind, KEPT, why, count, count, exact))
        self.parts[before:] = sorted(self.parts[before:], key=_order)


def _order(part: Part) -> tuple[int, bool, int, int]:
    late = part.kind == "tool_call" and part.block is None
    none = -1
    return (
        part.message,
        late,
        none if part.block is None else part.block,
        none if part.inner is None else part.inner,
    )


def _end_of_tools(given: Sequence[Any], at: int) -> int:
    """The index behind a message, or behind the whole run of tool messages that begins there."""
    end = at + 1
    while role_of(given[at]) == "tool" and end < len(given) and role_of(given[end]) == "tool":
        end += 1
    return end
