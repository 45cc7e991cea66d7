"""Pages encoded ahead of time: the features of training, the same bytes however they are made, and what is refused."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tiny_backbones import tiny_tower
from tiny_recipe import save_backbones, tiny_recipe, write_corpus
from vist.errors import VistError
from vist.render import fonts
from vist.train import encoding, paper, trainer
from vist.train.encoding import encode_corpus, encode_in_processes
from vist.train.features import FeatureStore, ShardPlace, read_shard, write_shard
from vist.train.paper import PaperRecipe, PaperRun, train_paper
from vist.train.stream import Cursor, Lane
from vist.vision.encoder import PageFeatures, encode, freeze
from vist.vision.text_vit import TextViTModel

STEPS, SIZE = 6, 2  # windows of a lane, windows of a shard
Inputs = tuple[PaperRecipe, Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    llm, vision = save_backbones(folder)
    return tiny_recipe(llm, vision, steps=STEPS), write_corpus(folder / "data")


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder, made by one process."""
    folder = tmp_path_factory.mktemp("features") / "whole"
    encode_corpus(*inputs, folder, shard_windows=SIZE)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "features")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ShardPlace]:
    """The shards that are written while a test runs."""
    places: list[ShardPlace] = []
    real = encoding.ShardEncoder.write

    def write(self: Any, drawn: encoding.DrawnShard) -> Any:
        places.append(drawn.place)
        return real(self, drawn)

    monkeypatch.setattr(encoding.ShardEncoder, "write", write)
    return places


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(*args: Any, **more: Any) -> None:
    raise AssertionError("the features were there already")


def losses(out: Path) -> np.ndarray:
    lines = json.loads((out / "train" / "losses.json").read_text())
    return np.array([[line["loss"], line["lm_loss"], line["pve_loss"]] for line in lines if "loss" in line])


def test_the_features_are_those_of_encoding_the_pages_of_training(inputs: Inputs, whole: Path) -> None:
    run = PaperRun(*inputs, whole)
    tower = tiny_tower()
    freeze(tower)
    store = FeatureStore(whole)
    for lane in range(4):
        window = Lane(run.segments[lane], run.tokenizer, run.tokens)
        for found in list(zip(range(STEPS), store.windows(lane), strict=False)):
            wanted = next(window)
            sample = run.reader(np.zeros(len(run.tokenizer), np.float32)).sample(wanted, lane)
            seen = encode(tower, sample["pixels"][None], sample["ink"][None])
            assert np.array_equal(found[1].ids, wanted.ids) and found[1].cursor == wanted.cursor
            assert torch.equal(found[1].seen.features, seen.features) and torch.equal(found[1].seen.mask, seen.mask)


