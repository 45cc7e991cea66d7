"""The verbatim guard on real documents: planted exact strings that it keeps, prose that it keeps for nothing, speed.

    python benchmarks/guard.py --data FOLDER [--documents 40] [--characters 20000] [--seed 1]

FOLDER has `corpus/<domain>/validation*.parquet` with a column `text`. In a window of each drawn document two strings of
every kind are planted at blanks; one counts as kept when a single span holds it whole. False alarms are the characters
that the guard takes in the windows as they are. Numbers, addresses and paths of the documents themselves count among
them, so read the share of books as false alarms and that of code and documentation as what the guard does.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as parquet

from vist.gateway import find_verbatim

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from gateway.labelled import STRINGS, covered, plant  # noqa: E402  (the tests' own generator)

DOMAINS = ("books", "docs", "code", "encyclopedic")


def windows(folder: Path, domain: str, documents: int, characters: int, rng: random.Random) -> list[str]:
    """A window of each of up to `documents` documents, drawn with replacement."""
    files = sorted((folder / "corpus" / domain).glob("validation*.parquet"))
    texts = [text for file in files for text in parquet.read_table(file, columns=["text"])["text"].to_pylist()]
    drawn = [rng.choice(texts) for _ in range(documents)]
    starts = [rng.randrange(max(1, len(text) - characters)) for text in drawn]
    return [text[start : start + characters] for text, start in zip(drawn, starts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--characters", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missed", action="store_true", help="print every string that was not kept")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    kept: Counter[str] = Counter()
    total: Counter[str] = Counter()
    print(f"{'domain':14}{'kept':>16}{'of plain text':>15}{'ms/100 kB':>11}")
    for domain in DOMAINS:
        before, taken, characters, seconds = kept.total(), 0, 0, 0.0
        texts = windows(asked.data, domain, asked.documents, asked.characters, rng)
        for text in texts:
            began = time.process_time()
            plain = find_verbatim(text)
            seconds += time.process_time() - began
            taken += sum(span.end - span.start for span in plain)
            characters += len(text)
            full, planted = plant(text, rng, each=2)
            spans = find_verbatim(full)
            for label in planted:
                total[label.kind] += 1
                kept[label.kind] += covered(label, spans)
                if asked.missed and not covered(label, spans):
                    print(f"  missed {label.kind}: {full[label.start - 20 : label.end + 20]!r}")
        planted_here = 2 * len(STRINGS) * len(texts)
        share = f"{kept.total() - before}/{planted_here}"
        print(f"{domain:14}{share:>16}{taken / characters:>15.2%}{seconds / characters * 1e8:>11.1f}")
    for kind in STRINGS:
        print(f"  {kind:14}{kept[kind]:>6}/{total[kind]:<6}{kept[kind] / total[kind]:>9.2%}")
    print(f"  {'all':14}{kept.total():>6}/{total.total():<6}{kept.total() / total.total():>9.2%}")


if __name__ == "__main__":
    main()
