"""Language modelling: how much the context lowers the loss of the text after it.

Owns the loss of the last tokens under each condition and what follows from it. Does not print or draw.

Decisions
- Scored are the last `SCORED` tokens of the proximal text (paper: perplexity of the last 256 tokens), the same tokens
  in every condition; the start token before them lets the very first one be scored.
- Losses are in nats per token. Differences are paired by window; perplexity is exp of the mean loss.
- Losses are also given by distance from the context, in `STRETCHES` equal stretches of the scored tokens: what pages
  add should be worth most to the text right after them.
- The share of the full text's gain that the pages keep is (none - visual) / (none - full), with the interval of the
  resampled ratio.
- B batch, T text tokens, S scored tokens, V vocabulary, M visual tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from vist.eval.bootstrap import RESAMPLES, Interval, interval, resampled_means, resampling_unit
from vist.eval.conditions import Condition, Method, OtherMethod, Passage, build_inputs, pairs_with
from vist.eval.reader import Reader
from vist.eval.scores import BY_DISTANCE, Row, score_rows

SCORED = 256
STRETCHES = 8
DIFFERENCES = (
    (Condition.VISUAL, Condition.NONE),
    (Condition.VISUAL, Condition.WRONG),
    (Condition.WRONG, Condition.NONE),
    (Condition.FULL, Condition.NONE),
)


@dataclass(frozen=True)
class ConditionLoss:
    """One condition over all windows.

    `loss` (windows,) nats per scored token; `context_tokens` and `dropped_tokens` (windows,): tokens of the context
    that the LLM carries (text or visual) and text tokens that did not fit; `nats` (windows, scored) of each token.
    """

    loss: np.ndarray
    context_tokens: np.ndarray
    dropped_tokens: np.ndarray
    nats: np.ndarray | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.loss.mean())


@dataclass(frozen=True)
class LanguageModelling:
    """The result: losses by condition, what was read, and the intervals.

    `unit` is what the bootstrap resampled; `text_tokens` (windows,) are the tokens of the distant texts; `by_distance`
    are rows of the loss by distance from the context.
    """

    conditions: dict[Method, ConditionLoss]
    text_tokens: np.ndarray
    documents: int
    scored: int
    unit: str
    perplexities: dict[Method, Interval]
    differences: dict[tuple[Method, Method], Interval]
    share_kept: Interval
    by_distance: tuple[Row, ...] = ()

    @property
    def windows(self) -> int:
        """Windows read under each condition."""
        return len(self.text_tokens)

    def ratio(self, condition: Method) -> float | None:
        """Text tokens that the context stands for, per context token; None without a context.

        Text that was cut off because it did not fit is not compressed, so it does not count.
        """
        result = self.conditions[condition]
        carried = result.context_tokens.sum()
        return float((self.text_tokens - result.dropped_tokens).sum() / carried) if carried else None

    def to_dict(self) -> dict[str, Any]:
        """The figures under their stable keys (docs/json.md)."""
        return {
            "windows": self.windows,
            "documents": self.documents,
            "scored_tokens": self.scored,
            "unit": self.unit,
            "differences": [
                {"of": first.value, "minus": second.value, **value.to_dict()}
                for (first, second), value in self.differences.items()
            ],
            "share_kept": self.share_kept.to_dict(),
        }

    def method_dict(self, condition: Method) -> dict[str, Any]:
        """The figures of one condition under their stable keys."""
        result, bounds = self.conditions[condition], self.perplexities[condition]
        return {
            "name": condition.value,
            "label": condition.label,
            "context_tokens": float(result.context_tokens.mean()),
            "dropped_tokens": float(result.dropped_tokens.mean()),
            "ratio": self.ratio(condition),
            "ppl": result.perplexity,
            "ppl_low": bounds.low,
            "ppl_high": bounds.high,
        }


def evaluate_lm(
    reader: Reader,
    passages: Sequence[Passage],
    documents: Sequence[int],
    batch_size: int = 8,
    resamples: int = RESAMPLES,
    seed: int = 0,
    beside: Mapping[str, Reader] | None = None,
) -> LanguageModelling:
    """Read every passage under the four conditions; `documents` holds each passage's document number.

    `beside`: other methods by name, each read in its own way ("visual context" is what it makes of distant text).
    """
    scored = min(SCORED, min(len(passage.proximal) for passage in passages))
    conditions: dict[Method, ConditionLoss] = {}
    work: list[tuple[Method, Reader, Condition]] = [(condition, reader, condition) for condition in Condition]
    work += [(OtherMethod(name), other, Condition.VISUAL) for name, other in (beside or {}).items()]
    total = len(work) * len(passages)
    with tqdm(total=total, desc="language modelling", unit="window", delay=2, leave=False) as progress:
        for method, own, condition in work:
            conditions[method] = condition_loss(own, condition, passages, scored, batch_size, progress)
    text_tokens = np.array([len(reader.ids(passage.distant)) for passage in passages])
    result = summarize(conditions, text_tokens, np.asarray(documents), scored, resamples, seed)
    return replace(result, by_distance=tuple(distance_rows(conditions, documents, resamples, seed)))


def distance_rows(
    conditions: Mapping[Method, ConditionLoss], documents: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> list[Row]:
    """Nats per token by distance: `distance` is the first of a stretch's tokens, counted from the context's end on.

    What stands between the context and the first scored token, a few tokens at most, is not counted.
    """
    nats = {method.value: loss.nats for method, loss in conditions.items() if loss.nats is not None}
    scored = min(column.shape[1] for column in nats.values())
    borders = np.linspace(0, scored, min(STRETCHES, scored) + 1).round().astype(int).tolist()
    pairs = pairs_with(method.value for method in conditions if isinstance(method, OtherMethod))
    rows: list[Row] = []
    for start, stop in itertools.pairwise(borders):
        values = {name: column[:, start:stop].mean(1) for name, column in nats.items()}
        axes: dict[str, Any] = {"distance": start + 1, "pairs": pairs, "groups": list(documents)}
        rows += score_rows(f"{BY_DISTANCE} {start + 1}", values, resamples=resamples, seed=seed, **axes)
    return rows


def lm_rows(methods: Sequence[dict[str, Any]], figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of `method_dict` (with cost, if measured) and `to_dict` as rows of results (docs/evaluation.md)."""
    head = {"n": figures["windows"], "unit": figures["unit"]}
    known = ("name", "label", "ppl", "ppl_low", "ppl_high")
    rows = []
    for row in methods:
        bounds = {"value": row["ppl"], "low": row["ppl_low"], "high": row["ppl_high"]}
        more = {key: value for key, value in row.items() if key not in known}
        named = {"metric": "perplexity", "method": row["name"], "label": row["label"], "minus": None}
        rows.append(head | named | bounds | more)
    for row in figures["differences"]:
        named = {"metric": "nats per token", "method": row["of"], "label": row["of"], "minus": row["minus"]}
        rows.append(head | named | {"value": row["estimate"], "low": row["low"], "high": row["high"]})
    return rows


