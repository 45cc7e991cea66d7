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
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from tiny_recipe import save_backbones, tiny_recipe, write_corpus
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


def test_after_a_rank_was_killed_the_run_goes_on_with_the_same_losses(
    inputs: Inputs, folder: Path, tmp_path: Path
) -> None:
    stage = {"steps": STEPS, "batch_size": 2}
    killed = folder / "killed"
    assert [path.name for path in (killed / "train").glob("checkpoint-*")] == ["checkpoint-4"]
    stopped = {"out": str(tmp_path), "stage": stage, "signal": "SIGTERM", "signal_rank": 1, "signal_at": 3}
    said = launch(inputs, [{"out": str(killed), "stage": stage}, stopped])
    assert (killed / "model").exists(), said
    assert torch.equal(losses(killed), losses(folder / "whole"))
    assert all(torch.equal(value, adapter(folder / "whole")[name]) for name, value in adapter(killed).items())
    assert all(f"rank {rank}: Stopped by SIGTERM after step 3" in text for rank, text in enumerate(said)), said
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["checkpoint-3", "losses.json"]


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
