"""The memory of a generation whose finished chunks are pages: keys and values, and the ledger that says what they are.

Owns which slots of the cache are in use, the exchange of a chunk's text for its visual tokens, saving and loading.
Does not know how tokens are chosen, drawn or encoded.

Decisions
- A slot is a column of the cache. Samples of a batch end their chunks at different steps, so each has its own slots in
  use (`there`) and, of those, its own that stay (`kept`). Order among slots does not matter: keys are rotated already.
- The ledger is a frozen record, replaced by one assignment. Keys and values follow it: `settle` finishes an exchange
  that was begun, and cuts off slots that a forward pass wrote before it was interrupted. So whatever is interrupted
  wherever, the state is the one before or the one after.
- Visual tokens are computed through a view (`ViewCache`) that shows the slots that stay and catches the new ones. The
  exchange then builds one layer after the other; never more than one layer exists twice.
- B samples, S slots, R samples whose chunk ended, Q new places, H heads, Dh width of a head, V vocabulary.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from vist.errors import CheckpointError
from vist.model.chunks import Undrawn

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """Tokens that were chosen and are not in the memory yet.

    `tokens` one per sample; `alive` the samples whose token counts. Once planned: `writes` the samples that write their
    token, `keeps` those of them after which all their slots stay, `opens` the unfinished chunks afterwards. `closed`:
    the chunks that end with this step are exchanged already.
    """

    tokens: tuple[int, ...]
    alive: tuple[int, ...]
    closed: bool = False
    writes: tuple[int, ...] = ()
    keeps: tuple[int, ...] = ()
    opens: tuple[tuple[int, ...], ...] = ()
    undrawn: tuple[tuple[int, Undrawn], ...] = ()


@dataclass(frozen=True)
class Exchange:
    """Slots that go and slots that come: `new` keys and values (R,H,Q,Dh) per layer of the samples `rows` (R,).

    `order` (B,S') are the slots that are left, out of the S old ones and the Q new ones behind them.
    """

    rows: Tensor
    new: tuple[KeysValues, ...]
    order: Tensor
    number: int


@dataclass(frozen=True)
class Ledger:
    """All of a state but keys and values.

    `ids` (B,L) every token so far and `mask` (B,L) which are text; `done` (B,) ended by an end token; `there`, `kept`
    (B,S) bool; `opens` the tokens of each sample's unfinished chunk; `logits` (B,V) for the next token; `undrawn`
    (sample, reason) of each chunk that stayed text; `chunks` visual tokens of each chunk so far, by sample.
    """

    ids: Tensor
    mask: Tensor
    done: Tensor
    there: Tensor
    kept: Tensor
    opens: tuple[tuple[int, ...], ...]
    logits: Tensor
    undrawn: tuple[tuple[int, Undrawn], ...] = ()
    chunks: tuple[tuple[int, ...], ...] = ()
    step: Step | None = None
    exchange: Exchange | None = None
    exchanges: int = 0


class ChunkedState:
    """What a generation remembers; made by `Vist2ForCausalLM.start` or `generate`, continued by the latter."""

    def __init__(self, cache: Cache, ledger: Ledger, rng: Tensor | None = None) -> None:
        self.cache, self.ledger, self.rng = cache, ledger, rng

    @property
    def ids(self) -> Tensor:
        """(B,L) every token so far, read and written."""
        return self.ledger.ids

    @property
    def undrawn(self) -> tuple[tuple[int, Undrawn], ...]:
        """The chunks that stayed text because they cannot be drawn: (sample, reason)."""
        return self.ledger.undrawn

    @property
    def lengths(self) -> Tensor:
        """(B,) slots in use, which is also the position of what comes next."""
        return self.ledger.there.sum(1)

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take, unused slots included."""
        layers: list[Any] = self.cache.layers
        return sum(part.untyped_storage().nbytes() for layer in layers for part in (layer.keys, layer.values))

    def settle(self) -> None:
        """Bring keys and values to what the ledger says, after an exchange or an interruption."""
        ledger = self.ledger
        if ledger.exchange is not None:
            for number, layer in enumerate(self.cache.layers):
                if getattr(layer, "exchanges", 0) != ledger.exchange.number:
                    self.cache.layers[number] = _exchanged(layer, ledger.exchange, number)
            self.ledger = ledger = replace(ledger, exchange=None)
        slots = ledger.there.shape[1]
        layers: list[Any] = self.cache.layers
        for layer in layers:
            if layer.keys.shape[2] > slots or layer.values.shape[2] > slots:
                layer.keys, layer.values = layer.keys[:, :, :slots], layer.values[:, :, :slots]

    def view(self, rows: Tensor) -> tuple[Cache, Tensor]:
        """What stays of these samples (R,), as a cache that changes nothing, and which of its slots (R,S') are real."""
        kept_RS = (self.ledger.there & self.ledger.kept)[rows]
        order_RS = (~kept_RS).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(kept_RS.sum(1).max())]
        layers: list[Any] = [ViewLayer(layer, rows, order_RS) for layer in self.cache.layers]
        return Cache(layers=layers), kept_RS.gather(1, order_RS)

    def begin_exchange(self, rows: Tensor, view: Cache, there_RQ: Tensor, **changes: Any) -> None:
        """Drop what does not stay of these samples and take in what the view caught; `settle` carries it out.

        `there_RQ` says which of the new places are real; `changes` go into the ledger in the same moment.
        """
        old = self.ledger
        staying_BS = old.there.clone()
        staying_BS[rows] &= old.kept[rows]
        coming_BQ = torch.zeros(len(staying_BS), there_RQ.shape[1], dtype=torch.bool, device=staying_BS.device)
        coming_BQ[rows] = there_RQ
        all_BS = torch.cat([staying_BS, coming_BQ], dim=1)
        order = (~all_BS).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(all_BS.sum(1).max())]
        kept_BS = torch.cat([old.kept & staying_BS, coming_BQ], dim=1).gather(1, order)
        number = old.exchanges + 1
        layers: list[Any] = view.layers
        new = tuple(layer.new for layer in layers)
        self.ledger = replace(
            old,
            there=all_BS.gather(1, order),
            kept=kept_BS,
            exchange=Exchange(rows, new, order, number),
            exchanges=number,
            **changes,
        )

    def extended(self, written_B: Tensor, keeps_B: Tensor) -> tuple[Tensor, Tensor]:
        """`there` and `kept` (B,S+1) with one more slot, written by some samples; of `keeps_B` all slots stay."""
        there = torch.cat([self.ledger.there, written_B[:, None]], dim=1)
        kept = torch.cat([self.ledger.kept, torch.zeros_like(written_B)[:, None]], dim=1)
        return there, torch.where(keeps_B[:, None], there, kept)

    def save(self, folder: str | Path) -> None:
        """Write the state to a folder, beside and renamed; the state of the random numbers goes along."""
        self.settle()
        folder, ledger = Path(folder), self.ledger
        step = ledger.step if ledger.step is None or ledger.step.closed else _unplanned(ledger.step)
        facts = {
            "opens": ledger.opens,
            "undrawn": ledger.undrawn,
            "chunks": ledger.chunks,
            "step": None if step is None else vars(step),
        }
        tensors = {name: getattr(ledger, name) for name in ("ids", "mask", "done", "there", "kept", "logits")}
        layers: list[Any] = self.cache.layers
        for number, layer in enumerate(layers):
            tensors[f"keys.{number}"], tensors[f"values.{number}"] = layer.keys, layer.values
        tensors["rng"] = _random_state(ledger.logits.device)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "state.part"
        whole = {name: value.contiguous() for name, value in tensors.items()}
        save_file(whole, part, metadata={"format": "vist2-state", "facts": json.dumps(facts)})
        os.replace(part, folder / "state.safetensors")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> ChunkedState:
        """Read a saved state. Raises CheckpointError when the folder holds none."""
        path = Path(folder) / "state.safetensors"
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{str(folder)!r} holds no readable state of a generation; save one there."
            ) from error
        except Exception as error:  # safetensors' own error is no RuntimeError
            raise CheckpointError(f"The state in {str(folder)!r} is damaged: {error}.") from error
        cache = DynamicCache()
        for number in range(sum(name.startswith("keys.") for name in tensors)):
            cache.update(tensors.pop(f"keys.{number}"), tensors.pop(f"values.{number}"), number)
        rng = tensors.pop("rng").cpu()
        step = facts["step"]
        ledger = Ledger(
            **tensors,
            opens=_tuples(facts["opens"]),
            undrawn=_undrawn(facts["undrawn"]),
            chunks=_tuples(facts["chunks"]),
            step=None if step is None else _step(step),
        )
        return cls(cache, ledger, rng)