def condition_loss(
    reader: Reader,
    condition: Condition,
    passages: Sequence[Passage],
    scored: int,
    batch_size: int = 8,
    progress: Any = None,
) -> ConditionLoss:
    """Mean loss of each passage's last `scored` tokens under one condition."""
    losses, carried, dropped, tokens_lost = [], [], [], []
    for start in range(0, len(passages), batch_size):
        batch = passages[start : start + batch_size]
        inputs = build_inputs(reader, condition, batch)
        tensors, tokens = dict(inputs.tensors), inputs.context_tokens
        with torch.inference_mode():
            if condition.has_pages:
                context = reader.encode_pages(tensors)
                tensors |= {"cross_states": context.states, "cross_mask": context.mask}
                tokens = context.mask.sum(1).tolist()
            logits = reader.model(**tensors, use_cache=False, logits_to_keep=scored + 1).logits
            targets = tensors["input_ids"][:, -scored:]
            nats = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
        losses += nats.mean(1).tolist()
        tokens_lost.append(nats.cpu().numpy())
        carried += tokens
        dropped += inputs.dropped_tokens
        if progress is not None:
            progress.update(len(batch))
    return ConditionLoss(np.array(losses), np.array(carried), np.array(dropped), np.concatenate(tokens_lost))


def summarize(
    conditions: dict[Method, ConditionLoss],
    text_tokens: np.ndarray,
    documents: np.ndarray,
    scored: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LanguageModelling:
    """Perplexities, paired differences and the share kept, with their intervals."""
    clusters, unit = resampling_unit(documents)
    order = list(conditions)
    values = np.stack([conditions[condition].loss for condition in order], axis=1)
    drawn = dict(zip(order, resampled_means(values, clusters, resamples, seed).T, strict=True))
    mean = {condition: float(conditions[condition].loss.mean()) for condition in order}
    others = [method for method in order if isinstance(method, OtherMethod)]
    pairs: list[tuple[Method, Method]] = [*DIFFERENCES, *((other, Condition.NONE) for other in others)]
    pairs += [(Condition.VISUAL, other) for other in others]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (drawn[Condition.NONE] - drawn[Condition.VISUAL]) / (drawn[Condition.NONE] - drawn[Condition.FULL])
    return LanguageModelling(
        conditions=conditions,
        text_tokens=text_tokens,
        documents=len(set(documents.tolist())),
        scored=scored,
        unit=unit,
        perplexities={name: interval(math.exp(mean[name]), np.exp(drawn[name])) for name in order},
        differences={(a, b): interval(mean[a] - mean[b], drawn[a] - drawn[b]) for a, b in pairs},
        share_kept=interval(_share(mean), share),
    )


def _share(mean: dict[Method, float]) -> float:
    """The share kept; not a number where the full text gains nothing, so that there is nothing to keep."""
    gain = mean[Condition.NONE] - mean[Condition.FULL]
    return (mean[Condition.NONE] - mean[Condition.VISUAL]) / gain if gain > 0 else math.nan
