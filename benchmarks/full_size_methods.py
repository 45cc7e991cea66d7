"""The methods of part A of full_size.py: models of random weights, their inputs, and the counts of the same.

Owns shapes, configs and inputs. Does not know how passes are measured.

Decisions
- Distant text is full pages, of which `ink` is computed, as many as the cost table says.
- CEPE* is our baseline with the encoder that CEPE published (Llama-shaped, bidirectional), 64 chunks a pass, which is
  what the cost table counts. Our class's own RoBERTa-large, all chunks in one pass, is a row beside it.
- T_e distant tokens (te), T_d proximal tokens (td), B batch, L distant tokens of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from measuring import build, random_ids, random_pages
from vist.baselines.configuration import TextContextConfig
from vist.baselines.reduced import ReducedVistConfig
from vist.eval.cost_baselines import merged_tower_work, pruned_tower_work, text_context_row
from vist.eval.cost_table import (
    CHUNK,
    INK_OF_PROSE,
    VIT_B_16,
    Backbones,
    Row,
    Visual,
    cepe_row,
    text_row,
    visual_row,
)
from vist.eval.flops import language_model_work
from vist.eval.memory import PAGES_PER_PASS, decoder_activation_bytes
from vist.model.configuration import VistConfig
from vist.vision.encoder import patch_grid
from vist.vision.text_vit import TextViTConfig


@dataclass(frozen=True)
class Sizes:
    """Shapes and lengths of part A; `choices` go into every VIST config."""

    backbones: Backbones = field(default_factory=Backbones)
    small_tower: PreTrainedConfig = field(default_factory=lambda: CLIPVisionConfig(**VIT_B_16))
    text_vit: PreTrainedConfig = field(default_factory=TextViTConfig)
    te: int = 14336
    others: tuple[int, ...] = (2048, 6144, 30720, 63488)
    longest: int = 2**22
    td: int = 2048
    choices: dict[str, Any] = field(default_factory=dict)

    def vist(self, **changes: Any) -> VistConfig:
        """VIST's choices at these sizes."""
        return self.backbones.vist(**{**self.choices, **changes})


def tiny_sizes() -> Sizes:
    """Shapes that a CPU runs in no time."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=64)
    towers = {side: CLIPVisionConfig(**shape, image_size=224, patch_size=side) for side in (56, 32)}
    backbones = Backbones(llm, towers[56], LlamaConfig(**shape, vocab_size=64), num_visual_tokens=4)
    choices = {"resampler_size": 32, "resampler_layers": 1, "resampler_heads": 2}
    text_vit = TextViTConfig(**{**shape, "num_hidden_layers": 1}, patch_size=56)
    return Sizes(backbones, towers[32], text_vit, 512, (256,), 1024, 32, choices)


@dataclass(frozen=True)
class Method:
    """One method of part A: a model, its inputs for T_e distant tokens, and the count of the same."""

    name: str
    model: Callable[[torch.device, torch.dtype, str], Any]
    inputs: Callable[[Any, int], dict[str, Tensor]]
    count: Callable[[int], Row | None]
    kernel: str = "sdpa"

    def written_out(self) -> Method:
        """The same with attention kernels that write scores to memory."""
        return replace(self, name=f"{self.name}, scores written out", kernel="eager")


class LlamaChunks(nn.Module):
    """CEPE's published text encoder: a bidirectional Llama over chunks of 256 tokens, 64 chunks a pass."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.llama = AutoModel.from_config(config)
        for layer in self.llama.layers:
            layer.self_attn.is_causal = False

    def forward(self, ids_BL: Tensor, embedded_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B,L) of whole chunks -> one state for each (B,L,D), in use (B,L)."""
        passes = ids_BL.reshape(-1, CHUNK).split(PAGES_PER_PASS)
        states = torch.cat([self.llama(input_ids=part, use_cache=False).last_hidden_state for part in passes])
        return states.view(*ids_BL.shape, -1), mask_BL


def full_text(sizes: Sizes) -> Method:
    """The LLM over distant and proximal text."""
    llm, td = sizes.backbones.llm, sizes.td

    def count(te: int) -> Row:
        row = text_row("full text", llm, te + td)
        memory = {**row.memory, "activations": decoder_activation_bytes(llm, te + td, td, 2)}
        return replace(
            row, te=te, td=td, work={**row.work, "llm": language_model_work(llm, te + td, td)}, memory=memory
        )

    return Method(
        "full text",
        lambda device, dtype, kernel: build(AutoModelForCausalLM, llm, device, dtype, kernel),
        lambda model, te: {"input_ids": random_ids(llm, te + td, model.device)},
        count,
    )


def text_inputs(model: Any, te: int) -> dict[str, Tensor]:
    """Distant text as `context_ids` (1,T_e) and `context_mask`."""
    ids = random_ids(model.config.text_config, te, model.device)
    return {"context_ids": ids, "context_mask": torch.ones_like(ids, dtype=torch.bool)}


def text_context(sizes: Sizes, name: str, config: TextContextConfig, count: Callable[[int], Row | None]) -> Method:
    """A baseline with a text encoder."""
    return Method(
        name,
        lambda device, dtype, kernel: build(AutoModelForImageTextToText, config, device, dtype, kernel),
        text_inputs,
        count,
    )


def cepe(sizes: Sizes, published: bool) -> Method:
    """CEPE* with the encoder that CEPE published and the table counts, or with our class's RoBERTa of that size."""
    llm, encoder = sizes.backbones.llm, sizes.backbones.encoder
    layers = 1 if published else encoder.num_hidden_layers
    shape = {"encoder_size": encoder.hidden_size, "encoder_layers": layers}
    config = TextContextConfig(
        text_config=llm, encoder="cepe", chunk_size=CHUNK, encoder_heads=encoder.num_attention_heads, **shape
    )
    if not published:
        return text_context(sizes, "CEPE*, RoBERTa, one pass", config, lambda te: None)

    def model(device: torch.device, dtype: torch.dtype, kernel: str) -> Any:
        whole = build(AutoModelForImageTextToText, config, device, dtype, kernel)
        with torch.device(device):
            whole.encoder = LlamaChunks(encoder).to(dtype).eval().requires_grad_(False)
        whole.encoder.llama.set_attn_implementation(kernel)
        return whole

    return Method("CEPE*", model, text_inputs, lambda te: cepe_row("CEPE*", llm, encoder, te, sizes.td))


