"""Cross-attention from text to visual tokens: one sublayer for every decoder layer.

Owns the projections, the attention and their initialisation. Does not know pages, reducers or the LLM's class: sizes
come from the LLM's config, starting weights from the self-attention it is handed.

Decisions
- Keys and values are made by `project`, apart from `forward`, so that generation projects once per context.
- No rotary positions: the visual tokens carry their place in their content.
- The paper says of the output projection only that it is initialised by norm. Ours starts at zero (or, with the
  gate, behind tanh(0)), the initialisation under which the untrained model is the base LLM bit for bit.
- A visual token holds several text tokens, and which of them comes next depends on the one before. A sum of what was
  read and of the text leaves that to the layers above; the product, `output_gate`, can pick it out on the spot.
- Sub-tokens: the Hkv key/value heads of a visual token can stand beside each other as Hkv keys of their own, which
  every query head sees. The bytes are the same, but what is found is then a part of what a visual token holds, and
  little is left to pick out. With them comes a learned null key whose value is zero: attention has to go somewhere,
  and most text tokens have nothing to look up.
- eager and sdpa run as transformers runs them. Other attention kernels cannot take a mask over keys alone, so under
  them this sublayer uses sdpa while the LLM's self-attention keeps its kernel.
- B batch, T text tokens, M visual tokens of the context, D width, Dv width of the visual states, H heads, Hkv
  key/value heads, Dh width of one head; with sub-tokens keys and values are (B,2,1,Hkv*M+1,Dh), the null key last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vist.fuse.families import PROJECTIONS, has_bias, stock_projection

MASKABLE_KERNELS = ("eager", "sdpa")


class CrossAttention(nn.Module):
    """Text queries attend to visual keys and values; multi-head or grouped-query like the LLM's own attention.

    `norm` puts an RMSNorm on the queries' side; `gate` scales the output by tanh(gate), gate starting at 0. Without a
    gate the output projection starts at zero. `output_gate` multiplies what was read, channel by channel, by a linear
    function of the normed text before the output projection (a bilinear gate as in arXiv 2002.05202), starting at one.
    `subtokens` makes each key/value head of a visual token a key of its own, seen by every query head.
    """

    is_causal = False  # transformers' sdpa takes a module without this flag for a causal one

    def __init__(
        self,
        config: PreTrainedConfig,
        states_size: int,
        layer_idx: int,
        gate: bool = False,
        norm: bool = True,
        output_gate: bool = False,
        subtokens: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.subtokens = subtokens
        self.num_key_value_groups = config.num_attention_heads // (1 if subtokens else config.num_key_value_heads)
        self.scaling = self.head_dim**-0.5
        query_size, kv_size = config.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if norm else None
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(states_size, kv_size, bias=False)
        self.v_proj = nn.Linear(states_size, kv_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.g_proj = nn.Linear(config.hidden_size, query_size) if output_gate else None
        self.q_norm: nn.Module | None = None
        self.k_norm: nn.Module | None = None
        self.null_key = nn.Parameter(torch.zeros(self.head_dim)) if subtokens else None
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None
        if not gate:
            nn.init.zeros_(self.o_proj.weight)
        if self.g_proj is not None:
            nn.init.zeros_(self.g_proj.weight)
            nn.init.ones_(self.g_proj.bias)

    def match(self, self_attn: nn.Module) -> None:
        """Take on the optional parts of this family's self-attention: biases, and norms on queries and keys."""
        for name in PROJECTIONS:
            if has_bias(self_attn, name):
                projection = getattr(self, name)
                projection.bias = nn.Parameter(projection.weight.new_zeros(projection.out_features))
        if getattr(self_attn, "q_norm", None) is not None:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=self.config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=self.config.rms_norm_eps)

    @torch.no_grad()
    def copy_from(self, self_attn: nn.Module, input_layernorm: Any) -> None:
        """Start from the block's self-attention (paper: Q, K, V copied; only the first rows where narrower).

        Visual states wider than the LLM start with their surplus inputs at zero. With the gate the output projection
        is copied too; without it stays at zero.
        """
        names = ["q_proj", "k_proj", "v_proj"] + (["o_proj"] if self.gate is not None else [])
        for name in names:
            (weight, bias), target = stock_projection(self_attn, name), getattr(self, name)
            inputs = min(weight.shape[1], target.in_features)
            target.weight.zero_()
            target.weight[:, :inputs].copy_(weight[:, :inputs])
            if bias is not None:
                target.bias.copy_(bias)
        for name in ("q_norm", "k_norm"):
            if getattr(self, name) is not None:
                getattr(self, name).weight.copy_(getattr(self_attn, name).weight)
        if self.norm is not None:
            self.norm.weight.copy_(input_layernorm.weight)

    def project(self, states_BMD: Tensor) -> Tensor:
        """Keys and values of a context, (B,M,Dv) -> (B,2,Hkv,M,Dh) or, with sub-tokens, (B,2,1,Hkv*M+1,Dh); once."""
        split = (self.num_key_value_heads, self.head_dim)
        key_BMHD = self.k_proj(states_BMD).unflatten(-1, split)
        if self.k_norm is not None:
            key_BMHD = self.k_norm(key_BMHD)
        value_BMHD = self.v_proj(states_BMD).unflatten(-1, split)
        kv = torch.stack([key_BMHD, value_BMHD], dim=1)
        if self.null_key is None:
            return kv.transpose(2, 3)
        null_2D = torch.stack([self.null_key, torch.zeros_like(self.null_key)]).to(kv.dtype)
        return torch.cat([kv.flatten(2, 3), null_2D[:, None].expand(len(kv), -1, -1, -1)], dim=2).unsqueeze(2)

    def forward(self, hidden_BTD: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the text at (B,T,D) reads from `kv` (B,2,Hkv,M,Dh) -> (B,T,D), to be added to the residual stream.

        `mask` (B,1,1,M) bool, True = visible; None = all. A sample whose mask is all False reads exactly zero.
        """
        if kv.shape[-2] == (0 if self.null_key is None else 1):
            return torch.zeros_like(hidden_BTD)
        normed = self._normed(hidden_BTD)
        query = self._split(normed)
        read = self._attend(query, kv.to(query.dtype), self.visible_keys(mask))
        out = self.o_proj(read if self.g_proj is None else read * self.g_proj(normed))
        if self.gate is not None:
            out = out * self.gate.tanh()
        return out if mask is None else torch.where(mask.any(-1), out, 0)

    def queries(self, hidden_BTD: Tensor) -> Tensor:
        """What the text asks the context for, (B,T,D) -> (B,H,T,Dh)."""
        return self._split(self._normed(hidden_BTD))

    def visible_keys(self, mask: Tensor | None) -> Tensor | None:
        """Which keys are seen, (B,1,1,keys), from which visual tokens are (B,1,1,M); the null key always is."""
        if mask is None or self.null_key is None:
            return mask
        return F.pad(mask.repeat_interleave(self.num_key_value_heads, dim=-1), (0, 1), value=True)

    def _normed(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD if self.norm is None else self.norm(hidden_BTD)

    def _split(self, normed_BTD: Tensor) -> Tensor:
        query = self.q_proj(normed_BTD).unflatten(-1, (-1, self.head_dim))
        return (query if self.q_norm is None else self.q_norm(query)).transpose(1, 2)

    def _attend(self, query: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            # A row of nothing but minus infinity has no softmax; such rows look everywhere and are zeroed afterwards.
            mask = mask | ~mask.any(-1, keepdim=True)
        chosen = self.config._attn_implementation
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(
            chosen if chosen in MASKABLE_KERNELS else "sdpa", eager_attention
        )
        out, _ = kernel(self, query, kv[:, 0], kv[:, 1], mask, scaling=self.scaling, dropout=0.0, is_causal=False)
        return out.flatten(2)


def eager_attention(
    module: CrossAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, Tensor]:
    """Attention written out, with a bool mask -> output (B,T,H,Dh) and weights (B,H,T,M); softmax in float32."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights
