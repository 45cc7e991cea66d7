"""What the gateway may do: where it listens, what it forwards to, its limits, and policies written in a line.

Owns `Settings` and the reading of policies from a header or an option. Knows nothing about HTTP.

Decisions
- Without a token only this machine can reach the gateway: an address that others can reach is refused.
- A policy of a request overrides the gateway's, except that it cannot ask for more pages than the gateway allows.
- A request's regular expressions come on top of the gateway's own, and only such as cannot take long (`expressions`).
- Tokens and addresses' passwords are left out of `repr`, so they cannot get into a log by accident.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vist.errors import VistError
from vist.gateway.expressions import check_expressions, read_expression
from vist.gateway.guard import GuardPolicy
from vist.gateway.messages import CompressionPolicy


@dataclass(frozen=True)
class Settings:
    """Everything that is decided when the gateway starts.

    Attributes:
        upstream: address of the API, with or without a trailing /v1.
        policy: what becomes pages where a request says nothing else.
        models: names or patterns (`gpt-4o*`) of the models whose requests are rewritten; none means every model that
            has a profile.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        token: what every request has to show; required unless `host` is this machine alone.
        max_body: bytes; a larger request is passed on as it is.
        max_seconds: seconds after which a request is passed on as it is, rewritten or not.
        timeout: seconds to wait for the next byte of an answer.
        workers: processes that rewrite; 0 rewrites in a thread of the server.
        log: file of the event log, in JSON Lines; None writes none.
        keep: requests that the dashboard shows, with their texts and pages, in memory only.
        keep_bytes: bytes that those take at most.
        cache_bytes: bytes of pages that every worker keeps for requests to come.

    Raises:
        VistError: a value out of range, or an address for others without a token.
    """

    upstream: str = field(repr=False)
    policy: CompressionPolicy = CompressionPolicy()
    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8100
    token: str | None = field(default=None, repr=False)
    max_body: int = 32 << 20
    max_seconds: float = 10.0
    timeout: float = 600.0
    workers: int = 1
    log: Path | None = None
    keep: int = 100
    keep_bytes: int = 64 << 20
    cache_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        parts = urlsplit(self.upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise VistError(
                f"The upstream is {bare_address(self.upstream)!r}; give an address such as https://api.openai.com."
            )
        if parts.query or parts.fragment:
            raise VistError("The upstream's address has a query or a fragment; give it without.")
        object.__setattr__(self, "upstream", self.upstream.rstrip("/").removesuffix("/v1"))
        object.__setattr__(self, "models", tuple(self.models))
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise VistError(f"{name} is {value!r}; give a number from {least} to {most:,}.")
        token = self.token
        if token is not None and not (len(token) >= 16 and token.isascii() and token.isprintable()):
            raise VistError(
                "The token is shorter than 16 characters or has some that no header can hold; give another."
            )
        if self.token is None and not is_loopback(self.host):
            raise VistError(
                f"The host {self.host!r} can be reached from other machines and no token is set; "
                "set VIST_GATEWAY_TOKEN, or listen on 127.0.0.1."
            )

    def allows(self, model: str) -> bool:
        """Tell whether requests for this model may be rewritten."""
        return not self.models or any(fnmatch.fnmatchcase(model.lower(), name.lower()) for name in self.models)


_RANGES = (
    ("port", 0, 65_535),
    ("max_body", 0, 1 << 32),
    ("max_seconds", 0.001, 3600),
    ("timeout", 0.001, 86_400),
    ("workers", 0, 64),
    ("keep", 0, 10_000),
    ("keep_bytes", 0, 1 << 36),
    ("cache_bytes", 0, 1 << 36),
)


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_policy(line: str, base: CompressionPolicy) -> CompressionPolicy:
    """Return a policy with the changes that a line asks for, such as `keep_recent=4, min_saving=0.5`.

    Names are those of `CompressionPolicy`, and of the guard `identifiers`, `quotes`, `times` and `min_digits`. `keep`
    may come several times: a percent-encoded regular expression each, besides those of `base`. More pages than `base`
    allows are not given.

    Raises:
        VistError: a name that is none, a name twice, or a value that the policy refuses.
    """
    changes: dict[str, Any] = {}
    expressions: list[str] = []
    for part in filter(None, (part.strip() for part in line.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in _NAMES or name in changes:
            raise VistError(
                f"The policy has {part[:80]!r}; give name=value once for {', '.join(_READERS)}, or keep=expression."
            )
        try:
            if name == _KEEP:
                expressions.append(read_expression(value))
            else:
                changes[name] = _READERS[name](value)
        except ValueError:
            raise VistError(f"The policy's {name} is {value[:80]!r}; give a value of the right kind.") from None
    check_expressions(tuple(expressions))
    guard_changes = {name: changes.pop(name) for name in _GUARD if name in changes}
    guard = replace(base.guard, patterns=(*base.guard.patterns, *expressions), **guard_changes)
    if "max_pages" in changes:
        changes["max_pages"] = min(changes["max_pages"], base.max_pages)
    return replace(base, guard=guard, **changes)


def _flag(value: str) -> bool:
    if value.lower() not in _FLAGS:
        raise ValueError(value)
    return _FLAGS[value.lower()]


_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_GUARD: dict[str, Callable[[str], Any]] = {"identifiers": _flag, "quotes": _flag, "times": _flag, "min_digits": int}
_READERS: dict[str, Callable[[str], Any]] = {
    "min_saving": float,
    "min_tokens": int,
    "max_pages": int,
    "font_size": int,
    "line_breaks": str,
    "detail": str,
    "keep_recent": int,
    "step": int,
    "tool_results": str,
    **_GUARD,
}
_KEEP = "keep"
_NAMES = frozenset((*_READERS, _KEEP))
assert set(_GUARD) <= set(GuardPolicy.__dataclass_fields__)


def is_flag_set(value: str) -> bool:
    """Tell whether a header's value means yes; anything but a clear no does."""
    return _FLAGS.get(value.strip().lower(), True)


def bare_address(address: str) -> str:
    """Return an address without its user and password."""
    scheme, colon, rest = address.rpartition("://")
    return scheme + colon + rest.rpartition("@")[2]
