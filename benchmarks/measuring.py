"""Seconds and peak memory of passes over random-weight models, written to a JSON file row by row.

Owns the clock, the peak, the time budget and the record. Does not know models or methods.

Decisions
- `peak_bytes` is the weights that a row needs and what the pass allocated above what was there before. So a model that
  is loaded for several rows, or inputs that lie ready, are in no row's figure.
- On a GPU the peak is torch's count of allocated bytes, on a CPU the resident memory of the process.
- A row that fails is recorded with its error and the next one begins; none begins after the time budget.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from vist.eval.cost import PeakMemory
from vist.eval.cost_table import Row

REPEATS = 4
SLOW = 8.0  # seconds of a pass above which it is run once after its warm-up

Facts = dict[str, Any]


def synchronize(device: torch.device) -> None:
    """Wait until everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one pass, all work on the device done; what it returns is dropped."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(run: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> Facts:
    """Median seconds after one warm-up, and the bytes by which memory rose: `seconds`, `times`, `rise_bytes`."""
    warm_up = seconds_of(run, device)
    with PeakMemory(device) as memory:
        times = [seconds_of(run, device) for _ in range(1 if warm_up > SLOW else repeats)]
    reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    return {
        "seconds": statistics.median(times),
        "times": times,
        "warm_up_s": warm_up,
        "rise_bytes": memory.rise,
        "memory": memory.way,
        "reserved_bytes": reserved,
    }


def weight_bytes(*modules: nn.Module) -> int:
    """Bytes of the parameters of these modules, shared ones once."""
    found = {id(part): part for module in modules for part in module.parameters()}
    return sum(part.numel() * part.element_size() for part in found.values())


def counted(row: Row | None) -> Facts:
    """The same row by `vist`'s own count: operations in 10^12 and bytes."""
    if row is None:
        return {"counted_tflops": None, "counted_peak_bytes": None, "counted_memory": None}
    return {"counted_tflops": row.tflops, "counted_peak_bytes": row.peak_bytes, "counted_memory": dict(row.memory)}


def build(auto: Any, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, kernel: str = "sdpa") -> Any:
    """A model of this config with random weights, made on the device, with this attention kernel in all its parts."""
    with torch.device(device):
        model = auto.from_config(deepcopy(config), dtype=dtype).eval()
    if kernel != "sdpa":
        model.set_attn_implementation(kernel)
    return model.requires_grad_(False)


def random_ids(config: Any, length: int, device: torch.device) -> Tensor:
    """(1,length) token ids."""
    return torch.randint(3, config.vocab_size, (1, length), device=device)


def random_pages(
    count: int, grid: tuple[int, int], device: torch.device, ink: float = 1.0, side: int = 224
) -> dict[str, Tensor]:
    """`count` full pages (1,P,side,side) and their ink (1,P,rows,cols); of each page a share of `ink` is computed."""
    pixels = torch.randint(0, 256, (1, count, side, side), dtype=torch.uint8, device=device)
    patches = grid[0] * grid[1]
    rank = torch.rand(count, patches, device=device).argsort(1).argsort(1)
    return {"pixel_values": pixels, "ink_mask": (rank < round(patches * ink)).view(1, count, *grid)}


class Record:
    """Rows as they come, each written to `path` at once; `left` is what the time budget still holds."""

    def __init__(self, head: Facts, seconds: float, path: Path | None, device: torch.device) -> None:
        self.head, self.path, self.device = head, path, device
        self.rows: list[Facts] = []
        self.end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds until no new row begins."""
        return self.end - time.perf_counter()

    def row(self, facts: Facts, run: Callable[[], Facts], needs: float = 0.0) -> Facts | None:
        """Run one row and write it; None when `needs` seconds are not left. Errors become `error` of the row."""
        if self.left <= needs:
            return None
        start = time.perf_counter()
        try:
            found = run()
        except torch.OutOfMemoryError as error:
            found = {"error": "out of memory", "message": _first_line(error)}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        release(self.device)
        row = {**facts, **found, "row_s": time.perf_counter() - start}
        self.rows.append(row)
        print(_line(row), flush=True)
        self.write()
        return row

    def write(self) -> None:
        """The whole record as it is now."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({**self.head, "rows": self.rows}, indent=2))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _line(row: Facts) -> str:
    said = {"s": row.get("seconds"), "difference": row.get("difference"), "error": row.get("error")}
    rest = ", ".join(f"{name} {_short(value)}" for name, value in said.items() if value is not None)
    return f"{row['part']} {row['method']}, T_e {row.get('te', '-')}: {rest or row.get('verdict', 'done')}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: list[Facts], columns: dict[str, tuple[str, float]]) -> str:
    """Rows as plain text; `columns`: heading -> (key, divisor; 0 = as it is). A failed row shows its error."""
    lines = [["method", *columns]]
    for row in rows:
        cells = [_cell(row.get(key), divisor) for key, divisor in columns.values()]
        lines.append([row["method"], *cells, *([row["error"]] if "error" in row else [])])
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(cells))
        + "".join(f"  {more}" for more in line[len(widths) :])
        for line in lines
        for cells in [list(zip(line[: len(widths)], widths, strict=True))]
    )


def _cell(value: Any, divisor: float) -> str:
    if value is None:
        return "-"
    return f"{value / divisor:.4g}" if divisor else str(value)
