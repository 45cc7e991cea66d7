"""Dense local alignment: every visual token learns which text tokens lie in its part of the page.

Owns: which tokens lie under which visual token, the two alignment losses, the data. Must not know about
cross-attention.

Shapes: X pages, K visual tokens per page, S slots for text tokens, D width, V vocabulary, C cells of the whole batch.

Decisions
- Next-token loss alone is too thin a signal to teach a fresh Resampler where to look. The layout knows which text
  tokens lie in which cell, so each visual token is contrasted (InfoNCE over all cells of the batch) with the mean of
  the LLM's own embeddings, at unit length, of its tokens: PVE's loss, per visual token instead of per sample.
- Then each visual token must say, for every text token in it, what follows the one before: its values, multiplied
  channel by channel by a gate that sees the embedding of the token before, must point at the right row of the LLM's
  output layer. That is what a reader needs to go on inside a visual token, and it is what cross-attention with an
  output gate computes: the three maps are handed over to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from vist.fuse.insert import cross_attentions
from vist.model.vist import VistForConditionalGeneration
from vist.render import Layout, PageStyle, layout, render
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example
from vist.train.reading import patch_of
from vist.vision.encoder import encode

PAGE_CHARACTERS = 900
IGNORED = -100


def visual_token_of(placed: Layout, ink_PRC: np.ndarray, characters: np.ndarray, group: int) -> np.ndarray:
    """The visual token that each of these characters lies under, counted over the pages' tokens in use; else -1.

    A visual token holds `group` inked patches of its page, in reading order; a page has as many as its ink needs.
    """
    ink_PN = ink_PRC.reshape(len(ink_PRC), -1)
    used = -(-ink_PN.sum(1) // group)
    before = np.cumsum(used) - used
    rank_PN = np.cumsum(ink_PN, axis=1) - 1
    page, places = placed.page[characters], patch_of(placed, characters)
    drawn = (placed.advance[characters] > 0) & ink_PN[page, places]
    return np.where(drawn, before[page] + rank_PN[page, places] // group, -1)


def first_visible(text: str, offsets: np.ndarray) -> np.ndarray:
    """(T,) the first character of each text token, its leading blank left out; `offsets` are (T, 2) characters."""
    starts = offsets[:, 0]
    blank = np.array([text[start].isspace() for start in starts], dtype=bool)
    return starts + (blank & (offsets[:, 1] - starts > 1))


def cell_tokens(
    placed: Layout, ink: np.ndarray, text: str, offsets: np.ndarray, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each text token lies on the first page: (cell, slot) of every token, -1 for one that is not drawn on it.

    The cell is the visual token under which its first visible character lies; the slot counts the text tokens of a
    cell in order. `ink` is the first page's (rows, columns).
    """
    starts = first_visible(text, offsets)
    here = placed.page[starts] == 0
    cells = np.full(len(starts), -1)
    cells[here] = visual_token_of(placed, ink[None], starts[here], group)
    slots = np.full(len(cells), -1)
    seen: dict[int, int] = {}
    for number, cell in enumerate(cells.tolist()):
        if cell >= 0:
            slots[number] = seen[cell] = seen.get(cell, -1) + 1
    return cells, slots


