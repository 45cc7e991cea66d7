"""How a model can be run: precision, placement, checkpointed activations, a compiled decode step, quantised LLMs."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, StaticCache

from tiny_backbones import CHOICES, tiny_llm, tiny_model, tiny_tower
from vist.fuse.cross_attention import CrossAttention
from vist.model.vist import VistForConditionalGeneration


@pytest.fixture
def backbones(tmp_path):
    tiny_llm().save_pretrained(tmp_path / "llm")
    tiny_tower((56, 56)).save_pretrained(tmp_path / "vision")
    return tmp_path / "llm", tmp_path / "vision"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_both_backbones_and_what_is_new_take_the_precision_asked_for(backbones, batch, dtype):
    model = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES, dtype=dtype).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype} and model.config.dtype == dtype
    want = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES).eval()(**batch).logits
    got = model(**batch).logits
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, atol=0.25, rtol=0.05)
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, 8)


@torch.no_grad()
def test_placement_by_device_map_changes_nothing(backbones, batch, tmp_path):
    model = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES, device_map="auto").eval()
    for sublayer in (layer.cross_attn for layer in model.get_decoder().layers):
        nn.init.normal_(sublayer.o_proj.weight, std=0.3)
    want = model(**batch).logits
    model.save_pretrained(tmp_path / "whole")
    placed = VistForConditionalGeneration.from_pretrained(tmp_path / "whole", device_map="auto")
    assert torch.equal(placed(**batch).logits, want)
    assert torch.equal(placed.generate(**batch, max_new_tokens=4), model.generate(**batch, max_new_tokens=4))


@torch.no_grad()
def test_decoder_layers_offloaded_to_disk_still_read_the_pages(batch, tmp_path):
    model = tiny_model()
    want = model(**batch).logits
    model.save_pretrained(tmp_path / "whole")
    places = {name: "cpu" for name, _ in model.named_children()} | {"language_model": "cpu"}
    places |= {f"language_model.model.{name}": "cpu" for name, _ in model.language_model.model.named_children()}
    del places["language_model"], places["language_model.model.layers"]
    places |= {"language_model.lm_head": "cpu", "language_model.model.layers.0": "cpu"}
    places["language_model.model.layers.1"] = "disk"
    spread = VistForConditionalGeneration.from_pretrained(
        tmp_path / "whole", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert spread.language_model.model.layers[1].mlp.up_proj.weight.is_meta
    assert torch.equal(spread(**batch).logits, want)
    assert torch.equal(spread.generate(**batch, max_new_tokens=3), model.generate(**batch, max_new_tokens=3))


def test_layers_that_must_stay_whole_are_known():
    assert {"LlamaDecoderLayer", "TextViTLayer"} <= set(tiny_model()._no_split_modules)


def test_activation_checkpointing_recomputes_and_has_the_same_gradients(batch, monkeypatch):
    calls = []
    project = CrossAttention.project
    monkeypatch.setattr(CrossAttention, "project", lambda self, states: calls.append(1) or project(self, states))
    gradients, counts = [], []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        model = tiny_model(lora_rank=2).train()
        if checkpointing:
            model.checkpoint_activations()
        calls.clear()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        counts.append(len(calls))
        gradients.append({name: p.grad for name, p in model.trainable_parameters().items() if p.grad is not None})
    assert counts == [2, 4]  # each of the two layers once more on the way back
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@torch.no_grad()
def test_the_decode_step_compiles_to_one_graph_and_is_not_compiled_again(batch):
    model = tiny_model()
    context = model.encode_context(batch["pixel_values"], batch["ink_mask"])
    fixed = {"cross_kv": model.project_context(context.states), "cross_mask": context.mask}
    text = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(model.forward, fullgraph=True, backend=backend)
    logits = {}
    for name, forward in (("plain", model.forward), ("compiled", step)):
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=16)
        out = model(**text, **fixed, past_key_values=cache, use_cache=True)
        mask, steps = text["attention_mask"], []
        for number in range(4):
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            whole = nn.functional.pad(mask, (0, 16 - mask.shape[1]))
            place = torch.full((2, 1), 6 + number) - (1 - text["attention_mask"]).sum(1, keepdim=True)
            token = out.logits[:, -1:].argmax(-1)
            out = forward(
                input_ids=token,
                attention_mask=whole,
                position_ids=place,
                past_key_values=cache,
                use_cache=True,
                **fixed,
            )
            steps.append(out.logits)
        logits[name] = torch.cat(steps, dim=1)
    assert len(graphs) == 1
    torch.testing.assert_close(logits["compiled"], logits["plain"])


QUANTISED = {
    "8 bit": (BitsAndBytesConfig(load_in_8bit=True), 0.02),
    "4 bit": (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16), 0.3),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", QUANTISED)
def test_a_quantised_llm_is_stock_until_trained_and_its_adapter_fits_the_whole_one(bits, batch, tmp_path):
    quantisation, room = QUANTISED[bits]
    tiny_llm(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "llm")
    tiny_tower((56, 56)).save_pretrained(tmp_path / "vision")
    folders, options = (
        (tmp_path / "llm", tmp_path / "vision"),
        {"dtype": torch.bfloat16, "quantization_config": quantisation},
    )
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", **options)
    model = VistForConditionalGeneration.from_backbones(*folders, **CHOICES, lora_rank=2, **options).eval()
    layer = model.get_decoder().layers[0]
    assert not layer.self_attn.k_proj.weight.is_floating_point()
    copied, source = layer.cross_attn.k_proj.weight, whole.model.layers[0].self_attn.k_proj.weight
    assert copied.dtype == torch.bfloat16
    torch.testing.assert_close(copied.float(), source, atol=room, rtol=0)  # rebuilt from the packed weight
    with torch.no_grad():
        want = stock(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert torch.equal(model(**batch).logits, want)
    model.save_adapter(tmp_path / "adapter")
    again = VistForConditionalGeneration.from_adapter(tmp_path / "adapter", **options)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, want)
    VistForConditionalGeneration.from_adapter(tmp_path / "adapter")  # the same LLM, not quantised, is recognised
