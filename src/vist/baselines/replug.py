"""RePlug: the LLM reads each retrieved passage apart, and their next-token distributions are averaged.

Owns the passages, their weights and the ensemble. Source: RePlug (arXiv 2301.12652), equations 1 and 2:
p(y | x) = sum over passages d of w(d, x) p(y | d, x), with w the softmax of the retrieval scores s(d, x) of the best k.

Decisions
- The passages are pieces of the distant text itself: what another method gets is what this one retrieves from.
- s is the cosine of the means of the LLM's own token embeddings, so no second model is needed (RePlug: Contriever).
- Weights may look at nothing that is still to be predicted. `generate` knows its prompt, which is the query. `forward`
  scores every token of the prompt, so there the query is the end of the distant text.
- Every passage's row writes the same token, chosen from the ensemble: a logits processor gives all rows its scores.
  Rows that sample would each draw a token of their own, so sampling is refused.
- K passages, L text tokens of the context, T tokens of the prompt, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from vist.baselines.plain_text import PlainTextModel, whole
from vist.errors import VistError

PASSAGES = 10
PASSAGE_TOKENS = 128
QUERY_TOKENS = 64


class ReplugModel(PlainTextModel):
    """An LLM that reads the best `passages` pieces of `passage_tokens` tokens, each before the whole prompt."""

    def __init__(
        self, language_model: PreTrainedModel, passages: int = PASSAGES, passage_tokens: int = PASSAGE_TOKENS
    ) -> None:
        super().__init__(language_model)
        self.passages, self.passage_tokens = passages, passage_tokens

    def read(self, prompt: Tensor, text: Tensor, keep: int) -> Tensor:
        """See `PlainTextModel.read`."""
        rows, mask, weights = self._rows_of(prompt, text, text[-QUERY_TOKENS:])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.language_model(
            input_ids=rows, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep
        )
        return ensemble(output.logits, weights)

    def write(self, prompt: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        """See `PlainTextModel.write`. Raises VistError when sampling is asked for."""
        usual = options.get("generation_config") or self.language_model.generation_config
        if options.get("do_sample", usual.do_sample):
            raise VistError(
                "RePlug writes the likeliest token of its ensemble and cannot sample; pass do_sample=False."
            )
        rows, mask, weights = self._rows_of(prompt, text, prompt[1:])
        own = [*(options.get("logits_processor") or ()), EnsembleProcessor(weights)]
        options = {**options, "logits_processor": LogitsProcessorList(own)}
        if options.get("streamer") is not None:
            options["streamer"] = _FirstRow(options["streamer"])
        output = self.language_model.generate(rows, attention_mask=mask, **options)
        return output[0, rows.shape[1] :]

    def _rows_of(self, prompt: Tensor, text: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One row per passage, padded on the left, (K,S); its mask; log-weights (K,)."""
        pieces = list(text.split(self.passage_tokens)) if len(text) else [text]
        scores = self.similarities(query, pieces)
        best = scores.argsort(descending=True, stable=True)[: self.passages].sort().values
        rows = [whole(prompt, pieces[number]) for number in best.tolist()]
        longest = max(len(row) for row in rows)
        ids = torch.stack([F.pad(row, (longest - len(row), 0), value=int(row[0])) for row in rows])
        mask = torch.stack([F.pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows])
        return ids, mask, scores[best].log_softmax(0)

    def similarities(self, query: Tensor, pieces: list[Tensor]) -> Tensor:
        """(K,) cosine of each passage's mean token embedding and the query's; 0 where one of them is empty."""
        embed = self.language_model.get_input_embeddings()
        means = [embed(ids).float().mean(0) if len(ids) else None for ids in [query, *pieces]]
        empty = torch.zeros(embed.weight.shape[1], device=self.device)
        query_D, *pieces_D = (empty if mean is None else mean for mean in means)
        return F.cosine_similarity(torch.stack(pieces_D), query_D[None], dim=-1)


def ensemble(logits_KTV: Tensor, log_weights_K: Tensor) -> Tensor:
    """Log-probabilities (T,V), float32, of the weighted mean of the distributions."""
    return (logits_KTV.float().log_softmax(-1) + log_weights_K[:, None, None].to(logits_KTV.device)).logsumexp(0)


class EnsembleProcessor(LogitsProcessor):
    """Gives every row the scores of all rows' ensemble, (K,V) -> (K,V)."""

    def __init__(self, log_weights_K: Tensor) -> None:
        self.log_weights = log_weights_K

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The ensemble's log-probabilities in every row."""
        return ensemble(scores[:, None], self.log_weights).expand_as(scores)


class _FirstRow:
    """A streamer for one row in front of several rows that all say the same."""

    def __init__(self, streamer: Any) -> None:
        self.streamer = streamer

    def put(self, value: Tensor) -> None:
        """Pass on the first row."""
        self.streamer.put(value[:1])

    def end(self) -> None:
        """Pass on the end."""
        self.streamer.end()
