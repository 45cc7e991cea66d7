"""A labelled set for the verbatim guard: exact strings of every kind, planted in a text at word borders.

Owns the strings, made at random from a seed, and their planting; the labels are where they stand.
"""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass

_WORDS = "app src lib core data model config server client utils index main übung my-app image_v2 parser cache".split()
_NAMES = "alice bob carol dave erin frank grace heidi ivan judy".split()
_HEX = "0123456789abcdef"


@dataclass(frozen=True)
class Planted:
    """A planted string: where it stands, what kind of string it is."""

    start: int
    end: int
    kind: str


def _pick(rng: random.Random, letters: str, length: int) -> str:
    return "".join(rng.choices(letters, k=length))


def _digits(rng: random.Random, length: int) -> str:
    return str(rng.randint(1, 9)) + _pick(rng, string.digits, length - 1)


def _hash(rng: random.Random) -> str:
    digest = _pick(rng, _HEX, rng.choice([32, 40, 64, 128]))
    return digest.upper() if rng.random() < 0.2 else digest


def _commit(rng: random.Random) -> str:
    return _pick(rng, _HEX, rng.randint(7, 12))


def _key(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits
    return rng.choice(
        [
            "sk-" + _pick(rng, letters, 48),
            "sk-proj-" + _pick(rng, letters + "-_", 60) + "Z",
            "ghp_" + _pick(rng, letters, 36),
            "AKIA" + _pick(rng, string.ascii_uppercase + "234567", 16),
            "AIza" + _pick(rng, letters, 35),
            "xoxb-" + _digits(rng, 11) + "-" + _pick(rng, letters, 24),
            "SG." + _pick(rng, letters + "-_", 22) + "." + _pick(rng, letters, 43),
            _pick(rng, letters, 40),
        ]
    )


def _jwt(rng: random.Random) -> str:
    parts = ['{"alg":"HS256","typ":"JWT"}', f'{{"sub":"{_digits(rng, 10)}","name":"{rng.choice(_NAMES)}"}}']
    encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, base64.urlsafe_b64encode(rng.randbytes(32)).decode().rstrip("=")])


def _base64(rng: random.Random) -> str:
    encode = rng.choice([base64.b64encode, base64.urlsafe_b64encode])
    return encode(rng.randbytes(rng.randint(24, 90))).decode()


def _number(rng: random.Random) -> str:
    return rng.choice(
        [
            _digits(rng, rng.randint(5, 12)),
            f"{rng.randint(10_000, 10**9):,}",
            f"{rng.randint(10**5, 10**9) / 100:,.2f}",
            f"-{rng.uniform(1, 9):.6f}",
            f"{rng.randint(10_000, 10**9):,}".replace(",", rng.choice(["'", ".", "_", "\u2009", "\u00a0"])),
            f"${rng.randint(10_000, 10**6):,}",
            f"{rng.choice('ABCX')}{_digits(rng, 5)}{rng.choice(['', 'b'])}",
            f"{rng.uniform(1, 9):.4f}e-{rng.randint(10, 99)}",
            f"INV-{rng.randint(2000, 2030)}-{_digits(rng, 5)}",
            f"{rng.randint(1, 9)} {rng.randint(100, 999)} {rng.randint(100, 999)}",
        ]
    )


def _phone(rng: random.Random) -> str:
    return rng.choice(
        [
            f"+{rng.randint(1, 99)} {rng.randint(10, 999)} {_digits(rng, 4)} {_digits(rng, 4)}",
            f"({rng.randint(200, 999)}) {rng.randint(200, 999)}-{_digits(rng, 4)}",
            f"+44 (0)20 {_digits(rng, 4)} {_digits(rng, 4)}",
            f"{rng.randint(200, 999)}-{rng.randint(200, 999)}-{_digits(rng, 4)}",
            f"{rng.randint(200, 999)}.{rng.randint(200, 999)}.{_digits(rng, 4)}",
            f"0{_digits(rng, 2)}/{_digits(rng, 7)}",
        ]
    )


def _iban(rng: random.Random) -> str:
    digits = _pick(rng, string.digits, 18)
    account = "DE" + _pick(rng, string.digits, 2) + digits
    return " ".join(account[at : at + 4] for at in range(0, len(account), 4)) if rng.random() < 0.5 else account


def _card(rng: random.Random) -> str:
    return rng.choice([" ", "-", ""]).join([_digits(rng, 4)] + [_pick(rng, string.digits, 4) for _ in range(3)])


