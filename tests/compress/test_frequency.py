"""Token statistics and frequency-based masking against plain counting and sampling by hand."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vist.compress.frequency import TokenFrequency, frequency_mask
from vist.errors import VistError

CORPUS = [[0, 0, 1, 2], [0, 1], [0, 3, 3]]


def test_counts_and_importance_are_the_formula():
    frequency = TokenFrequency.from_corpus(iter(CORPUS), vocab_size=5)
    count = Counter(token for sample in CORPUS for token in sample)
    assert frequency.num_samples == 3
    assert frequency.counts.tolist() == [count[token] for token in range(5)]
    np.testing.assert_allclose(frequency.importance(), [math.log(3 / (1 + count[t])) for t in range(5)], rtol=1e-6)


def test_arrays_and_tensors_count_like_lists():
    frequency = TokenFrequency(5)
    frequency.update(np.array(CORPUS[0], dtype=np.uint16))
    frequency.update(torch.tensor(CORPUS[1]))
    frequency.update(CORPUS[2])
    assert np.array_equal(frequency.counts, TokenFrequency.from_corpus(CORPUS, 5).counts)


def test_the_table_survives_the_disk(tmp_path):
    frequency = TokenFrequency.from_corpus(CORPUS, vocab_size=5)
    frequency.save(tmp_path / "table.safetensors")
    again = TokenFrequency.load(tmp_path / "table.safetensors")
    assert np.array_equal(again.counts, frequency.counts) and again.num_samples == 3
    assert [path.name for path in tmp_path.iterdir()] == ["table.safetensors"]


def test_a_failed_save_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "table.safetensors"
    TokenFrequency.from_corpus(CORPUS, vocab_size=5).save(path)
    before = path.read_bytes()

    def full_disk(table, name):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vist.compress.frequency.save_file", full_disk)
    with pytest.raises(OSError):
        TokenFrequency(5).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("strategy", ["frequency", "random"])
def test_the_rate_is_exact_in_every_row_and_padding_does_not_count(strategy, rate):
    ids = torch.arange(60).view(2, 30) % 5
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, :10] = False
    keep = frequency_mask(ids, np.zeros(5), rate, strategy, torch.Generator().manual_seed(0), valid)
    assert (valid & ~keep).sum(1).tolist() == [round(30 * rate), round(20 * rate)]
    assert not keep[~valid].any()


def test_frequent_tokens_are_masked_in_proportion_to_their_count():
    """One token of two is masked: the chance of either is proportional to 1 + count."""
    importance = np.log(10 / (1.0 + np.array([2, 0])))  # chances 3 : 1
    ids = torch.tensor([[0, 1]]).expand(20_000, 2)
    keep = frequency_mask(ids, importance, 0.5, "frequency", torch.Generator().manual_seed(0))
    assert abs((~keep[:, 0]).float().mean() - 0.75) < 0.01
    keep = frequency_mask(ids, importance, 0.5, "random", torch.Generator().manual_seed(0))
    assert abs((~keep[:, 0]).float().mean() - 0.5) < 0.01


def test_none_keeps_all_and_the_seed_decides():
    ids = torch.arange(40).view(2, 20)
    importance = torch.linspace(-1, 1, 40)
    assert frequency_mask(ids, importance, 0.5, "none").all()
    first, second = (frequency_mask(ids, importance, 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    other = frequency_mask(ids, importance, 0.5, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_users_get_sentences(tmp_path):
    ids = torch.tensor([[0, 1]])
    for rate in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(VistError, match=f"at least 0 and below 1, got {rate}"):
            frequency_mask(ids, np.zeros(2), rate)
    with pytest.raises(VistError, match="Unknown masking strategy 'rare'"):
        frequency_mask(ids, np.zeros(2), 0.5, "rare")
    with pytest.raises(VistError, match="must be positive, got 0"):
        TokenFrequency(0)
    with pytest.raises(VistError, match="Token id 7 is outside the vocabulary of 5"):
        TokenFrequency(5).update([1, 7])
    with pytest.raises(VistError, match="0 samples"):
        TokenFrequency(5).importance()
    with pytest.raises(VistError, match="no token statistics file"):
        TokenFrequency.load(tmp_path / "nothing")
    (tmp_path / "broken").write_bytes(b"not a table")
    with pytest.raises(VistError, match="not a token statistics table"):
        TokenFrequency.load(tmp_path / "broken")


def test_a_dynamic_rate_masks_a_share_of_the_information() -> None:
    importance = torch.tensor([-3.0, 0.0, 1.0, 4.0])
    rows = torch.tensor([[0, 0, 0, 0, 1, 2, 3, 3], [3, 3, 3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0]])
    kept = frequency_mask(rows, importance, 0.5, "dynamic", torch.Generator().manual_seed(0))
    # above the least: 0 0 0 0 3 4 7 7 = 21, of which the six smallest hold 7 and seven would hold 14; 8 x 7, half: 4;
    # no information at all: the share of tokens
    assert (~kept).sum(-1).tolist() == [6, 4, 4]
    valid = torch.tensor([[True] * 6 + [False] * 2])
    part = frequency_mask(rows[:1], importance, 0.5, "dynamic", torch.Generator().manual_seed(0), valid)
    assert not part[0, 6:].any() and (~part[0, :6]).sum() == 5  # 0 0 0 0 3 4 = 7: the five smallest hold 3
    most = [frequency_mask(rows[:1], importance, 0.5, "dynamic", torch.Generator().manual_seed(n)) for n in range(200)]
    shares = torch.cat(most).float().mean(0)
    assert shares[6:].min() > shares[:4].max()  # what is rare stays more often
