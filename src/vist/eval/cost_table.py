"""What reading a long context costs by count, method by method: the paper's rows and ours.

Owns the methods, their rows and the two presets. Does not know how operations are counted (flops.py, memory.py) nor how
a device is measured (cost.py).

Decisions
- A forward pass reads T_e distant tokens and scores all T_d proximal ones, batch 1, as the paper's Table 1 does.
- How many pages distant text takes follows from the paper: 4,096 tokens are 28 pages at 10 px, and 9, 8 and 7 px hold
  240, 270 and 310 tokens where 10 px holds 218. (The renderer here packs English prose more densely.)
- `paper_tflops` counts as the paper's own figures turn out to have been counted; docs/cost.md shows how that was found:
  a row with only text has no attention products in it, and a vision tower only its feed-forwards.
- CEPE*'s encoder has the shape CEPE published: Llama-shaped, 24 layers, width 1,024, feed-forward 4,096.
- T_e tokens of distant text (te), T_d tokens of proximal text (td), K visual tokens per page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from vist.eval.flops import (
    Work,
    cross_projection_work,
    cross_reading_work,
    language_model_work,
    linear,
    resampler_work,
    text_encoder_work,
    tower_work,
)
from vist.eval.memory import (
    cross_parameters,
    decoder_activation_bytes,
    kv_bytes,
    language_model_parameters,
    resampler_parameters,
    text_encoder_activation_bytes,
    tower_activation_bytes,
    tower_parameters,
)
from vist.model.configuration import VistConfig
from vist.vision.encoder import num_patches
from vist.vision.text_vit import TextViTConfig

PARTS = ("encoder", "resampler", "cross_attention", "llm")
CHUNK = 256  # tokens of one chunk of CEPE's encoder
#: Text tokens on one page of 224 x 224 px, by page style (paper: 4,096 tokens on 28 pages; its table of font sizes).
TOKENS_PER_PAGE = {
    style: 4096 / 28 * held / 218 for style, held in (("vist", 218), ("vist-9", 240), ("vist-8", 270), ("vist-7", 310))
}
#: TFLOPs and GB that the paper's Table 1 gives, by method, T_e and T_d.
PUBLISHED = {
    ("TinyLlama", 0, 4096): (8.47, 5.46),
    ("CEPE*", 2048, 2048): (8.26, 4.80),
    ("VIST", 2048, 2048): (7.72, 4.59),
    ("CEPE*", 6144, 2048): (13.27, 7.74),
    ("VIST", 6144, 2048): (11.65, 4.94),
    ("CEPE*", 14336, 2048): (23.30, 13.59),
    ("VIST", 14336, 2048): (19.52, 6.75),
}
TINY_LLAMA: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
CEPE_ENCODER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 32000,
}
VIT_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
VIT_B_16: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}


@dataclass(frozen=True)
class Row:
    """The cost of one method by count; `work` by part, `memory` by kind in bytes."""

    method: str
    te: int
    td: int
    pages: int
    work: dict[str, Work]
    paper_work: int
    parameters: int
    memory: dict[str, int]
    published: tuple[float, float] | None = None

    @property
    def tflops(self) -> float:
        """All operations of the pass, in 10^12."""
        return sum(work.total for work in self.work.values()) / 1e12

    @property
    def peak_bytes(self) -> int:
        """Weights, keys and values, and activations together."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """The row under its stable keys (docs/cost.md)."""
        published = self.published or (None, None)
        return {
            "method": self.method,
            "te": self.te,
            "td": self.td,
            "pages": self.pages,
            "tflops": self.tflops,
            "tflops_by_part": {part: self.work[part].total / 1e12 for part in PARTS},
            "paper_tflops": self.paper_work / 1e12,
            "published_tflops": published[0],
            "published_gb": published[1],
            "parameters": self.parameters,
            "kv_bytes": self.memory["kv"] + self.memory["cross_kv"],
            "peak_bytes": self.peak_bytes,
            "memory_by_kind": dict(self.memory),
        }


@dataclass(frozen=True)
class Visual:
    """How VIST reads distant text: the model's choices, the page style, and what is saved.

    `ink`: share of each page's patches that is computed (1 = all). `encoded`: the context's keys and values are there
    already, computed once when the document came in.
    """

    config: VistConfig
    style: str = "vist"
    ink: float = 1.0
    encoded: bool = False

    def pages(self, te: int) -> int:
        """Pages that `te` tokens take."""
        return ceil(te / TOKENS_PER_PAGE[self.style] - 1e-9)


def text_row(method: str, llm: PreTrainedConfig, td: int, value_bytes: int = 2) -> Row:
    """The LLM alone on `td` tokens of text."""
    work = language_model_work(llm, td, td)
    parameters = language_model_parameters(llm)
    memory = _memory(llm, parameters, td, 0, 0, value_bytes)
    return Row(method, 0, td, 0, _parts(llm=work), work.linear, parameters, memory)


def cepe_row(
    method: str, llm: PreTrainedConfig, encoder: PreTrainedConfig, te: int, td: int, value_bytes: int = 2
) -> Row:
    """CEPE*: a text encoder reads distant text in chunks, cross-attention reads every one of its tokens."""
    work = _parts(
        encoder=text_encoder_work(encoder, te, CHUNK),
        cross_attention=cross_reading_work(llm, td, te) + cross_projection_work(llm, encoder.hidden_size, te),
        llm=language_model_work(llm, td, td),
    )
    parameters = (
        language_model_parameters(llm)
        + language_model_parameters(encoder, causal=False)
        + cross_parameters(llm, encoder.hidden_size)
    )
    alive = text_encoder_activation_bytes(encoder, te, CHUNK, value_bytes)
    memory = _memory(llm, parameters, td, te, alive + te * encoder.hidden_size * value_bytes, value_bytes)
    return Row(method, te, td, 0, work, sum(part.total for part in work.values()), parameters, memory)


def visual_row(method: str, visual: Visual, te: int, td: int, value_bytes: int = 2) -> Row:
    """VIST: pages, vision tower, Resampler, cross-attention over visual tokens."""
    config, pages = visual.config, visual.pages(te)
    llm, tower = config.text_config, config.vision_config
    tokens = pages * config.num_visual_tokens
    patches = round(num_patches(tower) * visual.ink)
    read = 0 if visual.encoded else pages
    work = _parts(
        encoder=tower_work(tower, patches, pooled=visual.ink == 1.0) * read,
        resampler=resampler_work(config, num_patches(tower)) * read,
        cross_attention=cross_reading_work(llm, td, tokens)
        + (Work() if visual.encoded else cross_projection_work(llm, config.resampler_size, tokens)),
        llm=language_model_work(llm, td, td),
    )
    parameters = language_model_parameters(llm) + cross_parameters(llm, config.resampler_size)
    alive = 0
    if not visual.encoded:
        parameters += tower_parameters(tower) + resampler_parameters(config)
        features = pages * num_patches(tower) * tower.hidden_size * value_bytes
        alive = tower_activation_bytes(tower, patches, pages, value_bytes) + features
    counted = sum(part.total for part in work.values()) - read * _uncounted(tower, patches)
    memory = _memory(llm, parameters, td, tokens, alive, value_bytes)
    return Row(method, te, td, pages, work, counted, parameters, memory)


def _uncounted(tower: Any, patches: int) -> int:
    """Operations of a tower's attention on one page, which the paper's figures do not hold."""
    work = tower_work(tower, patches)
    tokens = patches + (1 if tower.model_type == "clip_vision_model" else 0)
    return work.mixing + tower.num_hidden_layers * linear(tokens, tower.hidden_size, 4 * tower.hidden_size).total


def _parts(**work: Work) -> dict[str, Work]:
    return {part: work.get(part, Work()) for part in PARTS}


def _memory(
    llm: PreTrainedConfig, parameters: int, td: int, context: int, encoding: int, value_bytes: int
) -> dict[str, int]:
    """Bytes by kind; encoder and LLM run one after the other, so the larger of their activations counts."""
    return {
        "weights": parameters * value_bytes,
        "kv": kv_bytes(llm, td, value_bytes),
        "cross_kv": kv_bytes(llm, context, value_bytes),
        "activations": max(encoding, decoder_activation_bytes(llm, td, td, value_bytes)),
    }


@dataclass(frozen=True)
class Backbones:
    """The models a table is about, as configs; the defaults are the paper's."""

    llm: PreTrainedConfig = field(default_factory=lambda: LlamaConfig(**TINY_LLAMA))
    tower: PreTrainedConfig = field(default_factory=lambda: CLIPVisionConfig(**VIT_L))
    encoder: PreTrainedConfig = field(default_factory=lambda: LlamaConfig(**CEPE_ENCODER))
    num_visual_tokens: int = 64

    @property
    def paper(self) -> bool:
        """Whether published figures are about these models."""
        shape = (self.llm.hidden_size, self.llm.num_hidden_layers, self.tower.hidden_size, self.tower.num_hidden_layers)
        return shape == (2048, 22, 1024, 24) and self.num_visual_tokens == 64

    def half_tower(self) -> PreTrainedConfig:
        """The tower's first half."""
        half = deepcopy(self.tower)
        half.num_hidden_layers = (half.num_hidden_layers + 1) // 2
        return half

    def vist(self, **changes: Any) -> VistConfig:
        """VIST's choices around these backbones: a Resampler as wide as the paper's tower, 1,024."""
        choices = {"num_visual_tokens": self.num_visual_tokens, "resampler_size": 1024, **changes}
        return VistConfig(text_config=self.llm, **{"vision_config": self.tower, **choices})


