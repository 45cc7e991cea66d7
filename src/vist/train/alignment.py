"""Dense local alignment: every visual token learns which text tokens lie in its part of the page.

Owns: which tokens lie under which part of which visual token, the two alignment losses, the data. Must not know how
text is read by the LLM.

Shapes: X pages, K visual tokens per page, S parts (sub-tokens) of a visual token, T text tokens of the page, F text
tokens of the whole batch that are drawn, D width, Dh width of one key, V vocabulary.

Decisions
- Next-token loss alone is too thin a signal to teach a fresh Resampler where to look. The layout knows which text
  tokens begin in which part of the page, so two things that a reader needs are asked of every part directly.
- To be found: for each text token, a query made of the embeddings of the two tokens before it must match the key of
  the part in which it begins, among the keys of several pages (InfoNCE, as PVE's loss, per text token).
- To be named: the value of that part must point at the token's row of the LLM's output layer. Where two tokens share a
  part, a linear function of the token before may shift the scores, as the LLM's residual stream can.
- Both are linear in the visual token and in the embeddings, which is what cross-attention with sub-tokens is: its
  keys, values, half of its queries and its last output projection start from what is learned here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.model.vist import VistForConditionalGeneration
from vist.render import Layout, PageStyle, layout, render
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example
from vist.train.tokenizer import first_visible
from vist.vision.encoder import encode

PAGE_CHARACTERS = 900
PAGES_PER_CONTEXT = 4  # whose parts compete for a query
NORM_WEIGHT = 1.5  # of queries and keys, at the start: scores reach 18, enough to single out one key of a thousand
NOWHERE = -1


def visual_token_of(
    placed: Layout, ink_PRC: np.ndarray, characters: np.ndarray, group: int, parts: int = 1
) -> np.ndarray:
    """The visual token that each of these characters lies under, counted over the pages' tokens in use; else -1.

    A visual token holds `group` inked patches of its page, in reading order; a page has as many as its ink needs. With
    `parts` it is cut into so many pieces of equal width, and they are counted instead.
    """
    ink_PN = ink_PRC.reshape(len(ink_PRC), -1)
    used = -(-ink_PN.sum(1) // group)
    before = np.cumsum(used) - used
    rank_PN = np.cumsum(ink_PN, axis=1) - 1
    style, column = placed.style, placed.cells()[characters]
    page, patch = placed.page[characters], placed.row[characters] * style.cols + column
    drawn = (placed.advance[characters] > 0) & ink_PN[page, patch]
    rank = rank_PN[page, patch]
    centre = (2 * placed.x[characters] + placed.advance[characters]) // 2
    inside = np.clip(centre - column * style.row_height, 0, style.row_height - 1)
    part = (rank % group * style.row_height + inside) * parts // (group * style.row_height)
    return np.where(drawn, (before[page] + rank // group) * parts + part, NOWHERE)


class AlignmentPages(Dataset):
    """Pages with the place of each text token, each a pure function of (seed, index)."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        mix: ExampleMix,
        style: PageStyle,
        visual_tokens: int,
        parts: int,
        samples: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.mix, self.style = corpus, tokenizer, mix, style
        self.parts, self.samples, self.seed = parts, samples, seed
        self.group = -(-style.rows * style.cols // visual_tokens)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        text = draw_example(self.corpus, self.mix, rng, PAGE_CHARACTERS, 1).distant
        return self.sample(text)

    def sample(self, text: str) -> dict[str, np.ndarray]:
        """The first page of a text: pixels (H, W), ink (rows, cols); ids (T,) and places (T,) of its text tokens.

        BOS comes first. A place counts the parts of the page's visual tokens in use; NOWHERE = not drawn.
        """
        pages = render(text, self.style)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = first_visible(text, np.array(encoded.offset_mapping).reshape(-1, 2))
        placed = layout(text, self.style)
        places = np.full(len(starts), NOWHERE)
        here = placed.page[starts] == 0
        places[here] = visual_token_of(placed, pages.ink[:1], starts[here], self.group, self.parts)
        length = int(here.sum())
        return {
            "pixels": pages.pixels[0],
            "ink": pages.ink[0],
            "ids": np.array([self.tokenizer.bos_token_id, *encoded.input_ids[:length]]),
            "places": np.array([NOWHERE, *places[:length]]),
        }


def collate_alignment(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """`pixel_values` (X,1,H,W), `ink_mask` (X,1,rows,cols), `input_ids` and `places` (X,T): one page per sample."""
    longest = max(len(row["ids"]) for row in rows)
    ids, places = np.zeros((len(rows), longest), np.int64), np.full((len(rows), longest), NOWHERE)
    for number, row in enumerate(rows):
        ids[number, : len(row["ids"])], places[number, : len(row["ids"])] = row["ids"], row["places"]
    return {
        "pixel_values": torch.from_numpy(np.stack([row["pixels"] for row in rows]))[:, None],
        "ink_mask": torch.from_numpy(np.stack([row["ink"] for row in rows]))[:, None],
        "input_ids": torch.from_numpy(ids),
        "places": torch.from_numpy(places),
    }


class Aligner(nn.Module):
    """A VIST model's Resampler with the two alignment losses, in the shape that the Trainer expects.

    Raises VistError for a model without sub-tokens: what is learned here could not be handed over.
    """

    asks: Tensor
    outputs: Tensor

    def __init__(self, model: VistForConditionalGeneration):
        super().__init__()
        if not model.config.cross_subtokens:
            raise VistError("Alignment is for models with cross_subtokens; build the model with that option.")
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert isinstance(inputs, Tensor) and isinstance(outputs, Tensor)
        sublayer = cross_attentions(model.language_model)[-1]
        width, states, read = inputs.shape[1], model.config.resampler_size, sublayer.v_proj.out_features
        self.parts, self.head_dim = sublayer.num_key_value_heads, sublayer.head_dim
        self.vision_tower, self.resampler = model.vision_tower, model.resampler
        # At the size that the norm before a query gives them.
        self.register_buffer("asks", F.normalize(inputs.detach(), dim=-1) * width**0.5, persistent=False)
        self.register_buffer("outputs", F.normalize(outputs.detach(), dim=-1), persistent=False)
        self.query = nn.Linear(width, self.head_dim, bias=False)
        self.query_before = nn.Linear(width, self.head_dim, bias=False)
        self.key = nn.Linear(states, read, bias=False)
        self.value = nn.Linear(states, read, bias=False)
        self.output = nn.Linear(self.head_dim, width, bias=False)
        self.shift = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        for norm in (self.query_norm, self.key_norm):
            nn.init.constant_(norm.weight, NORM_WEIGHT)

    def forward(self, pixel_values: Tensor, ink_mask: Tensor, input_ids: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Both losses, and how often the right part and the right token come first."""
        seen = encode(self.vision_tower, pixel_values, ink_mask)
        states_XKD = self.resampler(seen.features, seen.mask).tokens[:, 0]
        find_loss, find_accuracy = self._find(states_XKD, input_ids, places)
        name_loss, name_accuracy = self._name(states_XKD, input_ids, places)
        return {
            "loss": find_loss + name_loss,
            "find_loss": find_loss,
            "name_loss": name_loss,
            "find_accuracy": find_accuracy,
            "name_accuracy": name_accuracy,
        }

    def _find(self, states_XKD: Tensor, ids_XT: Tensor, places_XT: Tensor) -> tuple[Tensor, Tensor]:
        before_XT, earlier_XT = _shifted(ids_XT), _shifted(_shifted(ids_XT))
        query = self.query_norm(self.query(self.asks[before_XT]) + self.query_before(self.asks[earlier_XT]))
        key = self.key_norm(self.key(states_XKD).unflatten(-1, (self.parts, -1))).flatten(1, 2)
        losses, right = [], []
        contexts = zip(*(part.split(PAGES_PER_CONTEXT) for part in (query, key, places_XT)), strict=True)
        for query_PTD, key_PMD, places_PT in contexts:
            page, token = (places_PT != NOWHERE).nonzero(as_tuple=True)
            target = places_PT[page, token] + page * key_PMD.shape[1]
            scores = (query_PTD[page, token] @ key_PMD.flatten(0, 1).T * self.head_dim**-0.5).float()
            losses.append(F.cross_entropy(scores, target, reduction="none"))
            right.append(scores.argmax(-1) == target)
        return torch.cat(losses).mean(), torch.cat(right).float().mean()

    def _name(self, states_XKD: Tensor, ids_XT: Tensor, places_XT: Tensor) -> tuple[Tensor, Tensor]:
        page, token = (places_XT != NOWHERE).nonzero(as_tuple=True)
        wanted_F, before_F = ids_XT[page, token], _shifted(ids_XT)[page, token]
        values_XMD = self.value(states_XKD).unflatten(-1, (self.parts, -1)).flatten(1, 2)
        points_FD = self.output(values_XMD[page, places_XT[page, token]]) + self.shift(self.asks[before_F])
        scores = (points_FD @ self.outputs.T).float()
        return F.cross_entropy(scores, wanted_F), (scores.argmax(-1) == wanted_F).float().mean()

    @torch.no_grad()
    def hand_over(self, model: VistForConditionalGeneration) -> None:
        """Start the cross-attention from what was learned: a text token then looks at the part that follows its copy.

        Keys, values and half of the query heads go to every layer but the first, whose text tokens do not know what
        stands before them yet. In the last layer what is read also counts at once; in the others the output projection
        still starts at zero.
        """
        for sublayer in cross_attentions(model.language_model)[1:]:
            heads = sublayer.q_proj.out_features // self.head_dim
            led = max(1, heads // 2) * self.head_dim
            sublayer.k_proj.weight.copy_(self.key.weight)
            sublayer.v_proj.weight.copy_(self.value.weight)
            sublayer.q_proj.weight[:led] = self.query.weight.repeat(led // self.head_dim, 1)
            for bias in (sublayer.k_proj.bias, sublayer.v_proj.bias):
                if bias is not None:
                    bias.zero_()
            if sublayer.q_proj.bias is not None:
                sublayer.q_proj.bias[:led] = 0
            if sublayer.norm is not None:
                sublayer.norm.weight.fill_(1)
            if sublayer.q_norm is not None and sublayer.k_norm is not None:
                sublayer.q_norm.load_state_dict(self.query_norm.state_dict())
                sublayer.k_norm.load_state_dict(self.key_norm.state_dict())
        sublayer.o_proj.weight[:, :led] = self.output.weight.repeat(1, led // self.head_dim) * self.head_dim / led


def _shifted(ids_XT: Tensor) -> Tensor:
    """The id before each one; the first stands before itself."""
    return torch.cat([ids_XT[:, :1], ids_XT[:, :-1]], dim=1)
