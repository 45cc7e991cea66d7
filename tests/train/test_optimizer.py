import pytest
import torch
from torch import nn

from vist.train.optimizer import MuonAdamW, build_optimizer, orthogonalize


def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values() -> None:
    for shape in ((6, 10), (10, 6), (8, 8)):
        matrix = torch.randn(3, *shape)
        done = orthogonalize(matrix)
        assert torch.linalg.svdvals(done).sub(1).abs().max() < 0.45
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        diagonal = u.mT @ done @ v.mT
        off = diagonal - torch.diag_embed(diagonal.diagonal(dim1=1, dim2=2))
        assert off.abs().max() < 1e-3


def test_vectors_follow_torch_adamw() -> None:
    start = torch.randn(7)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = MuonAdamW([{"params": [ours], "muon": False}], lr=0.01, weight_decay=0.1, beta2=0.98)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    for step in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_follow_torch_muon(dtype: torch.dtype) -> None:
    start = torch.randn(8, 12)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = MuonAdamW([{"params": [ours], "muon": True}], 0.01, weight_decay=0.1, beta2=0.98, dtype=dtype)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    assert (ours - theirs).norm() < 0.05 * (theirs - start).norm()  # theirs iterates in bf16


def test_groups_and_frozen_parameters() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 5)})
    model["head"].weight = model["embed"].weight
    model.frozen = nn.Linear(4, 4).requires_grad_(False)
    optimizer = build_optimizer(model, 0.01, 0.1, 0.98)
    kinds = {id(p): (group["muon"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert kinds[id(model["body"].weight)] == (True, 0.1)
    assert kinds[id(model["embed"].weight)] == (False, 0.1)
    assert kinds[id(model["body"].bias)] == (False, 0.0)
    assert id(model.frozen.weight) not in kinds and len(kinds) == 4


def test_a_backbone_takes_smaller_steps() -> None:
    model = nn.ModuleDict({"language_model": nn.ModuleDict({"mlp": nn.Linear(4, 4), "cross_attn": nn.Linear(4, 4)})})
    optimizer = build_optimizer(model, 0.01, 0.1, 0.98, backbone_rate=0.25)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["language_model"]["mlp"].weight)] == 0.0025
    assert rates[id(model["language_model"]["cross_attn"].weight)] == 0.01


def test_a_backbone_takes_smaller_steps_inside_an_objective_too() -> None:
    inner = nn.ModuleDict({"language_model": nn.Linear(4, 4), "aligner": nn.Linear(4, 4)})
    optimizer = build_optimizer(nn.ModuleDict({"model": inner}), 0.01, 0.1, 0.98, backbone_rate=0.25)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(inner["language_model"].weight)] == 0.0025
    assert rates[id(inner["aligner"].weight)] == 0.01


def test_output_projections_of_the_cross_attention_take_larger_steps() -> None:
    model = nn.ModuleDict({"cross_attn": nn.ModuleDict({"o_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)})})
    optimizer = build_optimizer(model, 0.01, 0.1, 0.98)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["cross_attn"]["o_proj"].weight)] == 0.04
    assert rates[id(model["cross_attn"]["v_proj"].weight)] == 0.01


def test_state_survives_a_checkpoint() -> None:
    def run(steps: int, weight: torch.Tensor, state: dict | None) -> tuple[torch.Tensor, dict]:
        layer = nn.Linear(4, 4)
        layer.weight.data.copy_(weight)
        layer.bias.data.zero_()
        optimizer = build_optimizer(layer, 0.05, 0.1, 0.98)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(1, 4)).square().sum().backward()
            layer.bias.grad = None
            optimizer.step()
        return layer.weight.detach().clone(), optimizer.state_dict()

    start = torch.randn(4, 4)
    whole, _ = run(4, start, None)
    half, state = run(2, start, None)
    resumed, _ = run(2, half, state)
    torch.testing.assert_close(resumed, whole)
