"""Read-back: error rates against jiwer, pages that are full, who reads them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tiny_vist import alice
from vist.errors import VistError
from vist.eval import ocr, readback
from vist.eval.conditions import Condition
from vist.eval.edits import character_errors, edit_distance, word_errors
from vist.eval.readback import PageText, encoder_reads, evaluate_readback, plan_pages
from vist.eval.reader import Reader
from vist.render import render
from vist.render.fonts import font_path


@given(st.text("ab c", max_size=12), st.text("ab c", max_size=12))
def test_error_rates_are_jiwers(reference: str, read: str) -> None:
    jiwer = pytest.importorskip("jiwer")
    reference = " ".join(reference.split()) or "a"
    read = " ".join(read.split())
    errors, length = character_errors(reference, read)
    assert errors / length == pytest.approx(jiwer.cer(reference, read))
    errors, length = word_errors(reference, read)
    assert errors / length == pytest.approx(jiwer.wer(reference, read))


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("abc", "cab", 2),
        ("日本語", "日本", 1),
        ("", "", 0),
    ],
)
def test_distances_by_hand(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance == edit_distance(second, first)


def test_pages_are_full_and_their_texts_are_what_they_show(reader: Reader) -> None:
    pages, documents = plan_pages(reader, [alice(9_000), alice(18_000)[9_000:]], 4, seed=1)
    assert documents == [0, 1, 0, 1]
    for page in pages:
        assert len(page.pages) == 1
        assert page.pages.ink[0, -1].any()  # the last row has text
        assert page.text == page.pages.text
        assert len(page.cue) >= 14
    assert [page.text for page in pages] == [
        page.text for page in plan_pages(reader, [alice(9_000), alice(18_000)[9_000:]], 4, 1)[0]
    ]
    with pytest.raises(VistError, match="0 full pages and 4 are wanted"):
        plan_pages(reader, ["Too short for a page."], 4)


def test_every_reader_is_reported(reader: Reader) -> None:
    pages, documents = plan_pages(reader, [alice(9_000)], 3)
    rows = evaluate_readback(reader, pages, documents, with_ocr=False, batch_size=2, resamples=200)
    absolute = {(row["metric"], row["method"]): row for row in rows if row["minus"] is None}
    assert {name for _, name in absolute} == {"none", "visual", "wrong", "full", "encoder"}
    visual = absolute["cer", "visual"]
    assert visual["context_tokens"] == 4  # visual tokens a page of the tiny model
    assert visual["ratio"] == pytest.approx(visual["text_tokens"] / 4)
    assert 0 < visual["value"] < 2


def test_a_reader_that_copies_its_text_makes_no_errors(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, documents = plan_pages(reader, [alice(9_000)], 2)

    def copy(input_ids: torch.Tensor, max_new_tokens: int, **_: object) -> torch.Tensor:
        rows = []
        for row in input_ids:
            text = reader.tokenizer.decode(row, skip_special_tokens=True)
            before, cue = text.rsplit("\n\n", 1)
            place = before.find(cue)
            rest = reader.ids(before[place + len(cue) :]) if place >= 0 else []
            rows.append((rest + reader.ids("x" * 3_000))[:max_new_tokens])
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    context = SimpleNamespace(mask=torch.ones(2, 4), states=None)
    oracle = SimpleNamespace(  # it has no vision tower, as a model that reads text has none
        generate=copy,
        device=torch.device("cpu"),
        config=reader.model.config,
        encode_context=lambda **_: context,
    )
    monkeypatch.setattr(oracle.config.text_config, "max_position_embeddings", 4_096)
    rows = evaluate_readback(Reader(oracle, reader.processor), pages, documents, with_ocr=False, resamples=200)
    values = {row["method"]: row["value"] for row in rows if row["metric"] == "cer" and row["minus"] is None}
    assert values["full"] == 0.0
    assert values["none"] > 0.5


def test_what_the_encoder_names_is_joined_row_by_row(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = render("Alice was beginning to get very tired of sitting by her sister on the bank", reader.style)
    patches = ["ab"] * 15 + ["c "] + ["de"] * 240
    monkeypatch.setattr(type(reader.model.vision_tower), "read", lambda *_: [patches])
    ink = drawn.ink[0].sum(1)
    read = encoder_reads(reader, [PageText(drawn, "", drawn.text)])[0]
    assert read.split()[0] == ("ab" * 15 + "c")[: 2 * int(ink[0])].strip()
    assert read.split()[1] == "de" * int(ink[1])


def test_tesseract_reads_a_clear_image() -> None:
    reason = ocr.why_not()
    if reason is not None:
        pytest.skip(reason)
    image = Image.new("L", (300, 40), 255)
    ImageDraw.Draw(image).text(
        (8, 8), "Alice was beginning", font=ImageFont.truetype(str(font_path("NotoSans-Regular")), 20)
    )
    assert "Alice was beginning" in ocr.read_image(image)


def test_pages_are_read_in_order_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    limits = []

    def read(image: Image.Image) -> str:
        limits.append(os.environ.get("OMP_THREAD_LIMIT"))
        return str(image.width)

    monkeypatch.setattr(ocr, "read_image", read)
    assert ocr.read_images([Image.new("L", (width, 4)) for width in (3, 1, 2)]) == ["3", "1", "2"]
    assert limits == ["1"] * 3 and "OMP_THREAD_LIMIT" not in os.environ


def test_without_tesseract_a_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytesseract = pytest.importorskip("pytesseract")
    monkeypatch.setattr(pytesseract.pytesseract, "tesseract_cmd", "no-such-program")
    pytesseract.get_tesseract_version.cache_clear() if hasattr(
        pytesseract.get_tesseract_version, "cache_clear"
    ) else None
    monkeypatch.setattr(
        pytesseract, "get_tesseract_version", lambda: (_ for _ in ()).throw(pytesseract.TesseractNotFoundError())
    )
    assert "Tesseract is not installed" in str(ocr.why_not())


def test_ocr_reads_the_rest_after_the_cue(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, documents = plan_pages(reader, [alice(9_000)], 2)
    texts = iter([page.text for page in pages])
    monkeypatch.setattr(ocr, "why_not", lambda: None)
    monkeypatch.setattr(ocr, "read_images", lambda images: [next(texts).replace(" ", "\n") for _ in images])
    monkeypatch.setattr(
        readback, "_write", lambda reader, condition, pages, batch: (["x"] * len(batch), [4.0] * len(batch))
    )
    rows = evaluate_readback(reader, pages, documents, resamples=200)
    found = [row for row in rows if row["method"] == "tesseract" and row["minus"] is None]
    assert [row["value"] for row in found] == [0.0, 0.0]
    assert {row["minus"] for row in rows} >= {"tesseract"}
    assert np.isfinite([row["value"] for row in rows]).all()
    assert {condition.value for condition in Condition} <= {row["method"] for row in rows}
