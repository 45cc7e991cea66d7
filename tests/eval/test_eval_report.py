"""The demonstration and its report: keys, escaping, nothing loaded from elsewhere, words in their places."""

from __future__ import annotations

import errno
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tiny_vist import alice
from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.eval.demo import Demo, DemoConfig, render_whole, run_demo
from vist.eval.files import write_json, write_whole
from vist.eval.importance import FREQUENCY_FILE, token_importance, word_boxes
from vist.eval.provenance import provenance
from vist.eval.reader import Reader
from vist.eval.report import render_report

TEXT = alice(14_000).replace("Alice", "<b>Alice</b> & co", 3)


@pytest.fixture(scope="module")
def demo(reader: Reader) -> Demo:
    config = DemoConfig(pages=1, proximal=30, windows=3, contexts=2, facts=2, new_tokens=4)
    return run_demo(reader, TEXT, config)


@pytest.fixture(scope="module")
def page(reader: Reader, demo: Demo) -> str:
    return render_report(reader, TEXT, demo, provenance("tiny"), "A <title>")


SCHEMA = {
    "rendering": {"characters": int, "tokens": int, "pages": int, "render_s": float, "characters_per_s": float},
    "methods": {
        "name": str,
        "label": str,
        "context_tokens": float,
        "dropped_tokens": float,
        "ratio": (float, type(None)),
        "ppl": float,
        "ppl_low": float,
        "ppl_high": float,
        "flops": int,
        "peak_bytes": int,
        "peak_rise_bytes": int,
        "memory": str,
        "ttft_s": float,
        "tokens_per_s": float,
    },
    "lm": {
        "windows": int,
        "documents": int,
        "scored_tokens": int,
        "unit": str,
        "differences": list,
        "share_kept": dict,
    },
    "recall": {"method": str, "label": str, "kind": str, "exact": float, "low": float, "high": float, "n": int},
    "recall_by_page": {"method": str, "page": int, "exact": float, "low": float, "high": float, "n": int},
}


def test_figures_have_the_documented_keys_and_types(demo: Demo, tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", provenance("tiny") | demo.to_dict())
    values = json.loads((tmp_path / "report.json").read_text())
    assert {"command", "date", "model", "versions", "machine"} <= set(values)
    documented = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    for part, keys in SCHEMA.items():
        rows = values[part] if isinstance(values[part], list) else [values[part]]
        for row in rows:
            for key, kind in keys.items():
                assert isinstance(row[key], kind), (part, key)
                assert f"`{key}`" in documented, key
            assert set(row) <= set(keys) | {"loss"}
    assert [row["name"] for row in values["methods"]] == ["none", "visual", "wrong", "full"]
    assert {row["method"] for row in values["recall"]} == {"none", "visual", "wrong", "full"}


class Loads(HTMLParser):
    """Collects what a browser would load, and the alternative texts."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [values[key] or "" for key in ("src", "srcset", "href", "data") if key in values]
        self.silent += tag == "img" and not values.get("alt")
        self.silent += tag == "svg" and not values.get("aria-label")
        assert tag not in ("script", "iframe", "link")


def test_report_loads_nothing_from_elsewhere(page: str) -> None:
    found = Loads()
    found.feed(page)
    assert len(found.sources) >= 8
    assert all(source.startswith("data:image/") for source in found.sources)
    assert found.silent == 0
    assert "@import" not in page
    assert not re.search(r"url\(", page.split("</style>")[0])
    assert len(page) < 3_000_000


def test_text_of_the_file_cannot_become_markup(page: str) -> None:
    assert "<title>A &lt;title&gt;" in page
    assert "<b>Alice</b>" not in page
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower().split()


def test_report_says_its_figures(page: str, demo: Demo) -> None:
    for row in demo.methods():
        assert f"{row['ppl']:,.2f}" in page
        assert row["label"] in page
    assert f"{demo.rendering.characters:,}" in page
    assert page.count("<rect ") >= len(demo.passage.distant.split())


def test_words_have_boxes_on_their_ink(reader: Reader) -> None:
    text = alice(1_500)
    importance, _ = token_importance(reader, text)
    boxes = word_boxes(reader, text, importance)
    broken = sum(first == second for first, second in zip(boxes, boxes[1:], strict=False) if first.word == second.word)
    assert [word for word, _ in itertools.groupby(box.word for box in boxes)] == [
        word for word, _ in itertools.groupby(text.split())
    ]
    assert broken == 0  # the parts of a broken word lie in different rows
    covered = np.zeros_like(reader.draw(text).pixels, dtype=bool)
    for box in boxes:
        covered[box.page, box.y : box.y + box.height, max(0, box.x - 2) : box.x + box.width + 2] = True
    ink = reader.draw(text).pixels < 128
    assert (ink & covered).sum() == ink.sum()
    assert covered.mean() < 0.9


def test_rare_words_are_more_important_than_frequent_ones(reader: Reader) -> None:
    text = alice(6_000)
    importance, source = token_importance(reader, text)
    assert "this text itself" in source
    ranks: dict[str, float] = {box.word: box.rank for box in word_boxes(reader, text, importance)}
    assert ranks["White"] > ranks["the"]
    assert min(ranks.values()) >= 0
    assert max(ranks.values()) <= 1


def test_statistics_beside_the_model_come_first(reader: Reader, tiny_folder: Path) -> None:
    table = TokenFrequency.from_corpus([[5, 5, 6]], reader.model.config.text_config.vocab_size)
    path = tiny_folder / FREQUENCY_FILE
    table.save(path)
    try:
        importance, source = token_importance(reader, "anything")
    finally:
        path.unlink()
    assert "training corpus" in source
    assert importance[5] == pytest.approx(math.log(1 / 3))


def test_an_empty_text_is_refused(reader: Reader) -> None:
    with pytest.raises(VistError, match="The text is empty"):
        render_whole(reader, " \n\t ")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    write_whole(target, "old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_whole(target, "new content")
    assert caught.value.filename == str(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [math.nan, math.inf, 1.5], "b": {"c": (-math.inf,)}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, None, 1.5], "b": {"c": [None]}}
