"""What every model of an LLM and a vision tower has in common.

Owns where transformers finds the embeddings, and the training mode. Does not know how the two are joined.
"""

from __future__ import annotations

from typing import Self

from torch import nn
from transformers import PreTrainedModel


class ComposedModel(PreTrainedModel):
    """A `language_model` and a `vision_tower`; whoever asks for embeddings or the decoder means the LLM's."""

    language_model: PreTrainedModel
    vision_tower: PreTrainedModel

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but a frozen tower, whose dropout would only blur what it sees."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.vision_tower.parameters()):
            self.vision_tower.eval()
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
