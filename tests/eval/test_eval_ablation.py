"""Ablations: what a variant keeps of the start, training that goes on, tables, a time budget."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import vist
from tiny_vist import alice
from vist.cli import main
from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.eval.ablation import Start, Variant, build_variant, load_start, measure_variant
from vist.recipes.ablations import ABLATIONS, ablation, ablation_config


@pytest.fixture(scope="module")
def source(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with token statistics beside it."""
    folder = tmp_path_factory.mktemp("start") / "model"
    shutil.copytree(tiny_folder, folder)
    tokenizer = vist.load(folder)[1].tokenizer
    pieces = (tokenizer(alice(9_000)[at : at + 600]).input_ids for at in range(0, 9_000, 600))
    TokenFrequency.from_corpus(pieces, len(tokenizer)).save(folder / "token_frequency.safetensors")
    return folder


@pytest.fixture(scope="module")
def start(source: Path) -> Start:
    return load_start(str(source))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for domain in ("books", "encyclopedic"):
        (root / "corpus" / domain).mkdir(parents=True)
        for split in ("train", "validation"):
            table = pa.table({"text": [alice(24_000), alice(40_000)[16_000:]]})
            pq.write_table(table, root / "corpus" / domain / f"{split}.parquet")
    return root


def small(steps: int = 2):
    config = ablation_config(steps=steps, batch_size=2)
    stage = replace(config.stage, workers=0, save_every=1)
    return replace(config, stage=stage, windows=1, proximal=24, contexts=2, facts=1, pages=1, resamples=200)


@pytest.mark.parametrize("name", ABLATIONS)
def test_variants_change_one_thing(start: Start, name: str) -> None:
    """Everything the start has is in every variant, but for what the variant is about."""
    before = start.model.state_dict()
    for variant in ablation(name):
        model = build_variant(start, variant, seed=7)
        changed = {
            key
            for key, value in model.state_dict().items()
            if before[key].shape != value.shape or not torch.equal(before[key], value)
        }
        reshaped = variant.model.get("num_visual_tokens", 4) != 4
        assert bool(changed) == (reshaped or not variant.trained_encoder)
        assert all(key.startswith("vision_tower.") or reshaped for key in changed)
        assert all(not parameter.requires_grad for parameter in model.vision_tower.parameters())
    assert len({variant.name for variant in ablation(name)}) == len(ablation(name)) >= 2


def test_without_the_mask_blank_patches_are_in_view(start: Start) -> None:
    inputs = start.processor(context="Alice was beginning to get very tired.")
    with torch.no_grad():
        masked, seen = (
            build_variant(start, Variant("x", blank_mask=mask), seed=0).encode_context(**inputs)
            for mask in (True, False)
        )
        full = torch.ones_like(inputs["ink_mask"])
        expected = start.model.encode_context(inputs["pixel_values"], full)
    assert not torch.allclose(masked.cls, seen.cls)
    assert torch.allclose(seen.cls, expected.cls)
    blank = torch.zeros_like(inputs["ink_mask"])
    assert (
        not build_variant(start, Variant("x", blank_mask=False), 0)
        .encode_context(inputs["pixel_values"], blank)
        .mask.any()
    )


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    start: Start, data: Path, tmp_path: Path, monkeypatch
) -> None:
    variant, config = Variant("dynamic", shape={"masking": "dynamic"}), small(steps=3)
    whole = measure_variant(start, variant, config, data, tmp_path / "a")
    clock = iter([0.0, 0.0, 2.0])  # asked before the training and after each step: the second one is too late
    monkeypatch.setattr("vist.eval.ablation.time.monotonic", lambda: next(clock, 2.0))
    with pytest.raises(VistError, match="The time was up while 'dynamic' was trained"):
        measure_variant(start, variant, config, data, tmp_path / "b", until=1.0)
    with pytest.raises(VistError, match="The time was up before 'dynamic' began"):
        measure_variant(start, variant, config, data, tmp_path / "b", until=1.0)
    assert [path.name for path in (tmp_path / "b" / "runs").glob("*/checkpoint-*")] == ["checkpoint-2"]
    again = measure_variant(start, variant, config, data, tmp_path / "b")
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in whole], nan_ok=True)
    assert {row["metric"] for row in whole} == {"perplexity", "nats per token", "exact"}
    assert {row["method"] for row in whole} >= {"none", "visual", "wrong", "full"}


def test_the_verb_writes_a_table_and_trains_the_base_once(source, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("vist.recipes.ablations.ablation_config", lambda *_: small(steps=1))
    monkeypatch.setattr("vist.eval.provenance.commit", lambda: "c" * 40)
    arguments = ["ablate", "pve", "masking", "--data", str(data), "--out", str(tmp_path), "--start", str(source)]
    arguments += ["--windows", "1", "--contexts", "2"]
    assert main([*arguments, "--json", str(tmp_path / "all.json")]) == 0
    assert len(list((tmp_path / "runs").glob("*/final"))) == 4  # with, without PVE; at random, none
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"ablate pve", "ablate masking"}
    assert {row["part"] for row in rows if row["task"] == "ablate pve"} == {"with PVE (base)", "without PVE"}
    assert "without PVE" in (tmp_path / "pve.md").read_text()
    assert len(json.loads((tmp_path / "all.json").read_text())["rows"]) == len(rows)
    before = (tmp_path / "results.jsonl").read_text()
    capsys.readouterr()
    assert main([*arguments, "--minutes", "0"]) == 0  # everything is there, so no time is needed
    assert (tmp_path / "results.jsonl").read_text() == before
    assert capsys.readouterr().err.count("finished by an earlier run, kept") == 5


def test_bad_input_is_one_sentence(source, tiny_folder, data, tmp_path, capsys) -> None:
    shared = ["--data", str(data), "--out", str(tmp_path)]
    for arguments, message in (
        (["ablate", "moon", *shared], "There is no ablation 'moon'; the ablations are: visual-tokens, context"),
        (["ablate", "pve", *shared, "--start", str(tiny_folder)], "has no token statistics"),
        (["ablate", "pve", *shared, "--start", str(source), "--minutes", "0"], "The time was up before"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
