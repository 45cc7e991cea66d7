"""Writing with pages as memory: read a context, choose tokens, exchange every finished chunk for its visual tokens.

Owns the loop behind `Vist2ForCausalLM.generate` and what it refuses. The state it works on is chunked_state.py's.

Decisions
- `chunked_sample` has the signature that transformers asks of a `custom_generate` callable, so logits processors,
  stopping criteria and streamers are the usual ones. transformers 5.23 hands such a callable neither the streamer nor
  the tokenizer for stop strings; both are bound here.
- A chosen token is first put into the ledger, then worked into the memory at the beginning of the next step. So the
  last one costs nothing, and an interrupted step is finished, not repeated, by the next call.
- A token that ends a chunk is never written as text: the pages of the chunk come instead, and their last visual token
  predicts what follows. So the end of a chunk costs one pass of the tower and one of the LLM, in place of a step's.
- B samples, R samples whose chunk ends, Q new places, S slots, V vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput, StoppingCriteriaList, StopStringCriteria

from vist.errors import VistError
from vist.fuse.interleave import Role, kernel_mask
from vist.model.chunked_state import ChunkedState, Ledger, Step, restore_random_state
from vist.model.chunks import DrawnChunk, Undrawn
from vist.model.vist2_processing import Stretch, Vist2Processor

if TYPE_CHECKING:
    from vist.model.vist2 import Vist2ForCausalLM

#: option -> what it would need; refused unless it has one of its harmless values
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), "beam search, whose beams would need a memory each"),
    "assistant_model": ((None,), "assisted decoding"),
    "prompt_lookup_num_tokens": ((None,), "prompt lookup decoding"),
    "assistant_early_exit": ((None,), "early-exit decoding"),
    "penalty_alpha": ((None, 0.0), "contrastive search"),
    "dola_layers": ((None,), "DoLa decoding"),
    "guidance_scale": ((None, 1, 1.0), "classifier-free guidance"),
    "cache_implementation": ((None, "dynamic"), "a cache of fixed or other form"),
    "use_cache": ((None, True), "decoding without a cache"),
    "token_healing": ((None, False), "token healing"),
    "output_attentions": ((None, False), "attention maps of a memory that changes"),
    "output_hidden_states": ((None, False), "hidden states of a memory that changes"),
    "synced_gpus": ((None, False), "sharded generation"),
    "past_key_values": ((None,), "a cache of the caller's; pass state=... instead"),
    "inputs_embeds": ((None,), "embeddings without token ids, which cannot be drawn"),
    "pixel_values": ((None,), "ready-made pages; the text is drawn by the processor"),
    "roles": ((None,), "ready-made sequences; pass token ids"),
}


@dataclass
class Vist2GenerateOutput(GenerateDecoderOnlyOutput):
    """The usual output, and `state`: pass it to `generate(state=...)` to go on, or save it."""

    state: ChunkedState | None = None


@dataclass(frozen=True)
class Request:
    """What a call of `generate` asks for."""

    processor: Vist2Processor
    state: ChunkedState | None
    ids: Tensor
    attention_mask: Tensor | None
    nothing_to_write: bool
    return_dict: bool


def read_request(
    model: Vist2ForCausalLM, inputs: Tensor | None, config: GenerationConfig | None, kwargs: dict[str, Any]
) -> Request:
    """Take our own arguments out of `kwargs` and put in what transformers would lose on the way.

    Raises VistError for a missing processor or text, one that does not fit the model, or a way of decoding that is not
    possible here.
    """
    processor, state = kwargs.pop("processor", None), kwargs.pop("state", None)
    ids = kwargs.pop("input_ids", None) if inputs is None else inputs
    mask = kwargs.pop("attention_mask", None)

    def asked(name: str) -> Any:
        return kwargs[name] if name in kwargs else getattr(config or model.generation_config, name, None)

    _check_processor(model, processor)
    for name, (harmless, meaning) in REFUSED.items():
        if not any(asked(name) is value or asked(name) == value for value in harmless):
            raise VistError(
                f"{name}={_short(asked(name))} asks for {meaning}; VIST2 generates by sampling or greedily."
            )
    if state is not None:
        if asked("num_return_sequences") not in (None, 1):
            raise VistError("num_return_sequences needs a fresh start; a state holds one memory per sample.")
        ids, mask = state.ids, state.ledger.mask.long()
    if ids is None:
        raise VistError("There is nothing to continue; pass input_ids, or state=... of an earlier generation.")
    strings = asked("stop_strings")
    if strings is not None:
        criteria = StopStringCriteria(processor.tokenizer, strings)
        kwargs["stopping_criteria"] = StoppingCriteriaList([*kwargs.get("stopping_criteria", ()), criteria])
        kwargs["stop_strings"] = None
    kwargs.pop("tokenizer", None)
    return Request(processor, state, ids, mask, asked("max_new_tokens") == 0, bool(asked("return_dict_in_generate")))


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str | bool) else type(value).__name__


def _check_processor(model: Vist2ForCausalLM, processor: Any) -> None:
    if not isinstance(processor, Vist2Processor):
        raise VistError("generate() draws finished chunks and needs processor=..., the model's Vist2Processor.")
    name = "patches_per_token" if model.config.aligner == "shuffle" else "max_visual_tokens"
    asked, most = getattr(processor, name), getattr(model.config, name)
    if asked is None or asked > most:
        raise VistError(f"The processor's {name} is {asked}, but the model's aligner has {most}; load the model's own.")


def nothing_written(model: Vist2ForCausalLM, request: Request) -> Any:
    """What `generate` returns when no token was asked for: the text as it came, and the memory of it on request."""
    if not request.return_dict:
        return request.ids
    state = request.state or read_context(model, request.processor, request.ids, request.attention_mask)
    return _output(state, {})


def read_context(
    model: Vist2ForCausalLM, processor: Vist2Processor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> ChunkedState:
    """Read texts (B,L): finished chunks as visual tokens, the unfinished last one as text, in one causal pass.

    Raises VistError when a text has no tokens, or the aligner cannot give the ratio.
    """
    _check_processor(model, processor)
    device = model.device
    ids = input_ids.to(device)
    mask = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.to(device).bool()
    if ids.shape[0] == 0 or not mask.any(1).all():
        raise VistError("A text without tokens cannot be continued; give each sample at least one token.")
    texts = [row[there].tolist() for row, there in zip(ids, mask, strict=True)]
    rows = [processor.sequence(text, finished_text=False) for text in texts]
    processor.check_ratio(rows)
    batch = _to(processor.pack([[row] for row in rows], padding_side="left"), device)
    batch.pop("shift_labels")
    with torch.no_grad():
        output = model(**batch, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
    roles = batch["roles"]
    ledger = Ledger(
        ids=ids,
        mask=mask,
        done=torch.zeros(len(ids), dtype=torch.bool, device=device),
        there=roles != int(Role.PADDING),
        kept=(roles != int(Role.PADDING)) & (roles != int(Role.TEXT)),
        opens=tuple(tuple(row[-1].ids) if row[-1].role == Role.TEXT else () for row in rows),
        logits=output.logits[:, -1],
        undrawn=tuple((n, s.undrawn) for n, row in enumerate(rows) for s in row if s.undrawn is not None),
        chunks=tuple(tuple(s.pages.count for s in row if s.pages is not None) for row in rows),
    )
    return ChunkedState(output.past_key_values, ledger)


@torch.no_grad()
def chunked_sample(
    model: Vist2ForCausalLM,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Any = None,
    *,
    processor: Vist2Processor,
    state: ChunkedState | None = None,
    **model_kwargs: Any,
) -> Any:
    """Choose one token after the other, greedily or by sampling, until every sample has ended.

    Returns token ids (B,L), or `Vist2GenerateOutput` where a dict is asked for. Warns of chunks that stayed text.
    """
    state = state or read_context(model, processor, input_ids, model_kwargs.get("attention_mask"))
    restore_random_state(state)
    collected: dict[str, list[Tensor]] = {
        name: [] for name in ("scores", "logits") if getattr(generation_config, f"output_{name}")
    }
    known = len(state.undrawn)
    unfinished_B = ~state.ledger.done
    while bool(unfinished_B.any()):
        advance(model, processor, state)
        logits_BV = state.ledger.logits.to(copy=True, dtype=torch.float32)
        scores_BV = logits_processor(state.ids, logits_BV)
        for name, value in (("scores", scores_BV), ("logits", logits_BV)):
            if name in collected:
                collected[name].append(value)
        tokens_B = _choose(scores_BV, generation_config.do_sample)
        _note(state, tokens_B, unfinished_B, generation_config)
        if streamer is not None:
            streamer.put(state.ids[:, -1].cpu())
        unfinished_B = unfinished_B & ~stopping_criteria(state.ids, scores_BV).to(unfinished_B.device)
    if streamer is not None:
        streamer.end()
    for sample, found in state.undrawn[known:]:
        warnings.warn(f"A chunk of sample {sample} stayed text ({found.text!r}): {found.reason}", stacklevel=2)
    if not generation_config.return_dict_in_generate:
        return state.ids
    return _output(state, {name: tuple(values) for name, values in collected.items()})


def _output(state: ChunkedState, collected: dict[str, Any]) -> Vist2GenerateOutput:
    ids: Any = state.ids
    return Vist2GenerateOutput(sequences=ids, past_key_values=state.cache, state=state, **collected)


def _choose(scores_BV: Tensor, do_sample: bool | None) -> Tensor:
    if do_sample:
        return torch.multinomial(scores_BV.softmax(-1), num_samples=1).squeeze(1)
    return scores_BV.argmax(-1)


def _note(state: ChunkedState, tokens_B: Tensor, unfinished_B: Tensor, config: GenerationConfig) -> None:
    """Put chosen tokens into the ledger; samples that have ended get padding."""
    ledger = state.ledger
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    tokens_B = torch.where(unfinished_B, tokens_B, pad)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    end_ids = torch.tensor([end for end in ends if end is not None], dtype=torch.long, device=tokens_B.device)
    done_B = ledger.done | (unfinished_B & torch.isin(tokens_B, end_ids))
    alive = (unfinished_B & ~done_B).nonzero().flatten().tolist()
    state.ledger = replace(
        ledger,
        ids=torch.cat([ledger.ids, tokens_B[:, None]], dim=1),
        mask=torch.cat([ledger.mask, unfinished_B[:, None]], dim=1),
        done=done_B,
        step=Step(tuple(tokens_B.tolist()), tuple(alive)),
    )


@torch.no_grad()
def advance(model: Vist2ForCausalLM, processor: Vist2Processor, state: ChunkedState) -> None:
    """Work the tokens of the ledger's step, if there is one, into the memory; `logits` are then the next token's.

    Interrupted anywhere, it can be called again and goes on.
    """
    state.settle()
    step = state.ledger.step
    if step is None:
        return
    if not step.closed:
        step, frames = _plan(processor, state.ledger, step)
        if frames:
            _close(model, processor, state, step, frames)
    if step.writes:
        _write(model, state, step)
    else:
        found = (*state.ledger.undrawn, *step.undrawn)
        state.ledger = replace(state.ledger, step=None, opens=step.opens, undrawn=found)
    state.settle()


def _plan(processor: Vist2Processor, ledger: Ledger, step: Step) -> tuple[Step, dict[int, list[Stretch]]]:
    """Which samples end their chunk with this step and which write their token; the pages of the former."""
    special = set(processor.tokenizer.all_special_ids)
    opens = list(ledger.opens)
    frames: dict[int, list[Stretch]] = {}
    writes, keeps, undrawn = [], [], []
    for sample in step.alive:
        token = step.tokens[sample]
        chunk = opens[sample] if token in special else (*opens[sample], token)
        ends = bool(chunk) and (token in special or processor.rule.ends(chunk, processor.tokenizer))
        drawn = processor.draw(chunk) if ends else None
        if isinstance(drawn, DrawnChunk):
            frames[sample] = processor.frame(drawn)
        if isinstance(drawn, Undrawn):
            undrawn.append((sample, drawn))
        if token in special or not isinstance(drawn, DrawnChunk):
            writes.append(sample)
        if token in special or isinstance(drawn, Undrawn):
            keeps.append(sample)
        opens[sample] = () if ends or token in special else chunk
    planned = replace(step, closed=True, writes=tuple(writes), keeps=tuple(keeps), opens=tuple(opens))
    return replace(planned, undrawn=tuple(undrawn)), frames


def _close(
    model: Vist2ForCausalLM,
    processor: Vist2Processor,
    state: ChunkedState,
    step: Step,
    frames: dict[int, list[Stretch]],
) -> None:
    """Exchange the finished chunks of some samples for their visual tokens. Nothing changes before all is computed."""
    ledger, device = state.ledger, model.device
    rows = torch.tensor(list(frames), device=device)
    batch = _to(processor.pack([[frame] for frame in frames.values()], padding_side="left"), device)
    names = ("input_ids", "roles", "pixel_values", "ink_mask", "page_chunks", "visual_counts")
    embeds_RQED = model.embed(**{name: batch[name] for name in names})
    there_RQ = batch["roles"] != int(Role.PADDING)
    view, before_RS = state.view(rows)
    places = torch.arange(there_RQ.shape[1], device=device)
    own_RQQ = (places[None, :, None] >= places) & there_RQ[:, None, :] | (places[:, None] == places)
    seen = torch.cat([before_RS[:, None].expand(-1, len(places), -1), own_RQQ], dim=2)[:, None]
    position = before_RS.sum(1, keepdim=True) + (there_RQ.cumsum(1) - 1).clamp(min=0)
    logits_RV = _run(model, embeds_RQED, seen, position, view)
    logits_BV = ledger.logits.clone()
    logits_BV[rows] = logits_RV
    counts = [list(found) for found in ledger.chunks]
    for sample, frame in frames.items():
        counts[sample] += [stretch.pages.count for stretch in frame if stretch.pages is not None]
    chunks = tuple(map(tuple, counts))
    state.begin_exchange(rows, view, there_RQ, logits=logits_BV, chunks=chunks, step=step)
    state.settle()


def _write(model: Vist2ForCausalLM, state: ChunkedState, step: Step) -> None:
    """One more text token for some samples; the others compute along and keep nothing of it."""
    ledger, device = state.ledger, model.device
    tokens_B1 = torch.tensor(step.tokens, device=device)[:, None]
    written_B, keeps_B = _chosen(step.writes, len(tokens_B1), device), _chosen(step.keeps, len(tokens_B1), device)
    seen = torch.cat([ledger.there, torch.ones_like(written_B)[:, None]], dim=1)[:, None, None]
    embeds = model.get_input_embeddings()(tokens_B1).unsqueeze(2)
    logits_BV = _run(model, embeds, seen, state.lengths[:, None], state.cache)
    there, kept = state.extended(written_B, keeps_B)
    state.ledger = replace(
        ledger,
        there=there,
        kept=kept,
        logits=torch.where(written_B[:, None], logits_BV, ledger.logits),
        opens=step.opens,
        undrawn=(*ledger.undrawn, *step.undrawn),
        step=None,
    )


def _run(model: Vist2ForCausalLM, embeds_BQED: Tensor, seen_B1QK: Tensor, position_BQ: Tensor, cache: Any) -> Tensor:
    """One pass of the LLM over new places behind a cache -> logits (B,V) of the last place."""
    kernel = model.language_model.config._attn_implementation
    output = model.read(
        embeds_BQED,
        attention_mask=kernel_mask(seen_B1QK, kernel, embeds_BQED.dtype),
        position_ids=position_BQ,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _chosen(samples: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    chosen[list(samples)] = True
    return chosen


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}
