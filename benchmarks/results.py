"""Every evaluation of docs/evaluation.md on one model and its baselines, one after the other, as rows in files.

    python benchmarks/results.py --data FOLDER [--out docs/results] [--model vist-nano] [--beside FOLDER ...]
                                 [--only icl,qa] [--limit N] [--jobs 2] [--other-commits move]

Each task is a `vist eval` command, printed before it runs and written into its rows, so any one of them can be repeated
alone. Rows go to OUT/<task>.jsonl part by part: stopped at any moment, the script goes on where it was when it is run
again at the same commit. A task that fails leaves the others' results; the exit status is then 1. At the end `vist eval
report` puts all rows that are there into OUT/results.md, results.csv and report.html.

Rows of one commit only stand in a table. OUT with rows of another commit is refused before anything runs;
`--other-commits move` puts those files into OUT/<commit>/ first, `mark` keeps them and has every line name its own.

`--jobs N` runs the tasks of N files at once, each with its share of the cores: models of this size gain little from a
second thread. What a task prints then comes when it has ended. Tasks that measure seconds (`--cost`) go before, alone.

Methods: the four conditions of the model; StreamingLLM and RePlug, which need no training, in language modelling and in
recall of numbers; the model folders of `--beside` wherever a measure can read them, those with cross-attention also
under the four conditions of their own (lm-controls). With a VIST2 model as `--model` the tasks are those that read
chunks: lm, recall, qa and longwrite.

The sizes are chosen for vist-nano: all 11 ICL sets with 250 test examples and three seeds, questions over 4,732
passages, 5 domains of language modelling, 14 kinds of needles, in less than two hours of two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vist import PACKAGED_MODELS
from vist.eval.provenance import commit

# Places in each test document, so that every domain gives about 40 windows however many documents it has.
DOMAINS = {"books": 6, "code": 2, "docs": 1, "math": 7, "encyclopedic": 4}
LM_PAGES = (4, 7, 14)  # about 600, 1,050 and 2,100 tokens of distant text
STYLES = "vist,vist-9,vist-8,vist-7"  # fonts of 10 to 7 pixels: the dial without training again
UNTRAINED = ("streaming:600", "replug")  # 600: as many keys as 4 pages of vist-nano and the proximal text have


@dataclass(frozen=True)
class Task:
    """One `vist eval` command without output and limit: `name` is its file, `verb` and `arguments` its words.

    `model` is measured in place of the run's own.
    """

    name: str
    verb: str
    arguments: tuple[str, ...]
    model: str | None = None

    @property
    def timed(self) -> bool:
        """Whether it measures seconds, so that nothing may run beside it."""
        return "--cost" in self.arguments


def tasks(data: Path, beside: tuple[str, ...] = (), vist2: bool = False) -> list[Task]:
    """What is measured, roughly the shortest first; `beside` are model folders, `vist2`: the model is a VIST2 model."""
    test = {domain: str(data / "corpus" / domain / "test.parquet") for domain in (*DOMAINS, "multilingual")}
    others = _beside(beside if vist2 else (*UNTRAINED, *beside))
    found = [] if vist2 else _page_tasks(data, test)
    if vist2:
        found.append(Task("longwrite", "longwrite", (test["books"], "--tokens", "1024")))
    else:
        found.append(Task("dial", "dial", (test["books"], "--windows", "6", "--contexts", "30")))
    styles = () if vist2 else ("--styles", STYLES)
    found.append(Task("recall", "recall", (test["books"], "--kind", "all", "--contexts", "70", *styles)))
    if others:
        numbers = ("--kind", "number", "--contexts", "30", "--facts", "4")
        found.append(Task("recall", "recall", (test["books"], *numbers, *others)))
    grid = ("--kind", "number", "--contexts", "30", "--facts", "1", "--lengths", "1,2,4,8", "--depths", "5")
    found.append(Task("recall", "recall", (test["books"], *grid, "--batch-size", "15")))
    for pages in LM_PAGES:
        for domain, windows in DOMAINS.items():
            size = ("--pages", str(pages), "--windows", str(windows), *(("--cost",) if domain == "books" else ()))
            found.append(Task("lm", "lm", (test[domain], *size, *others)))
    for shared in (("--decoder-passages", "3"), ("--decoder-passages", "0", "--allocation", "text-first")):
        found.append(Task("qa", "qa", ("--data", str(data), "--examples", "200", *shared, *_beside(beside))))
    if not vist2:
        crossed = [name for name in beside if not is_vist2(name)]  # a VIST2 model reads each label from the start
        books = (test["books"], "--pages", "4", "--windows", str(DOMAINS["books"]))
        found += [Task("lm-controls", "lm", books, model=name) for name in crossed]
        found.append(Task("icl", "icl", ("--data", str(data), *_beside(crossed))))
    return found


def _page_tasks(data: Path, test: dict[str, str]) -> list[Task]:
    """What draws pages itself and reads them, which a VIST2 model does not."""
    return [
        Task("languages", "languages", ("--data", str(data))),
        Task("distance", "distance", (*(test[domain] for domain in DOMAINS), "--documents", "20")),
        Task("stress", "stress", (test["books"], "--pages", "56", "--scripts", test["multilingual"])),
        Task("readback", "readback", (test["books"], "--styles", STYLES, "--pages", "56")),
    ]


def _beside(names: Iterable[str]) -> tuple[str, ...]:
    joined = ",".join(names)
    return ("--beside", joined) if joined else ()


def is_vist2(model: str) -> bool:
    """Whether a packaged model's name or a folder is that of a VIST2 model."""
    places = (Path(model), PACKAGED_MODELS / model)
    file = next((place / "config.json" for place in places if (place / "config.json").is_file()), None)
    return file is not None and json.loads(file.read_text(encoding="utf-8")).get("model_type") == "vist2"