class AlignmentPages(Dataset):
    """Pages with the text tokens of each cell, each a pure function of (seed, index)."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        mix: ExampleMix,
        style: PageStyle,
        visual_tokens: int,
        slots: int,
        samples: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.mix, self.style = corpus, tokenizer, mix, style
        self.visual_tokens, self.slots, self.samples, self.seed = visual_tokens, slots, samples, seed
        self.group = -(-style.rows * style.cols // visual_tokens)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        text = draw_example(self.corpus, self.mix, rng, PAGE_CHARACTERS, 1).distant
        return self.sample(text)

    def sample(self, text: str) -> dict[str, np.ndarray]:
        """The first page of a text: pixels (H, W), ink (rows, cols), tokens (K, S) and those before them (K, S).

        Empty slots are IGNORED.
        """
        pages = render(text, self.style)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = np.array(encoded.input_ids), np.array(encoded.offset_mapping)
        placed = layout(text, self.style)
        cells, slots = cell_tokens(placed, pages.ink[0], text, offsets, self.group)
        tokens, before = (np.full((self.visual_tokens, self.slots), IGNORED) for _ in range(2))
        fits = (cells >= 0) & (slots < self.slots)
        tokens[cells[fits], slots[fits]] = ids[fits]
        before[cells[fits], slots[fits]] = np.append(self.tokenizer.bos_token_id, ids)[:-1][fits]
        return {"pixels": pages.pixels[0], "ink": pages.ink[0], "tokens": tokens, "before": before}


def collate_cells(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """`pixel_values` (X,1,H,W), `ink_mask` (X,1,rows,cols), `labels` and `before` (X,K,S): one page per sample."""
    stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return {
        "pixel_values": stacked["pixels"][:, None],
        "ink_mask": stacked["ink"][:, None],
        "labels": stacked["tokens"],
        "before": stacked["before"],
    }


class Aligner(nn.Module):
    """A VIST model's Resampler with the two alignment losses, in the shape that the Trainer expects."""

    inputs: torch.Tensor
    asks: torch.Tensor
    outputs: torch.Tensor

    def __init__(self, model: VistForConditionalGeneration, temperature: float = 0.07):
        super().__init__()
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert isinstance(inputs, torch.Tensor) and isinstance(outputs, torch.Tensor)
        width, states = inputs.shape[1], model.config.resampler_size
        read = cross_attentions(model.language_model)[-1].v_proj.out_features
        self.vision_tower, self.resampler = model.vision_tower, model.resampler
        self.temperature = temperature
        self.register_buffer("inputs", F.normalize(inputs.detach(), dim=-1), persistent=False)
        self.register_buffer("asks", self.inputs * width**0.5, persistent=False)  # the size that a norm gives
        self.register_buffer("outputs", F.normalize(outputs.detach(), dim=-1), persistent=False)
        self.contrast_head = nn.Linear(states, width)
        self.value = nn.Linear(states, read, bias=False)
        self.gate = nn.Linear(width, read)
        self.output = nn.Linear(read, width, bias=False)

    def forward(
        self, pixel_values: torch.Tensor, ink_mask: torch.Tensor, labels: torch.Tensor, before: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """InfoNCE per cell plus the loss of what follows; also how often the right cell and token come first."""
        seen = encode(self.vision_tower, pixel_values, ink_mask)
        states = self.resampler(seen.features, seen.mask).tokens[:, 0]
        used = (labels != IGNORED).any(-1)
        contrast_loss, cell_accuracy = self._contrast(states[used], labels[used])
        follow_loss, token_accuracy = self._follow(states[used], labels[used], before[used])
        return {
            "loss": contrast_loss + follow_loss,
            "contrast_loss": contrast_loss,
            "follow_loss": follow_loss,
            "cell_accuracy": cell_accuracy,
            "token_accuracy": token_accuracy,
        }

    def _contrast(self, states_CD: torch.Tensor, tokens_CS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        there = (tokens_CS != IGNORED)[..., None]
        mean_CD = (self.inputs[tokens_CS.clamp(min=0)] * there).sum(1) / there.sum(1)
        visual, text = F.normalize(self.contrast_head(states_CD), dim=-1), F.normalize(mean_CD, dim=-1)
        scores = (visual @ text.T / self.temperature).float()
        target = torch.arange(len(scores), device=scores.device)
        return F.cross_entropy(scores, target), (scores.argmax(-1) == target).float().mean()

    def _follow(
        self, states_CD: torch.Tensor, tokens_CS: torch.Tensor, before_CS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cell, slot = (tokens_CS != IGNORED).nonzero(as_tuple=True)
        wanted = tokens_CS[cell, slot]
        read = self.value(states_CD)[cell] * self.gate(self.asks[before_CS[cell, slot]])
        scores = (self.output(read) @ self.outputs.T).float()
        return F.cross_entropy(scores, wanted), (scores.argmax(-1) == wanted).float().mean()

    @torch.no_grad()
    def hand_over(self, model: VistForConditionalGeneration) -> None:
        """Start the last half of the cross-attention layers with the learned maps from visual tokens to text tokens.

        Looking at a visual token there then brings up what follows the text's last token. In the last layer it also
        counts at once; in the others the output projection still starts at zero.
        """
        sublayers = cross_attentions(model.language_model)
        for sublayer in sublayers[len(sublayers) // 2 :]:
            if sublayer.v_proj.weight.shape == self.value.weight.shape:
                _copy(self.value, sublayer.v_proj)
            if sublayer.g_proj is not None and sublayer.g_proj.weight.shape == self.gate.weight.shape:
                _copy(self.gate, sublayer.g_proj)
        if sublayers[-1].o_proj.weight.shape == self.output.weight.shape:
            _copy(self.output, sublayers[-1].o_proj)


def _copy(source: nn.Linear, target: nn.Linear) -> None:
    target.weight.copy_(source.weight)
    if target.bias is not None:
        target.bias.zero_() if source.bias is None else target.bias.copy_(source.bias)
