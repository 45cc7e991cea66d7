"""Stress of the encoder: what TextViT's reading head still reads when pages do not look as in training.

Owns the variations and the counting of characters. Does not know the LLM, files or tables.

Decisions
- A character counts as read when the slot of the patch that holds its centre names exactly it. One that the head has no
  name for counts as not read: scripts outside its alphabet score what they are worth to a reader.
- A page that is moved or turned puts characters into other patches than the layout says, where they count as not read.
  So the character error rate of the text put together from all patches is reported too: what is read in a neighbouring
  patch counts there.
- Every variation reads the same pages as the plain style, so differences are paired by page.
- Three places to vary: the text (typos, drawn as they stand), the style (font, weight, size), the pixels (colour, JPEG,
  blur, noise, rotation). Pixels vary by Pillow transforms of the finished page, seeded by page and variation.
- Fonts are taken from the machine; a variation whose font is not installed is left out, with the reason.
- X pages, N patches, S slots.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps

from vist.errors import VistError
from vist.eval.edits import character_errors
from vist.eval.reader import Reader
from vist.eval.scores import Row, score_rows
from vist.render import PageStyle, layout, render
from vist.render.fonts import font_directories
from vist.train.reading import reading_targets
from vist.vision.text_vit import EMPTY, OTHER

_BATCH = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
Pixels = Callable[[Image.Image, np.random.Generator], Image.Image]

# What a variation is called, and the files that can draw it, best first.
FONTS = {
    "serif": ("NotoSerif-Regular.ttf", "DejaVuSerif.ttf", "LiberationSerif-Regular.ttf"),
    "mono": ("NotoSansMono-Regular.ttf", "DejaVuSansMono.ttf", "LiberationMono-Regular.ttf"),
    "italic": ("NotoSans-Italic.ttf", "DejaVuSans-Oblique.ttf", "LiberationSans-Italic.ttf"),
    "other sans": ("DejaVuSans.ttf", "LiberationSans-Regular.ttf"),
    "condensed": ("NotoSans-Condensed.ttf", "DejaVuSansCondensed.ttf", "LiberationSansNarrow-Regular.ttf"),
    "bold": ("NotoSans-Bold.ttf", "DejaVuSans-Bold.ttf", "LiberationSans-Bold.ttf"),
    "light": ("NotoSans-Light.ttf", "DejaVuSans-ExtraLight.ttf"),
}
WEIGHTS = ("bold", "light")
SIZES = (7, 8, 9, 10, 11, 12)


@dataclass(frozen=True)
class Variation:
    """One way in which pages differ: in their style, their pixels or their text."""

    group: str
    name: str
    style: dict[str, Any] | None = None
    pixels: Pixels | None = None
    text: Callable[[str, np.random.Generator], str] | None = None

    @property
    def part(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}"


def coloured(
    image: Image.Image, _: np.random.Generator, ink: tuple[int, int, int], paper: tuple[int, int, int]
) -> Image.Image:
    """The page in these colours, then grey again, as an encoder of grey pages sees it."""
    return ImageOps.colorize(image, ink, paper).convert("L")


def compressed(image: Image.Image, _: np.random.Generator, quality: int) -> Image.Image:
    """The page after JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


def blurred(image: Image.Image, _: np.random.Generator, radius: float) -> Image.Image:
    """The page out of focus."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def noisy(image: Image.Image, rng: np.random.Generator, deviation: float) -> Image.Image:
    """The page with Gaussian noise on every pixel."""
    noise = rng.normal(0, deviation, (image.height, image.width))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def turned(image: Image.Image, _: np.random.Generator, degrees: float) -> Image.Image:
    """The page turned about its centre."""
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255)


def shifted(image: Image.Image, _: np.random.Generator, right: int, down: int) -> Image.Image:
    """The page moved by whole pixels; what leaves on one side comes back on the other, which is blank."""
    return ImageChops.offset(image, right, down)


def with_typos(text: str, rng: np.random.Generator, rate: float) -> str:
    """A text with this share of its letters swapped with the next, doubled, left out or replaced."""
    letters, place = list(text), 0
    while place < len(letters) - 1:
        if letters[place].isalpha() and rng.random() < rate:
            kind = int(rng.integers(4))
            if kind == 0:
                letters[place : place + 2] = letters[place + 1], letters[place]
            else:
                other = _LETTERS[int(rng.integers(26))]
                letters[place] = ("", letters[place] * 2, other)[kind - 1]
        place += 1
    return "".join(letters)


def variations() -> tuple[list[Variation], dict[str, str]]:
    """All variations this machine can draw, and the reason for each that it cannot."""
    found, missing = [], {}
    for name, files in FONTS.items():
        group = "weight" if name in WEIGHTS else "font"
        path = _installed(files)
        if path is None:
            missing[f"{group}: {name}"] = f"none of {', '.join(files)} is installed"
        else:
            found.append(Variation(group, name, style={"font": path}))
    found += [Variation("size", f"{size} px", style={"font_size": size}) for size in SIZES]
    found += [Variation(group, name, pixels=change) for group, name, change in _pixel_changes()]
    found += [
        Variation("typos", f"{rate:.0%} of letters", text=partial(with_typos, rate=rate)) for rate in (0.02, 0.05, 0.1)
    ]
    return found, missing


def _pixel_changes() -> Iterator[tuple[str, str, Pixels]]:
    white, black = (255, 255, 255), (0, 0, 0)
    for level in (96, 160, 208):
        yield "colour", f"grey {level}", partial(coloured, ink=(level,) * 3, paper=white)
    inks = {"red": (200, 0, 0), "green": (0, 130, 0), "blue": (0, 0, 220), "yellow": (220, 200, 0)}
    for name, ink in inks.items():
        yield "colour", f"{name} on white", partial(coloured, ink=ink, paper=white)
    yield "colour", "black on yellow", partial(coloured, ink=black, paper=(250, 235, 120))
    yield "colour", "white on black", partial(coloured, ink=white, paper=black)
    for quality in (75, 50, 25, 10):
        yield "JPEG", f"quality {quality}", partial(compressed, quality=quality)
    for radius in (0.5, 1.0, 1.5):
        yield "blur", f"radius {radius}", partial(blurred, radius=radius)
    for deviation in (8, 16, 32, 64):
        yield "noise", f"deviation {deviation}", partial(noisy, deviation=deviation)
    for degrees in (-2.0, -1.0, 1.0, 2.0):
        yield "rotation", f"{degrees:+.0f} degrees", partial(turned, degrees=degrees)
    for right, down in ((1, 0), (0, 1), (3, 0), (0, 3)):
        yield "shift", f"{right} px right, {down} px down", partial(shifted, right=right, down=down)


@lru_cache(maxsize=64)
def _installed(files: tuple[str, ...]) -> str | None:
    for name in files:
        for place in font_directories():
            path = next(iter(sorted(place.rglob(name))), None)
            if path is not None:
                return str(path)
    return None


class Read(NamedTuple):
    """What was read of each page, (X,) each: characters `right` of `total`, `errors` in the text of `length`."""

    right: np.ndarray
    total: np.ndarray
    errors: np.ndarray
    length: np.ndarray


def check_encoder(reader: Reader) -> Any:
    """The model's TextViT. Raises VistError for another tower, or none: there is no reading head to ask."""
    tower = reader.tower("Stress")
    if not hasattr(tower, "read_logits"):
        raise VistError(
            f"The vision tower {tower.config.model_type!r} has no reading head; this measure is for text_vit models."
        )
    return tower


