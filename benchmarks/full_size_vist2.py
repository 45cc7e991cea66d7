"""Part B of full_size.py: VIST2 beside its plain LLM, Qwen3 of four sizes with SigLIP2 ViT-L/16, at one long context.

Owns shapes, passes and rows of this part. Does not know the other parts nor how passes are measured (measuring.py).

Decisions
- A prefill row is what happens before the first new token, batch 1: T_e tokens of history and an open chunk of T_d text
  tokens are read into a cache, one position is scored. Plain: all of it text. VIST2: T_e / ratio visual tokens, whose
  chunks are full pages; either kept from before ("chunks kept") or encoded in the same pass.
- "dense mask" passes the mask of all pairs, which is plainly causal here, so that the model leaves it to the LLM's own
  kernel otherwise: the same numbers, and what the mask costs.
- A decode step is one text token behind that cache, called as each model calls its LLM: VIST2 with a mask over slots.
- FlexAttention prefills only: behind a growing cache every step has a new shape, which is compiled anew.
- One model serves all rows of a size; `peak_bytes` counts the weights that the row needs (measuring.py).
- T_e tokens of history (te), T_d text tokens of the open chunk (td); a chunk is one page.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import ceil
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, Qwen3Config, SiglipVisionConfig

from measuring import Facts, Record, build, counted, measure, random_ids, random_pages, weight_bytes
from vist.eval.cost_table import Row
from vist.eval.cost_vist2 import CHUNK, CONTEXT, Reading, plain_row, qwen3_family, siglip2_large, vist2_row
from vist.fuse.interleave import Role, Span, kernel_mask, lay_spans, positions, visible
from vist.model.vist2 import Vist2ForCausalLM
from vist.vision.encoder import patch_grid

NEW_TOKENS, RATIO = 32, 4.0
COLUMNS = {
    "T_e": ("te", 0),
    "first token s": ("seconds", 1),
    "s a token": ("decode_s", 1),
    "cache MB": ("kv_bytes", 1e6),
    "peak GB": ("peak_bytes", 1e9),
    "weights GB": ("weight_bytes", 1e9),
    "rise GB": ("rise_bytes", 1e9),
    "counted GB": ("counted_peak_bytes", 1e9),
    "counted TFLOPs": ("counted_tflops", 1),
}


def shapes(tiny: bool) -> tuple[dict[str, PreTrainedConfig], PreTrainedConfig, int]:
    """LLMs by name, the tower, and T_e."""
    if not tiny:
        return qwen3_family(), siglip2_large(), CONTEXT
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = Qwen3Config(**shape, num_key_value_heads=1, head_dim=16, vocab_size=64)
    return {"tiny": llm}, SiglipVisionConfig(**shape, image_size=224, patch_size=16), 4 * CHUNK


class History:
    """The arguments of VIST2's forward for T_e tokens of drawn chunks and an open chunk of T_d tokens of text."""

    def __init__(self, llm: PreTrainedConfig, reading: Reading, te: int, td: int, device: torch.device) -> None:
        chunks, visual = ceil(te / CHUNK), round(CHUNK / reading.ratio)
        spans = [[[Span(Role.VISUAL, visual)] * chunks + [Span(Role.TEXT, td)]]]
        self.layout = lay_spans(spans)
        self.layout = type(self.layout)(*(part.to(device) for part in self.layout))
        self.text = {"input_ids": random_ids(llm, chunks * visual + td, device), **self.layout._asdict()}
        self.counts = {"visual_counts": torch.full((1, chunks), visual, device=device)}
        pages = random_pages(chunks, patch_grid(reading.tower, 224, 224), device)
        self.pages = {**pages, "page_chunks": torch.arange(chunks, device=device)[None], **self.counts}


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values that a cache refers to."""
    return sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))


def plain_step(model: Any, cache: Any, ids: Tensor) -> None:
    """One more token of the plain LLM."""
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


def visual_step(model: Vist2ForCausalLM, cache: Any, ids: Tensor) -> None:
    """One more text token of VIST2, as its generation reads it: every slot of the cache is in use."""
    llm: Any = model.language_model
    slots = cache.get_seq_length()
    seen = torch.ones(1, 1, 1, slots + 1, dtype=torch.bool, device=ids.device)
    model.read(
        model.get_input_embeddings()(ids).unsqueeze(2),
        attention_mask=kernel_mask(seen, llm.config._attn_implementation, llm.dtype),
        position_ids=torch.full((1, 1), slots, device=ids.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )


@torch.inference_mode()
def decoding(step: Callable[[Any, Tensor], None], cache: Any, ids: Tensor, device: torch.device) -> Facts:
    """Bytes of the cache after the prefill, and seconds a token behind it."""
    found: Facts = {"kv_bytes": cache_bytes(cache), "cache_tokens": cache.get_seq_length()}

    def write() -> None:
        for _ in range(NEW_TOKENS):
            step(cache, ids)

    return {**found, "decode_s": measure(write, device, repeats=1)["seconds"] / NEW_TOKENS, "new_tokens": NEW_TOKENS}


def prefilled(run: Callable[[Any], Any], needed: int, row: Row | None, device: torch.device) -> tuple[Facts, Any]:
    """The facts of a prefill (a function of the cache that it fills), and a filled cache."""
    found = measure(lambda: run(DynamicCache()), device, repeats=3)
    cache = DynamicCache()
    with torch.inference_mode():
        run(cache)
    facts = {**found, "weight_bytes": needed, "peak_bytes": needed + found["rise_bytes"], **counted(row)}
    return facts, cache


def read_plain(model: Any, name: str, te: int, td: int, device: torch.device) -> Facts:
    """The row of the plain LLM."""
    ids = random_ids(model.config, te + td, device)

    def run(cache: Any) -> None:
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    facts, cache = prefilled(run, weight_bytes(model), plain_row(name, model.config, te, td), device)
    return facts | decoding(lambda cache, ids: plain_step(model, cache, ids), cache, ids[:, :1], device)


def read_visual(
    model: Vist2ForCausalLM,
    name: str,
    reading: Reading,
    te: int,
    td: int,
    device: torch.device,
    dense: bool = False,
    decode: bool = True,
) -> Facts:
    """A row of VIST2; with `dense` a mask of all pairs says what the LLM's own causal kernel does by itself."""
    llm: Any = model.language_model
    history = History(llm.config, reading, te, td, device)
    tokens = torch.randn(int(history.counts["visual_counts"].sum()), 1, llm.config.hidden_size, device=device)
    tokens = tokens.to(llm.dtype)
    given = {**history.counts, "visual_tokens": tokens} if reading.chunks_kept else history.pages
    options = {"use_cache": True, "logits_to_keep": 1}

    def run(cache: Any) -> None:
        if not dense:
            model(**history.text, **given, past_key_values=cache, **options)
            return
        embeds = model.embed(history.text["input_ids"], history.layout.roles, **given)
        seen = visible(history.layout)
        model.read(
            embeds, attention_mask=seen, position_ids=positions(history.layout), past_key_values=cache, **options
        )

    needed = weight_bytes(llm) if reading.chunks_kept else weight_bytes(model)
    facts, cache = prefilled(run, needed, vist2_row(name, llm.config, reading, te, td), device)
    if not decode:
        return facts | {"kv_bytes": cache_bytes(cache), "cache_tokens": cache.get_seq_length()}
    ids = random_ids(llm.config, 1, device)
    return facts | decoding(lambda cache, ids: visual_step(model, cache, ids), cache, ids, device)


