"""Characters per second of the renderer, beside Pillow's own text drawing and a peer, on one core.

    python benchmarks/render.py [--data FOLDER] [--rounds 15] [--seconds 0.4] [--json PATH]

English is the packaged book with its line breaks joined, code is a module of Python's standard library; Chinese and
Arabic are the first articles of the Universal Declaration of Human Rights, repeated, unless FOLDER holds chinese.txt
or arabic.txt (english.txt and code.txt replace the others in the same way). A repeated text favours whoever keeps
shaped words, as we do: give real files for Arabic.

All draw pages of 16 rows of 14 px, 224 x 224, with the same font at 10 px, wrapped at words, into memory; nobody writes
files. Pillow's wrapping keeps the width of every word it met. Contestants take turns; each round draws as much text as
fits the given seconds of CPU time. The ratio to Pillow is computed within each round. On a busy machine read
the rates by CPU time. Chinese needs an installed font: the share
of characters that no font has is printed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import PIL
from PIL import Image, ImageDraw, ImageFont, features

import vist
from vist.render import PageStyle, render
from vist.render.fonts import font_path

CHINESE = (
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。"
    "人人有资格享有本宣言所载的一切权利和自由,不分种族、肤色、性别、语言、宗教、政治或其他见解、国籍或社会出身、"
    "财产、出生或其他身分等任何区别。并且不得因一人所属的国家或领土的政治的、行政的或者国际的地位之不同而有所区别,"
    "无论该领土是独立领土、托管领土、非自治领土或者处于其他任何主权受限制的情况之下。人人有权享有生命、自由和人身安全。"
)
ARABIC = (
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح "
    "الإخاء. لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان، دون أي تمييز، كالتمييز بسبب العنصر أو "
    "اللون أو الجنس أو اللغة أو الدين أو الرأي السياسي أو أي رأي آخر. لكل فرد الحق في الحياة والحرية وسلامة شخصه. "
)
CHARACTERS = 200_000
_KINDS = (("median", "best"), ("cpu_median", "cpu_best"))
STYLE = PageStyle.named("vist")


def load_texts(folder: Path | None) -> dict[str, str]:
    """The text of each kind, about CHARACTERS long."""
    book = Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt"
    texts = {
        "english": " ".join(book.read_text(encoding="utf-8").split()),
        "code": inspect.getsource(argparse),
        "chinese": CHINESE,
        "arabic": ARABIC,
    }
    for name in texts:
        path = folder / f"{name}.txt" if folder else None
        if path and path.is_file():
            texts[name] = path.read_text(encoding="utf-8")
    return {name: (text * (CHARACTERS // len(text) + 1))[:CHARACTERS] for name, text in texts.items()}


def draw_ours(text: str) -> None:
    """Our renderer: pixels, ink mask, spans and loss report."""
    render(text, STYLE)


class PillowPages:
    """Pillow as one would use it: greedy wrap by `getlength`, then `multiline_text` for each page."""

    def __init__(self) -> None:
        path = str(font_path(STYLE.font))
        self.font = ImageFont.truetype(path, STYLE.font_size, layout_engine=ImageFont.Layout.BASIC)
        self.blank = self.font.getlength(" ")
        self.widths: dict[str, float] = {}

    def width(self, word: str) -> float:
        """Width of a word, measured once."""
        if word not in self.widths:
            self.widths[word] = self.font.getlength(word)
        return self.widths[word]

    def wrap(self, text: str) -> list[str]:
        """Rows of a text; words too long for a row are cut into pieces of 20 characters."""
        rows: list[str] = []
        row: list[str] = []
        used = 0.0
        for long_word in text.split():
            for at in range(0, len(long_word), 20):
                word = long_word[at : at + 20]
                wide = self.width(word)
                if row and used + self.blank + wide > STYLE.text_width:
                    rows.append(" ".join(row))
                    row, used = [], 0.0
                used += wide + (self.blank if row else 0)
                row.append(word)
        return [*rows, " ".join(row)]

    def __call__(self, text: str) -> None:
        """Draw all pages of a text."""
        rows = self.wrap(text)
        for at in range(0, len(rows), STYLE.rows):
            page = Image.new("L", (STYLE.width, STYLE.height), STYLE.background)
            ImageDraw.Draw(page).multiline_text((1, 0), "\n".join(rows[at : at + STYLE.rows]), 0, self.font, spacing=2)


def contestants() -> dict[str, Callable[[str], object]]:
    """Who takes part: peers only where they are installed."""
    found: dict[str, Callable[[str], object]] = {"vist": draw_ours, "pillow": PillowPages()}
    try:
        from pixelprompt import PixelPrompt
    except ImportError:
        print("pixelprompt is not installed: left out (pip install pixelprompt)")
    else:
        found["pixelprompt"] = PixelPrompt().render
    return found


@dataclass
class Speed:
    """Characters per second of one contestant on one text, a value for each round, by the clock and by CPU time."""

    draw: Callable[[str], object]
    length: int = 2000
    rates: list[float] = field(default_factory=list)
    cpu_rates: list[float] = field(default_factory=list)

    def calibrate(self, text: str, seconds: float) -> None:
        """Choose how much text fits a round, and warm every cache with exactly that."""
        while True:
            piece = text[: self.length]
            self.draw(piece)  # the first drawing fills caches and is not timed
            started = time.process_time()
            self.draw(piece)
            if time.process_time() - started > seconds / 2 or self.length >= len(text):
                return
            self.length *= 2

    def round(self, text: str) -> None:
        """Draw once and note the rate."""
        piece = text[: self.length]
        started, cpu = time.perf_counter(), time.process_time()
        self.draw(piece)
        self.rates.append(len(piece) / (time.perf_counter() - started))
        self.cpu_rates.append(len(piece) / max(time.process_time() - cpu, 1e-6))


def measure(text: str, drawers: dict[str, Callable[[str], object]], rounds: int, seconds: float) -> dict[str, Speed]:
    """Let all contestants draw a text in turns."""
    speeds = {name: Speed(draw) for name, draw in drawers.items()}
    for speed in speeds.values():
        speed.calibrate(text, seconds)
    for _ in range(rounds):
        for speed in speeds.values():
            speed.round(text)
    return speeds


def summary(kind: str, text: str, speeds: dict[str, Speed]) -> dict[str, object]:
    """The figures of one text, with stable keys."""
    ours, pillow = speeds["vist"].rates, speeds["pillow"].rates
    pages = render(text, STYLE)
    return {
        "text": kind,
        "characters": len(text),
        "characters_per_page": round(len(text) / len(pages), 1),
        "missing_share": round(pages.loss.count("missing") / len(text), 4),
        "rates": {
            name: {
                "median": statistics.median(s.rates),
                "best": max(s.rates),
                "cpu_median": statistics.median(s.cpu_rates),
                "cpu_best": max(s.cpu_rates),
                "characters": s.length,
            }
            for name, s in speeds.items()
        },
        "times_pillow": {
            "median": statistics.median(a / b for a, b in zip(ours, pillow, strict=True)),
            "best_by_best": max(ours) / max(pillow),
            "cpu_median": statistics.median(speeds["vist"].cpu_rates) / statistics.median(speeds["pillow"].cpu_rates),
        },
    }


def show(result: dict) -> None:
    """Print one text's figures."""
    missing = f", {result['missing_share']:.0%} without a glyph" if result["missing_share"] else ""
    print(f"\n{result['text']}: {result['characters_per_page']} characters a page{missing}")
    for name, rate in result["rates"].items():
        clock, cpu = (f"{rate[key] / 1e6:8.3f} {rate[best] / 1e6:8.3f}" for key, best in _KINDS)
        print(f"  {name:12s} clock: median, best {clock}   CPU: median, best {cpu}   M characters/s")
    ratio = result["times_pillow"]
    print(
        f"  vist / pillow: median of rounds {ratio['median']:.0f}, best by best {ratio['best_by_best']:.0f}, "
        f"by CPU time {ratio['cpu_median']:.0f}"
    )


def main() -> None:
    """Measure all texts and print, or write, the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder with english.txt, code.txt, chinese.txt, arabic.txt")
    parser.add_argument("--rounds", type=int, default=15, help="rounds in which everybody draws once")
    parser.add_argument("--seconds", type=float, default=0.4, help="about how long one turn may last")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    results, drawers = [], contestants()
    for kind, text in load_texts(arguments.data).items():
        results.append(summary(kind, text, measure(text, drawers, arguments.rounds, arguments.seconds)))
        show(results[-1])
    if arguments.json:
        report = {
            "command": f"python benchmarks/render.py --rounds {arguments.rounds} --seconds {arguments.seconds}",
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
            "versions": {
                "python": platform.python_version(),
                "pillow": PIL.__version__,
                "numpy": metadata.version("numpy"),
                "freetype": features.version("freetype2"),
            },
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in names if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
