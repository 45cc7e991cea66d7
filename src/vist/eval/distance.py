"""Semantic distance (paper, Figures 3 to 5): how far a text's pages are from the text when tokens of it are masked.

Owns the two embeddings, the orders of masking, and the information that is kept. Does not draw or print.

Decisions
- The visual side is the mean of the CLS outputs over the pages of the whole text, projected as for PVE; the text side
  is the mean of the LLM's own embeddings over the tokens that are left. Distance = 1 - cosine.
- Tokens are masked by importance s_w: the rarest first, the most frequent first, or in random order; ties, which are
  the places of one token, in random order. Only the text side is masked; the pages stay as they are.
- Information kept is the self-information of the tokens that are left over that of all: -log of a token's share of the
  counts behind s_w, which is positive for every token, as s_w is not.
- "wrong" is the distance of the same masked text to the next text's pages: what is left of the distance when there is
  nothing to agree on. "random" is the control of both orders.
- B texts, T text tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vist.compress.pve import pool_text
from vist.errors import VistError
from vist.eval.reader import Reader
from vist.eval.scores import Row, score_rows

ORDERS = ("rare", "frequent", "random")
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def masked_first(ids: Sequence[int], importance: np.ndarray, order: str, rng: np.random.Generator) -> np.ndarray:
    """Places (T,) of a text's tokens, those to mask first in front; `importance` (V,)."""
    shuffled = rng.permutation(len(ids))
    if order == "random":
        return shuffled
    values = importance[np.asarray(ids)[shuffled]]
    return shuffled[np.argsort(-values if order == "rare" else values, kind="stable")]


def information(importance: np.ndarray) -> np.ndarray:
    """Self-information (V,) of every token, from s_w: 1 + count is proportional to exp(-s_w)."""
    shares = np.exp(-(importance.astype(float) - importance.min()))
    return -np.log(shares / shares.sum())


@torch.inference_mode()
def visual_means(reader: Reader, texts: Sequence[str]) -> Tensor:
    """Mean CLS output of each text's pages in the LLM's width, (B,D)."""
    reader.tower("Semantic distance")
    parts = [reader.encode_pages(reader.page_inputs([text])).cls for text in texts]
    means = torch.cat(parts)
    projection = reader.model.pve_projection
    return means if projection is None else projection(means)


@torch.inference_mode()
def distances(
    reader: Reader,
    texts: Sequence[str],
    importance: np.ndarray,
    order: str,
    rate: float,
    seed: int = 0,
    visual: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """For each text (B,): its `distance` to its own pages, to the `wrong` ones, and the share of information `kept`.

    `visual` (B,D) are the texts' `visual_means`, if they are known.
    Raises VistError for fewer than two texts, an empty one, an unknown order, or a rate outside [0, 1).
    """
    if order not in ORDERS:
        raise VistError(f"Unknown order of masking {order!r}; choose one of {', '.join(ORDERS)}.")
    if not 0 <= rate < 1:
        raise VistError(f"The masking rate must be at least 0 and below 1, got {rate}.")
    if len(texts) < 2:
        raise VistError(f"Distances need at least 2 texts, got {len(texts)}: each has the next one's pages as control.")
    visual_BD, worth = visual_means(reader, texts) if visual is None else visual, information(importance)
    text, kept = [], []
    for number, item in enumerate(texts):
        ids = reader.ids(item)
        if not ids:
            raise VistError(f"Text {number} is empty; leave it out.")
        places = masked_first(ids, importance, order, np.random.default_rng((seed, number)))
        keep = np.ones(len(ids), dtype=bool)
        keep[places[: round(rate * len(ids))]] = False
        row, mask = torch.tensor([ids], device=reader.device), torch.from_numpy(keep)[None].to(reader.device)
        text.append(pool_text(reader.model.get_input_embeddings(), row, mask))
        kept.append(float(worth[ids][keep].sum() / worth[ids].sum()))
    visual_BD, text_BD = visual_BD.float(), torch.cat(text).float()
    own = 1 - F.cosine_similarity(visual_BD, text_BD)
    wrong = 1 - F.cosine_similarity(visual_BD.roll(-1, 0), text_BD)
    return {"distance": own.cpu().numpy(), "wrong": wrong.cpu().numpy(), "kept": np.array(kept)}


def distance_rows(
    reader: Reader,
    texts: Sequence[str],
    documents: Sequence[int],
    importance: np.ndarray,
    rates: Sequence[float] = RATES,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Row]:
    """Distance by order and rate, paired with the unmasked text and with the wrong pages; information kept."""
    rows: list[Row] = []
    shared: dict[str, Any] = {"groups": list(documents), "resamples": resamples, "seed": seed}
    visual = visual_means(reader, texts)
    whole = distances(reader, texts, importance, "random", 0.0, seed, visual)["distance"]
    for order in ORDERS:
        for rate in rates:
            found = distances(reader, texts, importance, order, rate, seed, visual)
            values = {"visual": found["distance"], "wrong": found["wrong"], "unmasked": whole}
            axes: dict[str, Any] = {"order": order, "rate": rate}
            pairs = (("visual", "unmasked"), ("visual", "wrong"))
            rows += score_rows(f"distance:{order} {rate:.0%}", values, pairs=pairs, **axes, **shared)
            one = {"text": np.ones(len(texts))}  # a quantity, not a count of hits: without variance it has no interval
            rows += score_rows(f"kept:{order} {rate:.0%}", {"text": found["kept"]}, one, **axes, **shared)
    return rows
