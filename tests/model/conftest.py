"""Fixtures shared by the tests of the model."""

import pytest
import torch

from tiny_backbones import some_pages, tiny_model, tiny_tokenizer
from vist.model.processing import VistProcessor


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def processor():
    return VistProcessor(tiny_tokenizer(), style="vist")


@pytest.fixture
def batch():
    """Two samples of different lengths: left padding in the text, fewer pages in the second."""
    inputs = {"input_ids": torch.randint(3, 18, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    inputs["input_ids"][1, :2], inputs["attention_mask"][1, :2] = 0, 0
    pages = some_pages()
    pages["ink_mask"][1, 1:] = False
    return {**inputs, **pages}
