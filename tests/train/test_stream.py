"""Lanes: every token of the corpus once, in order, from any cursor on, however the work is shared."""

import json
from itertools import islice
from pathlib import Path

import pytest

from tiny_backbones import tiny_tokenizer
from tiny_recipe import sentences, write_corpus
from vist.errors import VistError
from vist.train.sources import open_shards
from vist.train.stream import Cursor, Lane, Window, cut_lanes, fingerprint, pieces, report, skipped_sentence
from vist.train.tokenizer import train_tokenizer

TOKENIZER = tiny_tokenizer()
TOKENS = 37


def windows(source: Path, lanes: int, lane: int, count: int, cursor: Cursor | None = None) -> list[Window]:
    segments = cut_lanes(open_shards(source), lanes)
    return list(islice(Lane(segments[lane], TOKENIZER, TOKENS, cursor), count))


def as_plain(found: list[Window]) -> list[tuple]:
    return [(window.ids.tolist(), window.texts, window.cursor) for window in found]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "data", documents=12, words=30)


def test_windows_are_the_documents_one_after_the_other(corpus: Path) -> None:
    rows = [json.loads(line)["text"] for line in (corpus / "part.jsonl").read_text().splitlines()]
    expected = [token for row in rows for token in [*TOKENIZER(row, add_special_tokens=False).input_ids, 2]]
    found = windows(corpus, 1, 0, len(expected) // TOKENS)
    assert [token for window in found for token in window.ids] == expected[: len(found) * TOKENS]
    assert "".join(text for window in found for text in window.texts).startswith(rows[0] + "\n\n" + rows[1] + "\n\n")


def test_lanes_share_the_corpus_between_them(corpus: Path) -> None:
    rows = [json.loads(line)["text"] for line in (corpus / "part.jsonl").read_text().splitlines()]
    seen = []
    for segments in cut_lanes(open_shards(corpus), 5):
        seen += [row.text for shard, start, stop in segments for row in shard.rows(start, stop)]
    assert seen == rows


@pytest.mark.parametrize("done", [1, 2, 7, 40])
def test_a_lane_goes_on_exactly_where_its_cursor_says(corpus: Path, done: int) -> None:
    whole = windows(corpus, 3, 1, done + 5)
    cursor = Cursor.from_dict(json.loads(json.dumps(whole[done - 1].cursor.to_dict())))
    assert as_plain(windows(corpus, 3, 1, 5, cursor)) == as_plain(whole[done:])


def test_faulty_rows_are_counted_once_wherever_a_run_was_interrupted(tmp_path: Path) -> None:
    lines = [json.dumps({"text": sentences(number, 9)}) for number in range(30)]
    for place in (3, 4, 11, 12, 13, 29):
        lines[place] = '{"text": ""}' if place % 2 else "broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    whole = windows(tmp_path, 1, 0, 12)
    last = whole[-1].cursor
    assert last.epoch > 0
    for done in range(1, 11):
        again = windows(tmp_path, 1, 0, 12 - done, whole[done - 1].cursor)
        assert again[-1].cursor == last
    once = next(window.cursor for window in whole if window.cursor.epoch == 1)
    assert {fault: count for fault, (count, _) in once.skipped.items()} == {"empty": 4, "not JSON": 2}
    found = report([once])
    assert found["skipped"]["not JSON"] == {
        "rows": 2,
        "first": f"{tmp_path / 'a.jsonl'} byte {len(lines[0] + lines[1] + lines[2] + lines[3]) + 4}",
    }
    assert skipped_sentence(found).startswith("Skipped rows: 4 empty (first: ")
    assert skipped_sentence(report([Cursor()])) == ""


def test_a_lane_begins_again_and_counts_documents(corpus: Path) -> None:
    found = windows(corpus, 1, 0, 40)[-1].cursor
    assert found.epoch >= 1 and found.documents >= 12
    assert windows(corpus, 1, 0, 1)[0].cursor.documents == 1


def test_a_corpus_without_text_is_an_error_not_a_wait(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"title": 1}\n')
    with pytest.raises(VistError, match=r"no text at all \(empty, no text\).*lower the global batch"):
        windows(tmp_path, 1, 0, 1)
    (tmp_path / "a.jsonl").write_text('{"text": "the cat"}\n')
    with pytest.raises(VistError, match=r"no text at all \(no rows\)"):
        windows(tmp_path, 2, 1, 1)


def test_a_document_longer_than_a_piece_is_cut_and_comes_back_whole(tmp_path: Path) -> None:
    text = sentences(0, 30_000)
    assert len(list(pieces(text))) > 2 and "".join(pieces(text)) == text
    (tmp_path / "a.txt").write_text(text)
    found = windows(tmp_path, 1, 0, 29_999 // TOKENS)
    assert (
        "".join(part for window in found for part in window.texts)
        == text[: sum(map(len, sum((w.texts for w in found), [])))]
    )


def test_texts_of_tokens_are_the_source_also_where_bytes_are_split(tmp_path: Path) -> None:
    text = "Überall – “ähnlich” 日本語 " * 30
    tokenizer = train_tokenizer(["plain words only"] * 5, vocab_size=300, model_max_length=64)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (segments,) = cut_lanes(open_shards(tmp_path), 1)
    size = len(tokenizer(text, add_special_tokens=False).input_ids)
    window = next(Lane(segments, tokenizer, size))
    assert "".join(window.texts) == text


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path, documents=300, words=60)
    (segments,) = cut_lanes(open_shards(tmp_path), 1)
    lane = Lane(segments, TOKENIZER, TOKENS)
    assert max(len(lane._ids) for _ in islice(lane, 400)) < 500


def test_a_fingerprint_names_what_cursors_belong_to(corpus: Path) -> None:
    shards = open_shards(corpus)
    names = {fingerprint(shards, TOKENIZER, tokens, lanes) for tokens in (10, 11) for lanes in (1, 2)}
    (corpus / "more.txt").write_text("the cat")
    names.add(fingerprint(open_shards(corpus), TOKENIZER, 10, 1))
    assert len(names) == 5