def count_read(reader: Reader, texts: Sequence[str], variation: Variation | None = None, seed: int = 0) -> Read:
    """Characters read right on the first page of each text, patch by patch and as a whole."""
    tower = check_encoder(reader)
    change = variation or Variation("", "")
    style: PageStyle = replace(reader.style, **(change.style or {}))
    salt = zlib.crc32(change.part.encode())
    counted = []
    for start in range(0, len(texts), _BATCH):
        drawn = [
            _page(text, style, change, tower.config, np.random.default_rng((seed, number, salt)))
            for number, text in enumerate(texts[start : start + _BATCH], start)
        ]
        shown = [page[3] for page in drawn]
        pixels, ink, targets = (np.stack([page[place] for page in drawn]) for place in range(3))
        with torch.inference_mode():
            there = torch.from_numpy(ink).to(reader.device)
            features = tower(torch.from_numpy(pixels).to(reader.device), there)
            named = tower.read_logits(features).argmax(-1).cpu().numpy()
        drawn_XNS = (targets != EMPTY) & ink[..., None]
        right = ((named == targets) & drawn_XNS & (targets != OTHER)).sum((1, 2))
        texts_read = [_text(*page, tower.config) for page in zip(named, ink, strict=True)]
        errors = [character_errors(*pair) for pair in zip(shown, texts_read, strict=True)]
        counted.append(np.column_stack([right, drawn_XNS.sum((1, 2)), errors]).astype(float))
    return Read(*np.concatenate(counted).T)


def _text(named_NS: np.ndarray, ink_N: np.ndarray, config: Any) -> str:
    """What the classes of a page's inked patches spell, rows joined by blanks."""
    names = ["", "\ufffd", *config.alphabet]
    patches = ["".join(names[number] for number in slots) for slots in named_NS.tolist()]
    columns = config.grid[1]
    rows = ["".join(patches[at : at + columns]) for at in range(0, len(patches), columns) if ink_N[at]]
    return " ".join(row.strip() for row in rows)


def _page(
    text: str, style: PageStyle, change: Variation, config: Any, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Pixels (H,W), ink (N,), targets (N,S) and text of the first page of a text, changed as the variation says."""
    if change.text is not None:
        text = change.text(text, rng)
    pages = render(text, style)
    pixels = pages.pixels[0]
    if change.pixels is not None:
        pixels = np.array(change.pixels(Image.fromarray(pixels), rng))
    targets = reading_targets(layout(text, style), text, config)
    return pixels, pages.ink[0].reshape(-1), targets, pages[0].text


def stress_rows(
    read: Read, plain: Read | None = None, resamples: int = 10_000, seed: int = 0, **axes: Any
) -> list[Row]:
    """Accuracy of characters and error rate of the text, paired with those of the plain pages where there are any."""
    rows: list[Row] = []
    for metric, place in (("characters", 0), ("cer", 2)):
        values, sizes = {"encoder": read[place]}, {"encoder": read[place + 1]}
        if plain is not None:
            values["plain"], sizes["plain"] = plain[place], plain[place + 1]
        pairs = (("encoder", "plain"),)
        rows += score_rows(metric, values, sizes, pairs=pairs, resamples=resamples, seed=seed, **axes)
    return rows
