"""The verbs at work: what they print, what they write, what they leave behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vist
from tiny_vist import alice
from vist.cli import main
from vist.cli.reference import reference
from vist.render import render

ROOT = Path(__file__).parents[2]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(alice(14_000), encoding="utf-8")
    return path


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_the_help_page_is_current() -> None:
    current = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert current == reference(), "run: python -m vist.cli.reference > docs/cli.md"


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["demo"],
        ["render"],
        ["generate"],
        ["train"],
        ["cost"],
        ["doctor"],
        ["eval"],
        ["eval", "lm"],
        ["eval", "recall"],
    ],
    ids=" ".join,
)
def test_every_verb_explains_itself(capsys, verb) -> None:
    for flag in ("-h", "--help"):
        assert main([*verb, flag]) == 0
        assert "Usage: vist" in capsys.readouterr().out


def test_every_verb_is_in_the_help_page() -> None:
    page = reference()
    measures = "lm recall icl qa readback stress languages distance dial longwrite report".split()
    verbs = "demo render generate gateway tune train encode ablate cost doctor".split()
    for verb in (*verbs, *(f"eval {measure}" for measure in measures)):
        assert f"## `vist {verb}`" in page
    assert page.count("`--json PATH`") == 17  # all but gateway, tune, encode and report print figures
    assert "| `--device {auto,cpu,cuda}` |" in page


def test_version(capsys) -> None:
    run("--version")
    assert capsys.readouterr().out == f"vist {vist.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from vist.cli import main; main(['-h']); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = done.stdout.splitlines()[-1].split()
    assert "typer" in loaded
    assert not {"torch", "transformers", "matplotlib", "pyarrow", "jinja2"} & set(loaded)


def test_a_reader_that_leaves_is_no_error(book) -> None:
    command = f'"{sys.executable}" -m vist.cli render "{book}" | true; exit ${{PIPESTATUS[0]}}'
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.stderr == ""


def test_render_writes_what_the_library_draws(book, tmp_path, capsys) -> None:
    book.write_text(alice(50_000), encoding="utf-8")  # long enough to be drawn in more than one stretch
    run("render", book, "--out", tmp_path / "pages", "--json", tmp_path / "figures.json")
    pages = render(book.read_text(encoding="utf-8"))
    manifest = json.loads((tmp_path / "pages" / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["hash"] for entry in manifest["pages"]] == pages.hashes
    assert [entry["span"] for entry in manifest["pages"]] == pages.spans.tolist()
    assert {key: manifest[key] for key in manifest if key != "pages"} == {
        key: value for key, value in pages.manifest().items() if key != "pages"
    }
    for number, entry in enumerate(manifest["pages"]):
        drawn = np.asarray(Image.open(tmp_path / "pages" / entry["file"]))
        np.testing.assert_array_equal(drawn, pages.pixels[number])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["pages"], figures["characters"]) == (len(pages), 50_000)
    assert f"{len(pages)} pages" in capsys.readouterr().out


def test_render_of_a_stream_is_render_of_the_file(book, tmp_path, monkeypatch, capsys) -> None:
    content = b"\xef\xbb\xbf" + book.read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "bom.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    run("render", "-", "--out", tmp_path / "one")
    run("render", tmp_path / "bom.txt", "--out", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    sources = [
        {Path(part.pop("source")).name for page in manifest["pages"] for part in page["sources"]}
        for manifest in (one, two)
    ]
    assert one == two and sources == [{"-"}, {"bom.txt"}]
    assert one["characters"] == len(content.decode("utf-8-sig"))


def test_an_empty_file_has_no_pages(tmp_path, capsys) -> None:
    (tmp_path / "empty.txt").write_text("")
    run("render", tmp_path / "empty.txt", "--out", tmp_path / "pages")
    assert capsys.readouterr().out.startswith("0 pages, 0 characters")
    assert json.loads((tmp_path / "pages" / "manifest.json").read_text())["pages"] == []


def test_generate_agrees_with_the_library(book, tiny_folder, tmp_path, capsys) -> None:
    run(
        *("generate", "--context", book, "--prompt", "Alice said", "--max-new-tokens", 6),
        *("--model", tiny_folder, "--json", tmp_path / "g.json", "--device", "cpu"),
    )
    printed = capsys.readouterr().out
    model, processor = vist.load(tiny_folder)
    start = processor.tokenizer.bos_token
    inputs = processor(context=book.read_text(encoding="utf-8"), prompt=f"{start}Alice said")
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert printed == expected + "\n"
    figures = json.loads((tmp_path / "g.json").read_text())
    assert figures["text"] == expected
    assert figures["context_tokens"] == 4 * figures["pages"]
    assert figures["ratio"] == pytest.approx(figures["text_tokens"] / figures["context_tokens"])


def test_streaming_prints_the_same_text(book, tiny_folder, capsys) -> None:
    arguments = ("generate", "--context", book, "--prompt", "Alice", "--max-new-tokens", 8, "--model", tiny_folder)
    run(*arguments)
    whole = capsys.readouterr().out
    run(*arguments, "--stream")
    assert capsys.readouterr().out.strip() == whole.strip()


def test_sampling_repeats_with_its_seed(tiny_folder, capsys) -> None:
    said = []
    for seed in (1, 1, 2):
        run("generate", "--prompt", "Alice", "--temperature", 2, "--seed", seed, "--model", tiny_folder)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_an_empty_context_is_said_and_the_prompt_is_read_alone(tiny_folder, tmp_path, capsys) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    prompt = ("--prompt", "Alice", "--model", tiny_folder, "--max-new-tokens", 4)
    run("generate", "--context", tmp_path / "empty.txt", *prompt)
    with_empty = capsys.readouterr()
    run("generate", *prompt)
    assert "holds no text" in with_empty.err
    assert with_empty.out == capsys.readouterr().out


def test_eval_lm_reads_every_kind_of_file(book, tiny_folder, tmp_path, capsys) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    text = book.read_text(encoding="utf-8")
    parquet.write_table(pyarrow.table({"text": [text[:6_000], text[6_000:]]}), tmp_path / "two.parquet")
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text}) + "\n")
    small = ("--pages", 1, "--proximal", 20, "--windows", 2, "--model", tiny_folder, "--resamples", 200)
    run("eval", "lm", book, tmp_path / "two.parquet", tmp_path / "one.jsonl", *small, "--json", tmp_path / "lm.json")
    shown = capsys.readouterr()
    values = json.loads((tmp_path / "lm.json").read_text())
    assert values["lm"]["documents"] == 4
    assert values["lm"]["windows"] == 8
    assert values["lm"]["unit"] == "window"
    assert values["setup"]["skipped_documents"] == 0
    assert [row["name"] for row in values["methods"]] == ["none", "visual", "wrong", "full"]
    assert "visual context" in shown.out
    assert "8 windows of 4 documents" in shown.err


def test_eval_recall_of_one_kind(book, tiny_folder, tmp_path, capsys) -> None:
    small = ("--pages", 1, "--contexts", 2, "--facts", 2, "--kind", "number", "--model", tiny_folder)
    run("eval", "recall", book, *small, "--json", tmp_path / "recall.json")
    values = json.loads((tmp_path / "recall.json").read_text())
    assert {row["kind"] for row in values["recall"]} == {"all", "number"}
    assert {(row["n"], row["exact"]) for row in values["recall"]} == {(4, 0.0)}
    assert {row["page"] for row in values["recall_by_page"]} == {1}
    assert "exact recall" in capsys.readouterr().out


def test_demo_writes_its_report(book, tiny_folder, tmp_path, capsys) -> None:
    small = ("--pages", 1, "--windows", 2, "--contexts", 2, "--facts", 1, "--new-tokens", 2, "--model", tiny_folder)
    run("demo", "--text", book, *small, "--out", tmp_path / "out", "--json", tmp_path / "copy.json")
    shown = capsys.readouterr()
    values = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert values == json.loads((tmp_path / "copy.json").read_text(encoding="utf-8"))
    assert {"command", "versions", "methods", "recall", "text", "style", "rendering"} <= set(values)
    assert "<!doctype html>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path / "out" / "report.html") in shown.out
    assert "14,000 characters" in shown.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_doctor_judges_the_installation(tiny_folder, tmp_path, capsys, monkeypatch) -> None:
    import vist.cli.doctor

    monkeypatch.setattr(vist.cli.doctor, "scripts_covered", lambda: {"Latin": "Some.ttf", "Chinese": None})
    run("doctor", "--model", tiny_folder, "--json", tmp_path / "doctor.json")
    checks = {check["name"]: check for check in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert checks["model"]["state"] == "ok"
    assert checks["fonts"]["state"] == "note"
    assert "no font for Chinese" in checks["fonts"]["finding"]
    assert "FAIL" not in capsys.readouterr().out
    assert main(["doctor", "--model", str(tmp_path / "nowhere")]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_the_bundled_font_draws_european_scripts(monkeypatch) -> None:
    import vist.render.fonts
    from vist.cli.doctor import scripts_covered

    monkeypatch.setattr(vist.render.fonts, "installed_fonts", lambda: ())
    found = scripts_covered()
    assert [found[name] for name in ("Latin", "Greek", "Cyrillic")] == ["NotoSans-Regular.ttf"] * 3
    assert found["Chinese"] is None
