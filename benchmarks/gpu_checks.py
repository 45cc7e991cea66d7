"""Part C of full_size.py: does the library compute on this device what it computes on a CPU? Tiny models, pass or fail.

Owns the checks and their bounds. Does not know the other parts.

Decisions
- A check returns the largest absolute difference it saw and the bound it must stay within; 0 means equal to the bit.
- Reference values are float32 on the CPU; the weights are drawn there and copied.
- Inputs are handed over on the CPU as processors return them, except where the LLM itself is called.
- Where a method chooses patches, bfloat16 may choose another one, so its bound is wider (`CHOOSING`).
- B batch, T text tokens, P pages, X samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

import vist
from full_size_vist2 import unfused_on_cpu
from measuring import Facts, Record
from vist.baselines.reduced import ReducedVistConfig, ReducedVistForConditionalGeneration
from vist.baselines.replug import ReplugModel
from vist.baselines.streaming import StreamingModel
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.fuse.insert import cross_attentions
from vist.fuse.interleave import Role, Span, lay_spans
from vist.model.vist import VistForConditionalGeneration
from vist.model.vist2 import Vist2ForCausalLM
from vist.vision.text_vit import TextViTConfig, TextViTModel

COLUMNS = {"verdict": ("verdict", 0), "difference": ("difference", 1), "bound": ("bound", 1), "note": ("note", 0)}
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLM = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 120, "initializer_range": 0.2}
CHOICES: dict[str, Any] = {"num_visual_tokens": 4, "resampler_layers": 1, "resampler_heads": 2}
PROMPT = "What the letter said was plain, and so"
CHOOSING = ("ToMe†", "FastV†")
Found = tuple[float, float, str]  # largest difference, bound, note


def small_llm() -> LlamaForCausalLM:
    """A Llama of random weights, always the same."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLM)).eval()


def small_tower(kind: str = "text_vit") -> Any:
    """A tower for pages of 56 x 56 pixels, 4 x 4 patches."""
    torch.manual_seed(0)
    if kind == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=56, patch_size=14)).eval()
    return TextViTModel(TextViTConfig(**SHAPE, image_size=(56, 56))).eval()


def awake(model: Any) -> Any:
    """The same model with a cross-attention that matters."""
    torch.manual_seed(1)
    for sublayer in cross_attentions(model.language_model):
        nn.init.normal_(sublayer.o_proj.weight, std=0.2)
    return model.eval()


def small_vist(tower: str = "text_vit", **choices: Any) -> VistForConditionalGeneration:
    """A VIST model of random weights."""
    return VistForConditionalGeneration.from_backbones(small_llm(), small_tower(tower), **{**CHOICES, **choices}).eval()


def reduced_vist(reduction: str) -> VistForConditionalGeneration:
    """VIST whose CLIP tower merges or drops patches."""
    llm, tower = small_llm(), small_tower("clip")
    options = {**CHOICES, "reduction": reduction, "merges": 2, "prune_after": 1}
    config = ReducedVistConfig(text_config=llm.config, vision_config=tower.config, **options)
    return ReducedVistForConditionalGeneration(config, llm, tower).eval()


def small_vist2() -> Vist2ForCausalLM:
    """A VIST2 model of random weights, with two levels of visual tokens."""
    torch.manual_seed(0)
    llm = Qwen3ForCausalLM(Qwen3Config(**LLM)).eval()
    return Vist2ForCausalLM.from_backbones(llm, small_tower(), visual_levels=2, patches_per_token=8).eval()


def batch_of_pages() -> dict[str, Tensor]:
    """Two samples: the second padded on the left and with fewer pages."""
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(3, 120, (2, 9), generator=generator), torch.ones(2, 9, dtype=torch.long)
    mask[1, :2] = 0
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=generator)
    ink = torch.rand(2, 3, 4, 4, generator=generator) > 0.4
    ink[:, :, 0, 0], ink[1, 1:] = True, False
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "ink_mask": ink}


def batch_of_text() -> dict[str, Tensor]:
    """Two samples with distant text of 41 and 20 tokens."""
    batch = batch_of_pages()
    generator = torch.Generator().manual_seed(1)
    keep = torch.arange(41) < torch.tensor([[41], [20]])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return {**text, "context_ids": torch.randint(3, 120, (2, 41), generator=generator), "context_mask": keep}


