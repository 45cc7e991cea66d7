"""Two CPU processes (gloo) that train one model: the losses of one process, also after one of them was killed.

Every process is started anew and imports the libraries anew, which is what takes time; so the runs that can share
processes do.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from tiny_backbones import CHOICES, tiny_llm
from tiny_recipe import save_backbones, tiny_recipe, write_corpus
from vision.test_encoder import BUILDERS
from vist.model.vist import VistForConditionalGeneration
from vist.train.paper import train_paper

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "src" / "vist" / "recipes" / "accelerate"
STEPS = 6
PATIENCE = 540  # seconds; a few are enough on an idle machine
Inputs = dict[str, str]


def launch(inputs: Inputs, runs: list[dict[str, Any]], environment: dict[str, str] | None = None) -> list[str]:
    """Start both ranks, wait for both, and return what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        **(environment or {}),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    command = [sys.executable, str(Path(__file__).parent / "ranked.py"), json.dumps({**inputs, "runs": runs})]
    ranks = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def losses(out: Path) -> torch.Tensor:
    """(steps, 3): loss, next-token part, PVE part of every step."""
    lines = json.loads((out / "train" / "losses.json").read_text())
    return torch.tensor([[line["loss"], line["lm_loss"], line["pve_loss"]] for line in lines if "loss" in line])


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter.safetensors")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    llm, vision = save_backbones(folder)
    return {"llm": str(llm), "vision": str(vision), "data": str(write_corpus(folder / "data"))}


