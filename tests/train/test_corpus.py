from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vist.errors import VistError
from vist.train.corpus import PackedCorpus, corpus_files, documents, read_text


def test_packed_documents_are_the_source(data: Path, corpus: PackedCorpus) -> None:
    for domain in ("books", "code"):
        texts = list(documents(data / "corpus" / domain / "train.parquet"))
        assert [corpus.document(domain, number) for number in range(len(texts))] == texts


def test_a_window_is_a_piece_of_a_document_that_starts_with_a_word(corpus: PackedCorpus) -> None:
    texts = [corpus.document(domain, number) for domain in ("books", "code") for number in range(4)]
    for seed in range(50):
        window = corpus.window(np.random.default_rng(seed), {"books": 1, "code": 2}, 300)
        owner = next(text for text in texts if window in text)
        start = owner.index(window)
        assert start == 0 or owner[start - 1] == " "
        assert 200 < len(window.encode()) <= 300


def test_windows_depend_on_the_seed_alone(corpus: PackedCorpus) -> None:
    draws = [corpus.window(np.random.default_rng((7, index)), {"books": 1}, 100) for index in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_an_interrupted_packing_is_done_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "train.part").write_bytes(b"half")
    packed = PackedCorpus.build(data, ("books",), "train", tmp_path)
    assert packed.document("books", 0).startswith(next(documents(data / "corpus/books/train.parquet"))[:50])
    assert not (tmp_path / "train.part").exists()


def test_a_failed_packing_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(VistError, match="letters"):
        PackedCorpus.build(data, ("books", "letters"), "train", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_packed_corpus_without_a_wanted_domain_is_named(data: Path, tmp_path: Path) -> None:
    PackedCorpus.build(data, ("books",), "train", tmp_path)
    with pytest.raises(VistError, match="holds books and not 'code'; remove"):
        PackedCorpus.build(data, ("books", "code"), "train", tmp_path)


def test_json_lines_and_text_files_are_documents(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": ""}\n{"text": "two"}\n')
    assert list(documents(lines)) == ["one", "two"]
    plain = tmp_path / "a.txt"
    plain.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9 \xff")
    assert list(documents(plain)) == ["café \ufffd"]


def test_bad_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(VistError, match="no file"):
        read_text(tmp_path / "missing.txt")
    with pytest.raises(VistError, match="folder"):
        read_text(tmp_path)
    with pytest.raises(VistError, match="--data"):
        corpus_files(tmp_path, "books", "train")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(VistError, match=r"no column 'text'.*body"):
        list(documents(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(VistError, match="cannot be read as Parquet"):
        list(documents(tmp_path / "b.parquet"))
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{broken\n')
    with pytest.raises(VistError, match="Line 2"):
        list(documents(tmp_path / "c.jsonl"))


def test_no_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VistError, match="No permission"):
        read_text(tmp_path / "a.txt")
