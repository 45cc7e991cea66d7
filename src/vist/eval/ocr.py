"""Tesseract as an independent reader of the same pages.

Owns the call and the reason why it cannot be made. Does not know what pages are compared with.

Decisions
- The engine is the system's, pytesseract only calls it; without either a page is not read and the reason is said.
- Text of 7 to 10 px is far below what Tesseract was made for, so pages are enlarged; what it makes of them at their
  own size would say more about the engine than about the page.
- One block of text, language English, its default model.
- One thread for each page and as many pages at once as there are cores: by itself the engine starts several threads a
  page, which wait for each other actively and on two cores took six times as long (224 pages, 38 minutes).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

ENLARGED = 4
_THREADS = "OMP_THREAD_LIMIT"  # of the engine, which inherits it
_OPTIONS = "--psm 6"


def why_not() -> str | None:
    """Why pages cannot be read, None if they can."""
    try:
        import pytesseract
    except ImportError:
        return "the package pytesseract is not installed (pip install 'vist[eval]')"
    try:
        pytesseract.get_tesseract_version()
    except (pytesseract.TesseractNotFoundError, SystemExit):
        return "Tesseract is not installed (Debian: apt-get install tesseract-ocr)"
    return None


def engine() -> str:
    """Name and version of the engine."""
    import pytesseract

    return f"Tesseract {pytesseract.get_tesseract_version()}, pages enlarged {ENLARGED} times"


def read_images(images: Sequence[Image.Image]) -> list[str]:
    """The text that Tesseract finds on each page."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = before or "1"
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the work is in the engine's own processes
            return list(pool.map(read_image, images))
    finally:
        if before is None:
            del os.environ[_THREADS]


def read_image(image: Image.Image) -> str:
    """The text that Tesseract finds on a page."""
    import pytesseract

    size = (image.width * ENLARGED, image.height * ENLARGED)
    return str(pytesseract.image_to_string(image.resize(size, Image.Resampling.BICUBIC), config=_OPTIONS))
