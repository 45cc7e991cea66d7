"""What every model of an LLM and something that reads distant text has in common.

Owns what the library must know of such a model, strict loading, where transformers finds the embeddings, and the
training mode. Does not know how the parts are joined.

Decisions
- Loading is strict: a missing, truncated or misshapen weight is refused, never replaced by random numbers.
- Loading replaces parameters, and with them the flag that says what is trained; so it is set again afterwards.
"""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from vist.model.checkpoint import checked_loading


class ComposedModel(PreTrainedModel):
    """A `language_model` and a `vision_tower`; whoever asks for embeddings or the decoder means the LLM's."""

    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]

    language_model: PreTrainedModel
    vision_tower: PreTrainedModel

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model, strictly.

        Raises CheckpointError when the folder is missing or incomplete, holds another architecture, or a weight is
        missing or has the wrong shape: such a model would answer with nonsense.
        """
        config: Any = cls.config_class
        loaded = checked_loading(
            super().from_pretrained, config.model_type, pretrained_model_name_or_path, *args, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_backbones()
        return loaded

    def freeze_backbones(self) -> None:
        """Take out of training what the method leaves as it was trained before."""
        raise NotImplementedError

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters that training changes."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def take_generation_config(self, language_model: PreTrainedModel) -> None:
        """Write as the LLM does, until told otherwise."""
        if self.generation_config is not None and language_model.generation_config is not None:
            self.generation_config = language_model.generation_config

    def next_token_loss(
        self, logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None, **options: Any
    ) -> Tensor:
        """The LLM's loss: the mean over this batch's labels, or their share of `num_items_in_batch`."""
        options |= {"vocab_size": self.config.text_config.vocab_size, "num_items_in_batch": num_items_in_batch}
        return self.loss_function(logits=logits, labels=labels, **options)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but a frozen tower, whose dropout would only blur what it sees."""
        super().train(mode)
        tower = getattr(self, "vision_tower", None)
        if tower is not None and not any(parameter.requires_grad for parameter in tower.parameters()):
            tower.eval()
        return self

    def post_init(self) -> None:
        """As ever, and forget the names of layers that this model has not.

        A CLIP or SigLIP tower alone also names the parts of the text side it came without, and accelerate, which wraps
        by these names (FSDP), refuses a model that lacks one.
        """
        super().post_init()
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = set(self._no_split_modules or ()) & present

    def checkpoint_activations(self) -> None:
        """Compute activations again on the way back instead of keeping them: less memory, more time.

        The library's own method, whose name changed between its versions.
        """
        enable = getattr(self, "activation_checkpointing_enable", self.gradient_checkpointing_enable)
        enable()

    def get_input_embeddings(self) -> nn.Module:
        """The LLM's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the LLM's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The LLM's output layer."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the LLM's output layer."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> PreTrainedModel:
        """The LLM without its output layer."""
        return self.language_model.get_decoder()