class ViewLayer(DynamicLayer):
    """Some slots of a layer, and whatever is added to them, without touching the layer. `new` is what was added."""

    def __init__(self, layer: Any, rows: Tensor, order_RS: Tensor) -> None:
        super().__init__()
        self.layer, self.rows, self.order = layer, rows, order_RS
        self.is_initialized = True
        self.new: KeysValues

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> KeysValues:
        """Keys and values (R,H,S'+Q,Dh) of what stays and what is new."""
        self.new = (key_states, value_states)
        old = (_take(part[self.rows], self.order) for part in (self.layer.keys, self.layer.values))
        keys, values = (torch.cat(pair, dim=2) for pair in zip(old, self.new, strict=True))
        return keys, values

    def get_seq_length(self) -> int:
        """Slots of the view."""
        return self.order.shape[1]


def _exchanged(layer: Any, exchange: Exchange, number: int) -> DynamicLayer:
    """A layer with the slots that are left, and the new ones."""
    fresh = DynamicLayer()
    fresh.dtype, fresh.device, fresh.is_initialized = layer.keys.dtype, layer.keys.device, True
    parts = []
    for old, new in zip((layer.keys, layer.values), exchange.new[number], strict=True):
        coming = new.new_zeros(old.shape[0], *new.shape[1:])
        coming[exchange.rows] = new
        parts.append(_take(torch.cat([old, coming], dim=2), exchange.order))
    fresh.keys, fresh.values = parts
    vars(fresh)["exchanges"] = exchange.number
    return fresh


