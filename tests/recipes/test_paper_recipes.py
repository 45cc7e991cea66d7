"""The paper's runs by name: its numbers, its rows, and what a dry run says about them."""

import json
from pathlib import Path

import pytest

from tiny_recipe import save_backbones, tiny_recipe, write_corpus
from vist.cli import main
from vist.errors import VistError
from vist.recipes import RECIPES, changed
from vist.recipes.dry_run import check_weights, dry_run
from vist.recipes.paper import PAPER, tinyllama
from vist.train.paper import PaperRecipe, PaperRun


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return *save_backbones(folder), write_corpus(folder / "data", documents=60, words=700)


def test_the_main_run_has_the_numbers_of_the_paper() -> None:
    recipe = tinyllama()
    stage, window = recipe.stage, recipe.window
    assert (stage.optimizer, stage.beta2, stage.learning_rate, stage.warmup) == ("adamw", 0.999, 3e-4, 0.04)
    assert (stage.steps, stage.precision, stage.final_rate) == (2000, "fp16", 0.0)
    assert (window.distant, window.proximal, window.masking, window.masking_rate) == (4096, 512, "frequency", 0.5)
    assert recipe.choices["num_visual_tokens"] == 64 and recipe.choices["pve_temperature"] == 0.07
    assert 0.95e9 < recipe.tokens < 1.05e9


def test_every_row_of_the_ablations_is_a_recipe_that_changes_one_thing() -> None:
    base = tinyllama()
    found = {name: build() for name, build in PAPER.items()}
    assert {found[f"tinyllama-n{count}"].choices["num_visual_tokens"] for count in (32, 96, 128)} == {32, 96, 128}
    assert {found[f"tinyllama-te{te}"].window.distant for te in (1024, 2048, 6144)} == {1024, 2048, 6144}
    assert [found[f"tinyllama-fm{rate}"].window.masking_rate for rate in (30, 70)] == [0.3, 0.7]
    assert [found[f"tinyllama-fm-{how}"].window.masking for how in ("random", "none")] == ["random", "none"]
    assert found["mistral-7b"].llm_bits == 4 and "Mistral-7B" in found["mistral-7b"].llm
    for name, recipe in found.items():
        assert isinstance(recipe, PaperRecipe) and name in RECIPES
        if name.startswith("tinyllama-"):
            parts = ("llm", "vision", "window", "choices", "stage", "global_batch")
            assert sum(getattr(recipe, part) != getattr(base, part) for part in parts) == 1, name


