"""Every evaluation of docs/evaluation.md on one model, one after the other, as rows in files.

    python benchmarks/results.py --data FOLDER [--out docs/results] [--model vist-nano] [--only icl,qa] [--limit N]

Each task is a `vist eval` command, printed before it runs and written into its rows, so any one of them can be repeated
alone. Rows go to OUT/<task>.jsonl part by part: stopped, the script goes on where it was when it is run again at the
same commit. A task that fails leaves the others' results; the exit status is then 1. At the end `vist eval report` puts
all rows that are there into OUT/results.md, results.csv and report.html.

The sizes are chosen for vist-nano: all 11 ICL sets with 250 test examples and three seeds, questions over 7,000
passages, 5 domains of language modelling, 14 kinds of needles, in less than two hours of two cores.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Places in each test document, so that every domain gives about 40 windows however many documents it has.
DOMAINS = {"books": 6, "code": 2, "docs": 1, "math": 7, "encyclopedic": 4}
LM_PAGES = (4, 7, 14)  # about 600, 1,050 and 2,100 tokens of distant text
STYLES = "vist,vist-9,vist-8,vist-7"  # fonts of 10 to 7 pixels: the dial without training again


@dataclass(frozen=True)
class Task:
    """One `vist eval` command without model, output and limit: `name` is its file, `verb` and `arguments` its words."""

    name: str
    verb: str
    arguments: tuple[str, ...]


def tasks(data: Path) -> list[Task]:
    """What is measured, shortest first."""
    test = {domain: str(data / "corpus" / domain / "test.parquet") for domain in (*DOMAINS, "multilingual")}
    found = [
        Task("languages", "languages", ("--data", str(data))),
        Task("distance", "distance", (*(test[domain] for domain in DOMAINS), "--documents", "20")),
        Task("stress", "stress", (test["books"], "--pages", "56", "--scripts", test["multilingual"])),
        Task("readback", "readback", (test["books"], "--styles", STYLES, "--pages", "56")),
    ]
    for pages in LM_PAGES:
        for domain, windows in DOMAINS.items():
            size = ("--pages", str(pages), "--windows", str(windows), *(("--cost",) if domain == "books" else ()))
            found.append(Task("lm", "lm", (test[domain], *size)))
    found.append(Task("dial", "dial", (test["books"], "--windows", "6", "--contexts", "50")))
    kinds = ("--kind", "all", "--contexts", "70", "--styles", STYLES)
    found.append(Task("recall", "recall", (test["books"], *kinds)))
    grid = ("--kind", "number", "--contexts", "30", "--lengths", "1,2,4,8", "--depths", "5")
    found.append(Task("recall", "recall", (test["books"], *grid)))
    for shared in (("--decoder-passages", "3"), ("--decoder-passages", "0", "--allocation", "text-first")):
        found.append(Task("qa", "qa", ("--data", str(data), "--examples", "200", *shared)))
    found.append(Task("icl", "icl", ("--data", str(data))))
    return found


def command(task: Task, model: str, out: Path, limit: int | None) -> list[str]:
    """The words of a task's command after `vist`."""
    words = ["eval", task.verb, *task.arguments, "--model", model, "--out", str(out / f"{task.name}.jsonl")]
    if limit is not None:
        words += ["--documents" if task.verb == "lm" else "--limit", str(limit)]
    return words


def run(words: list[str]) -> bool:
    """Run one command in a process of its own; whether it succeeded."""
    started = time.monotonic()
    print(f"$ vist {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "vist.cli", *words], check=False).returncode
    print(f"{time.monotonic() - started:.0f} s, exit status {status}\n", flush=True)
    return status == 0


def main() -> int:
    """Run the tasks, then write tables, plots and the overview."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/, icl/ and qa/")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--model", default="vist-nano")
    parser.add_argument("--only", default="", help="tasks by name, with commas; all of them by default")
    parser.add_argument("--limit", type=int, help="a quick look at this many examples of each part")
    arguments = parser.parse_args()
    wanted = tasks(arguments.data)
    names = [name for name in arguments.only.split(",") if name] or [task.name for task in wanted]
    unknown = set(names) - {task.name for task in wanted}
    if unknown:
        parser.error(f"there is no task {min(unknown)!r}; choose of {', '.join(dict.fromkeys(t.name for t in wanted))}")
    chosen = [task for task in wanted if task.name in names]
    failed = [task for task in chosen if not run(command(task, arguments.model, arguments.out, arguments.limit))]
    files = sorted(map(str, arguments.out.glob("*.jsonl")))
    reported = run(["eval", "report", *files, "--out", str(arguments.out)]) if files else False
    for task in failed:
        print(f"failed: vist eval {task.verb} {shlex.join(task.arguments)}", file=sys.stderr)
    return int(bool(failed) or not reported)


if __name__ == "__main__":
    sys.exit(main())
