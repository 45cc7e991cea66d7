"""Dense local alignment of VIST2's aligner: every part of every visual token says which text tokens begin in it.

Owns the data of single chunks and the losses. Must not know how the LLM reads.

Shapes: X chunks, K visual tokens of the longest, J parts of a visual token, T text tokens of the longest chunk, F text
tokens of the whole batch that are asked for, M visual tokens of the batch, D width, Dh width of a key, L layers, E
levels of a visual token.

Decisions
- At a ratio of 4 a visual token stands for four text tokens: each must come out of it by itself, in its order, through
  a linear map, since linear maps are what an attention head has. So the visual tokens of a chunk go through the LLM,
  and every part is read where its head will read it.
- To be named: what the LLM's own head reads of a part must be the token that begins in it, by the LLM's own last norm
  and output layer. So nothing about it has to be learned again when the LLM reads. Of several tokens that begin in one
  part the first counts.
- The LLM learns with it: its heads read 64 numbers each, and left as they were they name far fewer tokens. Next-token
  loss on the text of half of the chunks keeps it a language model.
- To be found: a query made of the embeddings of the text tokens before a token must match the key of the part in which
  it begins, among those of several chunks. Keys and queries are the LLM's business in the next stage; their maps are
  dropped.
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
from vist.train.looking import AttentionCall, attention_calls, head_of, read_head, say
from vist.train.reading import random_text
from vist.train.strips import NOWHERE, Strips, Tokens
from vist.vision.text_vit import ASCII

HEAD = 64
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
        """The chunk's `pages`; `ids`, `token`, `part` (T,) of its text; NOWHERE = not drawn, or behind another."""
        tokens = Tokens.of(text, self.processor.tokenizer)
        token, part = self.strips.places(text, drawn, tokens.starts)
        place = np.where(token == NOWHERE, NOWHERE, token * self.strips.parts + part)
        first = np.zeros(len(place), dtype=bool)
        first[np.unique(place, return_index=True)[1]] = True
        return {"pages": drawn, "ids": np.array(tokens.ids), "token": np.where(first, token, NOWHERE), "part": part}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pages as the model takes them, `ids`, `token`, `part` (X,T), and every second chunk's `text` (X/2,T+1).

        All padded with NOWHERE; a text begins with the special token that every sequence begins with.
        """
        frames = [[self.processor.frame(row["pages"])] for row in rows]
        packed = self.processor.pack(frames)
        names = ("pixel_values", "ink_mask", "page_chunks", "visual_counts")
        longest = max(len(row["ids"]) for row in rows)
        batch: dict[str, Any] = {name: packed[name] for name in names}
        for name in ("ids", "token", "part"):
            padded = [np.pad(row[name], (0, longest - len(row[name])), constant_values=NOWHERE) for row in rows]
            batch[name] = torch.from_numpy(np.stack(padded))
        batch["text"] = F.pad(batch["ids"][::2], (1, 0), value=self.processor.tokenizer.bos_token_id)
        return batch


class ChunkAlignment(nn.Module):
    """A VIST2 model with the two alignment losses and that of text, in the shape that the Trainer expects."""

    asks: Tensor

    def __init__(self, model: Vist2ForCausalLM, parts: int):
        super().__init__()
        inputs = model.get_input_embeddings().weight
        assert isinstance(inputs, Tensor)
        width = inputs.shape[1]
        self.model = model
        self.register_buffer("asks", F.normalize(inputs.detach(), dim=-1) * width**0.5, persistent=False)
        self.queries = nn.ModuleList(nn.Linear(width, HEAD, bias=False) for _ in range(BEFORE))
        # One parameter of three axes: Muon, which trains the linear layers, makes it learn half as fast as AdamW does.
        self.keys = nn.Parameter(torch.empty(parts, HEAD, width))
        nn.init.normal_(self.keys, std=width**-0.5)
        self.query_norm = nn.RMSNorm(HEAD, eps=1e-6)
        self.key_norm = nn.RMSNorm(HEAD, eps=1e-6)
        for norm in (self.query_norm, self.key_norm):
            nn.init.constant_(norm.weight, NORM_WEIGHT)

    def forward(self, ids: Tensor, token: Tensor, part: Tensor, text: Tensor, **pages: Tensor) -> dict[str, Tensor]:
        """The losses, and how often the right part and the right token come first."""
        counts_X = pages["visual_counts"].sum(1)
        calls, hidden_LMD = self._run(self.model.encode_chunks(**pages), counts_X)
        first_X = counts_X.cumsum(0) - counts_X
        there = (token != NOWHERE).nonzero(as_tuple=True)
        visual_F, part_F = first_X[there[0]] + token[there], part[there]
        find_loss, find_accuracy = self._find(hidden_LMD, ids, there, visual_F * len(self.keys) + part_F, counts_X)
        name_loss, name_accuracy = self._name(calls, hidden_LMD, ids[there], visual_F, part_F)
        text_loss = self._continue(text)
        return {
            "loss": find_loss + name_loss + text_loss,
            "text_loss": text_loss,
            "find_loss": find_loss,
            "name_loss": name_loss,
            "find_accuracy": find_accuracy,
            "name_accuracy": name_accuracy,
        }

    def _run(self, visual_MED: Tensor, counts_X: Tensor) -> tuple[list[AttentionCall], Tensor]:
        """Every chunk's visual tokens through the LLM, each chunk alone -> what its layers' attention is given."""
        alive_XK = torch.arange(int(counts_X.max()), device=counts_X.device) < counts_X[:, None]
        embeds_XKED = visual_MED.new_zeros(*alive_XK.shape, *visual_MED.shape[1:])
        embeds_XKED = embeds_XKED.masked_scatter(alive_XK[..., None, None], visual_MED)
        with attention_calls(self.model.language_model) as calls:
            self.model.read(embeds_XKED, use_cache=False, logits_to_keep=1)
        return calls, torch.stack([call.options["hidden_states"][alive_XK] for call in calls])

    def _continue(self, text_XT: Tensor) -> Tensor:
        """Next-token loss of texts without pages."""
        logits_XTV = self.model.language_model(text_XT[:, :-1].clamp(min=0), use_cache=False).logits
        return F.cross_entropy(logits_XTV.flatten(0, 1).float(), text_XT[:, 1:].flatten(), ignore_index=NOWHERE)

    def _find(
        self,
        hidden_LMD: Tensor,
        ids_XT: Tensor,
        there: tuple[Tensor, ...],
        slot_F: Tensor,
        counts_X: Tensor,
    ) -> tuple[Tensor, Tensor]:
        chunk_F, place_F = there
        query_FD = torch.zeros((), device=ids_XT.device)
        for distance, query in enumerate(self.queries, start=1):
            before_F = ids_XT[chunk_F, (place_F - distance).clamp(min=0)]
            seen_F1 = (place_F >= distance).unsqueeze(-1)
            query_FD = query_FD + query(self.asks[before_F]) * seen_F1
        query_FD = self.query_norm(query_FD)
        parts = len(self.keys)
        layer_J, _ = head_of(torch.arange(parts, device=ids_XT.device), self.model.language_model)
        key_MJD = torch.einsum("jmd,jhd->mjh", hidden_LMD[layer_J], self.keys)
        key_SD = self.key_norm(key_MJD).flatten(0, 1)
        context_M = torch.arange(len(counts_X), device=ids_XT.device).repeat_interleave(counts_X) // CHUNKS_PER_CONTEXT
        losses, right = [], []
        for context in range(int(context_M.max()) + 1):
            own_F = chunk_F // CHUNKS_PER_CONTEXT == context
            keys = (context_M == context).nonzero().flatten()
            low, high = int(keys[0]) * parts, (int(keys[-1]) + 1) * parts
            scores = (query_FD[own_F] @ key_SD[low:high].T).float() * HEAD**-0.5
            target = slot_F[own_F] - low
            losses.append(F.cross_entropy(scores, target, reduction="none"))
            right.append((scores.argmax(-1) == target).float())
        return torch.cat(losses).mean(), torch.cat(right).mean()

    def _name(
        self, calls: Sequence[AttentionCall], hidden_LMD: Tensor, wanted_F: Tensor, visual_F: Tensor, part_F: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer_F, head_F = head_of(part_F, self.model.language_model)
        losses, right = [], []
        for layer, call in enumerate(calls):
            own_F = layer_F == layer
            read = read_head(call.module, hidden_LMD[layer, visual_F[own_F]], head_F[own_F])
            scores = say(self.model.language_model, read).float()
            losses.append(F.cross_entropy(scores, wanted_F[own_F], reduction="none"))
            right.append((scores.argmax(-1) == wanted_F[own_F]).float())
        return torch.cat(losses).mean(), torch.cat(right).mean()
