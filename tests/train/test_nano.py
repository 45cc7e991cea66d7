from pathlib import Path

import pytest
import torch

import vist.recipes
from tiny_nano import miniature
from vist import VistForConditionalGeneration, VistProcessor
from vist.errors import VistError
from vist.train.nano import STAGES, train_nano


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert train_nano(miniature(), data, out, "text-vit") == out / "text-vit" / "final"
    assert not (out / "alignment").exists()
    return train_nano(miniature(), data, out)


def test_the_recipe_ends_with_a_model_that_loads_and_generates(trained: Path) -> None:
    model = VistForConditionalGeneration.from_pretrained(trained).eval()
    processor = VistProcessor.from_pretrained(trained)
    inputs = processor(context="The cat sat on the mat. " * 40, prompt="The cat", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4
    assert (trained / "token_frequency.safetensors").exists()
    assert str(trained.parents[1]) not in (trained / "config.json").read_text()
    assert max(path.stat().st_size for path in trained.iterdir()) <= 15_000_000


def test_backbones_come_out_of_context_training_untouched(trained: Path) -> None:
    run = trained.parents[1]
    before = VistForConditionalGeneration.from_pretrained(run / "read-back" / "final").state_dict()
    after = VistForConditionalGeneration.from_pretrained(trained).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all("cross_attn" in n or n.startswith(("resampler", "page_positions")) for n in changed)
    assert any("cross_attn.o_proj" in name for name in changed)


def test_finished_stages_are_not_run_again(trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vist.train.nano.run_stage", lambda *args, **kwargs: pytest.fail("trained again"))
    before = (trained / "model.safetensors.index.json", trained / "model.safetensors")
    times = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert train_nano(miniature(), data, trained.parents[1]) == trained
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_unknown_recipes_and_stages_are_named(tmp_path: Path) -> None:
    with pytest.raises(VistError, match="recipes are: nano"):
        vist.recipes.run("huge", tmp_path, tmp_path)
    with pytest.raises(VistError, match=f"stages are: {', '.join(STAGES)}"):
        vist.recipes.run("nano", tmp_path, tmp_path, "dessert")
    with pytest.raises(VistError, match="--data"):
        vist.recipes.run("nano", tmp_path, tmp_path / "out")
