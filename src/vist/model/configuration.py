"""The configuration of a VIST model: two backbones and what stands between them.

Owns the names, defaults and checks of every choice. Imports no tensor code: it is read long before a model is built.

Decisions
- Backbones are configs of their own under `text_config` and `vision_config`, as transformers' composite models have.
- Checks raise VistError here, once; the modules that read a config trust it.
- Importing this file makes the config known to `AutoConfig`. Building a config makes the model classes known to the
  other Auto classes: each of them reads the config first, so nothing has to be imported earlier.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vist.errors import VistError

REDUCER_NAMES = ("perceiver", "local")


class VistConfig(PreTrainedConfig):
    """Choices of a VIST model; the defaults are the paper's where it states them.

    text_config, vision_config: the LLM's and the vision tower's own configs.
    num_visual_tokens: K, visual tokens per page (paper: 64); a model can be read with fewer (docs/dial.md).
    reducer: "perceiver" (paper) or "local" (latents start at their part of the reading order).
    resampler_layers, resampler_heads: depth and heads of the reducer (the paper is silent; Flamingo: 6 and 8).
    resampler_size: width of visual tokens; 0 = the LLM's width.
    local_expansion, local_preceding, local_following: of the "local" reducer: hidden units of its group MLP per output
        (with 2, what a part says is learned several times more slowly than with 6 or 8), and how many parts before and
        after its own the start of a latent sees.
    local_shortcut: of the "local" reducer: a linear path beside the group MLP, for an encoder whose features already
        say, linearly, what is wanted.
    local_merge: of the "local" reducer: weights for reading merged parts, which training with fewer visual tokens uses.
    vision_drop_blank: take blank patches out of CLIP and SigLIP before their first layer (the paper masks them
        afterwards); SigLIP2 masks them inside and TextViT never computes them.
    cross_gate, cross_norm: tanh gate and query norm of the cross-attention sublayers.
    cross_subtokens: make each key/value head of a visual token a key of its own that every query head sees, beside a
        learned null key. The same bytes per visual token, a finer lookup.
    cross_output_gate: scale every channel that was read by a linear function of the text that asks.
    num_page_positions: 0 = none (paper); otherwise a learned code per page, counted from the last page backwards and
        clipped to this many.
    pve_weight, pve_temperature, pve_normalize: weight of the PVE loss (paper: 1), its temperature (paper: 0.07),
        cosine instead of inner product (paper: inner product).
    style: name of the page style the model was trained on.
    lora_rank, lora_alpha, lora_targets: rank of the low-rank updates beside the LLM's frozen projections (0 = none, the
        paper), their scale alpha / rank, and the names of those projections (none = query and value).
    """

    model_type = "vist"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values", "lm_loss", "pve_loss"]

    text_config: Any = None
    vision_config: Any = None
    num_visual_tokens: int = 64
    reducer: str = "perceiver"
    resampler_layers: int = 6
    resampler_heads: int = 8
    resampler_size: int = 0
    local_expansion: int = 2
    local_preceding: int = 0
    local_following: int = 0
    local_shortcut: bool = False
    local_merge: bool = False
    vision_drop_blank: bool = False
    cross_gate: bool = False
    cross_output_gate: bool = False
    cross_subtokens: bool = False
    cross_norm: bool = True
    num_page_positions: int = 0
    pve_weight: float = 1.0
    pve_temperature: float = 0.07
    pve_normalize: bool = False
    style: str = "vist"
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: Any = ()
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        import_module("vist.model.vist")  # registers the model and the vision tower with the Auto classes
        text_config = sub_config(self.text_config, "llama")
        self.text_config = text_config
        self.vision_config = sub_config(self.vision_config, "clip_vision_model")
        if self.resampler_size == 0:
            self.resampler_size = text_config.hidden_size
        self.tie_word_embeddings = bool(getattr(text_config, "tie_word_embeddings", False))
        # The base class would otherwise reset the attention kernel of backbones that are already running.
        kernels = {name: getattr(self, name)._attn_implementation for name in self.sub_configs}
        kwargs["attn_implementation"] = kwargs.get("attn_implementation") or kernels
        self.lora_targets = list(self.lora_targets)
        super().__post_init__(**kwargs)
        self._check()

    @property
    def vision_size(self) -> int:
        """Width of the vision tower's features."""
        return self.vision_config.hidden_size

    def choices(self) -> dict[str, Any]:
        """Every choice that `from_backbones` takes beside the backbones, by name."""
        beside = ("text_config", "vision_config", "tie_word_embeddings")
        fields = (name for name, kind in VistConfig.__annotations__.items() if not str(kind).startswith("ClassVar"))
        return {name: getattr(self, name) for name in fields if name not in beside}

    def _check(self) -> None:
        """Raises VistError on a value that no model can be built from."""
        positive = ("num_visual_tokens", "resampler_layers", "resampler_heads", "resampler_size", "local_expansion")
        for name in positive:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise VistError(f"{name} must be a positive whole number, got {value!r}.")
        if self.resampler_size % self.resampler_heads:
            raise VistError(
                f"resampler_size ({self.resampler_size}) must be a multiple of resampler_heads "
                f"({self.resampler_heads}); change one of them."
            )
        if self.reducer not in REDUCER_NAMES:
            raise VistError(f"Unknown reducer {self.reducer!r}; choose one of {', '.join(REDUCER_NAMES)}.")
        for name in ("lora_rank", "num_page_positions", "local_preceding", "local_following"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise VistError(f"{name} must be a whole number, got {value!r}.")
            if value < 0:
                raise VistError(f"{name} must be 0 (off) or more, got {value}.")
        if self.lora_alpha <= 0:
            raise VistError(f"lora_alpha must be positive, got {self.lora_alpha}; twice lora_rank is usual.")
        if self.pve_weight < 0:
            raise VistError(f"pve_weight must be 0 (off) or more, got {self.pve_weight}.")
        if self.pve_temperature <= 0:
            raise VistError(f"pve_temperature must be positive, got {self.pve_temperature}; the paper uses 0.07.")


def sub_config(value: dict | PreTrainedConfig | None, default: str) -> PreTrainedConfig:
    """A backbone's config from what a file or a caller gave. Raises VistError on an unknown model type."""
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(value or {})
    model_type = fields.pop("model_type", default)
    if model_type not in CONFIG_MAPPING:
        raise VistError(f"Unknown backbone type {model_type!r} in the config; update transformers or mend the file.")
    return CONFIG_MAPPING[model_type](**fields)


AutoConfig.register("vist", VistConfig, exist_ok=True)
