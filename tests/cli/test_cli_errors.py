"""What goes wrong at the command line: one sentence on standard error, and the right exit status."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from tiny_vist import alice
from vist.cli import main
from vist.errors import VistError


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(alice(12_000), encoding="utf-8")
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The sentence with which a command is refused; asserts status 1, one line, no traceback."""
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("vist: ") and not line.startswith("vist: note")]
    assert len(lines) == 1
    assert "Traceback" not in error
    assert lines[0].rstrip().endswith((".", "?"))
    return lines[0]


READERS = (
    ["render"],
    ["demo", "--text"],
    ["eval", "lm"],
    ["eval", "recall"],
    ["generate", "--prompt", "x", "--context"],
)


def with_model(verb: list[str], path: Path, tiny_folder: Path) -> list[str]:
    return [*verb, str(path), *([] if verb == ["render"] else ["--model", str(tiny_folder)])]


@pytest.mark.parametrize("verb", READERS, ids=" ".join)
def test_a_file_that_does_not_exist(capsys, tmp_path, tiny_folder, verb) -> None:
    sentence = refusal(capsys, *with_model(verb, tmp_path / "nowhere.txt", tiny_folder))
    assert "nowhere.txt" in sentence
    assert "check the path" in sentence


@pytest.mark.parametrize("verb", READERS, ids=" ".join)
def test_a_folder_instead_of_a_file(capsys, tmp_path, tiny_folder, verb) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    said = refusal(capsys, *with_model(verb, folder, tiny_folder))
    wanted = (
        "has no text files; name another" if verb == ["render"] else "is a folder, not a text file; name a file in it"
    )
    assert wanted in said


@pytest.mark.parametrize("verb", READERS, ids=" ".join)
def test_a_file_without_permission(capsys, book, tiny_folder, monkeypatch, verb) -> None:
    """The refusal is simulated, so that the test also holds for a superuser, whom no file refuses."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    for name in ("open", "read_bytes", "read_text"):
        original = getattr(Path, name)
        monkeypatch.setattr(
            Path,
            name,
            lambda self, *args, original=original, **kwargs: (
                refuse(self) if self.name == "book.txt" else original(self, *args, **kwargs)
            ),
        )
    sentence = refusal(capsys, *with_model(verb, book, tiny_folder))
    assert "ermission" in sentence
    assert "book.txt" in sentence


@pytest.mark.parametrize("verb", READERS[1:4], ids=" ".join)
def test_an_empty_text(capsys, tmp_path, tiny_folder, verb) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    assert "empty" in refusal(capsys, *with_model(verb, empty, tiny_folder))


def test_a_text_that_is_too_short(capsys, tmp_path, tiny_folder) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Only one sentence.")
    sentence = refusal(capsys, "eval", "lm", short, "--model", tiny_folder)
    assert "the longest has 18 characters" in sentence
    assert "lower --pages or --proximal" in sentence


def test_a_model_folder_that_is_missing(capsys, book, tmp_path) -> None:
    sentence = refusal(capsys, "eval", "lm", book, "--model", tmp_path / "no-model")
    assert "no-model" in sentence


def broken(tiny_folder: Path, target: Path) -> Path:
    shutil.copytree(tiny_folder, target)
    return target


def test_a_truncated_model(capsys, book, tiny_folder, tmp_path) -> None:
    folder = broken(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    assert "model" in refusal(capsys, "eval", "lm", book, "--model", folder)


def test_a_model_of_another_architecture(capsys, book, tiny_folder, tmp_path) -> None:
    folder = broken(tiny_folder, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    assert "model" in refusal(capsys, "eval", "recall", book, "--model", folder)


def test_a_weight_of_the_wrong_shape(capsys, book, tiny_folder, tmp_path) -> None:
    folder = broken(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["num_visual_tokens"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    assert "shape" in refusal(capsys, "generate", "--prompt", "x", "--model", folder)


def test_no_visual_tokens(capsys, book, tiny_folder, tmp_path) -> None:
    folder = broken(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["num_visual_tokens"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    assert "num_visual_tokens" in refusal(capsys, "generate", "--prompt", "x", "--model", folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "lm", "x.txt", "--pages", "0"],
        ["eval", "lm", "x.txt", "--windows", "-1"],
        ["eval", "lm", "x.txt", "--pages", "1.5"],
        ["eval", "recall", "x.txt", "--facts", "0"],
        ["eval", "recall", "x.txt", "--contexts", "1"],
        ["eval", "recall", "x.txt", "--kind", "colour"],
        ["generate", "--prompt", "x", "--temperature", "-0.1"],
        ["generate", "--prompt", "x", "--max-new-tokens", "0"],
        ["generate"],
        ["demo", "--pages", "none"],
        ["fly"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_status_2(capsys, arguments) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.strip()
    assert "Traceback" not in error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_cannot_be_written_to(capsys, book, tmp_path, monkeypatch, number) -> None:
    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(number, "No space left on device" if number == errno.ENOSPC else "refused", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    target = tmp_path / "figures.json"
    sentence = refusal(capsys, "render", book, "--json", target)
    assert "figures.json'" in sentence
    assert {errno.ENOSPC: "free some space", errno.EACCES: "permissions", errno.EROFS: "choose a place"}[
        number
    ] in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt"]


def test_a_disk_that_fills_up_while_pages_are_written(capsys, book, tmp_path, monkeypatch) -> None:
    from PIL import Image

    save = Image.Image.save

    def fail(self: Image.Image, path: Path, *args: object, **kwargs: object) -> None:
        if str(path).endswith("00005.png"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fail)
    assert "No space left on device; free some space" in refusal(capsys, "render", book, "--out", tmp_path / "pages")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt"]


def test_a_page_folder_is_never_overwritten(capsys, book, tmp_path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "mine.txt").write_text("mine")
    assert "exists already" in refusal(capsys, "render", book, "--out", tmp_path / "pages")
    assert (tmp_path / "pages" / "mine.txt").read_text() == "mine"


def test_loss_on_request(capsys, tmp_path) -> None:
    path = tmp_path / "bytes.txt"
    path.write_bytes("caf\xe9, or coffee".encode("latin-1") + b"\x00")
    assert "without loss" in refusal(capsys, "render", path, "--on-loss", "raise", "--out", tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
    assert main(["render", str(path), "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["loss"] == {"replaced": {"U+0000": 1, "U+DCE9": 1}}
    assert "2 characters that cannot be drawn" in capsys.readouterr().out


def test_an_unknown_style_and_an_unknown_recipe(capsys, book, tmp_path) -> None:
    assert "There is no page style 'comic'" in refusal(capsys, "render", book, "--style", "comic")
    assert "no folder" in refusal(capsys, "train", "nano", "--data", tmp_path / "none", "--out", tmp_path)
    assert "no recipe 'fly'" in refusal(capsys, "train", "fly", "--data", tmp_path, "--out", tmp_path)


def test_ctrl_c_is_one_line_and_130(capsys, book, monkeypatch, tmp_path) -> None:
    import vist.render

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vist.render, "iter_pages", interrupted)
    assert main(["render", str(book), "--out", str(tmp_path / "pages")]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt"]


def test_a_bug_keeps_its_traceback(book, monkeypatch) -> None:
    import vist.render

    monkeypatch.setattr(vist.render, "iter_pages", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["render", str(book)])


def test_long_messages_stay_on_one_line(capsys, book, monkeypatch) -> None:
    import vist.render

    def fail(*_: object) -> None:
        raise VistError("One thing\nand another.")

    monkeypatch.setattr(vist.render, "iter_pages", fail)
    assert refusal(capsys, "render", book) == "vist: One thing and another."
