"""Tokens of an image and of a text for a model: what a page costs beside the text that it replaces.

Owns the two counts. The rules are in `rules`, who follows which in `profiles`, the text estimate in `estimate`.

Decisions
- Every count says how it was made. Text is counted by the tokenizer that the caller gives; else by tiktoken where it is
  installed and has the encoding in its cache; else it is estimated, and the count says so.
- Counting does not wait for a network: tiktoken would download a missing encoding, so it is asked only when the file is
  already in its cache.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vist.errors import VistError
from vist.gateway.estimate import estimate_tokens
from vist.gateway.profiles import Profile, resolve_profile
from vist.gateway.rules import AUTO

__all__ = ["Profile", "TokenCount", "image_tokens", "resolve_profile", "text_tokens"]

_ENCODINGS = "https://openaipublic.blob.core.windows.net/encodings/"  # tiktoken names its cache after this address
_LARGEST = 1_000_000  # px; no provider takes sides that long


@dataclass(frozen=True)
class TokenCount:
    """A number of tokens and how it was found: `exact` is False for an estimate, `source` names the tokenizer."""

    count: int
    exact: bool
    source: str


def image_tokens(profile: Profile, width: int, height: int, detail: str = AUTO) -> int:
    """Return the visual tokens of one image, by the rule of a profile.

    Args:
        profile: the model's row, from `resolve_profile`.
        width: image width in px, 1 or more.
        height: image height in px, 1 or more.
        detail: level of detail as the provider names it (OpenAI `low`, `high`, `original`; Gemini `low` to
            `ultra_high`; DeepSeek-OCR its mode); `auto` is the provider's default.

    Raises:
        VistError: a size that is none, a level that the profile does not have, or an image that the provider rejects.
    """
    if not all(isinstance(side, int) and 1 <= side <= _LARGEST for side in (width, height)):
        raise VistError(f"An image has {width!r} x {height!r} px; give whole numbers from 1 to {_LARGEST:,}.")
    if detail not in profile.rule.details:
        levels = ", ".join(profile.rule.details)
        raise VistError(f"{profile.name} has no detail {detail!r}; choose one of {levels}.")
    return profile.rule.count(width, height, detail)


def text_tokens(profile: Profile, text: str, tokenizer: Callable[[str], Any] | None = None) -> TokenCount:
    """Return the tokens of a text, counted where a tokenizer is at hand and estimated otherwise.

    Args:
        profile: the model's row, from `resolve_profile`.
        text: the text alone; what a chat template adds is not counted.
        tokenizer: the model's own: called with the text, it returns the number of tokens or the tokens themselves.

    Raises:
        VistError: the tokenizer returned neither.
    """
    if tokenizer is not None:
        return TokenCount(_length(tokenizer(text)), True, "the given tokenizer")
    encoding = _cached_encoding(profile.encoding) if profile.encoding else None
    if encoding is not None:
        # Names of special tokens in a text are text, here as in the API.
        return TokenCount(len(encoding.encode(text, disallowed_special=())), True, f"tiktoken {profile.encoding}")
    how = "calibrated on" if profile.table == profile.encoding else "tokenizer unknown here, calibrated on"
    return TokenCount(
        estimate_tokens(text, profile.table), False, f"estimate by character class, {how} {profile.table}"
    )


def _length(tokens: Any) -> int:
    """The number of tokens in what a tokenizer returned."""
    tokens = getattr(tokens, "ids", tokens)  # tokenizers.Encoding
    if not isinstance(tokens, int) and hasattr(tokens, "get"):  # what transformers' tokenizers return when called
        tokens = tokens.get("input_ids")
    if isinstance(tokens, bool) or not (isinstance(tokens, int) or hasattr(tokens, "__len__")):
        raise VistError(f"The tokenizer returned {type(tokens).__name__}; it must return tokens or their number.")
    return tokens if isinstance(tokens, int) else len(tokens)


@lru_cache(maxsize=8)
def _cached_encoding(name: str) -> Any | None:
    """tiktoken's encoding if it can be had without a download, else None; the answer is kept for the process."""
    if not _cache_file(name).is_file():
        return None
    try:
        return importlib.import_module("tiktoken").get_encoding(name)
    except (ImportError, OSError, ValueError):  # not installed, or its cache is damaged: the estimate will do
        return None


def _cache_file(name: str) -> Path:
    """Where tiktoken keeps the downloaded file of an encoding."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    address = f"{_ENCODINGS}{name}.tiktoken"
    key = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    return Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache") / key
