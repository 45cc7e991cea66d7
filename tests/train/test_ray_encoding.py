"""The Ray Data plan: the same bytes as plain processes, in a session that is open and in one of its own."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny_recipe import save_backbones, tiny_recipe, write_corpus
from vist.errors import VistError
from vist.train import ray_encoding
from vist.train.encoding import encode_corpus
from vist.train.features import ShardPlace
from vist.train.paper import PaperRecipe

SIZE = 2
Inputs = tuple[PaperRecipe, Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    llm, vision = save_backbones(folder)
    return tiny_recipe(llm, vision, steps=4), write_corpus(folder / "data")


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "whole"
    encode_corpus(*inputs, folder, shard_windows=SIZE)
    return folder


@pytest.fixture
def session() -> Iterator[Any]:
    """One core and 200 MB for objects."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'vist[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=1, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_plan_makes_the_bytes_of_plain_processes(session: Any, inputs: Inputs, whole: Path, tmp_path: Path) -> None:
    encode_corpus(*inputs, tmp_path / "ray", on_ray=True, shard_windows=SIZE)
    assert files(tmp_path / "ray") == files(whole)
    assert session.is_initialized()  # it was somebody else's
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 9)
    with pytest.raises(VistError, match=r"^A part of the corpus has no text at all"):
        encode_corpus(inputs[0], tmp_path / "a.jsonl", tmp_path / "none", on_ray=True)


def test_a_plan_goes_on_where_plain_processes_stopped(inputs: Inputs, whole: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'vist[ray]'")
    folder = shutil.copytree(whole, tmp_path / "features")
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors") if path.parent != folder}
    for place in (ShardPlace(0, 0), ShardPlace(2, 1)):
        del kept[place.path(folder)]
        place.path(folder).unlink()
    encode_corpus(*inputs, folder, on_ray=True)
    assert files(folder) == files(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not ray.is_initialized()


def test_encoders_take_the_gpus_a_cluster_has() -> None:
    assert ray_encoding._encoders({"CPU": 16.0}, None) == (16, None)
    assert ray_encoding._encoders({"CPU": 16.0}, 3) == (3, None)
    assert ray_encoding._encoders({"CPU": 16.0, "GPU": 4.0}, None) == (4, 1)
    assert ray_encoding._encoders({"CPU": 16.0, "GPU": 4.0}, 2) == (2, 1)
    with pytest.raises(VistError, match="4 GPUs for 8 encoders; lower --workers"):
        ray_encoding._encoders({"CPU": 16.0, "GPU": 4.0}, 8)


def test_without_ray_the_sentence_says_what_to_install(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VistError, match=r"A Ray Data plan needs Ray: pip install 'vist\[ray\]'"):
        encode_corpus(*inputs, tmp_path / "features", on_ray=True)


def test_only_the_plan_itself_needs_ray() -> None:
    """Ray is an extra: nothing else of the package imports it, and this file only when a plan is carried out."""
    source = Path(ray_encoding.__file__).parents[1]
    users = [path.name for path in source.rglob("*.py") if "import ray" in path.read_text()]
    assert users == ["ray_encoding.py"]
    assert not any(line.startswith("import ray") for line in Path(ray_encoding.__file__).read_text().splitlines())