def table1(backbones: Backbones) -> Iterator[Row]:
    """The rows of the paper's Table 1 whose cost follows from their shapes."""
    rows = [text_row("TinyLlama" if backbones.paper else "text alone", backbones.llm, 4096)]
    for te in (2048, 6144, 14336):
        rows.append(cepe_row("CEPE*", backbones.llm, backbones.encoder, te, 2048))
        rows.append(visual_row("VIST", Visual(backbones.vist()), te, 2048))
    for row in rows:
        known = PUBLISHED.get((row.method, row.te, row.td)) if backbones.paper else None
        yield replace(row, published=known)


#: Share of patches with ink on full pages of the packaged book, style `vist-7` (`vist render` draws them).
INK_OF_PROSE = 0.98


def beyond(backbones: Backbones, te: int = 14336, td: int = 2048) -> Iterator[Row]:
    """The paper's two methods at one window, and what this library offers to make it cheaper."""
    half = backbones.half_tower()
    small, text_vit = CLIPVisionConfig(**VIT_B_16), TextViTConfig()
    yield cepe_row("CEPE*", backbones.llm, backbones.encoder, te, td)
    plain = Visual(backbones.vist())
    rows: list[tuple[str, Visual]] = [
        ("VIST", plain),
        ("7 px pages", replace(plain, style="vist-7")),
        ("blank patches dropped", replace(plain, ink=INK_OF_PROSE)),
        ("half the encoder's layers", Visual(backbones.vist(vision_config=half))),
        ("32 visual tokens a page", Visual(backbones.vist(num_visual_tokens=32))),
        ("ViT-B/16", Visual(backbones.vist(vision_config=small))),
        ("TextViT", Visual(backbones.vist(vision_config=text_vit))),
        ("7 px, half the layers, no blanks", Visual(backbones.vist(vision_config=half), "vist-7", INK_OF_PROSE)),
        ("7 px, ViT-B/16, no blanks", Visual(backbones.vist(vision_config=small), "vist-7", INK_OF_PROSE)),
        ("7 px, TextViT", Visual(backbones.vist(vision_config=text_vit), "vist-7", INK_OF_PROSE)),
        ("VIST, document encoded before", replace(plain, encoded=True)),
    ]
    for method, visual in rows:
        yield visual_row(method, visual, te, td)


PRESETS: dict[str, Callable[[Backbones], Iterator[Row]]] = {"table1": table1, "beyond": beyond}