def shorteners(sizes: Sizes) -> Iterator[Method]:
    """Mean pooling and the pyramid at VIST's ratio at the main length."""
    visual, llm = Visual(sizes.vist()), sizes.backbones.llm
    ratio = max(1.0, sizes.te / (visual.pages(sizes.te) * sizes.backbones.num_visual_tokens))
    for encoder, name in (("pooled", "mean pooling"), ("hierarchical", "hierarchical convolutions")):
        config = TextContextConfig(text_config=llm, encoder=encoder, ratio=ratio)
        yield text_context(sizes, name, config, lambda te, c=config, n=name: text_context_row(n, c, te, sizes.td))


def visual_method(sizes: Sizes, name: str, visual: Visual) -> Method:
    """VIST with these choices; blank patches are dropped where not all have ink."""
    config = visual.config
    config.vision_drop_blank = visual.ink < 1

    def inputs(model: Any, te: int) -> dict[str, Tensor]:
        grid = patch_grid(config.vision_config, 224, 224)
        return random_pages(visual.pages(te), grid, model.device, visual.ink)

    def projected(model: Any, te: int) -> dict[str, Tensor]:
        tokens = visual.pages(te) * config.num_visual_tokens
        states = torch.randn(1, tokens, config.resampler_size, device=model.device, dtype=model.dtype)
        mask = torch.ones(1, tokens, dtype=torch.bool, device=model.device)
        return {"cross_kv": model.project_context(states), "cross_mask": mask}

    def model(device: torch.device, dtype: torch.dtype, kernel: str) -> Any:
        whole = build(AutoModelForImageTextToText, config, device, dtype, kernel)
        if visual.encoded:
            del whole.vision_tower, whole.resampler
        return whole

    return Method(
        name,
        model,
        projected if visual.encoded else inputs,
        lambda te: visual_row(name, visual, te, sizes.td),
    )


def reduced(sizes: Sizes, name: str, reduction: str, work: Any) -> Method:
    """ToMe† or FastV†: VIST with a relieved tower."""
    plain = Visual(sizes.vist())
    fields = ("text_config", "vision_config", "num_visual_tokens", "resampler_size", *sizes.choices)
    config = ReducedVistConfig(**{key: getattr(plain.config, key) for key in fields}, reduction=reduction)

    def count(te: int) -> Row:
        row = visual_row(name, plain, te, sizes.td)
        return replace(row, work={**row.work, "encoder": work(plain.config.vision_config) * row.pages})

    return replace(visual_method(sizes, name, Visual(config)), count=count)


def methods(sizes: Sizes) -> list[Method]:
    """Every method at the main length, the most important first."""
    half = sizes.backbones.half_tower()

    def visual(name: str, style: str = "vist", ink: float = 1.0, encoded: bool = False, **changes: Any) -> Method:
        return visual_method(sizes, name, Visual(sizes.vist(**changes), style, ink, encoded))

    text, published, plain = full_text(sizes), cepe(sizes, True), visual("VIST")
    return [
        text,
        published,
        plain,
        visual("7 px, TextViT", "vist-7", INK_OF_PROSE, vision_config=sizes.text_vit),
        published.written_out(),
        plain.written_out(),
        visual("VIST, document encoded before", encoded=True),
        visual("7 px pages", "vist-7"),
        visual("half the encoder's layers", vision_config=half),
        visual("ViT-B/16", vision_config=sizes.small_tower),
        visual("7 px, ViT-B/16, no blanks", "vist-7", INK_OF_PROSE, vision_config=sizes.small_tower),
        visual("TextViT", vision_config=sizes.text_vit),
        reduced(sizes, "ToMe†", "tome", merged_tower_work),
        reduced(sizes, "FastV†", "fastv", pruned_tower_work),
        *shorteners(sizes),
        cepe(sizes, False),
    ]
