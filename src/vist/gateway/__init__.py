"""Pages for any vision-language model: what pages cost there, and what must not become a page.

Reading order: `rules` (how providers count an image), `profiles` (which model counts how, with sources), `estimate` and
`accounting` (tokens of images and texts), `patterns` (what exact strings look like), `guard` (which are kept) and
`markers` (how they keep their place). Nothing here imports torch.
"""

from vist.gateway.accounting import TokenCount, image_tokens, text_tokens
from vist.gateway.guard import GuardPolicy, Span, find_verbatim
from vist.gateway.markers import Guarded, Kept, annotate, restore
from vist.gateway.profiles import Profile, resolve_profile

__all__ = [
    "GuardPolicy",
    "Guarded",
    "Kept",
    "Profile",
    "Span",
    "TokenCount",
    "annotate",
    "find_verbatim",
    "image_tokens",
    "resolve_profile",
    "restore",
    "text_tokens",
]