def test_a_dry_run_says_what_the_run_would_be(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    llm, vision, data = inputs
    plan = dry_run(tiny_recipe(llm, vision), data, tmp_path / "out")
    assert plan["tokens"] == 4 * 4 * 144 and plan["accumulation"] == 2 and plan["data"]["shards"] == 1
    assert plan["config"]["window"]["distant"] == 120 and plan["data"]["pages_per_window"] >= 1
    memory = plan["memory_per_device"]
    assert memory["total"] == sum(size for kind, size in memory.items() if kind != "total")
    assert plan["flops_per_step"] == 4 * sum(plan["flops_per_sample_by_part"].values()) > 0
    assert not (tmp_path / "out").exists()


def test_the_verb_prints_the_plan_and_trains(
    inputs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, vision, data = map(str, inputs)
    small = tiny_recipe(*inputs[:2])
    monkeypatch.setitem(RECIPES, "tinyllama", RECIPES["tinyllama"]._replace(numbers=lambda: small))
    (inputs[2] / "broken.jsonl").write_text('{"text": ""}\n{"text": "the cat sat on the mat"}\n')  # read first
    base = ["train", "tinyllama", "--data", data, "--out", str(tmp_path / "run"), "--llm", llm, "--vision", vision]
    assert main([*base, "--dry-run", "--steps", "3", "--json", str(tmp_path / "plan.json")]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["recipe"] == "tinyllama" and plan["plan"]["steps"] == 3
    shown, said = capsys.readouterr()
    assert "parameters trained" in shown and f"{plan['plan']['parameters']['trained']:,}" in shown
    assert "Skipped rows: 1 empty (first: " in said
    assert main([*base, "--steps", "1", "--workers", "0"]) == 0
    assert (tmp_path / "run" / "model" / "adapter.json").exists()
    assert "Skipped rows: 1 empty (first: " in capsys.readouterr().err


def test_pages_are_encoded_by_one_verb_and_read_by_the_other(
    inputs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, vision, data = map(str, inputs)
    small = tiny_recipe(*inputs[:2])
    monkeypatch.setitem(RECIPES, "tinyllama", RECIPES["tinyllama"]._replace(numbers=lambda: small))
    base = ["--data", data, "--llm", llm, "--vision", vision, "--steps", "2"]
    features = str(tmp_path / "features")
    assert main(["encode", "tinyllama", *base, "--out", features, "--workers", "1", "--shard-windows", "1"]) == 0
    assert "8 windows in 8 shards" in capsys.readouterr().err
    train = ["train", "tinyllama", *base, "--out", str(tmp_path / "run"), "--features", features]
    assert main([*train, "--dry-run", "--json", str(tmp_path / "plan.json")]) == 0
    stored = sum(path.stat().st_size for path in Path(features).rglob("lane-*/*"))
    planned = json.loads((tmp_path / "plan.json").read_text())["plan"]["feature_bytes"]
    assert 0.2 < stored / planned < 1.2  # the plan counts blank patches too
    assert main([*train, "--workers", "0"]) == 0
    assert (tmp_path / "run" / "model" / "adapter.json").exists()
    assert main([*train, "--steps", "3"]) == 1 and "run `vist encode` with --steps 3" in capsys.readouterr().err


def test_a_dry_run_counts_what_the_run_trains(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    recipe = tiny_recipe(*inputs[:2])
    plan = dry_run(recipe, inputs[2], tmp_path)
    model = PaperRun(recipe, inputs[2], tmp_path).model()
    trained = sum(parameter.numel() for parameter in model.trainable_parameters().values())
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trained
    counts = plan["parameters"]
    assert counts["trained"] == trained == counts["trained_resampler"] + counts["trained_cross_attention"]
    assert counts["frozen_llm"] + counts["frozen_vision"] == frozen
    assert plan["checkpoint_bytes"] == 12 * trained and plan["tokens_per_step"] * plan["steps"] == plan["tokens"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tinyllama", "--global-batch", "3"], "A global batch of 3 cannot be divided"),
        (["nano", "--steps", "3"], "The recipe 'nano' takes no --steps"),
        (["nano", "--dry-run"], "--dry-run is for the paper's recipes"),
        (["nano", "--features", "F"], "The recipe 'nano' takes no --features"),
        (["mamba"], "There is no recipe 'mamba'"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    inputs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], said: str
) -> None:
    backbones = ["--llm", str(inputs[0]), "--vision", str(inputs[1])] if arguments[0] == "tinyllama" else []
    place = ["--data", str(inputs[2]), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, *place, *backbones]) == 1
    assert said in capsys.readouterr().err


def test_only_pages_of_the_papers_recipes_are_encoded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["encode", "nano", "--data", str(tmp_path), "--out", str(tmp_path / "features")]) == 1
    assert "Only pages of the paper's recipes can be encoded ahead: tinyllama" in capsys.readouterr().err


def test_a_truncated_backbone_is_named(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(VistError, match="holds no weights"):
        check_weights(str(tmp_path))
    content = (inputs[0] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(VistError, match=r"model.safetensors' cannot be read .* copy the backbone again"):
        check_weights(str(tmp_path))


def test_changes_that_are_none_leave_a_recipe_alone() -> None:
    assert changed("tinyllama", llm=None, steps=None) == tinyllama()
    assert changed("tinyllama", steps=7, vision="elsewhere").stage.steps == 7
