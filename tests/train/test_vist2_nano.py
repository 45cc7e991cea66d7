"""The recipe `vist2-nano` from end to end, in miniature, from a miniature `vist-nano`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vist.recipes
import vist.train.vist2_nano
from tiny_nano import DOMAINS
from tiny_nano import miniature as nano_miniature
from vist import Vist2ForCausalLM, Vist2Processor, VistForConditionalGeneration
from vist.errors import VistError
from vist.recipes.vist2 import vist2_nano
from vist.train.examples import ExampleMix
from vist.train.interleaved import Curriculum
from vist.train.nano import train_nano
from vist.train.stage import StageConfig
from vist.train.vist2_nano import STAGES, Vist2NanoRecipe, Vist2NanoRun, train_vist2_nano

MIX = ExampleMix({"continue": 1, "recall": 1, "quote": 1}, DOMAINS)


def miniature() -> Vist2NanoRecipe:
    stage = StageConfig(steps=2, batch_size=2, learning_rate=1e-3, save_every=1, workers=0)
    curriculum = Curriculum(visual=(0.5, 1.0), chunks=(1, 2), ratio=(1.5, 2.0))
    stages = dict.fromkeys(("alignment", "read_back", "optical", "instruct"), stage)
    names = ("alignment_curriculum", "read_back_curriculum", "optical_curriculum", "instruct_curriculum")
    curricula = dict.fromkeys(names, curriculum)
    mixes = dict.fromkeys(("alignment_mix", "read_back_mix", "mix"), MIX)
    return replace(
        vist2_nano(),
        chunk_size=24,
        tolerance=4,
        ratio=2.0,
        domains=DOMAINS,
        read_back_tokens=32,
        visual_levels=2,
        **stages,
        **mixes,
        **curricula,
    )


@pytest.fixture(scope="module")
def nano(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `nano` run."""
    out = tmp_path_factory.mktemp("nano")
    train_nano(nano_miniature(), data, out)
    return out


@pytest.fixture(scope="module")
def trained(data: Path, nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    stage = train_vist2_nano(miniature(), data, out, "vist2-read-back", nano)
    assert stage == out / "vist2-read-back" / "final"
    assert not (out / "vist2-optical").exists()
    return train_vist2_nano(miniature(), data, out, source=nano)


def test_it_starts_from_the_backbones_of_the_finished_model(data: Path, nano: Path, tmp_path: Path) -> None:
    """Tower and LLM before the first stage are those of the source, bit for bit."""
    found = Vist2NanoRun(miniature(), data, tmp_path, nano / "model" / "final").untrained().state_dict()
    source = VistForConditionalGeneration.from_pretrained(nano / "model" / "final").state_dict()
    shared = {name for name in source if name.startswith(("vision_tower.", "language_model."))}
    shared = {name for name in shared if ".cross_attn." not in name}
    assert shared and all(torch.equal(found[name], source[name]) for name in shared)
    assert not any("cross_attn" in name for name in found)


def test_it_ends_with_a_model_that_loads_and_writes(trained: Path) -> None:
    model = Vist2ForCausalLM.from_pretrained(trained).eval()
    processor = Vist2Processor.from_pretrained(trained)
    inputs = processor("The cat sat on the mat. " * 10)
    out = model.generate(**inputs, processor=processor, max_new_tokens=30, eos_token_id=None)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 30
    assert str(trained.parents[1]) not in (trained / "config.json").read_text()
    assert processor.chat_template is not None
    assert max(path.stat().st_size for path in trained.iterdir()) <= 15_000_000


def test_every_stage_moves_aligner_and_llm_and_leaves_the_encoder(trained: Path) -> None:
    run = trained.parents[1]
    stages = ("vist2-alignment", "vist2-read-back", "vist2-optical", "vist2-instruct")
    states = [Vist2ForCausalLM.from_pretrained(run / stage / "final").state_dict() for stage in stages]
    for before, after in zip(states, states[1:], strict=False):
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert any(name.startswith("aligner") for name in changed)
        assert any(name.startswith("language_model") for name in changed)
        assert not any(name.startswith("vision_tower") for name in changed)
    for stage in stages:
        assert (run / stage / "losses.json").exists()


def test_a_stage_that_was_interrupted_goes_on_from_its_checkpoint(
    data: Path, nano: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first of two steps and run again: the weights are those of the uninterrupted run."""
    run = trained.parents[1]
    real = vist.train.vist2_nano.guided_look_loss
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("vist.train.vist2_nano.guided_look_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_vist2_nano(miniature(), data, tmp_path, "vist2-read-back", nano)
    assert (tmp_path / "vist2-read-back" / "checkpoint-1").is_dir()
    again = train_vist2_nano(miniature(), data, tmp_path, "vist2-read-back", nano)
    resumed = Vist2ForCausalLM.from_pretrained(again).state_dict()
    whole = Vist2ForCausalLM.from_pretrained(run / "vist2-read-back" / "final").state_dict()
    assert all(torch.allclose(value, whole[name], atol=1e-6) for name, value in resumed.items())


def test_a_ratio_that_the_aligner_cannot_give_is_refused_before_anything_is_trained(
    data: Path, nano: Path, tmp_path: Path
) -> None:
    with pytest.raises(VistError, match="cannot give a ratio of 20"):
        train_vist2_nano(replace(miniature(), ratio=20.0, patches_per_token=1), data, tmp_path, source=nano)
    assert not (tmp_path / "vist2-alignment").exists()


def test_finished_stages_are_not_run_again(trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vist.train.vist2_nano.run_stage", lambda *args, **kwargs: pytest.fail("trained again"))
    assert train_vist2_nano(miniature(), data, trained.parents[1]) == trained


def test_the_command_knows_the_recipe_and_its_stages(tmp_path: Path) -> None:
    assert vist.recipes.RECIPES["vist2-nano"].numbers() == vist2_nano()
    with pytest.raises(VistError, match=f"stages are: {', '.join(STAGES)}"):
        vist.recipes.run("vist2-nano", tmp_path, tmp_path, "alignment")
