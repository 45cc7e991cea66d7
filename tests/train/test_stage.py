import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from vist.errors import VistError
from vist.train import stage
from vist.train.precision import bf16_is_fast, resolved_precision
from vist.train.stage import StageConfig, run_stage
from vist.train.trainer import AtomicTrainer, TrainingStopped

CONFIG = StageConfig(steps=8, batch_size=2, learning_rate=1e-2, save_every=3, workers=0)


class Numbers(Dataset):
    def __len__(self) -> int:
        return CONFIG.samples

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randint(0, 32, (6,), generator=torch.Generator().manual_seed(index))


def collate(rows: list[torch.Tensor]) -> dict[str, Any]:
    return {"input_ids": torch.stack(rows), "labels": torch.stack(rows)}


def fresh() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))


class TerminateAll(TrainerCallback):
    """What a scheduler does: SIGTERM to every process of the job."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            job = [str(process.pid) for process in (*psutil.Process().children(), psutil.Process())]
            subprocess.run(
                ["kill", "-TERM", *job], check=True
            )  # from outside: a parent's own SIGTERM is another matter
            time.sleep(0.5)


class Interrupt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def weights(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, list]:
    folder = tmp_path_factory.mktemp("whole")
    model = fresh()
    run_stage(model, Numbers(), collate, CONFIG, folder, seed=1)
    return weights(model), json.loads((folder / "losses.json").read_text())


def test_sigterm_to_the_whole_job_still_ends_with_a_checkpoint(
    uninterrupted: tuple[torch.Tensor, list], tmp_path: Path
) -> None:
    config, model = replace(CONFIG, workers=1), fresh()
    with pytest.raises(TrainingStopped, match="after step 2 of 8, with a checkpoint"):
        run_stage(fresh(), Numbers(), collate, config, tmp_path, 1, (TerminateAll(),))
    run_stage(model, Numbers(), collate, config, tmp_path, seed=1)
    assert torch.equal(weights(model), uninterrupted[0])


def test_an_interrupted_stage_continues_to_the_same_weights(
    uninterrupted: tuple[torch.Tensor, list], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(fresh(), Numbers(), collate, CONFIG, tmp_path, seed=1, callbacks=(Interrupt(5),))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = fresh()
    run_stage(resumed, Numbers(), collate, CONFIG, tmp_path, seed=1)
    assert torch.equal(weights(resumed), uninterrupted[0])


def test_an_interruption_while_a_checkpoint_is_written_leaves_the_last_one(
    uninterrupted: tuple[torch.Tensor, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_halfway(self: AtomicTrainer, output_dir: str) -> None:
        if self.state.global_step == 6:
            assert (Path(output_dir) / "model.safetensors").exists()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AtomicTrainer, "_save_rng_state", stop_halfway)
        with pytest.raises(KeyboardInterrupt):
            run_stage(fresh(), Numbers(), collate, CONFIG, tmp_path, seed=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_full_disk_while_a_checkpoint_is_written_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AtomicTrainer, output_dir: str) -> None:
        if self.state.global_step == 6:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(AtomicTrainer, "_save_rng_state", full)
    with pytest.raises(VistError, match="No space left for checkpoint-6 .* the last whole one is checkpoint-3"):
        run_stage(fresh(), Numbers(), collate, CONFIG, tmp_path, seed=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_trained_model_still_generates_with_a_cache(tmp_path: Path) -> None:
    model = fresh()
    run_stage(model, Numbers(), collate, CONFIG, tmp_path, seed=1)
    assert model.config.use_cache is True


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    run_stage(fresh(), Numbers(), collate, CONFIG, tmp_path, seed=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("batch_size", -1), ("save_every", 0), ("learning_rate", 0.0)]
)
def test_bad_settings_name_the_value(field: str, value: float) -> None:
    settings: dict[str, Any] = {"steps": 1, "batch_size": 1, "learning_rate": 1.0, field: value}
    with pytest.raises(VistError, match=rf"{field} is {value}"):
        StageConfig(**settings)


@pytest.mark.parametrize("emulated", [True, False])
def test_a_gpu_that_only_emulates_bf16_is_not_asked_for_it(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated
    )
    assert bf16_is_fast() is not emulated
    assert resolved_precision("auto") == ("fp32" if emulated else "bf16")


def test_every_next_token_loss_is_logged_per_token_whatever_the_accumulation(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, accumulation=2, log_every=1)

    def objective(model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> dict[str, Any]:
        loss = model(**inputs, num_items_in_batch=num_items_in_batch).loss
        return {"loss": loss, "text_lm_loss": loss}

    run_stage(fresh(), Numbers(), collate, config, tmp_path, seed=1, objective=objective)
    line = json.loads((tmp_path / "losses.json").read_text())[0]
    assert line["text_lm_loss"] == pytest.approx(line["loss"], rel=1e-3)


def test_a_guided_stage_on_several_devices_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "world_size", lambda: 2)
    with pytest.raises(VistError, match="one device, not on 2; start it without accelerate launch"):
        run_stage(fresh(), Numbers(), collate, CONFIG, tmp_path / "run", seed=1, objective=lambda *_, **__: {})
    assert not (tmp_path / "run").exists()
