"""`vist cost`: tables by count, figures measured on this machine, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPVisionConfig, GPT2Config, Qwen3Config

from vist.cli import main


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def rows(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def test_table1_prints_the_papers_figures_beside_ours(tmp_path, capsys) -> None:
    run("cost", "--preset", "table1", "--json", tmp_path / "cost.json")
    found = rows(tmp_path / "cost.json")
    assert [row["method"] for row in found] == ["TinyLlama", "CEPE*", "VIST", "CEPE*", "VIST", "CEPE*", "VIST"]
    shown = capsys.readouterr().out
    assert "as the paper counts" in shown and "19.52" in shown and "23.28" in shown


def test_beyond_takes_any_backbones_and_lengths(tmp_path, capsys) -> None:
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen3Config(**small, num_key_value_heads=1, head_dim=32).save_pretrained(tmp_path / "llm")
    CLIPVisionConfig(**small, image_size=224, patch_size=32).save_pretrained(tmp_path / "tower")
    options = ("--llm", tmp_path / "llm", "--vision", tmp_path / "tower", "--te", 1000, "--td", 100)
    run("cost", *options, "--visual-tokens", 8, "--json", tmp_path / "cost.json")
    found = {row["method"]: row for row in rows(tmp_path / "cost.json")}
    assert found["VIST"]["pages"] == 7 and found["VIST"]["te"] == 1000
    assert found["VIST"]["kv_bytes"] == 2 * 2 * 32 * (100 + 7 * 8) * 2
    assert found["VIST"]["published_tflops"] is None
    shown = capsys.readouterr().out
    assert "beside the first" in shown and "VIST, document encoded before" in shown


def test_baselines_are_counted_for_any_window(tmp_path, capsys) -> None:
    run("cost", "--preset", "baselines", "--te", 600, "--td", 100, "--json", tmp_path / "cost.json")
    found = {row["method"]: row for row in rows(tmp_path / "cost.json")}
    assert {"StreamingLLM", "RePlug", "CEPE*", "mean pooling", "ToMe†", "FastV†", "VIST"} <= found.keys()
    assert found["mean pooling"]["tflops_by_part"]["encoder"] == 0 and "FastV†" in capsys.readouterr().out


def test_run_measures_the_model_on_this_machine(tiny_folder, tmp_path, capsys) -> None:
    small = ("--te", 120, "--td", 30, "--new-tokens", 4)
    run("cost", "--run", "--model", tiny_folder, *small, "--json", tmp_path / "cost.json")
    found = {row["method"]: row for row in rows(tmp_path / "cost.json")}
    assert list(found) == ["text alone", "VIST", "text in full"]
    assert [row["te"] for row in found.values()] == [0, 120, 120]
    assert all(row["ttft_s"] > 0 and row["tokens_per_s"] > 0 and row["peak_bytes"] > 0 for row in found.values())
    assert found["VIST"]["flops"] > found["text alone"]["flops"]
    assert "first token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--preset", "table1", "--te", 5), "the paper's"),
        (("--llm", "nowhere/at/all"), "Cannot read a config"),
        (("--run", "--te", 10**6, "--td", 30), "--te 1000000 and --td 30 want"),
        (("--run", "--td", 600), "do not fit this LLM"),
    ],
)
def test_what_cannot_be_is_said(tiny_folder, capsys, arguments, reason) -> None:
    assert main([str(argument) for argument in ("cost", *arguments, "--model", tiny_folder)]) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_unsupported_backbones_are_refused(tmp_path, capsys) -> None:
    GPT2Config(n_embd=16, n_layer=1, n_head=2).save_pretrained(tmp_path)
    assert main(["cost", "--llm", str(tmp_path)]) == 1
    assert "'gpt2' is not tested" in capsys.readouterr().err
    assert main(["cost", "--vision", str(tmp_path)]) == 1
    assert "'gpt2' is not supported" in capsys.readouterr().err
