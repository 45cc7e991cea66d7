"""A training step by count, beside torch's own counter and what autograd really keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from tiny_backbones import some_pages, tiny_model
from vist.eval.training_cost import (
    kept_for_backward,
    meta_model,
    parameters_by_part,
    saved_bytes,
    training_memory,
    training_work,
)
from vist.model.configuration import VistConfig
from vist.vision.text_vit import TextViTConfig

PAGES, TEXT = 3, 8


def counted(checkpointing: bool = False) -> tuple[dict[str, int], VistConfig]:
    """Operations of one sample as torch counts them, by part."""
    model = tiny_model(num_visual_tokens=4).train()
    for part in (model.language_model, model.vision_tower):
        part.set_attn_implementation("eager")
    if checkpointing:
        model.checkpoint_activations()
    pages = some_pages(batch=1, pages=PAGES)
    pages["ink_mask"][:] = True
    ids = torch.randint(3, 18, (1, TEXT))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False, **pages).loss.backward()
    return counter.get_flop_counts(), model.config


def test_operations_of_the_frozen_llm_are_those_that_torch_counts() -> None:
    counts, config = counted()
    work = training_work(config, TEXT, PAGES)
    total = sum(counts["Global"].values())
    mine = sum(part.total for part in work.values())
    # the counter does not know the kernel of cross-attention and Resampler, nor one projection less in backward
    assert 0.85 < mine / total < 1.15
    tower = sum(sum(value.values()) for name, value in counts.items() if name.endswith(".vision_tower"))
    assert tower == work["encoder"].linear  # its attention runs in a kernel that the counter does not know either


def test_computing_again_costs_the_forward_pass_of_the_llm() -> None:
    config = tiny_model().config
    plain, again = training_work(config, TEXT, PAGES), training_work(config, TEXT, PAGES, checkpointing=True)
    assert again["llm"].linear == plain["llm"].linear * 3 // 2
    assert (again["encoder"], again["resampler"]) == (plain["encoder"], plain["resampler"])
    real, _ = counted()
    repeated, _ = counted(checkpointing=True)
    added = sum(repeated["Global"].values()) - sum(real["Global"].values())
    mine = sum(part.total for part in again.values()) - sum(part.total for part in plain.values())
    assert added == pytest.approx(mine, rel=0.15)


def test_kept_bytes_on_the_meta_device_are_those_of_the_real_model() -> None:
    model = tiny_model().train()
    virtual = meta_model(model.config).train()
    real = kept_for_backward(model, TEXT, PAGES, 2)
    assert kept_for_backward(virtual, TEXT, PAGES, 2) == pytest.approx(real, rel=0.1)
    assert kept_for_backward(virtual, TEXT, PAGES, 4) == pytest.approx(2 * real, rel=0.15)


def test_saved_bytes_count_each_tensor_once_and_no_weights() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.zeros(3, 4, requires_grad=True)
    assert saved_bytes(layer, lambda: layer(x).exp() * 2) == 3 * 4 * 4 + 3 * 4 * 4  # the input and what exp gave


def test_parameters_are_those_of_the_model() -> None:
    model = tiny_model()
    counts = parameters_by_part(model)
    assert counts["trained"] == sum(value.numel() for value in model.trainable_parameters().values())
    assert counts["trained"] + counts["frozen_llm"] + counts["frozen_vision"] == sum(
        value.numel() for value in model.parameters()
    )


def test_computing_again_keeps_less_and_four_bits_take_a_quarter() -> None:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 50}
    llm = LlamaConfig(**shape, num_hidden_layers=8)
    tower = TextViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = VistConfig(text_config=llm, vision_config=tower, resampler_layers=1, resampler_size=16)
    model = meta_model(config).train()
    plain = training_memory(model, 64, 2, 4, 2)
    model.checkpoint_activations()
    again = training_memory(model, 64, 2, 4, 2, llm_bits=4)
    assert again["activations"] < 0.6 * plain["activations"]
    frozen = parameters_by_part(model)["frozen_llm"]
    assert plain["frozen_weights"] - again["frozen_weights"] == 2 * frozen - frozen // 2
