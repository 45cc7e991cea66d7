"""Stress and languages: what is varied, what counts as read, how tokens are counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageStat

from tiny_vist import alice
from vist.errors import VistError
from vist.eval import stress
from vist.eval.edits import edit_distance
from vist.eval.languages import count_tokens, language_rows, read_languages
from vist.eval.reader import Reader
from vist.eval.stress import Variation, count_read, stress_rows, variations, with_typos
from vist.render import layout, render
from vist.train.reading import reading_targets
from vist.vision.text_vit import EMPTY, OTHER

TEXTS = [alice(700), "Ω and Ж, 42.", alice(1_400)[700:]]


def page() -> Image.Image:
    return render(alice(1_000)).to_image(0)


def test_every_pixel_change_changes_the_page_and_keeps_its_size() -> None:
    image = page()
    for group, name, change in stress._pixel_changes():
        changed = change(image, np.random.default_rng(0))
        assert (changed.size, changed.mode) == (image.size, "L"), (group, name)
        assert not np.array_equal(np.asarray(changed), np.asarray(image)), (group, name)


def test_changes_are_seeded() -> None:
    image = page()
    first, second, other = (np.asarray(stress.noisy(image, np.random.default_rng(seed), 16)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_what_the_changes_do() -> None:
    image, rng = page(), np.random.default_rng(0)
    dark = np.asarray(stress.coloured(image, rng, (255, 255, 255), (0, 0, 0)))
    np.testing.assert_allclose(dark, 255 - np.asarray(image), atol=1)
    grey = np.asarray(stress.coloured(image, rng, (160, 160, 160), (255, 255, 255)))
    assert abs(int(grey.min()) - 160) <= 2
    assert ImageStat.Stat(stress.blurred(image, rng, 1.5)).stddev[0] < ImageStat.Stat(image).stddev[0]
    moved = np.asarray(stress.shifted(image, rng, 3, 0))
    np.testing.assert_array_equal(moved[:, 3:], np.asarray(image)[:, :-3])
    turned = np.asarray(stress.turned(stress.turned(image, rng, 2.0), rng, -2.0)).astype(int)
    assert (
        abs(turned - np.asarray(image)).mean()
        < abs(np.asarray(stress.turned(image, rng, 2.0)).astype(int) - np.asarray(image)).mean()
    )


def test_typos_have_their_rate() -> None:
    text = "abcdefgh " * 250
    assert with_typos(text, np.random.default_rng(0), 0.0) == text
    assert with_typos(text, np.random.default_rng(0), 0.05) == with_typos(text, np.random.default_rng(0), 0.05)
    changed = with_typos(text, np.random.default_rng(0), 0.05)
    assert 0.03 < edit_distance(text, changed) / text.count("a") / 8 < 0.1


class Perfect:
    """An encoder that names what the layout says, on pages it is shown unchanged; nothing on others."""

    config: object

    def __init__(self, reader: Reader, texts: Sequence[str]):
        self.config = reader.model.vision_tower.config
        self.known = {}
        for text in texts:
            drawn = render(text, reader.style)
            self.known[drawn.pixels[0].tobytes()] = reading_targets(layout(text, reader.style), text, self.config)  # type: ignore[arg-type]

    def __call__(self, pixels: torch.Tensor, ink: torch.Tensor) -> list[np.ndarray]:
        empty = np.zeros_like(next(iter(self.known.values())))
        return [self.known.get(row.numpy().tobytes(), empty) for row in pixels]

    def read_logits(self, features: list[np.ndarray]) -> torch.Tensor:
        classes = torch.from_numpy(np.stack(features))
        return torch.nn.functional.one_hot(classes, len(self.config.alphabet) + 2).float()  # type: ignore[attr-defined]


def perfect(reader: Reader) -> Reader:
    model = SimpleNamespace(vision_tower=Perfect(reader, TEXTS), device=torch.device("cpu"))
    return Reader(model, reader.processor)


def test_characters_are_counted_by_hand(reader: Reader) -> None:
    right, total, errors, length = count_read(perfect(reader), TEXTS)
    for number, text in enumerate(TEXTS):
        targets = reading_targets(layout(text, reader.style), text, reader.model.vision_tower.config)
        assert total[number] == (targets != EMPTY).sum()
        assert right[number] == ((targets != EMPTY) & (targets != OTHER)).sum()
    assert (total - right).tolist() == [0, 1, 0]  # Ж is in no class of the alphabet and counts as not read
    assert errors[1] == 1
    assert errors.max() <= 2  # a row that ends in a hyphen is joined to the next with a blank
    assert length.tolist() == [len(" ".join(render(text)[0].text.split())) for text in TEXTS]


def test_a_changed_page_is_read_as_it_is(reader: Reader) -> None:
    plain = count_read(perfect(reader), TEXTS)
    noise = Variation("noise", "64", pixels=lambda image, rng: stress.noisy(image, rng, 64))
    read = count_read(perfect(reader), TEXTS, noise)
    assert read[0].sum() == 0
    np.testing.assert_array_equal(read[1], plain[1])
    rows = {
        (row["method"], row["minus"]): row
        for row in stress_rows(read, plain, 200, group="noise")
        if row["metric"] == "characters"
    }
    assert read.errors.tolist() == read.length.tolist()
    assert rows["encoder", "plain"]["value"] == pytest.approx(-plain[0].sum() / plain[1].sum())
    assert rows["encoder", None]["group"] == "noise"


def test_variations_say_what_they_lack(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "font_directories", lambda: [])
    stress._installed.cache_clear()
    try:
        found, missing = variations()
    finally:
        stress._installed.cache_clear()
    assert set(missing) == {f"{'weight' if name in stress.WEIGHTS else 'font'}: {name}" for name in stress.FONTS}
    assert all("is installed" in reason for reason in missing.values())
    assert {variation.group for variation in found} == {
        "size",
        "colour",
        "JPEG",
        "blur",
        "noise",
        "rotation",
        "shift",
        "typos",
    }
    assert len({variation.part for variation in found}) == len(found)


def test_styles_and_texts_are_varied_too(reader: Reader) -> None:
    large = count_read(perfect(reader), TEXTS, Variation("size", "14", style={"font_size": 14}))[1]
    assert large[0] < count_read(perfect(reader), TEXTS)[1][0]  # fewer fit the first page
    shouted = Variation("text", "upper", text=lambda text, rng: text.upper())
    assert count_read(perfect(reader), TEXTS, shouted)[0].sum() == 0  # other pages than the encoder knows


def test_a_tower_without_a_reading_head_is_refused() -> None:
    tower = SimpleNamespace(config=SimpleNamespace(model_type="clip_vision_model"))
    reader = Reader(SimpleNamespace(vision_tower=tower), None)
    with pytest.raises(VistError, match="'clip_vision_model' has no reading head"):
        stress.check_encoder(reader)
    baseline = Reader(SimpleNamespace(config=SimpleNamespace(model_type="vist_text_context")), None)
    with pytest.raises(VistError, match="'vist_text_context' models do not have; choose a VIST model"):
        stress.check_encoder(baseline)


def test_tokens_are_counted_page_by_page(reader: Reader) -> None:
    text = alice(5_000)
    counts = count_tokens(reader, text, lambda page: len(page.split()))
    pages = reader.draw(text)
    assert counts["visual"].tolist() == [4] * len(pages)
    assert counts["text"].sum() == pytest.approx(len(text.split()), abs=len(pages))
    assert counts["characters"].sum() == len(text)
    assert len(count_tokens(reader, text, len, max_pages=2)["text"]) == 2
    rows = {row["metric"]: row for row in language_rows(counts, 200, script="Latin")}
    assert rows["ratio"]["value"] == pytest.approx(counts["text"].sum() / (4 * len(pages)))
    assert rows["saving"]["value"] == pytest.approx(1 - 1 / rows["ratio"]["value"])
    assert rows["lost"]["value"] == 0


def test_characters_without_a_font_are_counted_as_lost(reader: Reader) -> None:
    counts = count_tokens(reader, "a\x00b\x01" * 20, len)
    assert counts["lost"].sum() == 40


def test_languages_are_found_by_name(tmp_path: Path) -> None:
    rows = [
        {"text": "x", "language": "German, Standard", "script": "Latin"},
        {"text": "y", "language": "Chinese (Simplified)", "script": "Han"},
        {"text": " ", "language": "Silent", "script": "None"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    assert [item.script for item in read_languages(tmp_path / "test.parquet")] == ["Latin", "Han"]
    assert [item.text for item in read_languages(tmp_path / "test.parquet", ("chinese",))] == ["y"]
    with pytest.raises(VistError, match="no language 'Klingon'"):
        read_languages(tmp_path / "test.parquet", ("Klingon",))
    pq.write_table(pa.Table.from_pylist([{"text": "x"}]), tmp_path / "bad.parquet")
    with pytest.raises(VistError, match="no column 'language'"):
        read_languages(tmp_path / "bad.parquet")
