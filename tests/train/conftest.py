"""A small corpus on disk, in the layout that training expects."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vist.train.corpus import PackedCorpus

WORDS = "the cat sat on a mat and it saw one old dog by the sea where men talk of rain every long day in town".split()


def prose(seed: int, sentences: int = 120) -> str:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(sentences):
        words = [WORDS[place] for place in rng.integers(0, len(WORDS), int(rng.integers(4, 12)))]
        parts.append(" ".join(words).capitalize() + ".")
    return " ".join(parts)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number, domain in enumerate(("books", "code")):
        folder = root / "corpus" / domain
        folder.mkdir(parents=True)
        for split in ("train", "validation", "test"):
            texts = [prose(100 * number + document) for document in range(3)] + ["Überall – “ähnlich”. " * 30]
            pq.write_table(pa.table({"text": texts}), folder / f"{split}.parquet")
    return root


@pytest.fixture(scope="session")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    return PackedCorpus.build(data, ("books", "code"), "train", tmp_path_factory.mktemp("packed"))
