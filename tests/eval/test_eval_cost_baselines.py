"""The cost of baselines by count, against torch's counter on the real modules."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vist.baselines.configuration import TextContextConfig
from vist.baselines.fastv import AttentionPruning
from vist.baselines.reduced import reduce_tower
from vist.baselines.streaming import StreamingModel
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.baselines.tome import TokenMerging
from vist.eval.cost import _attention_flops
from vist.eval.cost_baselines import (
    baselines,
    context_tokens,
    merged_tower_work,
    pruned_tower_work,
    streaming_work,
    text_context_row,
)
from vist.eval.cost_table import PARTS, Backbones
from vist.eval.flops import tower_work
from vist.vision.text_vit import TextViTConfig, TextViTModel

LLM = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def counted(run) -> int:
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={operation: _attention_flops}) as counter:
        run()
    return int(counter.get_total_flops())


SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.mark.parametrize("kind", ["text_vit", "clip", "siglip"])
@pytest.mark.parametrize("reduction", [TokenMerging(5), AttentionPruning(0.75, 2)], ids=["tome", "fastv"])
def test_a_reduced_tower_is_counted_to_the_last_operation(kind, reduction) -> None:
    image = {"image_size": 56, "patch_size": 14}
    if kind == "text_vit":
        tower = TextViTModel(TextViTConfig(**SHAPE, image_size=(56, 56)))
    else:
        config, model = (
            (CLIPVisionConfig, CLIPVisionModel) if kind == "clip" else (SiglipVisionConfig, SiglipVisionModel)
        )
        tower = model(config(**SHAPE, **image))
    tower.eval()
    pixels = torch.rand(1, 56, 56) if kind == "text_vit" else torch.rand(1, 3, 56, 56)
    stock = counted(lambda: tower(pixels))
    assert stock == tower_work(tower.config, 16).total
    reduce_tower(tower, reduction)
    want = counted(lambda: tower(pixels))
    merging = isinstance(reduction, TokenMerging)
    work = merged_tower_work(tower.config, 5) if merging else pruned_tower_work(tower.config, 0.75, 2)
    assert work.total == want < stock


@pytest.mark.parametrize("encoder", ["pooled", "hierarchical"])
def test_shortened_text_is_counted_to_the_last_operation(encoder) -> None:
    llm = AutoModelForCausalLM.from_config(LlamaConfig(**LLM)).eval()
    model = TextContextForConditionalGeneration.from_language_model(llm, encoder=encoder, ratio=2.65).eval()
    inputs = {"input_ids": torch.ones(1, 9, dtype=torch.long), "context_ids": torch.ones(1, 40, dtype=torch.long)}
    inputs["context_mask"] = torch.ones(1, 40, dtype=torch.bool)
    row = text_context_row("x", model.config, 40, 9)
    assert sum(part.total for part in row.work.values()) == counted(lambda: model(**inputs, use_cache=False))
    assert row.parameters == model.num_parameters()
    context = model.encode_context(inputs["context_ids"], inputs["context_mask"])
    assert context_tokens(model.config, 40) == context.mask.sum()
    assert row.memory["cross_kv"] == model.project_context(context.states).numel() * 2


def test_streaming_is_counted_to_the_last_operation(monkeypatch) -> None:
    monkeypatch.setattr("vist.baselines.streaming.BLOCK", 1)  # as the paper reads
    llm = AutoModelForCausalLM.from_config(LlamaConfig(**LLM)).eval()
    model, ids = StreamingModel(llm, 8), torch.ones(1, 20, dtype=torch.long)
    want = counted(lambda: model(ids[:, :8], context_ids=ids[:, 8:]))
    got = streaming_work(llm.config, 20, 8).total
    # The real one reads the first 8 tokens as one block, every pair counted, and every step has at least one logit.
    pairs = sum(8 - place for place in range(1, 9)) * 4 * 32 * LLM["num_hidden_layers"]
    unscored_steps = 1 + 4  # the block, and tokens 8 to 11
    assert want == got + pairs + unscored_steps * 2 * 32 * 64


def test_rows_of_every_method() -> None:
    rows = {row.method: row for row in baselines(Backbones(), 2048, 512)}
    assert list(rows)[-1] == "VIST" and len(rows) == 10
    assert rows["full text"].tflops > rows["VIST"].tflops > rows["ToMe†"].tflops > rows["FastV†"].tflops
    assert rows["mean pooling"].tflops < rows["hierarchical convolutions"].tflops
    assert rows["RePlug"].tflops > rows["StreamingLLM"].tflops
    shortened = rows["mean pooling"].memory["cross_kv"] / rows["VIST"].memory["cross_kv"]
    assert shortened == pytest.approx(1, rel=0.01)  # equal ratio
    for row in rows.values():
        assert list(row.to_dict()["tflops_by_part"]) == list(PARTS) and row.peak_bytes > 0
    assert isinstance(TextContextConfig(text_config=LlamaConfig(**LLM)).ratio, float)
