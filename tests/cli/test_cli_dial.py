"""The dial on the command line: ratios for the verbs that read pages, and the measure over many of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import vist
from tiny_vist import alice
from vist.cli import main
from vist.compress.frequency import TokenFrequency
from vist.model.processing import VistProcessor


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with token statistics beside its processor, as a trained one has."""
    folder = tmp_path_factory.mktemp("counted") / "model"
    shutil.copytree(tiny_folder, folder)
    tokenizer = VistProcessor.from_pretrained(folder).tokenizer
    frequency = TokenFrequency.from_corpus([tokenizer(alice(5_000)).input_ids], len(tokenizer))
    frequency.save(folder / "token_frequency.safetensors")
    return folder


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text(alice(12_000), encoding="utf-8")
    return path


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("vist: "))


@pytest.mark.parametrize("asked", [("--ratio", 200), ("--visual-tokens", 2), ("--ratio", 150, "--adaptive")])
def test_generate_agrees_with_the_library_at_any_setting(asked, model, book, tmp_path, capsys) -> None:
    run(
        *("generate", "--model", model, "--context", book, "--prompt", "Alice said", "--max-new-tokens", 4),
        *asked,
        *("--json", tmp_path / "out.json"),
    )
    loaded, processor = vist.load(model)
    options = dict(zip(("ratio" if asked[0] == "--ratio" else "visual_tokens",), asked[1:2], strict=True))
    adaptive = "--adaptive" in asked
    inputs = processor(context=alice(12_000), prompt="Alice said", **options, adaptive=adaptive)
    pages = [inputs.get(name) for name in ("pixel_values", "ink_mask", "visual_tokens", "page_weights")]
    used = int(loaded.encode_context(*pages).mask.sum())
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["context_tokens"] == used and 0 < used < 4 * values["pages"]
    if asked[0] == "--ratio":
        assert values["ratio"] == pytest.approx(asked[1], rel=0.3)
    assert capsys.readouterr().out.strip() == values["text"].strip()


def test_measures_are_taken_at_the_ratio_asked_for(model, book, tmp_path) -> None:
    small = ("--pages", 2, "--resamples", 200, "--model", model)
    run("eval", "lm", book, *small, "--proximal", 16, "--windows", 2, "--visual-tokens", 2, "--json", tmp_path / "lm")
    values = json.loads((tmp_path / "lm").read_text())
    tokens = {row["name"]: row["context_tokens"] for row in values["methods"]}
    assert tokens["visual"] == tokens["wrong"] == 4 and tokens["none"] == 0 and tokens["full"] > 100
    assert values["setup"]["dial"] == {"ratio": None, "visual_tokens": 2, "adaptive": False}
    run("eval", "recall", book, *small, "--contexts", 2, "--facts", 1, "--ratio", 100, "--json", tmp_path / "recall")
    values = json.loads((tmp_path / "recall").read_text())
    assert values["setup"]["dial"]["ratio"] == 100
    assert values["rows"][0]["ratio"] == pytest.approx(100, rel=0.3)


def test_the_dial_is_measured_drawn_and_resumed(model, book, tiny_folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("vist.eval.provenance.commit", lambda: "c" * 40)
    dial = ("eval", "dial", book, "--model", model, "--pages", 2, "--proximal", 16, "--windows", 2, "--contexts", 2)
    more = ("--facts", 1, "--resamples", 200, "--fixed", tiny_folder, "--out", tmp_path / "rows.jsonl")
    run(*dial, *more, "--ratios", "100", "--json", tmp_path / "dial.json")
    values = json.loads((tmp_path / "dial.json").read_text())
    assert {row["part"] for row in values["rows"]} == {"ratio 100", f"fixed: {tiny_folder}"}
    assert {row["method"] for row in values["rows"]} == {"all", "nested", "adaptive", "wrong", "none", "fixed"}
    assert all({"ratio", "visual_tokens", "low", "high", "n"} <= row.keys() for row in values["rows"])
    table = capsys.readouterr().out
    assert "perplexity" in table and "exact" in table and "adaptive - nested" in table
    before = (tmp_path / "rows.jsonl").read_text()
    monkeypatch.setattr("vist.eval.dial.DialMeasure._read", lambda *_: pytest.fail("measured again"))
    run(*dial, *more, "--ratios", "100", "--plot", tmp_path / "dial.svg")
    assert (tmp_path / "rows.jsonl").read_text() == before
    assert all("<svg" in (tmp_path / name).read_text() for name in ("dial.svg", "dial-dark.svg"))


def test_settings_that_make_no_sense_are_refused(model, tiny_folder, book, capsys) -> None:
    generate = ("generate", "--context", book, "--prompt", "Alice")
    assert "one of the two" in refusal(capsys, *generate, "--model", model, "--ratio", 3, "--visual-tokens", 2)
    assert "shares out a budget" in refusal(capsys, *generate, "--model", model, "--adaptive")
    bare = refusal(capsys, *generate, "--model", tiny_folder, "--ratio", 9, "--adaptive")
    assert "token_frequency.safetensors" in bare
    assert "above 0" in refusal(capsys, "eval", "dial", book, "--model", model, "--ratios", "4,0")
    assert "with commas" in refusal(capsys, "eval", "dial", book, "--model", model, "--ratios", "four")
