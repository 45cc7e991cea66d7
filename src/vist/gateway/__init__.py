"""Pages for any vision-language model: what pages cost there, and what must not become a page.

Reading order: `rules` (how providers count an image), `profiles` (which model counts how, with sources), `estimate` and
`accounting` (tokens of images and texts), `patterns` (what exact strings look like), `guard` (which are kept),
`markers` (how they keep their place), `sheets` (which page size suits a model), `flow` (lines run on), `profit`
(whether a text pays), `cache` (pages drawn before), `shapes` and `items` (the APIs' messages), `messages`
(what of a conversation becomes pages) and `report` (what became of each part).

The server: `settings` (what it may do), `splice` (a request's JSON, changed in one place), `rewrite` (one request),
`workers` (where that runs), `proxy` (the way through), `recent`, `events`, `metrics` (what is remembered), `dashboard`
and `server`. Only those import a web library, and importing this package imports none of them. Nothing here imports
torch.
"""

from vist.gateway.accounting import TokenCount, image_tokens, text_tokens
from vist.gateway.cache import PageCache
from vist.gateway.guard import GuardPolicy, Span, find_verbatim
from vist.gateway.markers import Guarded, Kept, annotate, restore
from vist.gateway.messages import CompressionPolicy, compress_messages
from vist.gateway.profiles import Profile, resolve_profile
from vist.gateway.profit import Gate, Weighed, weigh
from vist.gateway.report import Compressed, Part, Report
from vist.gateway.sheets import Sheet, find_sheets

__all__ = [
    "Compressed",
    "CompressionPolicy",
    "Gate",
    "GuardPolicy",
    "Guarded",
    "Kept",
    "PageCache",
    "Part",
    "Profile",
    "Report",
    "Sheet",
    "Span",
    "TokenCount",
    "Weighed",
    "annotate",
    "compress_messages",
    "find_sheets",
    "find_verbatim",
    "image_tokens",
    "resolve_profile",
    "restore",
    "text_tokens",
    "weigh",
]
