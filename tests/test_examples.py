"""The files in `examples/` and the picture of the README run, and do what their text says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_vist import build_tiny

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
KEPT = ROOT / "docs" / "images" / "flow.png"
LONGEST = 60  # lines


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


def run(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_quickstart(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("01_quickstart.py", tiny)
    counts, continuation = capsys.readouterr().out.split("\n", 1)
    assert "visual tokens" in counts
    assert continuation.startswith("The White Rabbit")
    assert len(continuation.strip()) > len("The White Rabbit")


def test_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("02_pages.py", str(tmp_path / "pages"))
    out = capsys.readouterr().out
    assert "U+0000" in out
    assert (tmp_path / "pages" / "manifest.json").is_file()


def test_many_questions(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("03_many_questions.py", tiny)
    out = capsys.readouterr().out
    assert "The cellar's number is" in out and "The attic's number is" in out


def test_own_backbones(capsys: pytest.CaptureFixture[str]) -> None:
    run("04_own_backbones.py")
    assert "untrained, pages change nothing: True" in capsys.readouterr().out


def test_every_example_is_short_and_tested() -> None:
    here = Path(__file__).read_text()
    for path in sorted(EXAMPLES.glob("*.py")):
        assert path.name in here
        assert len(path.read_text().splitlines()) < LONGEST, path.name


def test_the_picture_in_the_readme_shows_what_the_renderer_draws(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "docs" / "images" / "flow.py"))["draw"](tmp_path / "flow.png")
    drawn, kept = (np.asarray(Image.open(path).convert("L"), float) for path in (tmp_path / "flow.png", KEPT))
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.5, "run `make docs`"
