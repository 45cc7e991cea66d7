"""Dense local alignment of VIST2's aligner: every part of every visual token says which text tokens begin in it.

Owns the data of single chunks and the two losses. Must not know how the LLM reads.

Shapes: X chunks, K visual tokens of the longest, J parts of a visual token, R text tokens named per part, T text tokens
of the longest chunk, F text tokens of the whole batch that are drawn, M visual tokens of the batch, D width, Dh width
of a key, E levels of a visual token.

Decisions
- At a ratio of 4 a visual token stands for four text tokens: each must come out of it by itself, in its order, through
  a linear map, since linear maps are what an attention head has. So every part has a key and a value of its own, on
  the level that the layer of its head takes.
- To be found: a query made of the embeddings of the text tokens before a token must match the key of the part in which
  it begins, among those of several chunks. To be named: the value there must point at the token's row of the LLM's
  output layer, by one map for the first token of a part and another for the second.
- Only the aligner is kept; keys, values and queries are the LLM's business in the next stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from vist.model.chunks import DrawnChunk
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Vist2Processor
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example
from vist.train.interleaved import CHARACTERS_PER_TOKEN, Curriculum
from vist.train.looking import head_of
from vist.train.reading import random_text
from vist.train.strips import NOWHERE, Strips, Tokens
from vist.vision.text_vit import ASCII

HEAD = 64
RANKS = 2  # text tokens named per part; further ones are left out
BEFORE = 3  # text tokens that a query is made of
CHUNKS_PER_CONTEXT = 4  # whose parts compete for a query
NORM_WEIGHT = 1.5  # of queries and keys, at the start: scores reach 18, enough to single out one key of a thousand


class ChunkPages(Dataset):
    """Single chunks with the place of each text token, each a pure function of (seed, index)."""

    def __init__(
        self,
        corpus: PackedCorpus,
        processor: Vist2Processor,
        curriculum: Curriculum,
        samples: int,
        seed: int,
        parts: int,
        *,
        mix: ExampleMix,
        random_strings: float,
    ):
        self.corpus, self.processor, self.curriculum = corpus, processor, curriculum
        self.samples, self.seed, self.mix, self.random_strings = samples, seed, mix, random_strings
        self.strips = Strips.of(processor, parts)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        _, _, budget = self.curriculum.draw(rng, index / self.samples, self.processor)
        length = 2 * self.processor.chunk_size * CHARACTERS_PER_TOKEN
        while True:
            strange = rng.random() < self.random_strings
            text = (
                random_text(rng, ASCII, length)
                if strange
                else draw_example(self.corpus, self.mix, rng, length, 1).distant
            )
            ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
            piece = self.processor.pieces(ids)[0]
            drawn = self.processor.draw(piece.ids, budget)
            if isinstance(drawn, DrawnChunk):
                return self.sample(drawn, self.processor.decode(list(piece.ids)))

    def sample(self, drawn: DrawnChunk, text: str) -> dict[str, Any]:
        """The chunk's `pages`; `ids`, `token`, `part`, `rank` (T,) of its text; NOWHERE = not drawn, or left out."""
        tokens = Tokens.of(text, self.processor.tokenizer)
        token, part = self.strips.places(text, drawn, tokens.starts)
        place = np.where(token == NOWHERE, NOWHERE, token * self.strips.parts + part)
        rank = np.array([int((place[:number] == where).sum()) for number, where in enumerate(place)])
        token = np.where(rank < RANKS, token, NOWHERE)
        return {"pages": drawn, "ids": np.array(tokens.ids), "token": token, "part": part, "rank": rank}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pages as the model takes them, and `ids`, `token`, `part`, `rank` (X,T), padded with NOWHERE."""
        frames = [[self.processor.frame(row["pages"])] for row in rows]
        packed = self.processor.pack(frames)
        names = ("pixel_values", "ink_mask", "page_chunks", "visual_counts")
        longest = max(len(row["ids"]) for row in rows)
        batch: dict[str, Any] = {name: packed[name] for name in names}
        for name in ("ids", "token", "part", "rank"):
            padded = [np.pad(row[name], (0, longest - len(row[name])), constant_values=NOWHERE) for row in rows]
            batch[name] = torch.from_numpy(np.stack(padded))
        return batch


class PartMap(nn.Module):
    """A linear map for every part, from the level of the visual token that the part's layer takes.

    One parameter of three axes: Muon, which trains the linear layers, makes it learn half as fast as AdamW does.
    """

    def __init__(self, model: Vist2ForCausalLM, parts: int):
        super().__init__()
        layer_J, _ = head_of(torch.arange(parts), model.language_model)
        self.level = layer_J.clamp(max=model.config.visual_levels - 1).tolist()
        self.weight = nn.Parameter(torch.empty(parts, HEAD, model.config.text_size))
        nn.init.normal_(self.weight, std=model.config.text_size**-0.5)

    def forward(self, visual_MED: Tensor) -> Tensor:
        """(M,E,D) -> (M,J,Dh)."""
        return torch.einsum("mjd,jhd->mjh", visual_MED[:, self.level], self.weight)


class ChunkAlignment(nn.Module):
    """A VIST2 model's aligner with the two alignment losses, in the shape that the Trainer expects."""

    asks: Tensor
    outputs: Tensor

    def __init__(self, model: Vist2ForCausalLM, parts: int):
        super().__init__()
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert isinstance(inputs, Tensor) and isinstance(outputs, Tensor)
        width = inputs.shape[1]
        self.parts = parts
        self.model = model
        model.language_model.requires_grad_(False)
        self.register_buffer("asks", F.normalize(inputs.detach(), dim=-1) * width**0.5, persistent=False)
        self.register_buffer("outputs", F.normalize(outputs.detach(), dim=-1), persistent=False)
        self.queries = nn.ModuleList(nn.Linear(width, HEAD, bias=False) for _ in range(BEFORE))
        self.key, self.value = PartMap(model, parts), PartMap(model, parts)
        self.output = nn.Linear(HEAD, RANKS * width, bias=False)
        self.query_norm = nn.RMSNorm(HEAD, eps=1e-6)
        self.key_norm = nn.RMSNorm(HEAD, eps=1e-6)
        for norm in (self.query_norm, self.key_norm):
            nn.init.constant_(norm.weight, NORM_WEIGHT)

    def forward(self, ids: Tensor, token: Tensor, part: Tensor, rank: Tensor, **pages: Tensor) -> dict[str, Tensor]:
        """Both losses, and how often the right part and the right token come first."""
        visual_MED = self.model.encode_chunks(**pages)
        counts_X = pages["visual_counts"].sum(1)
        first_X = counts_X.cumsum(0) - counts_X
        visual_MED = F.rms_norm(visual_MED, visual_MED.shape[-1:], eps=1e-6)  # as the LLM's layers do
        chunk, place = (token != NOWHERE).nonzero(as_tuple=True)
        there = (chunk, place)
        slot_F = (first_X[chunk] + token[there]) * self.parts + part[there]
        find_loss, find_accuracy = self._find(visual_MED, ids, there, slot_F, counts_X)
        name_loss, name_accuracy = self._name(visual_MED, ids[there], slot_F, rank[there])
        return {
            "loss": find_loss + name_loss,
            "find_loss": find_loss,
            "name_loss": name_loss,
            "find_accuracy": find_accuracy,
            "name_accuracy": name_accuracy,
        }

    def _find(
        self, visual_MED: Tensor, ids_XT: Tensor, there: tuple[Tensor, Tensor], slot_F: Tensor, counts_X: Tensor
    ) -> tuple[Tensor, Tensor]:
        chunk_F, place_F = there
        query_FD = torch.zeros((), device=ids_XT.device)
        for distance, query in enumerate(self.queries, start=1):
            before_F = ids_XT[chunk_F, (place_F - distance).clamp(min=0)]
            seen_F1 = (place_F >= distance).unsqueeze(-1)
            query_FD = query_FD + query(self.asks[before_F]) * seen_F1
        query_FD = self.query_norm(query_FD)
        key_SD = self.key_norm(self.key(visual_MED)).flatten(0, 1)
        context_M = torch.arange(len(counts_X), device=ids_XT.device).repeat_interleave(counts_X) // CHUNKS_PER_CONTEXT
        losses, right = [], []
        for context in range(int(context_M.max()) + 1):
            own_F = chunk_F // CHUNKS_PER_CONTEXT == context
            keys = (context_M == context).nonzero().flatten()
            low, high = int(keys[0]) * self.parts, (int(keys[-1]) + 1) * self.parts
            scores = (query_FD[own_F] @ key_SD[low:high].T).float() * HEAD**-0.5
            target = slot_F[own_F] - low
            losses.append(F.cross_entropy(scores, target, reduction="none"))
            right.append((scores.argmax(-1) == target).float())
        return torch.cat(losses).mean(), torch.cat(right).mean()

    def _name(self, visual_MED: Tensor, wanted_F: Tensor, slot_F: Tensor, rank_F: Tensor) -> tuple[Tensor, Tensor]:
        values_SD = self.value(visual_MED).flatten(0, 1)
        points_FRD = self.output(values_SD[slot_F]).unflatten(-1, (RANKS, -1))
        points_FD = points_FRD[torch.arange(len(rank_F), device=rank_F.device), rank_F]
        scores = (points_FD @ self.outputs.T).float()
        return F.cross_entropy(scores, wanted_F), (scores.argmax(-1) == wanted_F).float().mean()
