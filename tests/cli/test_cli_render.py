"""`vist render` as a tool of its own: sources, formats, styles, prices, and a way back for every character."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vist.cli import main
from vist.gateway import image_tokens, resolve_profile
from vist.render import render

CODE = "def double(x):\n\treturn 2 * x  # twice\n\n\n" * 30
LOG = "starting\n" + "waiting for the server to answer\n" * 50 + "# Title\n\n| a | b |\n|---|---|\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    (place / "sub" / ".hidden").mkdir(parents=True)
    (place / "a.py").write_text(CODE)
    (place / "sub" / "b.log").write_text(LOG)
    (place / "sub" / ".hidden" / "c.txt").write_text("hidden")
    (place / "sub" / "d.bin").write_bytes(b"\0\1\2")
    return place


def run(*arguments: object) -> None:
    assert main(["render", *map(str, arguments)]) == 0


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def source_spans(folder: Path) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for page in manifest(folder)["pages"]:
        for part in page["sources"]:
            found.setdefault(part["source"], []).append(part["span"])
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("more", [[], ["--headers", "--line-numbers", "--fold"]], ids=["plain", "woven"])
def test_folders_map_every_page_to_its_sources(folder, tmp_path, more, capsys) -> None:
    run(folder, "--style", "code", "--out", tmp_path / "out", *more)
    spans = source_spans(tmp_path / "out")
    assert list(spans) == [str(folder / "a.py"), str(folder / "sub" / "b.log")]
    for text, found in zip((CODE, LOG), spans.values(), strict=True):
        assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == len(text)
    assert "1 binary files were left out" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["png", "webp", "pdf", "npz"])
def test_every_format_is_the_same_bytes_twice_and_holds_the_pages(folder, tmp_path, kind) -> None:
    for name in ("one", "two"):
        run(folder / "a.py", "--style", "glyph", "--format", kind, "--out", tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    pages = render(CODE, "glyph").pixels
    listed = manifest(tmp_path / "one")["pages"]
    assert len(listed) == len(pages) and all((tmp_path / "one" / page["file"]).is_file() for page in listed)
    if kind in ("png", "webp"):
        for page, pixels in zip(listed, pages, strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "one" / page["file"]).convert("L")), pixels)
    elif kind == "npz":
        assert np.array_equal(np.load(tmp_path / "one" / "pages.npz")["pixels"], pages)


def test_patterns_are_expanded_and_cropped_pages_say_their_size(folder, tmp_path) -> None:
    run(folder / "**" / "*.log", "--style", "dense", "--crop", "--out", tmp_path / "out")
    (page,) = manifest(tmp_path / "out")["pages"]
    width, height = page["size"]
    assert Image.open(tmp_path / "out" / page["file"]).size == (width, height)
    assert (width, height) == (780, 10 * len(LOG.splitlines()))


def test_a_single_page_holds_the_whole_text(folder, tmp_path) -> None:
    run(folder, "--style", "single", "--out", tmp_path / "out")
    (page,) = manifest(tmp_path / "out")["pages"]
    width, height = Image.open(tmp_path / "out" / page["file"]).size
    assert page["span"] == [0, len(CODE) + len(LOG)] and height <= 1.5 * width


def test_pages_for_a_model_are_priced_by_its_rule(folder, tmp_path, capsys) -> None:
    run(folder, "--for", "gpt-4o-2024-08-06", "--out", tmp_path / "out", "--json", tmp_path / "figures.json")
    said = json.loads((tmp_path / "figures.json").read_text())
    (quote,) = said["prices"]
    sizes = [Image.open(path).size for path in sorted((tmp_path / "out").glob("*.png"))]
    profile = resolve_profile("gpt-4o")
    assert quote["pages"] == sum(image_tokens(profile, *size, "high") for size in sizes)
    assert quote["characters"] == pytest.approx((len(CODE) + len(LOG)) / quote["pages"])
    out = capsys.readouterr().out
    assert "gpt-4o" in out and quote["verdict"] in out


def test_prices_are_compared_over_families(folder, capsys) -> None:
    run(folder, "--style", "glyph-96", "--prices")  # 784 px wide, where gpt-4o sees 768
    lines = capsys.readouterr().out.splitlines()
    verdicts = {line.split()[0]: line.rsplit(None, 1)[-1] for line in lines if "%" in line}
    assert {"gpt-4o", "claude", "gemini-3", "qwen3-vl"} <= set(verdicts)
    assert set(verdicts.values()) <= {"pays", "pay", "shrunk", "refused"} and verdicts["gpt-4o"] == "shrunk"


def test_git_diff_is_a_source(tmp_path, monkeypatch, capsys) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "a.txt").write_text("one\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "a.txt").write_text("two\n")
    monkeypatch.chdir(tmp_path)
    run("--git-diff", "HEAD", "--style", "code", "--out", tmp_path / "out")
    page = manifest(tmp_path / "out")["pages"][0]
    assert page["sources"][0]["source"] == "git diff HEAD"
    for ref in ("nothing-like-it", "--output=x"):
        assert main(["render", "--git-diff", ref]) == 1
        assert ref in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Nothing to draw"),
        (["EMPTY"], "no text files"),
        (["a.txt", "--for", "no-model"], "no-model"),
        (["a.txt", "--for", "gpt-4o", "--style", "code"], "leave out --style"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "a.txt").write_text("x")
    assert main(["render", *arguments]) == 1
    assert said in capsys.readouterr().err
