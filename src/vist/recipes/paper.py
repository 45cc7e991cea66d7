"""The paper's runs by name: every number of VIST's training (arXiv 2502.00791), one function for each.

Owns configurations only.

Decisions
- From the paper: AdamW with beta 0.9 and 0.999 and epsilon 1e-8, peak rate 3e-4, 4 % warm-up, cosine, fp16, 2,000
  steps, T_e = 4,096 and T_d = 512, 64 visual tokens a page, FM at 50 %, temperature 0.07, PVE's weight 1.
- The paper trains on about 1 B tokens and its batch follows: 1e9 / 2,000 / 4,608 = 108.5. Here 112, which any number of
  devices up to 8 but 3, 5 and 6 divides, 1.03 B tokens.
- Ours, where the paper is silent: a cosine that ends at zero, torch's own weight decay of AdamW (0.01), gradients
  clipped at norm 1, a Resampler of 6 layers and 8 heads (Flamingo's), as wide as the tower.
- Towers: the paper's is OpenCLIP ViT-L/14. OpenAI's ViT-L/14 of the same shape is the default, since transformers reads
  it as it is published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vist.compress.frequency import MaskingStrategy
from vist.train.paged import WindowShape
from vist.train.paper import PaperRecipe
from vist.train.stage import StageConfig

TINY_LLAMA = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"
MISTRAL = "mistralai/Mistral-7B-v0.1"
LLAMA_2_7B, LLAMA_2_13B = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"
CLIP_L = "openai/clip-vit-large-patch14"
SIGLIP_L = "google/siglip-large-patch16-256"


def tinyllama() -> PaperRecipe:
    """TinyLlama-1.1B and ViT-L/14: the paper's main run."""
    return PaperRecipe(
        llm=TINY_LLAMA,
        vision=CLIP_L,
        window=WindowShape(distant=4096, proximal=512, masking="frequency", masking_rate=0.5),
        choices={
            "num_visual_tokens": 64,
            "reducer": "perceiver",
            "resampler_layers": 6,
            "resampler_heads": 8,
            "resampler_size": 1024,
            "pve_weight": 1.0,
            "pve_temperature": 0.07,
            "style": "vist",
        },
        stage=StageConfig(
            steps=2000,
            batch_size=4,
            learning_rate=3e-4,
            warmup=0.04,
            final_rate=0.0,
            weight_decay=0.01,
            optimizer="adamw",
            beta2=0.999,
            precision="fp16",
            workers=4,
            log_every=10,
        ),
        global_batch=112,
    )


def tinyllama_visual_tokens(count: int) -> PaperRecipe:
    """N = 32, 64, 96 or 128 visual tokens a page (paper: ICL average 44.1, 46.3, 42.6, 45.3)."""
    recipe = tinyllama()
    return replace(recipe, choices={**recipe.choices, "num_visual_tokens": count})


def tinyllama_distant(tokens: int) -> PaperRecipe:
    """T_e = 1,024, 2,048, 4,096 or 6,144 tokens to the encoder (paper: ICL average 45.1, 44.4, 46.3, 45.5)."""
    recipe = tinyllama()
    return replace(recipe, window=replace(recipe.window, distant=tokens))


def tinyllama_masking(strategy: MaskingStrategy, rate: float = 0.5) -> PaperRecipe:
    """FM at 30, 50 or 70 %, masking at random, or none (paper: 50 % best of the rates; ICL 46.3, 41.7, 40.0)."""
    recipe = tinyllama()
    return replace(recipe, window=replace(recipe.window, masking=strategy, masking_rate=rate))


def tinyllama_siglip() -> PaperRecipe:
    """SigLIP-L in ViT-L/14's place (paper: about as well). Its pages are resized to 256 pixels, 16 patches of 16."""
    return replace(tinyllama(), vision=SIGLIP_L)


def mistral_7b() -> PaperRecipe:
    """Mistral-7B, frozen in 4 bits as in the paper."""
    return _large(MISTRAL, llm_bits=4)


def llama2_7b() -> PaperRecipe:
    """Llama-2-7B."""
    return _large(LLAMA_2_7B)


def llama2_13b() -> PaperRecipe:
    """Llama-2-13B."""
    return _large(LLAMA_2_13B)


def _large(llm: str, llm_bits: int = 16) -> PaperRecipe:
    """The main run around a larger LLM: one sample at once, activations computed again."""
    recipe = tinyllama()
    stage = replace(recipe.stage, batch_size=1, checkpointing=True)
    return replace(recipe, llm=llm, llm_bits=llm_bits, stage=stage)


def _bind(build: Callable[..., PaperRecipe], *values: object) -> Callable[[], PaperRecipe]:
    return lambda: build(*values)


PAPER: dict[str, Callable[[], PaperRecipe]] = {
    "tinyllama": tinyllama,
    **{f"tinyllama-n{count}": _bind(tinyllama_visual_tokens, count) for count in (32, 96, 128)},
    **{f"tinyllama-te{tokens}": _bind(tinyllama_distant, tokens) for tokens in (1024, 2048, 6144)},
    **{f"tinyllama-fm{rate}": _bind(tinyllama_masking, "frequency", rate / 100) for rate in (30, 70)},
    "tinyllama-fm-random": _bind(tinyllama_masking, "random"),
    "tinyllama-fm-none": _bind(tinyllama_masking, "none"),
    "tinyllama-siglip": tinyllama_siglip,
    "mistral-7b": mistral_7b,
    "llama2-7b": llama2_7b,
    "llama2-13b": llama2_13b,
}
