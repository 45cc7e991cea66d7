"""The configuration of a VIST2 model: an LLM, a vision tower and the aligner between them.

Owns the names, defaults and checks of every choice. Imports no tensor code. How a text is cut into chunks and drawn is
the processor's (vist2_processing.py); what both must agree on is compared where they meet, in `generate`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from vist.errors import VistError
from vist.model.configuration import sub_config

ALIGNER_NAMES = ("shuffle", "resampler")


class Vist2Config(PreTrainedConfig):
    """Choices of a VIST2 model. The paper states the parts; their shapes are ours.

    text_config, vision_config: the LLM's and the vision tower's own configs.
    aligner: "shuffle" (neighbouring patches side by side, then an MLP) or "resampler" (learned latents).
    patches_per_token: of "shuffle": most patches that become one visual token, which bounds the ratio.
    max_visual_tokens: of "resampler": its latents, the most visual tokens of a chunk.
    aligner_preceding, aligner_following: of "shuffle": patches before and after its own that a visual token sees too.
    aligner_convolutions: of "shuffle": two-layer convolutions over neighbouring patches, before patches are put side by
        side; preceding and following patches are then seen by each convolution instead of the visual token.
    aligner_expansion: of "shuffle": hidden units of the MLP per width of the LLM.
    aligner_shortcut: of "shuffle": a linear path beside the MLP.
    aligner_layers, aligner_heads: Perceiver layers that let every token look at its whole chunk; "resampler" has at
        least one.
    visual_levels: levels of the LLM at which a visual token is given: 1 = as an embedding; more: something is added to
        what enters the layers above the first as well (DeepStack, arXiv 2406.04334).
    style: name of the page style the model was trained on.
    """

    model_type = "vist2"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values"]

    text_config: Any = None
    vision_config: Any = None
    aligner: str = "shuffle"
    patches_per_token: int = 8
    max_visual_tokens: int = 64
    aligner_preceding: int = 0
    aligner_following: int = 0
    aligner_convolutions: int = 0
    aligner_expansion: int = 4
    aligner_shortcut: bool = False
    aligner_layers: int = 0
    aligner_heads: int = 8
    visual_levels: int = 1
    style: str = "vist"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        import_module("vist.model.vist2")  # registers the model and the vision tower with the Auto classes
        text_config = sub_config(self.text_config, "qwen3")
        self.text_config = text_config
        self.vision_config = sub_config(self.vision_config, "siglip2_vision_model")
        self.tie_word_embeddings = bool(getattr(text_config, "tie_word_embeddings", False))
        # The base class would otherwise reset the attention kernel of backbones that are already running.
        kernels = {name: getattr(self, name)._attn_implementation for name in self.sub_configs}
        kwargs["attn_implementation"] = kwargs.get("attn_implementation") or kernels
        super().__post_init__(**kwargs)
        self._check()

    @property
    def vision_size(self) -> int:
        """Width of the vision tower's features."""
        return self.vision_config.hidden_size

    @property
    def text_size(self) -> int:
        """Width of the LLM's embeddings."""
        return self.text_config.hidden_size

    def _check(self) -> None:
        """Raises VistError on a value that no model can be built from."""
        if self.aligner not in ALIGNER_NAMES:
            raise VistError(f"Unknown aligner {self.aligner!r}; choose one of {', '.join(ALIGNER_NAMES)}.")
        lowest = {"patches_per_token": 1, "max_visual_tokens": 1, "aligner_expansion": 1, "aligner_heads": 1}
        lowest |= {"aligner_preceding": 0, "aligner_following": 0, "aligner_convolutions": 0, "visual_levels": 1}
        lowest["aligner_layers"] = 1 if self.aligner == "resampler" else 0
        for name, low in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise VistError(
                    f"{name} must be a whole number of at least {low} for aligner={self.aligner!r}, got {value!r}."
                )
        if self.visual_levels > self.text_config.num_hidden_layers:
            raise VistError(
                f"visual_levels={self.visual_levels}, but the LLM has {self.text_config.num_hidden_layers} layers, and "
                "each takes one level; choose no more levels than layers."
            )
        if self.aligner_layers and self.text_size % self.aligner_heads:
            raise VistError(
                f"The LLM's width ({self.text_size}) must be a multiple of aligner_heads ({self.aligner_heads}); "
                "choose another number of heads."
            )


AutoConfig.register("vist2", Vist2Config, exist_ok=True)
