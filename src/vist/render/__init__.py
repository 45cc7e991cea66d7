"""Text to pages: the first step of the way, on numpy, Pillow and fontTools alone.

Reading order: `style` (what a page looks like), `pages` (what comes out), `layout`, `breaking` and `align` (where
characters go), `atlas` and `fonts` (what they look like), `raster` (pixels), `draft` (how much room a text takes
before it is drawn). Nothing here imports torch.
"""

from vist.render.draft import Draft, measure, undrawn
from vist.render.layout import Layout, layout
from vist.render.loss import LossReport
from vist.render.pages import Pages, iter_pages, render
from vist.render.style import PAGE_STYLES, PageStyle

__all__ = [
    "PAGE_STYLES",
    "Draft",
    "Layout",
    "LossReport",
    "PageStyle",
    "Pages",
    "iter_pages",
    "layout",
    "measure",
    "render",
    "undrawn",
]
