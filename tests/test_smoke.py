"""The smoke tier: every task of `benchmarks/results.py` on the packaged model and texts, in well under two minutes.

What is measured is too little to mean anything; it shows that each task runs from its command to its rows.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vist.cli import main
from vist.cli.app import MEASURES
from vist.eval.windows import BOOK, OTHER_BOOK, packaged_text

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "results.py"
FEWER = {  # given after the task's own options, so they win
    "languages": ("--only", "English"),
    "distance": ("--windows", "1"),
    "stress": ("--only", "blur"),
    "readback": ("--styles", "vist", "--no-ocr"),
    "lm": ("--windows", "1", "--pages", "1", "--proximal", "24"),
    "recall": ("--styles", "vist", "--pages", "1", "--lengths", "1", "--depths", "2"),
    "qa": ("--decoder-passages", "1", "--encoder-passages", "2", "--shots", "1"),
    "dial": ("--ratios", "8", "--windows", "1", "--pages", "1", "--contexts", "2", "--facts", "1"),
    "icl": ("--sets", "books", "--encoder-shots", "4", "--decoder-shots", "2", "--seeds", "42"),
}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


results = load_script()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged texts in the layout of the benchmark's data."""
    folder = tmp_path_factory.mktemp("data")

    def write(path: str, rows: list[dict]) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / path)

    texts = {name: packaged_text(name) for name in (BOOK, OTHER_BOOK)}
    for domain in results.DOMAINS:
        write(f"corpus/{domain}/test.parquet", [{"text": text} for text in texts.values()])
    written = {"text": texts[BOOK][:4_000], "language": "English", "script": "Latin"}
    write("corpus/multilingual/test.parquet", [written])
    for split, first in (("train", 2_000), ("test", 4_000)):  # which book is a sentence from?
        rows = [
            {"text": texts[name][first + 150 * at :][:140], "label": str(number), "label_name": label}
            for at in range(6)
            for number, (name, label) in enumerate(((BOOK, "Wonderland"), (OTHER_BOOK, "Flatland")))
        ]
        write(f"icl/books/{split}.parquet", rows)
    passages = [
        {"passage_id": f"p{at}", "title": "Alice", "text": texts[BOOK][3_000 + 300 * at :][:300]} for at in range(9)
    ]
    write("qa/passages.parquet", passages)
    questions = [
        {"question": f"Who is it about in part {at}?", "answers": ["Alice"], "passage_id": f"p{at}", "split": split}
        for split in ("train", "test")
        for at in range(4)
    ]
    write("qa/questions.parquet", questions)
    return folder


def one_of_each(data: Path) -> dict[str, object]:
    return {task.verb: task for task in reversed(results.tasks(data))}


def test_every_measure_is_a_task() -> None:
    measures = {measure.__name__ for measure in MEASURES} - {"report", "longwrite"}  # which measures VIST2 models
    assert {task.verb for task in results.tasks(Path("data"))} == measures == set(FEWER)


def test_every_measure_of_vist2_is_a_task_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vist2"}')
    assert results.is_vist2(str(tmp_path)) and not results.is_vist2("vist-nano")
    assert {task.verb for task in results.tasks(Path("data"), vist2=True)} == {"lm", "longwrite", "recall", "qa"}
    found = results.tasks(Path("data"), (str(tmp_path), "pooled"))
    names = {task.verb: task.arguments[-1] for task in found}
    assert names["icl"] == "pooled" and names["qa"] == f"{tmp_path},pooled"
    others = {task.arguments[-1] for task in found if task.name == "lm"}
    assert others == {f"streaming:600,replug,{tmp_path},pooled"}


