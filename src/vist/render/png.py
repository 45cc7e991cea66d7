"""Pages as PNG files, quickly and always as the same bytes.

Owns the encoding. Knows nothing about text.

Decisions
- Rows are stored unfiltered and deflated at the lowest level. Rendered text gains nothing from PNG's filters, and the
  search for the best one is half of what an ordinary encoder spends on a page. The files are as large.
- A page is paid for by its size in px, so more compression would cost time and save nothing.
- 8 bits a pixel: with 4, files are a fifth smaller and no faster, and letters lose their soft edges.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = (8, 0, 0, 0, 0)  # bits a sample, colour type, compression, filter method, not interlaced


def encode_png(pixels: np.ndarray) -> bytes:
    """Return a grey PNG of (height, width) uint8 pixels."""
    height, width = pixels.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 0  # filter type of each row: none
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, *_GREY)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.data, 1)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