def batch_of_chunks() -> dict[str, Tensor]:
    """Two rows of unequal chunks, each followed by its visual tokens; the second row is shorter and padded."""
    lengths = [[(130, 5), (37, 3), (90, 2), (41, 0)], [(64, 2), (9, 1), (30, 0)]]
    spans = [
        [Span(role, n) for text, seen in row for role, n in ((Role.TEXT, text), (Role.VISUAL, seen))] for row in lengths
    ]
    layout = lay_spans([[row] for row in spans])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=generator)
    ink = torch.arange(16).view(4, 4) < torch.tensor([[16, 16, 9], [12, 8, 0]])[..., None, None]
    return {
        "input_ids": torch.randint(3, 120, tuple(layout.roles.shape), generator=generator),
        **layout._asdict(),
        "pixel_values": pixels,
        "ink_mask": ink,
        "page_chunks": torch.tensor([[0, 1, 2], [0, 1, -1]]),
        "visual_counts": torch.tensor([[5, 3, 2], [2, 1, 0]]),
    }


def to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on a device."""
    return {name: value.to(device) for name, value in batch.items()}


def largest(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference; infinite where one is not a number."""
    difference = (left.float().cpu() - right.float().cpu()).abs().max()
    return float(difference) if difference.isfinite() else float("inf")


def flex_is_sdpa(device: torch.device) -> Found:
    """VIST2 with FlexAttention and a block mask against sdpa and a dense mask, float32."""
    model, batch = small_vist2().to(device), to(batch_of_chunks(), device)
    real = batch["roles"] != int(Role.PADDING)
    want = model(**batch).logits[real]
    model.language_model.set_attn_implementation("flex_attention")
    with unfused_on_cpu(device):
        return largest(model(**batch).logits[real], want), 1e-3, f"logits up to {float(want.abs().max()):.3g}"


def untrained_is_the_llm(dtype: torch.dtype) -> Callable[[torch.device], Found]:
    """VIST before training, with pages, against the stock LLM on the same device: equal to the bit."""

    def check(device: torch.device) -> Found:
        stock = small_llm().to(device, dtype)
        model, batch = small_vist().to(device, dtype), to(batch_of_pages(), device)
        want = stock(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return largest(model(**batch).logits, want), 0.0, ""

    return check


def compiled_step(device: torch.device) -> Found:
    """One decode step with pages through torch.compile against the same without, static cache."""
    model, batch = awake(small_vist()).to(device), to(batch_of_pages(), device)
    context = model.encode_context(batch["pixel_values"], batch["ink_mask"])
    fixed = {"cross_kv": model.project_context(context.states), "cross_mask": context.mask}
    mask = batch["attention_mask"]
    found = []
    for forward in (model.forward, torch.compile(model.forward, fullgraph=True)):
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=16)
        out = model(batch["input_ids"], attention_mask=mask, **fixed, past_key_values=cache, use_cache=True)
        out = forward(
            input_ids=out.logits[:, -1:].argmax(-1),
            attention_mask=pad(pad(mask, (0, 1), value=1), (0, 6)),
            position_ids=mask.sum(1, keepdim=True),
            past_key_values=cache,
            use_cache=True,
            **fixed,
        )
        found.append(out.logits)
    return largest(found[1], found[0]), 1e-3, "fullgraph"


def packaged(name: str) -> tuple[Any, Any]:
    """A packaged model and its processor. Raises FileNotFoundError when its weights are not there."""
    if not list((vist.PACKAGED_MODELS / name).glob("*.safetensors")):
        raise FileNotFoundError(f"the weights of {name} are not there")
    return vist.load(name)


def nano_placed(device: torch.device) -> Found:
    """vist-nano loaded with device_map="auto" writes the tokens that it writes on the CPU."""
    model, processor = packaged("vist-nano")
    inputs = processor(prompt=PROMPT, context="The captain wrote of the storm and of the harbour. " * 12)
    kinds = {"max_new_tokens": 24, "do_sample": False}
    want = model.generate(**inputs, **kinds)
    placed = type(model).from_pretrained(vist.PACKAGED_MODELS / "vist-nano", device_map="auto").eval()
    there = to(dict(inputs), placed.device)
    got = placed.generate(**there, **kinds).cpu()
    apart = largest(placed(**there).logits, model(**inputs).logits)
    return float((got != want).sum()), 0.0, f"tokens that differ; logits by {apart:.2g}; on {placed.device}"


def nano2_writes(device: torch.device) -> Found:
    """vist2-nano closes chunks while writing and writes the tokens that it writes on the CPU."""
    model, processor = packaged("vist2-nano")
    inputs = processor(text="The captain wrote of the storm and of the harbour. " * 40 + PROMPT)
    options = {"max_new_tokens": 48, "do_sample": False, "processor": processor}
    want = model.generate(**inputs, **options)
    got = model.to(device).generate(**to(dict(inputs), device), **options).cpu()
    return float((got != want).sum()) if got.shape == want.shape else float("inf"), 0.0, "tokens that differ"