def test_training_on_features_has_the_losses_of_training_on_pages(
    inputs: Inputs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_paper(*inputs, tmp_path / "pages")
    monkeypatch.setattr(TextViTModel, "forward", refused)  # nothing is encoded any more, ...
    monkeypatch.setattr("vist.train.paged.render", refused)  # ... and nothing drawn
    train_paper(*inputs, tmp_path / "features", features=whole)
    assert losses(tmp_path / "features").shape == (STEPS, 3)
    assert np.abs(losses(tmp_path / "features") - losses(tmp_path / "pages")).max() < 1e-5
    one, other = (load_file(tmp_path / name / "model" / "adapter.safetensors") for name in ("pages", "features"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert (tmp_path / "pages" / "data.json").read_text() == (tmp_path / "features" / "data.json").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_with_features_where_it_began_with_pages(
    inputs: Inputs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    recipe = replace(inputs[0], stage=replace(inputs[0].stage, workers=workers))
    train_paper(recipe, inputs[1], tmp_path / "features", features=whole)
    real = trainer.AtomicTrainer.training_step

    def interrupted(self: Any, *args: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(trainer.AtomicTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_paper(recipe, inputs[1], tmp_path / "mixed")
    monkeypatch.undo()
    train_paper(recipe, inputs[1], tmp_path / "mixed", features=whole)  # from the checkpoint of step 2
    assert np.abs(losses(tmp_path / "mixed") - losses(tmp_path / "features")).max() < 1e-5
    assert (tmp_path / "mixed" / "data.json").read_text() == (tmp_path / "features" / "data.json").read_text()


def test_two_processes_make_the_same_bytes_as_one(inputs: Inputs, whole: Path, tmp_path: Path) -> None:
    encode_corpus(*inputs, tmp_path / "two", workers=2, shard_windows=SIZE)
    assert files(tmp_path / "two") == files(whole)


def test_pages_are_encoded_on_one_thread_whatever_torch_has(
    inputs: Inputs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        encoding, "encode", lambda *args, **more: seen.append(torch.get_num_threads()) or encode(*args, **more)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encode_corpus(*inputs, tmp_path / "threads", shard_windows=SIZE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1} and files(tmp_path / "threads") == files(whole)


def test_an_interrupted_encoding_makes_only_what_is_missing(
    inputs: Inputs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[ShardPlace]
) -> None:
    def breaks_off(*args: Any) -> Iterator[Any]:
        for number, record in enumerate(encode_in_processes(*args)):
            yield record
            if number == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(encoding, "encode_in_processes", breaks_off)
    folder = tmp_path / "features"
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(*inputs, folder, shard_windows=SIZE)
    (folder / "lane-00001" / "000002.safetensors.part").write_bytes(b"half")
    with pytest.raises(VistError, match=r"are not finished; run the same `vist encode` again"):
        FeatureStore(folder)
    first = made[:]
    monkeypatch.setattr(encoding, "encode_in_processes", encode_in_processes)
    encode_corpus(*inputs, folder)
    assert len(first) == 4 and set(first).isdisjoint(made[4:]) and len(made) == 12
    assert files(folder) == files(whole)


def test_missing_and_truncated_shards_are_made_again_and_no_others(
    inputs: Inputs, whole: Path, copy: Path, made: list[ShardPlace]
) -> None:
    gone, cut = ShardPlace(0, 1), ShardPlace(3, 2)
    gone.path(copy).unlink()
    os.truncate(cut.path(copy), cut.path(copy).stat().st_size - 20)
    encode_corpus(*inputs, copy)
    assert made == [gone, cut]
    assert files(copy) == files(whole)


def test_a_longer_run_adds_shards(inputs: Inputs, whole: Path, copy: Path, made: list[ShardPlace]) -> None:
    recipe = replace(inputs[0], stage=replace(inputs[0].stage, steps=STEPS + 1))
    with pytest.raises(VistError, match=r"are 6 windows of each lane and the run takes 7; .* --steps 7"):
        PaperRun(recipe, inputs[1], copy, copy)
    encode_corpus(recipe, inputs[1], copy)
    assert made == [ShardPlace(lane, 3) for lane in range(4)]
    encode_corpus(*inputs, copy)  # a shorter one changes nothing
    assert len(made) == 4 and FeatureStore(copy).index["windows"] == 8
    before, after = files(whole), files(copy)
    assert all(after[name] == before[name] for name in before if name.startswith("lane-"))


def test_the_last_window_is_the_last(inputs: Inputs, whole: Path) -> None:
    store = FeatureStore(whole)
    windows = store.windows(2, STEPS - 1)
    assert next(windows).cursor.windows == STEPS
    with pytest.raises(VistError, match="end after 6 windows of each lane"):
        next(windows)


def test_features_of_a_shard_are_never_read_at_once(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_corpus(*inputs, tmp_path, shard_windows=6)
    path = ShardPlace(0, 0).path(tmp_path)
    stored = load_file(path)["features"]
    whole, real = [], safe_open

    class Watched:
        """A shard that notes what is read of it as a whole."""

        def __init__(self, *args: Any):
            self.file = real(*args)

        def __enter__(self) -> Any:
            self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            whole.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(encoding.features, "safe_open", Watched)
    parts = [window.seen.features[window.seen.mask] for window in read_shard(path)]
    assert len(parts) == 6 and torch.equal(torch.cat(parts), stored)
    assert sorted(whole) == ["ids", "mask", "pages"]


def test_windows_without_ink_and_without_pages_come_back(tmp_path: Path) -> None:
    seen = [
        PageFeatures(torch.zeros(1, pages, 4, 3), torch.zeros(1, pages, 4, dtype=torch.bool)) for pages in (2, 0, 1)
    ]
    seen[2].mask[0, 0, 3], seen[2].features[0, 0, 3] = True, 7.0
    cursors = [Cursor(windows=number) for number in (1, 2, 3)]
    write_shard(tmp_path / "a.safetensors", np.arange(15).reshape(3, 5), seen, cursors)
    for number, window in enumerate(read_shard(tmp_path / "a.safetensors")):
        assert window.ids.tolist() == list(range(5 * number, 5 * number + 5)) and window.cursor == cursors[number]
        assert torch.equal(window.seen.features, seen[number].features)
        assert torch.equal(window.seen.mask, seen[number].mask)
    with pytest.raises(VistError, match="b.safetensors' is missing"):
        next(read_shard(tmp_path / "b.safetensors"))


# --- what is refused ---


@pytest.mark.parametrize("place", [ShardPlace(1, 0), ShardPlace(2, 2)])
def test_a_truncated_or_missing_shard_stops_a_run_before_it_begins(
    inputs: Inputs, copy: Path, tmp_path: Path, place: ShardPlace
) -> None:
    path = place.path(copy)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VistError, match=rf"{path.name}' is truncated; run the same `vist encode` again"):
        train_paper(*inputs, tmp_path / "run", features=copy)
    path.unlink()
    with pytest.raises(VistError, match=rf"{path.name}' is missing"):
        train_paper(*inputs, tmp_path / "run", features=copy)
    assert not (tmp_path / "run").exists()


def test_a_shard_that_is_damaged_inside_names_itself(inputs: Inputs, copy: Path, tmp_path: Path) -> None:
    path = ShardPlace(0, 1).path(copy)
    content = bytearray(path.read_bytes())
    content[8:40] = b"x" * 32  # its header
    path.write_bytes(content)
    with pytest.raises(VistError, match=r"000001.safetensors' is truncated"):
        train_paper(*inputs, tmp_path / "run", features=copy)


def changed_style(recipe: PaperRecipe) -> PaperRecipe:
    return replace(recipe, choices={**recipe.choices, "style": "vist-9"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_style, r"the page style is 'vist' there and 'vist-9' here"),
        (lambda recipe: replace(recipe, window=replace(recipe.window, distant=100)), r"T_e is 120 there and 100 here"),
        (lambda recipe: replace(recipe, global_batch=2), r"the global batch is 4 there and 2 here"),
        (
            lambda recipe: replace(recipe, choices={**recipe.choices, "vision_drop_blank": True}),
            r"the leaving out of blank patches is False there and True here",
        ),
    ],
)
def test_features_of_other_pages_are_refused(
    inputs: Inputs, whole: Path, tmp_path: Path, change: Any, said: str
) -> None:
    recipe = change(inputs[0])
    for start in (
        lambda: train_paper(recipe, inputs[1], tmp_path / "run", features=whole),
        lambda: encode_corpus(recipe, inputs[1], whole),
    ):
        with pytest.raises(VistError, match=rf"are of something else: {said}; give features of the same"):
            start()


def test_features_of_another_renderer_corpus_or_tower_are_refused(
    inputs: Inputs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = inputs
    before = files(whole)
    with pytest.raises(VistError, match="the fingerprint of corpus and tokenizer is"):
        train_paper(recipe, write_corpus(tmp_path / "other", documents=50), tmp_path / "run", features=whole)
    other = tiny_tower()
    with torch.no_grad():
        other.layers[0].fc1.weight.add_(0.1)
    other.save_pretrained(tmp_path / "tower")
    altered = replace(recipe, vision=str(tmp_path / "tower"))
    for start in (
        lambda: train_paper(altered, data, tmp_path / "run", features=whole),
        lambda: encode_corpus(altered, data, whole),
    ):
        with pytest.raises(VistError, match=r"are of another vision tower, with fingerprint .* differs first in"):
            start()
    monkeypatch.setattr(paper, "RENDERER_VERSION", fonts.RENDERER_VERSION + "+")
    with pytest.raises(VistError, match=r"the renderer's version is '1' there and '1\+' here"):
        train_paper(recipe, data, tmp_path / "run", features=whole)
    assert files(whole) == before


def test_a_folder_that_holds_no_features_is_refused(inputs: Inputs, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(VistError, match=r"There are no features in .* give a folder of `vist encode`"):
        train_paper(*inputs, tmp_path / "run", features=tmp_path / "nothing")
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "version": 2}))
    with pytest.raises(VistError, match="is of format vist-features 2, here vist-features 1"):
        train_paper(*inputs, tmp_path / "run", features=copy)
    (copy / "index.json").write_text("{")
    with pytest.raises(VistError, match="cannot be read"):
        train_paper(*inputs, tmp_path / "run", features=copy)


def test_shards_of_another_size_or_precision_are_refused(inputs: Inputs, copy: Path) -> None:
    with pytest.raises(VistError, match="have 2 windows each, not 3; leave --shard-windows out"):
        encode_corpus(*inputs, copy, shard_windows=3)
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "precision": "fp16"}))
    with pytest.raises(VistError, match="are of fp16, this machine computes in fp32"):
        encode_corpus(*inputs, copy)


def test_a_disk_too_small_is_seen_after_the_first_shard(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(encoding.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(VistError, match=r"No space for the features in .*lower --steps, or choose another --out"):
        encode_corpus(*inputs, tmp_path / "features", shard_windows=SIZE)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_cannot_be_written_loses_nothing(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    real = encoding.features.save_file

    def full(tensors: Any, path: Path, **more: Any) -> None:
        if "000001" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, **more)

    monkeypatch.setattr(encoding.features, "save_file", full)
    with pytest.raises(VistError, match=r"No space left for .*000001.safetensors'; the finished shards are whole"):
        encode_corpus(*inputs, tmp_path / "features", workers=workers, shard_windows=SIZE)
    assert list((tmp_path / "features").rglob("*000000.safetensors"))
    assert not list((tmp_path / "features").rglob("*.part"))


def test_a_corpus_that_breaks_off_is_said_by_a_process(inputs: Inputs, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": ""}\n' * 9)
    with pytest.raises(VistError, match=r"^A part of the corpus has no text at all"):
        encode_corpus(inputs[0], data, tmp_path / "features", workers=2, shard_windows=SIZE)


def test_a_process_that_is_killed_is_a_sentence(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding.ShardEncoder, "write", lambda self, drawn: os.kill(os.getpid(), 9))
    with pytest.raises(VistError, match="A process that encodes was killed.*run the same command again"):
        encode_corpus(*inputs, tmp_path / "features", workers=2, shard_windows=SIZE)
