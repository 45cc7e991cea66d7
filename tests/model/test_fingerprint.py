"""The sample that tells models apart: the same through precisions, another after the slightest training."""

import pytest
import torch
from torch import nn

from vist.errors import VistError
from vist.model.fingerprint import SAMPLES, fingerprint, first_difference, short_name


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(30, 40)), "b": nn.Parameter(torch.ones(5)), "c": nn.Parameter(torch.randn(9))}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_does_not_make_another_model(weights, dtype):
    known = fingerprint(weights)
    other = fingerprint({name: nn.Parameter(value.to(dtype)) for name, value in weights.items()})
    assert first_difference(known, other, set()) is None
    assert {len(sample) for sample in known.values()} == {SAMPLES, 5, 9}


def test_the_slightest_training_does(weights):
    """Every value moved by less than the last bit of bfloat16 may show; many of them must."""
    known = fingerprint(weights)
    trained = {**weights, "a": nn.Parameter(weights["a"] * (1 + 2.0**-8))}
    assert first_difference(known, fingerprint(trained), set()) == "a"
    assert short_name(fingerprint(trained)) != short_name(known) == short_name(fingerprint(weights))
    large = {**weights, "b": nn.Parameter(torch.tensor([1, 1, 1, 1, 1.1]))}
    assert first_difference(known, fingerprint(large), set()) == "b"


def test_names_shapes_and_packed_weights(weights):
    known = fingerprint(weights)
    assert first_difference(known, fingerprint({"a": weights["a"], "b": weights["b"]}), set()) == "c"
    assert first_difference(known, fingerprint({**weights, "c": nn.Parameter(torch.zeros(8))}), set()) == "c"
    packed = {**weights, "a": nn.Parameter(torch.zeros(600, dtype=torch.uint8), requires_grad=False)}
    assert first_difference(known, fingerprint(packed), {"a"}) is None


def test_weights_that_are_not_in_memory():
    with pytest.raises(VistError, match="The weight a is not in memory"):
        fingerprint({"a": nn.Parameter(torch.empty(3, device="meta"))})
