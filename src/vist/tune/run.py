"""A search from its first generation to its last, its log, and its resumption.

Owns `SearchSettings`, the loop and the log. Does not know how a genome is scored or drawn.

Decisions
- A search resumes by going its way again: chance hangs on the seed and the number of the generation alone, and what the
  log has scored or a critic has proposed is taken from there. So an interrupted search and a whole one find the same,
  and a longer one begins as a shorter one ended.
- The log is JSON Lines, a line for each score and for each generation's proposals; a line that broke off is skipped.
- A log that was begun before some genes were there goes on in the space that it was begun in.
- The first line says what the search is of. A log of another search is refused: its scores are no scores here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vist.errors import VistError
from vist.tune.archive import Archive, Found
from vist.tune.critic import Proposer
from vist.tune.genome import LATER, Genome, Space, from_dict
from vist.tune.objective import Score
from vist.tune.population import first_generation, next_generation, order, survive

Note = Callable[[str], None]


@dataclass(frozen=True)
class SearchSettings:
    """How a search goes.

    Attributes:
        population: genomes that survive a generation, and children of each, at least 2.
        generations: children's generations after the first, at least 0.
        mutation: share of the genes that change in a child.
        proposals: genomes that a critic may propose for each generation.
        seed: of everything that is left to chance.

    Raises:
        VistError: a value out of range.
    """

    population: int = 16
    generations: int = 8
    mutation: float = 0.15
    proposals: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("generations", 0), ("proposals", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise VistError(f"{name} is {value!r}; give a whole number of at least {least}.")
        if not 0 <= self.mutation <= 1:
            raise VistError(f"mutation is {self.mutation!r}; give a share from 0 to 1.")


def begun_space(path: Path, space: Space) -> Space:
    """Return the space of the search whose log this is, if it was begun before some genes of `space` were there.

    Any other log, or none, gives `space` itself.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            begun = json.loads(file.readline())["search"]["space"]
    except (OSError, ValueError, KeyError, TypeError):
        return space
    older = {name: values for name, values in space.items() if name not in LATER}
    return older if begun == json.loads(json.dumps(older)) else space


class Log:
    """Scores and proposals of a search on a disk; `of` says what the search is of.

    Raises VistError for a file that is the log of another search or no log.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]):
        self.path = path
        self.scores: dict[str, Score] = {}
        self.proposals: dict[int, list[dict[str, Any]]] = {}
        header = {"search": json.loads(json.dumps(of))}
        if path.exists() and path.stat().st_size:
            self._read(header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def _read(self, header: Mapping[str, Any]) -> None:
        lines = list(self._lines())
        if not lines or lines[0] != header:
            raise VistError(f"{str(self.path)!r} is not the log of this search; name another folder or delete it.")
        for line in lines[1:]:
            if "genome" in line:
                self.scores[line["genome"]] = Score(line["accuracy"], float(line["tokens"]))
            elif "proposed" in line:
                self.proposals[line["generation"]] = line["proposed"]
        if not self.path.read_bytes().endswith(b"\n"):
            self._append("")

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                yield value

    def add_score(self, genome: Genome, score: Score, generation: int) -> None:
        """Note a score."""
        self.scores[genome.key] = score
        line = {"genome": genome.key, "accuracy": score.accuracy, "tokens": score.tokens, "generation": generation}
        self._append(json.dumps(line))

    def add_proposals(self, generation: int, genomes: tuple[Genome, ...]) -> None:
        """Note what was proposed for a generation."""
        proposed = self.proposals[generation] = [asdict(genome) for genome in genomes]
        self._append(json.dumps({"generation": generation, "proposed": proposed}))

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Outcome:
    """What a search found: everything that was scored, in order, and the archive of what none beats."""

    found: tuple[Found, ...]
    archive: Archive


def search(
    settings: SearchSettings,
    space: Space,
    score: Callable[[Genome], Score],
    log: Log,
    critic: Proposer | None = None,
    given: tuple[Genome, ...] = (),
    note: Note = lambda line: None,
) -> Outcome:
    """Return what a genetic search finds.

    Args:
        settings: sizes, chance.
        space: the values of the genes.
        score: what a genome is worth, the same for the same genome.
        log: scores and proposals that are known already are taken from it, new ones are added.
        critic: proposes genomes for each generation; not needed.
        given: genomes that stand in the first generation.
        note: is told a line for each generation.
    """
    archive, found = Archive(), list[Found]()

    def measured(genomes: list[Genome], generation: int) -> list[Found]:
        scored = []
        for genome in genomes:
            if genome.key not in log.scores:
                log.add_score(genome, score(genome), generation)
            scored.append(Found(genome, log.scores[genome.key], generation))
        found.extend(scored)
        came = archive.add(scored)
        note(f"generation {generation}: {len(scored)} styles read, {came} new on the front of {len(archive.front)}")
        return scored

    rng = random.Random(f"{settings.seed} 0")
    parents = survive(measured(first_generation(settings.population, rng, space, given), 0), settings.population)
    for generation in range(1, settings.generations + 1):
        rng = random.Random(f"{settings.seed} {generation}")
        proposed = _proposed(critic, log, generation, found, space, settings.proposals, note)
        known = {each.genome for each in found}
        size = settings.population
        children = next_generation(parents, size, rng, space, settings.mutation, known, proposed)
        if not children:
            note(f"generation {generation}: the space holds nothing new")
            break
        parents = survive([*parents, *measured(children, generation)], size)
    return Outcome(tuple(found), archive)


def _proposed(
    critic: Proposer | None, log: Log, generation: int, found: list[Found], space: Space, count: int, note: Note
) -> tuple[Genome, ...]:
    """A generation's proposals, from the log if they are there; a failure is not logged, so that it is asked again."""
    if critic is None or not count:
        return ()
    if generation in log.proposals:
        return tuple(from_dict(values, space) for values in log.proposals[generation])
    proposals = critic.propose(order(found), space, count)
    if proposals.remark:
        note(f"generation {generation}: {proposals.remark}")
    else:
        log.add_proposals(generation, proposals.genomes)
    return proposals.genomes
