"""Pages as PDF, WebP and NPZ, the same bytes every time.

Owns these three encodings; `png` has the fourth. Knows nothing about text.

Decisions
- A PDF holds each page as deflated pixels, losslessly: letters of 10 px do not survive JPEG. It carries no date.
- WebP is lossless, too.
- The members of an NPZ carry the earliest date that a ZIP file can hold, where numpy would put the time of day.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

_EARLIEST = (1980, 1, 1, 0, 0, 0)


def encode_webp(pixels: np.ndarray) -> bytes:
    """Return a lossless WebP of (height, width) uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, "WEBP", lossless=True, quality=20, method=2)
    return file.getvalue()


class PdfWriter:
    """A PDF of grey pages, written one by one; a pixel is a point of 1/72 inch."""

    def __init__(self, file: BinaryIO):
        self._file, self._places, self._pages = file, [0, 0], 0
        file.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def add(self, pixels: np.ndarray) -> None:
        """Append a page of (height, width) uint8 pixels."""
        height, width = pixels.shape
        data = zlib.compress(np.ascontiguousarray(pixels).data, 6)
        image = (
            f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray "
            "/BitsPerComponent 8 /Filter /FlateDecode"
        )
        first = len(self._places) + 1
        self._object(f"<< {image} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream")
        draw = f"{width} 0 0 {height} 0 0 cm /I Do".encode()
        self._object(f"<< /Length {len(draw)} >>\nstream\n".encode() + draw + b"\nendstream")
        self._object(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {first + 1} 0 R "
            f"/Resources << /XObject << /I {first} 0 R >> >> >>".encode()
        )
        self._pages += 1

    def _object(self, content: bytes, number: int | None = None) -> None:
        if number is None:
            self._places.append(self._file.tell())
            number = len(self._places)
        else:
            self._places[number - 1] = self._file.tell()
        self._file.write(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")

    def finish(self) -> None:
        """Write what a reader looks for at the end."""
        kids = " ".join(f"{5 + 3 * page} 0 R" for page in range(self._pages))
        self._object(b"<< /Type /Catalog /Pages 2 0 R >>", 1)
        self._object(f"<< /Type /Pages /Count {self._pages} /Kids [{kids}] >>".encode(), 2)
        table, size = self._file.tell(), len(self._places) + 1
        self._file.write(f"xref\n0 {size}\n0000000000 65535 f \n".encode())
        self._file.write("".join(f"{place:010d} 00000 n \n" for place in self._places).encode())
        self._file.write(f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode())


def write_npz(file: BinaryIO, arrays: dict[str, np.ndarray | Sequence[np.ndarray]]) -> None:
    """Write a compressed NPZ; an array may come as stretches along its first axis."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", _EARLIEST)
            member.compress_type = zipfile.ZIP_DEFLATED
            array = value if isinstance(value, np.ndarray) else np.concatenate(list(value))
            with archive.open(member, "w", force_zip64=True) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)
