"""The measures of `vist eval` at work: rows, resumption, limits, reports, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiny_vist import alice
from vist.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny benchmark data in the documented schemas."""
    folder = tmp_path_factory.mktemp("data")

    def write(path: str, rows: list[dict]) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / path)

    for name, labels in (("sst2", ("negative", "positive")), ("birds", ("owl", "crow", "jay"))):
        rows = [
            {"text": f"text {n} of {label}", "label": str(place), "label_name": label}
            for n in range(6)
            for place, label in enumerate(labels)
        ]
        write(f"icl/{name}/train.parquet", rows)
        write(f"icl/{name}/test.parquet", rows)
    passages = [{"passage_id": f"p{n}", "title": f"Part {n}", "text": alice(2_000)[n * 80 :][:80]} for n in range(8)]
    write("qa/passages.parquet", passages)
    questions = [
        {"question": f"What is in part {n}?", "answers": ["it"], "passage_id": f"p{n % 8}", "split": split}
        for n in range(12)
        for split in ("train", "test")
    ]
    write("qa/questions.parquet", questions)
    languages = [{"text": alice(2_500), "language": name, "script": "Latin"} for name in ("English", "German, 1901")]
    write("corpus/multilingual/test.parquet", languages)
    return folder


@pytest.fixture(scope="module")
def book(data: Path) -> Path:
    (data / "book.txt").write_text(alice(16_000), encoding="utf-8")
    return data / "book.txt"


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("vist: "))


SHOTS = ("--encoder-shots", 2, "--decoder-shots", 1, "--seeds", "42", "--resamples", 200)