def _take(states_BHSD: Tensor, order_BS: Tensor) -> Tensor:
    heads, width = states_BHSD.shape[1], states_BHSD.shape[3]
    return states_BHSD.gather(2, order_BS[:, None, :, None].expand(-1, heads, -1, width))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def restore_random_state(state: ChunkedState) -> None:
    """Go on with the random numbers where a saved state stopped; once. Warns where another kind of device saved it."""
    if state.rng is not None:
        device = state.ledger.logits.device
        if state.rng.shape != _random_state(device).shape:
            warnings.warn(
                f"The state was saved on another kind of device than {device.type}, whose random numbers cannot go on "
                "here: what is sampled from now on differs from what would have been sampled there.",
                stacklevel=2,
            )
        elif device.type == "cuda":
            torch.cuda.set_rng_state(state.rng, device)
        else:
            torch.set_rng_state(state.rng)
        state.rng = None


def _unplanned(step: Step) -> Step:
    return Step(step.tokens, step.alive)


def _tuples(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _undrawn(rows: Sequence[Any]) -> tuple[tuple[int, Undrawn], ...]:
    return tuple((sample, Undrawn(*found)) for sample, found in rows)


def _step(facts: dict[str, Any]) -> Step:
    plain = {name: tuple(facts[name]) for name in ("tokens", "alive", "writes", "keeps")}
    return Step(**plain, closed=facts["closed"], opens=_tuples(facts["opens"]), undrawn=_undrawn(facts["undrawn"]))