def rows_elsewhere(out: Path, current: str) -> dict[Path, str]:
    """The files of rows under OUT that hold rows of another commit, with the first such commit."""
    found = {}
    for path in sorted(out.glob("*.jsonl")):
        lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        other = next((str(row.get("commit")) for row in lines if row.get("commit") != current), None)
        if other is not None:
            found[path] = other
    return found


def clear(out: Path, way: str) -> str | None:
    """Make OUT fit for rows of this commit -> why that cannot be, None where it can."""
    elsewhere = rows_elsewhere(out, commit())
    if not elsewhere or way == "mark":
        return None
    if way == "move":
        for path, other in elsewhere.items():
            target = out / other.replace(" ", "-")[:12]
            target.mkdir(exist_ok=True)
            if (target / path.name).exists():
                return f"{target / path.name} is there already; remove it or choose another --out."
            os.replace(path, target / path.name)
        return None
    path, other = next(iter(elsewhere.items()))
    return (
        f"{path} has rows of commit {other[:12]}, this is {commit()[:12]}, and a table holds one; choose another "
        "--out, or pass --other-commits move (they go into a folder of their own) or mark (every line names its own)."
    )


def command(task: Task, model: str, out: Path, limit: int | None) -> list[str]:
    """The words of a task's command after `vist`."""
    words = ["eval", task.verb, *task.arguments, "--model", task.model or model]
    words += ["--out", str(out / f"{task.name}.jsonl")]
    if limit is not None:
        words += ["--limit", str(limit)]
    return words


def run(words: list[str], threads: int | None = None) -> bool:
    """Run one command in a process of its own; whether it succeeded.

    With `threads` it has that many, and what it prints comes when it has ended.
    """
    started = time.monotonic()
    shown = f"$ vist {shlex.join(words)}"
    call = partial(subprocess.run, [sys.executable, "-m", "vist.cli", *words], check=False)
    if threads is None:
        print(shown, flush=True)
        status = call().returncode
    else:
        done = call(
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        print(shown, done.stdout, sep="\n")
        status = done.returncode
    print(f"{time.monotonic() - started:.0f} s, exit status {status}\n", flush=True)
    return status == 0


def run_all(chosen: list[Task], jobs: int, run_task: Callable[[Task], bool]) -> list[Task]:
    """Run tasks, those of `jobs` files at once -> the failed ones. A file is written by one process at a time.

    What measures seconds runs before, alone. The longest files, which `tasks` has at its end, are begun first.
    """

    def failing(some: Iterable[Task]) -> list[Task]:
        return [task for task in some if not run_task(task)]

    if jobs == 1:
        return failing(chosen)
    failed = failing(task for task in chosen if task.timed)
    files: dict[str, list[Task]] = {}
    for task in chosen:
        if not task.timed:
            files.setdefault(task.name, []).append(task)
    with ThreadPoolExecutor(jobs) as pool:
        return failed + [task for lane in pool.map(failing, reversed(files.values())) for task in lane]


def main() -> int:
    """Run the tasks, then write tables, plots and the overview."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/, icl/ and qa/")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--model", default="vist-nano")
    parser.add_argument("--beside", nargs="*", default=[], metavar="FOLDER", help="trained baselines, VIST2 models")
    parser.add_argument("--only", default="", help="tasks by name, with commas; all of them by default")
    parser.add_argument("--limit", type=int, help="a quick look at this many examples of each part")
    parser.add_argument("--jobs", type=int, default=1, help="files measured at once, each with its share of the cores")
    parser.add_argument("--other-commits", choices=("refuse", "move", "mark"), default="refuse")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    if not 1 <= arguments.jobs <= cores:
        parser.error(f"--jobs must be from 1 to the number of cores, {cores}, got {arguments.jobs}.")
    wanted = tasks(arguments.data, tuple(arguments.beside), is_vist2(arguments.model))
    names = [name for name in arguments.only.split(",") if name] or [task.name for task in wanted]
    unknown = set(names) - {task.name for task in wanted}
    if unknown:
        parser.error(f"there is no task {min(unknown)!r}; choose of {', '.join(dict.fromkeys(t.name for t in wanted))}")
    refused = clear(arguments.out, arguments.other_commits)
    if refused is not None:
        print(f"results.py: {refused}", file=sys.stderr)
        return 1
    chosen = [task for task in wanted if task.name in names]
    threads = None if arguments.jobs == 1 else cores // arguments.jobs
    started = time.monotonic()

    def run_task(task: Task) -> bool:
        words = command(task, arguments.model, arguments.out, arguments.limit)
        return run(words) if threads is None or task.timed else run(words, threads)

    failed = run_all(chosen, arguments.jobs, run_task)
    print(f"{len(chosen)} commands in {(time.monotonic() - started) / 60:.0f} minutes.", flush=True)
    files = sorted(map(str, arguments.out.glob("*.jsonl")))
    mixed = ["--mixed"] if arguments.other_commits == "mark" else []
    reported = run(["eval", "report", *files, "--out", str(arguments.out), *mixed]) if files else False
    for task in failed:
        print(f"failed: vist eval {task.verb} {shlex.join(task.arguments)}", file=sys.stderr)
    return int(bool(failed) or not reported)


if __name__ == "__main__":
    sys.exit(main())
