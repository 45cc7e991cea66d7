"""Muon for matrices, AdamW for everything else, as one optimizer.

Owns the update rule. Source: Muon (Jordan et al., 2024): momentum whose direction is made orthogonal by a
Newton-Schulz iteration; scaled to AdamW's usual step size as in "Muon is scalable" (arXiv 2502.16982).

Decisions
- Small models on few tokens learn about twice as fast by it, which is what makes `vist-nano` trainable on two cores.
- Matrices of one shape go through the iteration together, in bf16 where the stage trains in bf16 and in fp32 elsewhere:
  torch's own Muon always casts to bf16, which a CPU without bf16 units only emulates, and does not take embeddings,
  norms and biases.
- Embeddings, convolutions, heads over a vocabulary and vectors stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OUTPUT_RATE = 4.0
ITERATION = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(matrices_XRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of the given ones, (X, R, C) -> (X, R, C), in `dtype`."""
    a, b, c = ITERATION
    flat = matrices_XRC.mT if matrices_XRC.shape[1] > matrices_XRC.shape[2] else matrices_XRC
    flat = (flat / (flat.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(STEPS):
        gram = flat @ flat.mT
        flat = a * flat + (b * gram + c * gram @ gram) @ flat
    flat = flat.to(matrices_XRC.dtype)
    return flat.mT if matrices_XRC.shape[1] > matrices_XRC.shape[2] else flat


class MuonAdamW(Optimizer):
    """One optimizer with two kinds of parameter groups, told apart by their flag `muon`; `dtype` is the iteration's."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        beta2: float,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype
        super().__init__(list(groups), {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, beta2), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            shapes[parameter.shape].append(parameter)
        for shape, same in shapes.items():
            directions = orthogonalize(torch.stack([self._momentum(parameter) for parameter in same]), self.dtype)
            scale = group["lr"] * 0.2 * max(shape) ** 0.5
            for parameter, direction in zip(same, directions, strict=True):
                parameter.sub_(direction, alpha=scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        buffer = state.setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(grad, 0.05)
        return grad.lerp(buffer, 0.95)  # Nesterov

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
            state["mean"].lerp_(grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            step = state["step"].item()
            size = (state["square"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
            parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - beta1**step))


def build_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    beta2: float,
    backbone_rate: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> MuonAdamW:
    """Muon for the weights of linear layers, AdamW with weight decay for embeddings, AdamW without for vectors.

    Frozen parameters are left out. The output layer over a vocabulary counts as an embedding. A language model that
    is trained beside newer parts takes steps of `backbone_rate` times theirs. The output projections of the
    cross-attention take `OUTPUT_RATE` times larger ones: they start at zero, beside a residual stream that has its
    size already, and at the common rate nothing that is read from the pages can move a logit for most of a stage.
    """
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    linear -= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, float], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "vector" if parameter.ndim < 2 else "table"
            if kind == "table" and id(parameter) in linear and "head" not in name:
                kind = "matrix"
            groups[kind, _rate(name, backbone_rate)].append(parameter)
    settings = [
        {
            "params": parameters,
            "muon": kind == "matrix",
            "weight_decay": 0.0 if kind == "vector" else weight_decay,
            "lr": lr * rate,
        }
        for (kind, rate), parameters in groups.items()
    ]
    return MuonAdamW(settings, lr, weight_decay, beta2, dtype)


def _rate(name: str, backbone_rate: float) -> float:
    """How large the steps of a parameter are, relative to the others'."""
    if "cross_attn.o_proj" in name:
        return OUTPUT_RATE
    return backbone_rate if "language_model." in name and "cross_attn" not in name else 1.0