@pytest.fixture(scope="module")
def alone(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the whole global batch."""
    out = tmp_path_factory.mktemp("alone")
    recipe = tiny_recipe(Path(inputs["llm"]), Path(inputs["vision"]), steps=STEPS, batch_size=4)
    train_paper(recipe, inputs["data"], out)
    return out


@pytest.fixture(scope="module")
def folder(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two processes: `whole`, and `killed`, of which rank 1 is killed after step 5."""
    folder = tmp_path_factory.mktemp("together")
    stage = {"steps": STEPS, "batch_size": 2}
    killed = {"out": str(folder / "killed"), "stage": stage, "signal": "SIGKILL", "signal_rank": 1, "signal_at": 5}
    said = launch(inputs, [{"out": str(folder / "whole"), "stage": stage}, killed])
    assert (folder / "whole" / "model").exists(), said
    return folder


def test_two_processes_have_the_losses_of_one(alone: Path, folder: Path) -> None:
    assert losses(alone).shape == (STEPS, 3)
    assert (losses(folder / "whole") - losses(alone)).abs().max() < 1e-5
    for name, value in adapter(alone).items():
        assert torch.allclose(adapter(folder / "whole")[name], value, atol=1e-4), name
    assert (folder / "whole" / "data.json").read_text() == (alone / "data.json").read_text()


@pytest.fixture(scope="module")
def again(inputs: Inputs, folder: Path) -> tuple[Path, list[str]]:
    """New processes, and what they said: `killed` goes on; `stopped` gets SIGTERM on rank 1; rank 1 meets faults."""
    stage = {"steps": STEPS, "batch_size": 2}
    assert [path.name for path in (folder / "killed" / "train").glob("checkpoint-*")] == ["checkpoint-4"]
    stopped = {"out": str(folder / "stopped"), "signal": "SIGTERM", "signal_rank": 1, "signal_at": 3}
    faults = [{"out": str(folder / fault), "fault": fault} for fault in ("no number", "unequal", "full")]
    runs = [{"out": str(folder / "killed")}, stopped, *faults]
    return folder, launch(inputs, [{**run, "stage": stage} for run in runs])


def test_after_a_rank_was_killed_the_run_goes_on_with_the_same_losses(again: tuple[Path, list[str]]) -> None:
    folder, said = again
    killed = folder / "killed"
    assert (killed / "model").exists(), said
    assert torch.equal(losses(killed), losses(folder / "whole"))
    assert all(torch.equal(value, adapter(folder / "whole")[name]) for name, value in adapter(killed).items())


def test_sigterm_to_one_rank_stops_all_with_a_checkpoint(again: tuple[Path, list[str]]) -> None:
    folder, said = again
    assert all(f"rank {rank}: Stopped by SIGTERM after step 3" in text for rank, text in enumerate(said)), said
    assert sorted(path.name for path in (folder / "stopped" / "train").iterdir()) == ["checkpoint-3", "losses.json"]


def test_a_loss_that_is_no_number_on_one_rank_stops_all(again: tuple[Path, list[str]]) -> None:
    folder, said = again
    assert "is nan on rank 1; its batch is in" in said[1], said
    assert "on rank 0; another rank has kept its batch beside the checkpoints" in said[0], said
    kept = [path.name for path in (folder / "no number" / "train").iterdir()]
    assert kept == ["broken-step1-rank1.safetensors"]


def test_batches_of_unequal_size_are_refused_by_all_ranks(again: tuple[Path, list[str]]) -> None:
    folder, said = again
    for number, text in enumerate(said):
        assert f"rank {number}: The ranks have unequal batches ([2, 1] samples)" in text, text


def test_a_rank_without_room_for_its_checkpoint_stops_all(again: tuple[Path, list[str]]) -> None:
    folder, said = again
    for number, text in enumerate(said):
        assert f"rank {number}: No space left for checkpoint-2 in" in text, text
    assert not list((folder / "full" / "train").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def sharded(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FSDP2 as its launch file has it: `whole`, and `stopped` after step 3, which then goes on from the checkpoint."""
    folder = tmp_path_factory.mktemp("sharded")
    stage = {"steps": STEPS, "batch_size": 2}
    stopped = {"out": str(folder / "stopped"), "stage": stage, "signal": "SIGTERM", "signal_rank": 1, "signal_at": 3}
    later = {"out": str(folder / "stopped"), "stage": stage}
    said = launch(
        inputs, [{"out": str(folder / "whole"), "stage": stage}, stopped, later], launch_environment("fsdp2.yaml")
    )
    assert "rank 1: Stopped by SIGTERM after step 3" in said[1], said
    for name in ("whole", "stopped"):
        assert (folder / name / "model").exists(), said
    return folder


def test_weights_in_shards_have_the_losses_of_one_process(alone: Path, sharded: Path) -> None:
    """FSDP2: the units of the launch file's policy, the loss, its gradients and the optimizer over two ranks."""
    assert (losses(sharded / "whole") - losses(alone)).abs().max() < 1e-5
    for name, value in adapter(alone).items():
        assert torch.allclose(adapter(sharded / "whole")[name], value, atol=1e-4), name


def test_a_checkpoint_in_shards_goes_on_with_the_same_losses(sharded: Path) -> None:
    kept = sharded / "whole" / "train" / f"checkpoint-{STEPS}"
    assert len(list((kept / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2  # a part of each rank
    assert torch.equal(losses(sharded / "stopped"), losses(sharded / "whole"))
    whole = adapter(sharded / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in adapter(sharded / "stopped").items())


def launch_environment(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file` tells its processes."""
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "script.py"])
    args, _, _ = _validate_launch_command(args)
    args.gpu_ids = "all"
    known = prepare_multi_gpu_env(argparse.Namespace(**vars(args)))
    return {key: value for key, value in known.items() if key.startswith(("FSDP_", "ACCELERATE_"))}


def test_the_launch_files_are_read_by_accelerate() -> None:
    environment = launch_environment("ddp.yaml")
    assert "ACCELERATE_USE_FSDP" not in environment and environment["ACCELERATE_MIXED_PRECISION"] == "no"
    sharded = launch_environment("fsdp2.yaml")
    assert sharded["FSDP_VERSION"] == "2" and sharded["ACCELERATE_USE_FSDP"] == "true"


@pytest.mark.parametrize("tower", BUILDERS)
def test_every_class_that_is_to_be_a_unit_of_shards_is_in_the_model(
    tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate refuses a model that lacks one; CLIP and SigLIP name parts of their text side too."""
    for name, value in launch_environment("fsdp2.yaml").items():
        monkeypatch.setenv(name, value)
    model = VistForConditionalGeneration.from_backbones(tiny_llm(), BUILDERS[tower](), **CHOICES)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_auto_wrap_policy(model)
    assert {"LlamaDecoderLayer"} < set(plugin.transformer_cls_names_to_wrap)
