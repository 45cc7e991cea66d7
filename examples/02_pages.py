"""Draw a text as pages, see what could not be drawn, and save the pages as PNG files. Needs no model.

Run: `python examples/02_pages.py [FOLDER]`
"""

import sys
import tempfile
from pathlib import Path

from vist import PageStyle, render


def main(folder: str | None = None) -> None:
    """Two styles of the same text, the loss report, the way from a page back to its text."""
    text = "A page holds sixteen rows.\nTabs,\tnaïve façades, Ελληνικά and Кириллица are drawn; \x00 is not. " * 12

    pages = render(text)  # the paper's page: 224 x 224, Noto Sans, 10 px
    dense = render(text, PageStyle.named("vist-7"))
    print(f"{len(text):,} characters: {len(pages)} pages at 10 px, {len(dense)} at 7 px")
    print(pages.loss.sentence())

    # Every character belongs to one page, so the spans join back to the input.
    assert "".join(text[start:stop] for start, stop in pages.spans) == text
    print(f"page 0 begins with {text[slice(*pages.spans[0])][:26]!r}; its content hash is {pages.hashes[0]}")

    target = pages.save(folder or Path(tempfile.mkdtemp()) / "pages")
    print("saved:", ", ".join(sorted(path.name for path in target.iterdir())))


if __name__ == "__main__":
    main(*sys.argv[1:])
