"""The paper's run on one device, small: what it trains, what it writes, and what stops it."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import vist
from tiny_backbones import tiny_llm, tiny_tokenizer
from tiny_recipe import save_backbones, tiny_recipe, write_corpus
from vist.errors import VistError
from vist.model.vist import VistForConditionalGeneration
from vist.train import paper, trainer
from vist.train.paper import check_tokenizer, train_paper
from vist.train.stage import run_stage
from vist.train.tokenizer import train_tokenizer
from vist.train.trainer import TrainingStopped

STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return *save_backbones(folder), write_corpus(folder / "data")


def train(inputs: tuple[Path, Path, Path], out: Path, **stage: Any) -> Path:
    llm, vision, data = inputs
    return train_paper(tiny_recipe(llm, vision, steps=STEPS, **stage), data, out)


def losses(out: Path) -> list[tuple[float, float, float]]:
    lines = json.loads((out / "train" / "losses.json").read_text())
    return [(line["loss"], line["lm_loss"], line["pve_loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(inputs: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(inputs, out)
    return out


class AtStep(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, act: Any):
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act()


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def arrange(step: int, act: Any) -> None:
        def with_callback(*args: Any, **kwargs: Any) -> Any:
            return run_stage(*args, **kwargs, callbacks=(AtStep(step, act),))

        monkeypatch.setattr(paper, "run_stage", with_callback)

    yield arrange
    monkeypatch.undo()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_result_loads_and_backbones_are_untouched(inputs: tuple[Path, Path, Path], whole: Path) -> None:
    model, processor = vist.load(whole / "model")
    for name, value in tiny_llm().state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value)
    fresh = VistForConditionalGeneration.from_backbones(*inputs[:2], **tiny_recipe(*inputs[:2]).choices)
    trained = model.trainable_parameters()
    same = [name for name, value in fresh.trainable_parameters().items() if torch.equal(value, trained[name])]
    assert same == []
    assert processor.page_style.name == "vist" and len(losses(whole)) == STEPS
    assert json.loads((whole / "data.json").read_text())["windows"] == STEPS * 4


def test_accumulation_changes_the_negatives_of_pve_alone(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for batch_size in (1, 4):
        train(inputs, tmp_path / str(batch_size), batch_size=batch_size)
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert one[0][1] == pytest.approx(four[0][1], rel=1e-6)
    assert one[0][2] == 0.0 < four[0][2]  # alone in its batch a sample has no negatives


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_goes_on_with_the_same_losses(
    inputs: tuple[Path, Path, Path], whole: Path, tmp_path: Path, at_step: Any, workers: int
) -> None:
    at_step(5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(inputs, tmp_path, workers=workers)
    assert [path.name for path in (tmp_path / "train").glob("checkpoint-*")] == ["checkpoint-4"]
    at_step(STEPS + 1, interrupt)
    train(inputs, tmp_path, workers=workers)
    assert losses(tmp_path) == losses(whole)
    one, other = (load_file(out / "model" / "adapter.safetensors") for out in (whole, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "data.json").read_text() == (whole / "data.json").read_text()


def test_a_run_that_was_stopped_after_its_last_checkpoint_only_finishes(
    inputs: tuple[Path, Path, Path], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    train(inputs, tmp_path / "run")
    one, other = (load_file(out / "model" / "adapter.safetensors") for out in (whole, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_sigterm_ends_the_step_writes_a_checkpoint_and_leaves(
    inputs: tuple[Path, Path, Path], whole: Path, tmp_path: Path, at_step: Any
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStopped, match=r"Stopped by SIGTERM after step 3 of 6.*the same command goes on"):
        train(inputs, tmp_path)
    assert [path.name for path in (tmp_path / "train").glob("checkpoint-*")] == ["checkpoint-3"]
    assert signal.getsignal(signal.SIGTERM) is before and not (tmp_path / "model").exists()
    at_step(STEPS + 1, interrupt)
    train(inputs, tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(
    inputs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = VistForConditionalGeneration._losses

    def poisoned(self: Any, *args: Any) -> Any:
        calls.append(args)
        found = real(self, *args)
        return {**found, "loss": found["loss"] * float("nan")} if len(calls) == 6 else found  # second half of step 3

    monkeypatch.setattr(VistForConditionalGeneration, "_losses", poisoned)
    with pytest.raises(
        VistError, match=r"loss of step 3 is nan on rank 0; its batch is in '.*broken-step3-rank0"
    ) as caught:
        train(inputs, tmp_path)
    assert "\n" not in str(caught.value)
    kept = load_file(tmp_path / "train" / "broken-step3-rank0.safetensors")
    assert torch.equal(kept["input_ids"], calls[-1][1]) and kept["pixel_values"].dtype == torch.uint8
    assert [path.name for path in (tmp_path / "train").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_disk_too_small_for_checkpoints_is_seen_before_the_first_step(
    inputs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(trainer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(VistError, match=r"No space for checkpoints in .*free some space or choose another --out"):
        train(inputs, tmp_path)
    assert not (tmp_path / "train").exists()


def test_a_checkpoint_that_cannot_be_written_loses_nothing(
    inputs: tuple[Path, Path, Path], tmp_path: Path, at_step: Any
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1])))  # as if the disk were full
    try:
        with pytest.raises(VistError, match=r"No space left for checkpoint-4 .*the last whole one is checkpoint-2"):
            train(inputs, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["checkpoint-2", "losses.json"]


def test_going_on_with_other_data_is_refused(inputs: tuple[Path, Path, Path], tmp_path: Path, at_step: Any) -> None:
    at_step(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(inputs, tmp_path)
    other = write_corpus(tmp_path / "other", documents=50)
    with pytest.raises(VistError, match="made with other training data"):
        train((*inputs[:2], other), tmp_path)


def test_faulty_rows_are_counted_in_the_report(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", documents=12)
    with (data / "part.jsonl").open("a") as file:
        file.write('{"text": ""}\n{"meta": {}}\nnot a row\n')
    train((*inputs[:2], data), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "data.json").read_text())
    assert found["epochs"][1] > 0 and found["skipped"].keys() == {"empty", "no text", "not JSON"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 12}, "has 19 ids, the language model 12 rows"),
        ({"vocab_size": 64}, "has 19 ids, the language model 64 rows"),
        ({"eos_token_id": 7}, "has eos_token_id 2, the language model 7"),
        ({"bos_token_id": 5}, "has bos_token_id 1, the language model 5"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(changes: dict[str, int], said: str) -> None:
    config = tiny_llm(**{"pad_token_id": 0, **changes}).config
    with pytest.raises(VistError, match=said):
        check_tokenizer(tiny_tokenizer(), config, "somewhere")


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 24}, {"eos_token_id": [7, 2]}, {"bos_token_id": None}])
def test_a_padded_table_and_several_end_tokens_are_no_mismatch(changes: dict[str, Any]) -> None:
    check_tokenizer(tiny_tokenizer(), tiny_llm(**changes).config, "somewhere")


def test_a_mismatched_tokenizer_stops_the_run_before_it_begins(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    llm = tmp_path / "llm"
    shutil.copytree(inputs[0], llm)
    train_tokenizer(["some other words"] * 9, vocab_size=300, model_max_length=64).save_pretrained(llm)
    with pytest.raises(VistError, match="take the tokenizer that the language model was trained with"):
        train((llm, *inputs[1:]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stream_of_datasets_trains_too(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    llm, vision, data = inputs
    recipe = replace(tiny_recipe(llm, vision, steps=2), frequency_windows=2)
    train_paper(recipe, f"datasets:{data}", tmp_path)
    assert json.loads((tmp_path / "data.json").read_text())["windows"] == 8
