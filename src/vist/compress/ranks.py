"""Several processes that train one model: what they tell each other beside gradients.

Owns the few collectives that are ours; everything is a no-op in a single process. Must not know what is trained.
Stands here, before the losses, because PVE's negatives are gathered over ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vist.errors import VistError


def world_size() -> int:
    """Processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        dist.barrier()


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether the flag is raised on any rank; all get the same answer. `device`: where tensors are exchanged."""
    if world_size() == 1:
        return flag
    raised = torch.tensor(float(flag), device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return bool(raised.item())


def gather_rows(values: Tensor) -> Tensor:
    """The rows (B, ...) of all ranks, in their order (world x B, ...), with gradients flowing back to each rank.

    Backward adds up what the ranks' losses say about a row; with the mean over ranks that data parallel training takes
    of gradients, a loss that every rank computes over all rows has the gradient of that loss in one process.
    Raises VistError, on every rank, when ranks have different numbers of rows: the exchange would hang or mix them up.
    """
    if world_size() == 1:
        return values
    rows = torch.tensor([values.shape[0]], device=values.device)
    found = [torch.zeros_like(rows) for _ in range(world_size())]
    dist.all_gather(found, rows)
    counts = [int(count) for count in found]
    if len(set(counts)) > 1:
        raise VistError(f"The ranks have unequal batches ({counts} samples); give every rank the same number.")
    if values.dtype == torch.bool:
        return _gather_flags(values)
    return _GatherRows.apply(values)


class _GatherRows(torch.autograd.Function):
    """All ranks' rows; backward sums what all ranks' losses say about this rank's rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """(B, ...) -> (world x B, ...)."""
        ctx.rows = values.shape[0]
        found = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(found, values.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """(world x B, ...) -> (B, ...)."""
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _gather_flags(flags: Tensor) -> Tensor:
    """Rows of bool, which has no gradient and which not every backend exchanges."""
    sent = flags.to(torch.uint8)
    found = [torch.empty_like(sent) for _ in range(world_size())]
    dist.all_gather(found, sent)
    return torch.cat(found).bool()