def prefill_and_decode(record: Record, tiny: bool, dtype: torch.dtype) -> None:
    """The plain LLM and VIST2 at every size, with sdpa."""
    llms, tower, te = shapes(tiny)
    encoding, kept = Reading(RATIO, tower), Reading(RATIO, tower, chunks_kept=True)
    for name, config in llms.items():
        held: dict[str, Any] = {}

        def plain(name: str = name, config: PreTrainedConfig = config, held: dict[str, Any] = held) -> Facts:
            held["llm"] = build(AutoModelForCausalLM, config, record.device, dtype)
            return read_plain(held["llm"], name, te, CHUNK, record.device)

        def visual(reading: Reading, dense: bool = False, name: str = name, held: dict[str, Any] = held) -> Facts:
            if "model" not in held:
                held["model"] = around(held["llm"], encoding, record.device, dtype)
            return read_visual(held["model"], name, reading, te, CHUNK, record.device, dense)

        rows: dict[str, Callable[[], Facts]] = {
            "text": plain,
            "4x, chunks kept": lambda visual=visual: visual(kept),
            "4x": lambda visual=visual: visual(encoding),
            "4x, chunks kept, dense mask": lambda visual=visual: visual(kept, True),
        }
        for method, run in rows.items():
            facts = {"part": "B", "method": f"{name}, {method}", "te": te, "td": CHUNK, "kernel": "sdpa"}
            record.row(facts, run)


def around(llm: Any, reading: Reading, device: torch.device, dtype: torch.dtype) -> Vist2ForCausalLM:
    """VIST2 of random weights around an LLM that is there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Vist2ForCausalLM(reading.config(llm.config), llm)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def flex(record: Record, tiny: bool, dtype: torch.dtype) -> None:
    """The prefill once more with FlexAttention and a block mask, the smallest LLM first."""
    llms, tower, te = shapes(tiny)
    kept = Reading(RATIO, tower, chunks_kept=True)

    def run(name: str, config: PreTrainedConfig) -> Facts:
        model = around(build(AutoModelForCausalLM, config, record.device, dtype), kept, record.device, dtype)
        model.language_model.set_attn_implementation("flex_attention")
        with unfused_on_cpu(record.device):
            return read_visual(model, name, kept, te, CHUNK, record.device, decode=False)

    for name, config in llms.items():
        facts = {"part": "B", "method": f"{name}, 4x, chunks kept, flex", "te": te, "td": CHUNK, "kernel": "flex"}
        record.row(facts, lambda name=name, config=config: run(name, config))


def unfused_on_cpu(device: torch.device) -> AbstractContextManager[Any]:
    """FlexAttention without a compiler on a CPU, which need not have one; as it is elsewhere."""
    if device.type != "cpu":
        return nullcontext()
    from torch.nn.attention.flex_attention import flex_attention

    def unfused(*args: Any, training: bool = False, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs)

    return patch("transformers.integrations.flex_attention.compile_friendly_flex_attention", unfused)
