import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vist import VistForConditionalGeneration
from vist.fuse.cross_attention import eager_attention
from vist.fuse.insert import cross_attentions
from vist.train.guidance import guided_loss, mean_attention, seen_attention
from vist.vision.text_vit import TextViTConfig, TextViTModel


def tiny(**choices: object) -> VistForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **shape))
    shape["num_hidden_layers"] = 1
    return VistForConditionalGeneration.from_backbones(
        llm, TextViTModel(TextViTConfig(**shape)), num_visual_tokens=8, resampler_layers=1, resampler_heads=2, **choices
    )


def batch() -> dict[str, torch.Tensor]:
    pixels = torch.full((2, 1, 224, 224), 255, dtype=torch.uint8)
    pixels[:, :, 4:10, 10:150:7] = 0
    ink = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    ink[:, :, 0, :11] = True
    ids = torch.randint(0, 64, (2, 6))
    guide = torch.tensor([[-1, 2, 3, -1, 1, -1], [0, -1, -1, 7, -1, -1]])
    return {"input_ids": ids, "labels": ids, "pixel_values": pixels, "ink_mask": ink, "guide": guide}


@pytest.mark.parametrize("subtokens", [False, True])
def test_attention_seen_is_the_attention_that_the_layer_uses(subtokens: bool) -> None:
    model = tiny(cross_subtokens=subtokens)
    sublayer = cross_attentions(model.language_model)[1]
    hidden, states = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    kv, mask = sublayer.project(states), torch.rand(2, 1, 1, 7) < 0.7
    mask[..., 0] = True
    query = sublayer.queries(hidden)
    _, weights = eager_attention(sublayer, query, kv[:, 0], kv[:, 1], sublayer.visible_keys(mask), sublayer.scaling)
    torch.testing.assert_close(mean_attention(sublayer, hidden, kv, mask), weights.mean(1))


def test_guidance_adds_the_logarithm_of_the_attention_to_the_guided_places() -> None:
    model, inputs = tiny(), batch()
    guide = inputs["guide"]
    plain = model(**{name: value for name, value in inputs.items() if name != "guide"}).loss
    with seen_attention(cross_attentions(model.language_model)[1:]) as seen:
        model(**{name: value for name, value in inputs.items() if name != "guide"})
    expected, count = 0.0, 0
    for layer in seen:
        for row, place in (guide >= 0).nonzero().tolist():
            expected -= (layer[row, place, guide[row, place]] + 1e-6).log().item()
            count += 1
    result = guided_loss(model, dict(inputs), weight=0.5)
    torch.testing.assert_close(result["guide_loss"].item(), expected / count)
    torch.testing.assert_close(result["loss"], plain + 0.5 * result["guide_loss"])


def trained(weight: float) -> float:
    """How far the attention is from the guide after a few steps."""
    model, inputs = tiny(), batch()
    optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        result = guided_loss(model, dict(inputs), weight)
        result["loss"].backward()
        optimizer.step()
    return result["guide_loss"].item()


def test_guidance_teaches_where_to_look() -> None:
    assert trained(weight=1.0) < trained(weight=0.0) - 0.3


def test_guidance_adds_up_over_an_accumulated_batch() -> None:
    model, inputs = tiny(), batch()
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    whole = guided_loss(model, dict(inputs), 1.0, num_items_in_batch=labels)["loss"]
    half = guided_loss(model, dict(inputs), 1.0, num_items_in_batch=2 * labels)["loss"]
    torch.testing.assert_close(half * 2, whole)


def test_no_hook_stays_behind_and_text_batches_have_no_guidance() -> None:
    model, inputs = tiny(), batch()
    guided_loss(model, dict(inputs), weight=1.0)
    assert all(not sublayer._forward_pre_hooks for sublayer in cross_attentions(model.language_model))
    result = guided_loss(model, {name: inputs[name] for name in ("input_ids", "labels")}, weight=1.0)
    assert set(result) == {"loss", "text_lm_loss"}