def test_icl_adds_parts_and_goes_on(data, tiny_folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("vist.eval.provenance.commit", lambda: "c" * 40)  # a commit made meanwhile would measure again
    icl = ("eval", "icl", "--data", data, "--model", tiny_folder, *SHOTS, "--limit", 2, "--out", tmp_path / "r.jsonl")
    run(*icl, "--json", tmp_path / "icl.json")
    first = capsys.readouterr()
    assert "LIMITED: at most 2 examples" in first.out
    assert {row["part"] for row in read(tmp_path / "r.jsonl")} == {"sst2", "birds"}
    assert {row["limit"] for row in read(tmp_path / "r.jsonl")} == {2}
    values = json.loads((tmp_path / "icl.json").read_text())
    assert values["setup"]["encoder_shots"] == 2
    assert len(values["rows"]) == len(read(tmp_path / "r.jsonl"))
    before = (tmp_path / "r.jsonl").read_text()
    run(*icl)
    assert capsys.readouterr().err.count("kept") == 2
    assert (tmp_path / "r.jsonl").read_text() == before


def test_icl_in_all_four_ways_to_draw_pages(data, tiny_folder, tmp_path) -> None:
    few = ("--sets", "birds", "--limit", 2, "--strategy", "all", "--out", tmp_path / "r.jsonl")
    run("eval", "icl", "--data", data, "--model", tiny_folder, *SHOTS, *few)
    parts = {row["part"] for row in read(tmp_path / "r.jsonl")}
    assert parts == {"birds, blank", "birds, lines", "birds, joined", "birds, separate"}


def test_lm_goes_on_and_keeps_what_is_there(book, tiny_folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("vist.eval.provenance.commit", lambda: "c" * 40)
    small = ("--pages", 1, "--proximal", 20, "--windows", 2, "--model", tiny_folder, "--resamples", 200)
    lm = ("eval", "lm", book, *small, "--out", tmp_path / "r.jsonl")
    run(*lm)
    before = (tmp_path / "r.jsonl").read_text()
    capsys.readouterr()
    run(*lm)
    assert "finished by an earlier run, kept" in capsys.readouterr().err
    run(*lm, "--json", tmp_path / "lm.json")  # figures were asked for: measured again, noted once
    assert (tmp_path / "r.jsonl").read_text() == before
    run("eval", "lm", book, *small[:-2], "--resamples", 200, "--seed", 1, "--out", tmp_path / "r.jsonl")
    assert len(read(tmp_path / "r.jsonl")) == 2 * len(before.splitlines())


def test_a_bad_set_does_not_stop_the_others(data, tiny_folder, tmp_path, capsys) -> None:
    folder = data / "icl" / "zz-broken"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([{"text": "x"}]), folder / "train.parquet")
    icl = ("eval", "icl", "--data", data, "--sets", "zz-broken,birds", "--model", tiny_folder, *SHOTS, "--limit", 2)
    try:
        sentence = refusal(capsys, *icl, "--out", tmp_path / "r.jsonl")
    finally:
        (folder / "train.parquet").unlink()
        folder.rmdir()
    assert "1 of 2 parts failed, the first being 'zz-broken'" in sentence
    assert "no column 'label'" in sentence
    assert {row["part"] for row in read(tmp_path / "r.jsonl")} == {"birds"}


def test_qa_in_both_allocations(data, tiny_folder, tmp_path, capsys) -> None:
    pytest.importorskip("bm25s")
    few = ("--encoder-passages", 1, "--decoder-passages", 1, "--shots", 1, "--limit", 3, "--resamples", 200)
    run("eval", "qa", "--data", data, "--model", tiny_folder, *few, "--out", tmp_path / "r.jsonl")
    rows = read(tmp_path / "r.jsonl")
    assert {row["part"].rsplit(", ", 1)[1] for row in rows} == {"text-first", "pages-first"}
    assert {row["metric"] for row in rows} == {"exact", "f1", "retrieved"}
    assert rows[0]["setup"]["collection"] == 8
    many = ("--encoder-passages", 9, "--decoder-passages", 0, "--shots", 0)
    sentence = refusal(capsys, "eval", "qa", "--data", data, "--model", tiny_folder, *many)
    assert "9 passages were asked for and there are 8" in sentence


def test_recall_with_styles_and_a_grid(book, tiny_folder, tmp_path, capsys) -> None:
    few = ("--pages", 1, "--contexts", 2, "--facts", 1, "--kind", "hex", "--resamples", 200, "--batch-size", 2)
    grid = ("--styles", "vist,vist-7", "--lengths", "1", "--depths", 2)
    run("eval", "recall", book, "--model", tiny_folder, *few, *grid, "--out", tmp_path / "r.jsonl")
    rows = read(tmp_path / "r.jsonl")
    assert {row["part"] for row in rows} == {
        "hex: vist, 1 pages",
        "hex: vist-7, 1 pages",
        "hex: grid, 1 pages, depth 0%",
        "hex: grid, 1 pages, depth 100%",
    }
    ratios = {row["style"]: row["ratio"] for row in rows if "style" in row}
    assert ratios["vist-7"] > ratios["vist"]
    assert "exact recall" in capsys.readouterr().out


def test_readback_stress_languages_distance_and_their_report(book, data, tiny_folder, tmp_path, capsys) -> None:
    common = ("--model", tiny_folder, "--limit", 2, "--resamples", 200, "--out", tmp_path / "r.jsonl")
    run("eval", "readback", book, *common, "--no-ocr")
    run("eval", "stress", book, *common, "--only", "blur,size", "--scripts", data / "corpus/multilingual/test.parquet")
    run("eval", "languages", "--data", data, *common, "--only", "English,German")
    run("eval", "distance", book, *common, "--pages", 1)
    small = ("--pages", 1, "--proximal", 20, "--windows", 2, "--model", tiny_folder, "--resamples", 200)
    run("eval", "lm", book, *small, "--out", tmp_path / "r.jsonl")
    rows = read(tmp_path / "r.jsonl")
    assert {row["task"] for row in rows} == {"readback", "stress", "languages", "distance", "lm"}
    assert {row["part"] for row in rows if row["task"] == "languages"} == {"English", "German, 1901"}
    assert "script: Latin" in {row["part"] for row in rows}
    metrics = {row["metric"] for row in rows if row["task"] == "lm"}
    by_distance = {metric for metric in metrics if metric.startswith("nats at ")}
    assert metrics - by_distance == {"perplexity", "nats per token"} and by_distance
    for key in ("commit", "versions", "command", "seed", "hardware"):
        assert all(row[key] is not None for row in rows)
    capsys.readouterr()
    run("eval", "report", tmp_path / "r.jsonl", "--out", tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "results.csv", "results.md"]
    assert "## stress" in (tmp_path / "report" / "results.md").read_text()


def test_rows_of_two_commits_are_refused_or_marked(book, tiny_folder, tmp_path, capsys) -> None:
    row = {
        "task": "icl",
        "part": "a",
        "metric": "nll_acc",
        "method": "visual",
        "label": "visual context",
        "minus": None,
    }
    row |= {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "model": "m", "command": "c", "seed": 0, "versions": {}}
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row | {"commit": name * 40}) + "\n" for name in "ab"))
    sentence = refusal(capsys, "eval", "report", tmp_path / "r.jsonl", "--out", tmp_path / "x")
    assert "2 commits" in sentence
    assert not (tmp_path / "x").exists()
    run("eval", "report", tmp_path / "r.jsonl", "--out", tmp_path / "x", "--mixed")
    assert "bbbbbbbbbbbb" in (tmp_path / "x" / "results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["icl", "--data", "DATA", "--sets", "moon"], "no set 'moon'"),
        (["icl", "--data", "nowhere"], "no set"),
        (["icl", "--data", "DATA", "--seeds", "one"], "--seeds takes whole numbers"),
        (["icl", "--data", "DATA", "--sets", "birds", "--encoder-shots", "99"], "has 18; lower"),
        (["qa", "--data", "nowhere"], "no questions.parquet"),
        (["qa", "--data", "DATA", "--split", "dev"], "no split 'dev'"),
        (["stress", "BOOK", "--only", "magic"], "no group of variations 'magic'"),
        (["languages", "--data", "DATA", "--only", "Klingon"], "no language 'Klingon'"),
        (["recall", "BOOK", "--lengths", "1,x"], "--lengths takes whole numbers"),
        (["readback", "BOOK", "--styles", "comic"], "no page style 'comic'"),
        (["report", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_sentence(capsys, data, book, tiny_folder, arguments, message) -> None:
    filled = [{"DATA": str(data), "BOOK": str(book)}.get(argument, argument) for argument in arguments]
    model = [] if arguments[0] == "report" else ["--model", str(tiny_folder)]
    assert message in refusal(capsys, "eval", *filled, *model)


def test_other_methods_beside_a_model_are_rows_of_lm_and_recall(book, tiny_folder, tmp_path, capsys) -> None:
    model = ("--model", tiny_folder, "--pages", 1, "--resamples", 200, "--beside", "streaming:40,replug:2")
    run("eval", "lm", book, *model, "--proximal", 8, "--windows", 2, "--json", tmp_path / "lm.json", "--cost")
    values = json.loads((tmp_path / "lm.json").read_text())
    assert [row["name"] for row in values["methods"]][4:] == ["streaming:40", "replug:2"]
    assert all(row["flops"] > 0 for row in values["methods"])
    assert values["setup"]["beside"] == "streaming:40,replug:2"
    assert "replug:2 - no context" in capsys.readouterr().out
    run("eval", "recall", book, *model, "--contexts", 2, "--facts", 1, "--json", tmp_path / "recall.json")
    found = {row["method"] for row in json.loads((tmp_path / "recall.json").read_text())["recall"]}
    assert {"streaming:40", "replug:2", "visual"} <= found
    assert "above 0" in refusal(capsys, "eval", "lm", book, *model[:-1], "replug:0")
