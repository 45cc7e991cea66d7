"""Features of pages that were encoded before: a document that is read again is not encoded again.

Owns the key of a page, the store and its limit. Does not know what reads the features, nor how a page was drawn.

Decisions
- A page is known by a hash of its pixels, size and ink: what the tower gets, whoever drew it.
- Every page goes through the tower alone. What comes back then depends on the page and on nothing beside it, so a page
  found here has the very bits that encoding it again would give; batched encoding differs from them by rounding.
- One cache belongs to one frozen tower, which must not change while the cache is in use.
- The least recently used pages go first when the limit is reached. Only the inked patches are kept.
- B batch, P pages, N patches, D width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vist.errors import VistError
from vist.vision.encoder import PageFeatures, encode


class FeatureCache:
    """The features that one tower gave for the pages it saw last, in at most `max_bytes` of memory.

    Attributes: `hits` and `misses` count pages with ink; `bytes` is what the store holds.
    Raises VistError for a tower that is in training: its features would be out of date at once.
    """

    def __init__(self, tower: PreTrainedModel, max_bytes: int = 1 << 30, drop_blank: bool = False) -> None:
        if any(parameter.requires_grad for parameter in tower.parameters()):
            raise VistError("Features of a tower in training cannot be kept; freeze it first (vision.encoder.freeze).")
        if max_bytes <= 0:
            raise VistError(f"max_bytes must be positive, got {max_bytes}; use encode where nothing is to be kept.")
        self.tower, self.max_bytes, self.drop_blank = tower, max_bytes, drop_blank
        self.hits = self.misses = self.bytes = 0
        self._store: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def encode(self, pixel_values: Tensor, ink_mask: Tensor) -> PageFeatures:
        """As `vist.vision.encoder.encode` with one page per pass, but every page only once.

        `pixel_values` (B,P,H,W) uint8, `ink_mask` (B,P,rows,cols) bool.
        """
        pixels, ink = pixel_values.to(self.tower.device), ink_mask.to(self.tower.device)
        features, mask = encode(self.tower, pixels, torch.zeros_like(ink))  # the shapes, and zeros in them
        for page in ink.flatten(2).any(-1).nonzero().tolist():
            place = tuple(page)
            patches, inked = self._page(pixels[place], ink[place])
            mask[place] = inked
            features[place] = features[place].index_put((inked,), patches)
        return PageFeatures(features, mask)

    def _page(self, pixels_HW: Tensor, ink_RC: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the inked patches of one page (n,D), and which patches (N,) they are."""
        key = page_key(pixels_HW, ink_RC)
        if key in self._store:
            self.hits += 1
            self._store.move_to_end(key)
            return self._store[key]
        self.misses += 1
        with torch.inference_mode(False), torch.no_grad():  # kept for callers of any mode
            seen = encode(self.tower, pixels_HW[None, None], ink_RC[None, None], drop_blank=self.drop_blank)
        mask = seen.mask[0, 0]
        page = seen.features[0, 0][mask], mask
        self._store[key] = page
        self.bytes += _size(page)
        while self.bytes > self.max_bytes and len(self._store) > 1:
            self.bytes -= _size(self._store.popitem(last=False)[1])
        return page


def page_key(pixels_HW: Tensor, ink_RC: Tensor) -> bytes:
    """A hash of what the tower gets of a page: its size, pixels and ink."""
    digest = hashlib.blake2b(repr((tuple(pixels_HW.shape), tuple(ink_RC.shape))).encode(), digest_size=16)
    for part in (pixels_HW, ink_RC):
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _size(page: tuple[Tensor, Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in page)