def like_the_cpu(name: str, dtype: torch.dtype) -> Callable[[torch.device], Found]:
    """Logits of one of `MODELS` on the device against float32 on the CPU."""
    bound = 1e-3 if dtype == torch.float32 else 0.2 if name in CHOOSING else 0.05

    def check(device: torch.device) -> Found:
        make, batch = MODELS[name]
        model, inputs = make(), batch()
        real = inputs.get("attention_mask", inputs.get("roles")) != 0
        want = model(**inputs).logits[real]
        on_device = copy.deepcopy(model).to(device, dtype)
        with full_precision():
            got = on_device(**to(inputs, device)).logits[real.to(device)]
        size = float(want.abs().max())
        return largest(got, want), bound * max(1.0, size), f"logits up to {size:.3g}"

    return check


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions of float32 in float32, where torch takes TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def plain_reader(make: Callable[[Any], Any]) -> Callable[[torch.device], Found]:
    """What StreamingLLM or RePlug says of 20 tokens behind 280, on the device and on the CPU."""

    def check(device: torch.device) -> Found:
        ids = torch.randint(3, 120, (300,), generator=torch.Generator().manual_seed(0))
        want = make(small_llm()).read(ids[280:], ids[:280], 20)
        got = make(small_llm().to(device)).read(ids[280:].to(device), ids[:280].to(device), 20)
        return largest(got, want), 1e-3, "log-probabilities"

    return check


def text_context(encoder: str) -> Callable[[], Any]:
    """A tiny baseline with this text encoder."""
    shape = {"chunk_size": 16, "encoder_size": 32, "encoder_layers": 1, "encoder_heads": 2} if encoder == "cepe" else {}
    make = TextContextForConditionalGeneration.from_language_model
    return lambda: awake(make(small_llm(), encoder=encoder, ratio=2.65, **shape))


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "VIST": (lambda: awake(small_vist()), batch_of_pages),
    "VIST, local reducer, sub-tokens": (
        lambda: awake(small_vist(reducer="local", cross_subtokens=True, num_page_positions=4)),
        batch_of_pages,
    ),
    "VIST, CLIP, blanks dropped": (lambda: awake(small_vist("clip", vision_drop_blank=True)), batch_of_pages),
    "VIST2": (small_vist2, batch_of_chunks),
    "ToMe†": (lambda: awake(reduced_vist("tome")), batch_of_pages),
    "FastV†": (lambda: awake(reduced_vist("fastv")), batch_of_pages),
    "CEPE*": (text_context("cepe"), batch_of_text),
    "mean pooling": (text_context("pooled"), batch_of_text),
    "hierarchical convolutions": (text_context("hierarchical"), batch_of_text),
}


def checks() -> dict[str, Callable[[torch.device], Found]]:
    """All checks by name, those that need a compiler last."""
    found: dict[str, Callable[[torch.device], Found]] = {
        "untrained VIST is the LLM, float32": untrained_is_the_llm(torch.float32),
        "untrained VIST is the LLM, bfloat16": untrained_is_the_llm(torch.bfloat16),
        "vist-nano, device_map auto, writes as on the CPU": nano_placed,
        "vist2-nano writes as on the CPU": nano2_writes,
    }
    for dtype in (torch.float32, torch.bfloat16):
        for name in MODELS:
            found[f"{name} as on the CPU, {str(dtype).removeprefix('torch.')}"] = like_the_cpu(name, dtype)
    found["StreamingLLM as on the CPU"] = plain_reader(lambda llm: StreamingModel(llm, 24))
    found["RePlug as on the CPU"] = plain_reader(ReplugModel)
    found["VIST2, FlexAttention is sdpa"] = flex_is_sdpa
    found["VIST, compiled decode step"] = compiled_step
    return found


def run(record: Record) -> None:
    """Every check as a row: `verdict` is pass, fail or skipped."""

    def row(check: Callable[[torch.device], Found]) -> Facts:
        try:
            with torch.no_grad():
                difference, bound, note = check(record.device)
        except FileNotFoundError as error:
            return {"verdict": "skipped", "note": str(error)}
        return {
            "verdict": "pass" if difference <= bound else "fail",
            "difference": difference,
            "bound": bound,
            "note": note,
        }

    for name, check in checks().items():
        record.row({"part": "C", "method": name}, lambda check=check: row(check))
