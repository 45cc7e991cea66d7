"""Rows of every kind of shard: the same ones however a shard is cut, and what is wrong with the others."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vist.errors import VistError
from vist.train.sources import BLOCK, Row, open_shards

TEXTS = [f"document {number} " + "word " * (number % 7) for number in range(50)]


def read(source: object, parts: int = 1, skip: int = 0) -> list[Row]:
    """All rows of the shards of a source, each shard cut into parts of equal size."""
    rows = []
    for shard in open_shards(source):
        for part in range(parts):
            start, stop = shard.size * part // parts, shard.size * (part + 1) // parts
            rows += shard.rows(shard.position(start), shard.position(stop), skip)
    return rows


def write_json(path: Path, lines: list[object]) -> Path:
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_json(tmp_path / "a.jsonl", [{"text": text, "meta": {"source": "c4"}} for text in TEXTS])


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    nested = [{"text": "not this one", "n": number} for number in range(len(TEXTS))]
    pq.write_table(pa.table({"meta": nested, "text": TEXTS}), tmp_path / "a.parquet", row_group_size=7)
    return tmp_path / "a.parquet"


@pytest.mark.parametrize("parts", [1, 3, 8, 61])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_row_is_in_exactly_one_part(kind: str, parts: int, request: pytest.FixtureRequest) -> None:
    assert [row.text for row in read(request.getfixturevalue(kind), parts)] == TEXTS


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_skipped_rows_are_the_first_ones(kind: str, request: pytest.FixtureRequest) -> None:
    assert [row.text for row in read(request.getfixturevalue(kind), skip=20)] == TEXTS[20:]


@pytest.mark.parametrize("parts", [1, 4])
def test_plain_text_comes_back_whole_in_blocks(tmp_path: Path, parts: int) -> None:
    text = "".join(f"line {number} – ä\n" for number in range(20_000))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    rows = read(tmp_path / "a.txt", parts)
    assert "".join(row.text or "" for row in rows) == text
    assert len(rows) > 4 and max(len(row.text or "") for row in rows) < BLOCK + 100
    assert [row.last for row in rows].count(True) == parts


@pytest.mark.parametrize("key", ["text", "raw_content", "content"])
def test_the_schemas_of_common_corpora(tmp_path: Path, key: str) -> None:
    row = {key: "some text", "meta": {"url": "u"}, "red_pajama_subset": "arxiv", "quality_signals": "{}"}
    assert read(write_json(tmp_path / "a.jsonl", [row]))[0].text == "some text"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \n"}, "empty"),
        ({"text": None}, "empty"),
        ({"title": "no text here"}, "no text"),
        (["a", "list"], "no text"),
        ({"text": 17}, "not text"),
        (b'{"text": "broken', "not JSON"),
        (b'{"text": "\xff\xfe"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "not UTF-8"),
    ],
)
def test_a_row_without_text_says_why_and_where(tmp_path: Path, line: object, fault: str) -> None:
    rows = read(write_json(tmp_path / "a.jsonl", [{"text": "good"}, line, {"text": "better"}]))
    assert [row.text for row in rows] == ["good", None, "better"]
    assert (rows[1].fault, rows[1].place) == (fault, f"{tmp_path / 'a.jsonl'} byte 17")


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    rows = read(write_json(tmp_path / "a.jsonl", [{"text": "good"}, b""]))
    assert (rows[1].text, rows[1].fault) == (None, None)


def test_truncated_shards_are_named(jsonl: Path, parquet: Path) -> None:
    for path in (jsonl, parquet):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) - 30])
        with pytest.raises(VistError, match=rf"{path.name}' is truncated.*copy the shard again"):
            open_shards(path)
        path.write_bytes(whole)


def test_a_last_row_without_line_break_is_no_truncation(jsonl: Path) -> None:
    jsonl.write_bytes(jsonl.read_bytes().rstrip(b"\n"))
    assert [row.text for row in read(jsonl)] == TEXTS


def test_a_row_group_that_is_damaged_names_shard_and_group(parquet: Path) -> None:
    content = bytearray(parquet.read_bytes())
    place = pq.ParquetFile(parquet).metadata.row_group(3).column(2).data_page_offset
    content[place : place + 24] = b"\xff" * 24
    parquet.write_bytes(bytes(content))
    with pytest.raises(VistError, match=r"a.parquet' is damaged in row group 3"):
        read(parquet)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(VistError, match=r"none of the columns text, raw_content, content \(it has: body\)"):
        open_shards(tmp_path / "b.parquet")
    with pytest.raises(VistError, match="no file or folder"):
        open_shards(tmp_path / "missing.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VistError, match="No training text in"):
        open_shards(tmp_path / "empty")


@pytest.mark.parametrize("files", [1, 2, 5])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_datasets_stream_has_every_row_in_one_part(tmp_path: Path, files: int, parts: int) -> None:
    datasets = pytest.importorskip("datasets")
    for number in range(files):
        write_json(tmp_path / f"{number}.jsonl", [{"text": text} for text in TEXTS[number::files]])
    paths = sorted(str(path) for path in tmp_path.glob("*.jsonl"))
    stream = datasets.load_dataset("json", data_files=paths, split="train", streaming=True)
    (shard,) = open_shards(stream)
    shard.check()
    found = [[row.text for row in shard.rows(part, parts)] for part in range(parts)]
    assert sorted(text for part in found for text in part if text) == sorted(TEXTS)
    assert [row.text for row in shard.rows(parts - 1, parts, skip=4)] == found[-1][4:]


def test_a_stream_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(VistError, match=r"pip install 'vist\[datasets\]'"):
        open_shards("datasets:some/name")
