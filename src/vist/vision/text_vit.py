"""TextViT: a small vision transformer that is taught to read rendered pages.

Owns: the model and its configuration. Must not know how pages are drawn, how it is trained, or which LLM reads them.

Shapes: X pages, N patches (rows x columns, reading order), D width, H heads, S slots, A classes of the alphabet.

Decisions
- A patch sees half a patch more on its left and right (a 14 x 28 window with stride 14): a glyph that straddles two
  patches is whole in one of them. Text rows are as high as patches, so nothing is ever cut above or below.
- The reading head names, for each patch, the characters whose centre lies in it, in order: `slots` softmaxes over the
  alphabet. It is kept with the model, so that what the encoder can read can be measured at any time.
- Contrast is normalised per page (darkest pixel 1, lightest 0), so colours and blank space do not matter.
- Blank patches are neither computed nor attended to: patches with ink are gathered before the first layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from vist.errors import VistError

ASCII = "".join(chr(code) for code in range(32, 127))
# The most frequent other characters of English prose, code, documentation and LaTeX.
BEYOND_ASCII = "“”‘’—–…éèêëàâäáçñöôóòüûúùïîíæœÆŒÉÀÇÖÜß£§°½¼×±·•«»†→←≤≥≠−≈µαβγδελμνπρσστφωΔΣΩ©®™│─├└²³€¡¿"
EMPTY, OTHER = 0, 1


class TextViTConfig(PreTrainedConfig):
    """Shape of a TextViT.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: as in any transformer.
        image_size: page height and width in pixels.
        patch_size: patch height and width in pixels; must equal the page style's row height.
        overlap: extra pixels a patch sees on its left and on its right.
        slots: most characters named per patch.
        alphabet: characters the reading head can name; others are class `OTHER`.
    """

    model_type = "text_vit"

    def __init__(
        self,
        hidden_size: int = 192,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 3,
        intermediate_size: int = 768,
        image_size: tuple[int, int] | list[int] = (224, 224),
        patch_size: int = 14,
        overlap: int = 7,
        slots: int = 8,
        alphabet: str = ASCII + BEYOND_ASCII,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.image_size = list(image_size)
        self.patch_size = patch_size
        self.overlap = overlap
        self.slots = slots
        self.alphabet = "".join(dict.fromkeys(alphabet))
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        if any(side % patch_size for side in self.image_size):
            raise VistError(f"Page size {self.image_size} is not a multiple of patch_size {patch_size}; change either.")
        super().__init__(**kwargs)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class TextViTLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over the ink patches of a page."""

    def __init__(self, config: TextViTConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden_XND: torch.Tensor, mask_X11N: torch.Tensor | None) -> torch.Tensor:
        """(X, N, D) -> (X, N, D); False in the mask (X, 1, 1, N) is a patch that no one attends to."""
        pages, patches, width = hidden_XND.shape
        qkv = self.qkv(self.norm1(hidden_XND)).view(pages, patches, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_X11N)
        hidden_XND = hidden_XND + self.proj(mixed.transpose(1, 2).reshape(pages, patches, width))
        return hidden_XND + self.fc2(F.gelu(self.fc1(self.norm2(hidden_XND))))


class TextViTModel(PreTrainedModel):
    """Pages -> one feature per patch; `read_logits` names the characters in it."""

    config_class = TextViTConfig
    base_model_prefix = "text_vit"
    main_input_name = "pixel_values"
    _no_split_modules = ["TextViTLayer"]

    def __init__(self, config: TextViTConfig):
        super().__init__(config)
        rows, columns = config.grid
        patch, width = config.patch_size, config.hidden_size
        self.patch_embed = nn.Conv2d(
            1, width, (patch, patch + 2 * config.overlap), stride=patch, padding=(0, config.overlap)
        )
        self.row_position = nn.Parameter(torch.empty(rows, 1, width))
        self.column_position = nn.Parameter(torch.empty(1, columns, width))
        self.layers = nn.ModuleList(TextViTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.reading_head = nn.Linear(width, config.slots * (len(config.alphabet) + 2))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextViTModel):
            init.normal_(module.row_position, std=self.config.initializer_range)
            init.normal_(module.column_position, std=self.config.initializer_range)

    def forward(self, pixel_values: torch.Tensor, ink_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Encode pages.

        Args:
            pixel_values: (X, H, W) grey pages, uint8 or float, dark text on light paper.
            ink_mask: (X, N) bool, True where a patch holds text; None means everywhere.

        Returns:
            (X, N, D) features; zero where the mask is False.

        Raises:
            VistError: the page size is not the configured one.
        """
        if list(pixel_values.shape[-2:]) != self.config.image_size:
            raise VistError(
                f"Pages of {tuple(pixel_values.shape[-2:])} pixels given to an encoder for "
                f"{tuple(self.config.image_size)}; render with the style that the model was trained on."
            )
        hidden_XND = self._embed(pixel_values)
        if ink_mask is None or bool(ink_mask.all()):
            return self.norm(self._run(hidden_XND, None))
        order, kept = gather_order(ink_mask)
        index = order[..., None].expand(-1, -1, hidden_XND.shape[-1])
        compact = self.norm(self._run(hidden_XND.gather(1, index), kept[:, None, None]))
        compact = compact * kept[..., None]
        return torch.zeros_like(hidden_XND).to(compact.dtype).scatter(1, index, compact)

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pages = pixel_values.to(self.row_position.dtype)
        light, dark = pages.amax((1, 2), keepdim=True), pages.amin((1, 2), keepdim=True)
        ink = (light - pages) / (light - dark).clamp(min=1.0 / 255)
        embedded = self.patch_embed(ink[:, None]).permute(0, 2, 3, 1)
        return (embedded + self.row_position + self.column_position).flatten(1, 2)

    def _run(self, hidden_XND: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for layer in self.layers:
            hidden_XND = layer(hidden_XND, mask)
        return hidden_XND

    def read_logits(self, features_XND: torch.Tensor) -> torch.Tensor:
        """(X, N, D) features -> (X, N, S, A) scores: class 0 is an empty slot, 1 another, 2.. the alphabet."""
        return self.reading_head(features_XND).unflatten(-1, (self.config.slots, -1))

    def read(self, features_XND: torch.Tensor) -> list[list[str]]:
        """The characters of each patch of each page, in order; U+FFFD for one outside the alphabet."""
        names = ["", "\ufffd", *self.config.alphabet]
        classes = self.read_logits(features_XND).argmax(-1).tolist()
        return [["".join(names[slot] for slot in patch) for patch in page] for page in classes]


def gather_order(mask_XN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (X, N') of the True places of each row first, in order, and which of them (X, N') are real.

    N' is the largest count of True places in a row, at least 1.
    """
    longest = max(1, int(mask_XN.sum(1).max()))
    order = torch.argsort((~mask_XN).to(torch.uint8), dim=1, stable=True)[:, :longest]
    return order, mask_XN.gather(1, order)


AutoConfig.register("text_vit", TextViTConfig, exist_ok=True)
AutoModel.register(TextViTConfig, TextViTModel, exist_ok=True)