@pytest.mark.parametrize("verb", FEWER)
def test_a_task_runs_from_its_command_to_its_rows(verb: str, data: Path, tmp_path: Path) -> None:
    if verb == "qa":
        pytest.importorskip("bm25s")
    words = results.command(one_of_each(data)[verb], "vist-nano", tmp_path, limit=2)
    assert main([*words, *FEWER[verb]]) == 0
    rows = [json.loads(line) for line in (tmp_path / f"{verb}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["task"] for row in rows} == {verb}
    assert {row["model"] for row in rows} == {"vist-nano"}
    assert any(row["value"] is not None and row["low"] <= row["value"] <= row["high"] for row in rows)


def test_rows_of_another_commit_are_refused_moved_or_marked(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    ran = []
    monkeypatch.setattr(results, "run", lambda words: ran.append(words) is None)
    monkeypatch.setattr(results, "commit", lambda: "b" * 40)
    rows, here = tmp_path / "lm.jsonl", tmp_path / "qa.jsonl"
    rows.write_text(json.dumps({"commit": "b" * 40}) + "\n" + json.dumps({"commit": "a" * 40}) + "\n")
    here.write_text(json.dumps({"commit": "b" * 40}) + "\n")

    def main(*more: str) -> int:
        words = ["results.py", "--data", str(data), "--out", str(tmp_path), "--only", "languages", *more]
        monkeypatch.setattr(sys, "argv", words)
        return results.main()

    assert main() == 1 and not ran
    assert "lm.jsonl has rows of commit aaaaaaaaaaaa, this is bbbbbbbbbbbb" in capsys.readouterr().err
    assert main("--other-commits", "mark") == 0 and ran[-1][-1] == "--mixed"
    assert main("--other-commits", "move") == 0 and "--mixed" not in ran[-1]
    assert (tmp_path / ("a" * 12) / "lm.jsonl").is_file() and not rows.exists() and here.exists()


def test_files_run_side_by_side_and_what_is_timed_before_them_alone(monkeypatch) -> None:
    chosen = results.tasks(Path("data"), ("pooled",))
    running: set[str] = set()
    seen: list[tuple[object, set[str]]] = []
    longest = {"icl": threading.Event(), "qa": threading.Event()}
    lock = threading.Lock()

    def run_task(task) -> bool:
        with lock:
            assert task.name not in running, "two processes would write one file"
            running.add(task.name)
            seen.append((task, set(running)))
        if task.name in longest:  # these two are begun first, so they are there at once
            longest[task.name].set()
            assert all(begun.wait(timeout=60) for begun in longest.values())
        time.sleep(0.02)  # long enough for another of the same file to be caught
        with lock:
            running.remove(task.name)
        return task.name != "stress"

    assert [task.name for task in results.run_all(chosen, 2, run_task)] == ["stress"]
    assert sorted(map(repr, chosen)) == sorted(repr(task) for task, _ in seen)
    for name in {task.name for task in chosen}:
        own = [task for task in chosen if task.name == name]
        assert [task for task, _ in seen if task.name == name] == sorted(own, key=lambda task: not task.timed)
    timed = [task for task in chosen if task.timed]
    assert timed and [task for task, _ in seen[: len(timed)]] == timed
    assert all(beside == {task.name} for task, beside in seen[: len(timed)])
    assert any(beside == {"icl", "qa"} for _, beside in seen)
    names = [task.name for task, _ in seen]
    assert names.index("icl") < names.index("recall"), "the longest is begun first"


def test_a_task_that_fails_leaves_the_others(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    ran = []

    def run(words: list[str]) -> bool:
        ran.append(words)
        (tmp_path / "languages.jsonl").touch()
        return "stress" not in words

    monkeypatch.setattr(results, "run", run)
    arguments = ["--data", str(data), "--out", str(tmp_path), "--only", "stress,languages"]
    monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
    assert results.main() == 1
    assert [words[1] for words in ran] == ["languages", "stress", "report"]
    assert "failed: vist eval stress" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["results.py", "--data", str(data), "--only", "moon"])
    with pytest.raises(SystemExit):
        results.main()
    assert "there is no task 'moon'" in capsys.readouterr().err
