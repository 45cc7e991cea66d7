"""Pages in other formats: read back by other programs' readers to the pixel, and the same bytes twice."""

from __future__ import annotations

import io
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from vist.render import render
from vist.render.encode import PdfWriter, encode_webp, write_npz
from vist.render.png import encode_png

PAGES = render("Alice was beginning to get very tired. " * 60).pixels


@pytest.mark.parametrize(("encode", "kind"), [(encode_png, "PNG"), (encode_webp, "WEBP")])
def test_images_hold_the_pixels(encode, kind) -> None:
    for pixels in (PAGES[0], PAGES[0][:30, :171], np.zeros((1, 1), np.uint8)):
        data = encode(pixels)
        image = Image.open(io.BytesIO(data))
        assert image.format == kind and np.array_equal(np.asarray(image.convert("L")), pixels)
        assert data == encode(pixels.copy())


def test_a_pdf_holds_the_pixels_of_every_page() -> None:
    file = io.BytesIO()
    writer = PdfWriter(file)
    for pixels in (*PAGES, PAGES[0][:40]):
        writer.add(pixels)
    writer.finish()
    data = file.getvalue()
    found = list(re.finditer(rb"/Width (\d+) /Height (\d+) .*?/Length (\d+) >>\nstream\n", data))
    for match, pixels in zip(found, (*PAGES, PAGES[0][:40]), strict=True):
        width, height, length = match.groups()
        raw = zlib.decompress(data[match.end() : match.end() + int(length)])
        assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(int(height), int(width)), pixels)
    table = int(data.rsplit(b"startxref\n", 1)[1].split()[0])
    places = [int(line.split()[0]) for line in data[table:].split(b"\n")[3:] if line.endswith(b" n ")]
    for number, place in enumerate(places, start=1):
        assert data[place:].startswith(f"{number} 0 obj".encode())
    assert b"Date" not in data


def test_an_npz_holds_the_arrays_and_no_time() -> None:
    one, two = io.BytesIO(), io.BytesIO()
    write_npz(one, {"pixels": [PAGES[:1], PAGES[1:]], "spans": np.arange(4)})
    write_npz(two, {"pixels": PAGES, "spans": np.arange(4)})
    assert one.getvalue() == two.getvalue()
    loaded = np.load(io.BytesIO(one.getvalue()))
    assert np.array_equal(loaded["pixels"], PAGES) and loaded["spans"].tolist() == [0, 1, 2, 3]
