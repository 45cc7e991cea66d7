"""The configuration of a model whose distant text is encoded as text: CEPE*, mean pooling, hierarchical convolutions.

Owns the names, defaults and checks of every choice. Imports no tensor code, as VIST's own configuration.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from vist.errors import VistError
from vist.model.configuration import sub_config

ENCODER_NAMES = ("cepe", "pooled", "hierarchical")


class TextContextConfig(PreTrainedConfig):
    """Choices of a model with a text context.

    text_config: the LLM's own config.
    encoder: "cepe", "pooled" or "hierarchical".
    ratio: text tokens per context token of the last two; need not be whole.
    chunk_size, encoder_size, encoder_layers, encoder_heads: of "cepe": tokens encoded together, and the encoder's shape
        (size 0 = the LLM's width). The default shape is RoBERTa-large's, as in the paper.
    cross_gate, cross_norm, cross_output_gate, cross_subtokens: of the cross-attention, as in `VistConfig`.
    style: page style of the model that this one is compared with: evaluation measures distant text in its pages.
    """

    model_type = "vist_text_context"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values", "lm_loss"]

    text_config: Any = None
    encoder: str = "pooled"
    ratio: float = 2.0
    chunk_size: int = 256
    encoder_size: int = 0
    encoder_layers: int = 24
    encoder_heads: int = 16
    cross_gate: bool = False
    cross_output_gate: bool = False
    cross_subtokens: bool = False
    cross_norm: bool = True
    style: str = "vist"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = sub_config(self.text_config, "llama")
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        kernel = {"text_config": self.text_config._attn_implementation}
        kwargs["attn_implementation"] = kwargs.get("attn_implementation") or kernel
        super().__post_init__(**kwargs)
        self._check()

    @property
    def states_size(self) -> int:
        """Width of the context tokens: the encoder's own for "cepe", else that of the LLM's embeddings."""
        return (self.encoder_size if self.encoder == "cepe" else 0) or self.text_config.hidden_size

    def _check(self) -> None:
        """Raises VistError on a value that no model can be built from."""
        if self.encoder not in ENCODER_NAMES:
            raise VistError(f"Unknown text encoder {self.encoder!r}; choose one of {', '.join(ENCODER_NAMES)}.")
        if self.ratio < 1:
            raise VistError(f"ratio must be 1 (nothing is compressed) or more, got {self.ratio}.")
        for name in ("chunk_size", "encoder_layers", "encoder_heads"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} must be a positive whole number, got {getattr(self, name)}.")
        if self.encoder == "cepe" and self.states_size % self.encoder_heads:
            raise VistError(
                f"The encoder's width ({self.states_size}) must be a multiple of encoder_heads "
                f"({self.encoder_heads}); change one of them."
            )


AutoConfig.register("vist_text_context", TextContextConfig, exist_ok=True)
