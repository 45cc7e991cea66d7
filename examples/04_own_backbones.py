"""Put pages in front of your own LLM: two backbones, frozen, with a new Resampler and cross-attention between them.

Run: `python examples/04_own_backbones.py [LLM VISION]`, for example with two Hub ids, a Llama and a CLIP or SigLIP.
Without arguments two tiny random models stand in for them.
"""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from vist import VistForConditionalGeneration, render


def stand_ins() -> tuple[LlamaForCausalLM, SiglipVisionModel]:
    """Two backbones with random weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_key_value_heads=2, **sizes))
    return llm, SiglipVisionModel(SiglipVisionConfig(image_size=224, patch_size=16, **sizes))


def main(llm: str | None = None, vision: str | None = None) -> None:
    """Build the model, count what will be trained, and see that without training it is the LLM."""
    backbones = (llm, vision) if llm and vision else stand_ins()
    model = VistForConditionalGeneration.from_backbones(*backbones, num_visual_tokens=32, resampler_layers=2).eval()
    trained = sum(parameter.numel() for parameter in model.trainable_parameters().values())
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{trained:,} of {total:,} parameters are trained: Resampler and cross-attention")

    pages = render("Distant text, as pages. " * 80)
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        alone = model(input_ids=ids).logits
        pixels, ink = torch.from_numpy(pages.pixels)[None], torch.from_numpy(pages.ink)[None]
        reading = model(input_ids=ids, pixel_values=pixels, ink_mask=ink).logits
    print("untrained, pages change nothing:", torch.equal(alone, reading))


if __name__ == "__main__":
    main(*sys.argv[1:])