def _version(rng: random.Random) -> str:
    numbers = ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice([3, 3, 4])))
    return rng.choice(["", "v"]) + numbers + rng.choice(["", "", "-rc.1", "-beta2", "+build.7", "rc1"])


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = ":".join(f"{rng.randint(1, 65535):x}" for _ in range(rng.randint(1, 5)))
        return rng.choice(["2001:db8::", "fe80::", "2001:db8:1:2:", "::ffff:"]) + groups
    address = ".".join(str(rng.randint(1, 254)) for _ in range(4))
    return address + rng.choice(["", "", ":8080", "/24"])


def _mac(rng: random.Random) -> str:
    return rng.choice(":-").join(_pick(rng, _HEX, 2) for _ in range(6))


def _date(rng: random.Random) -> str:
    day = f"{rng.randint(1970, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    return rng.choice([day, f"{day}T{time}Z", f"{day} {time}", f"{day}T{time}.{rng.randint(100, 999)}+02:00"])


def _unix_path(rng: random.Random) -> str:
    parts = "/".join(rng.choices(_WORDS, k=rng.randint(2, 5)))
    start, end = rng.choice(["/", "~/", "./", "../", "/usr/", ""]), rng.choice([".py", ".json", "", ".tar.gz", "/"])
    return start + parts + ("/x.c" if not start and not end else end)


def _windows_path(rng: random.Random) -> str:
    folder = rng.choice(["Users", "Program Files", "Windows"])
    return f"C:\\{folder}\\" + "\\".join(rng.choices(_WORDS, k=rng.randint(1, 4))) + rng.choice([".exe", ".txt", ""])


def _url(rng: random.Random) -> str:
    host = f"{rng.choice(['www.', 'api.', ''])}{rng.choice(_NAMES)}.{rng.choice(['com', 'org', 'io', 'co.uk'])}"
    query = rng.choice(["", f"?id={_digits(rng, 4)}&q={rng.choice(_WORDS)}", "#section-2", "?x=(a)"])
    return f"{rng.choice(['https', 'http', 'ftp'])}://{host}/{'/'.join(rng.choices(_WORDS, k=2))}{query}"


def _email(rng: random.Random) -> str:
    return f"{rng.choice(_NAMES)}.{rng.choice(_NAMES)}+{rng.choice(_NAMES)}@{rng.choice(_NAMES)}.example.org"


STRINGS: dict[str, Callable[[random.Random], str]] = {
    "hash": _hash,
    "short hash": _commit,
    "uuid": lambda rng: getattr(str(uuid.UUID(int=rng.getrandbits(128), version=4)), rng.choice(["upper", "lower"]))(),
    "key": _key,
    "jwt": _jwt,
    "base64": _base64,
    "number": _number,
    "phone": _phone,
    "iban": _iban,
    "card": _card,
    "version": _version,
    "ip": _ip,
    "mac": _mac,
    "date": _date,
    "unix path": _unix_path,
    "windows path": _windows_path,
    "url": _url,
    "email": _email,
    "marked": lambda rng: f"<verbatim>{' '.join(rng.choices(_WORDS, k=4))}</verbatim>",
}


def plant(text: str, rng: random.Random, each: int = 1) -> tuple[str, list[Planted]]:
    """The text with `each` strings of every kind at random blanks, most of them beside punctuation."""
    kinds = [kind for kind in STRINGS for _ in range(each)]
    blanks = [at for at, character in enumerate(text) if character == " "]
    places = sorted(rng.sample(blanks, len(kinds)))
    rng.shuffle(kinds)
    parts, planted, length, end = [], [], 0, 0
    for at, kind in zip(places, kinds, strict=True):
        exact = STRINGS[kind](rng)
        before = text[end:at] + " " + rng.choice(["", "", "", "(", '"', "'", "[", "id=", "see:"])
        after = rng.choice(["", "", ",", ".", ";", ")", '"', "'", "]", ":"])
        parts += [before, exact + after]
        start = length + len(before)
        planted.append(Planted(start, start + len(exact), kind))
        length, end = start + len(exact) + len(after), at
    return "".join([*parts, text[end:]]), planted


def covered(planted: Planted, spans: list[tuple[int, int, str]]) -> bool:
    """Whether one span holds the whole planted string."""
    return any(start <= planted.start and planted.end <= end for start, end, _ in spans)
