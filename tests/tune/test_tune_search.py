"""The search: better than chance on a known landscape, the same for a seed, resumed as if never interrupted."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from vist.errors import VistError
from vist.tune.archive import Archive, Found
from vist.tune.critic import Proposals
from vist.tune.genome import SPACE, Genome, Space, draw, repair
from vist.tune.objective import Score
from vist.tune.plot import front_plot
from vist.tune.run import Log, SearchSettings, begun_space, search

SETTINGS = SearchSettings(population=8, generations=6, seed=3)
OF = {"reader": "a landscape"}


def landscape(genome: Genome) -> Score:
    """Larger letters read better and cost more; all else can only be wrong."""
    wrong = 0.1 * (genome.background != 255) + 0.1 * (genome.foreground != 0) + 0.005 * abs(genome.dpi - 72)
    wrong += 0.05 * (genome.font != "NotoSans-Regular") + 0.05 * (genome.newline != "break")
    wrong += 0.05 * (genome.align != "left") + 0.02 * abs(genome.letter_spacing)
    return Score(max(0.01, 1 - 1 / genome.font_size - wrong), genome.font_size * genome.row_height + genome.margin)


def hypervolume(outcome_front: Sequence[Found]) -> float:
    """Area that a front dominates, up to 300 tokens."""
    area, accuracy = 0.0, 0.0
    for at, each in enumerate(outcome_front):
        edge = outcome_front[at + 1].score.tokens if at + 1 < len(outcome_front) else 300.0
        accuracy = max(accuracy, each.score.accuracy)
        area += accuracy * max(0.0, min(edge, 300.0) - each.score.tokens)
    return area


def test_a_search_is_better_than_as_many_styles_by_chance(tmp_path: Path) -> None:
    for seed in range(3):
        settings = SearchSettings(population=10, generations=9, seed=seed)
        outcome = search(settings, SPACE, landscape, Log(tmp_path / f"{seed}.jsonl", OF))
        assert len({each.genome for each in outcome.found}) == len(outcome.found) == 100
        rng, chance = random.Random(seed), Archive()
        chance.add(Found(genome, landscape(genome)) for genome in (draw(rng, SPACE) for _ in range(100)))
        assert hypervolume(outcome.archive.front) > hypervolume(chance.front)
        assert not any(each.genome.background != 255 for each in outcome.archive.front)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again = (search(SETTINGS, SPACE, landscape, Log(tmp_path / name, OF)) for name in ("a", "b"))
    assert first == again
    other = search(SearchSettings(population=8, generations=6, seed=4), SPACE, landscape, Log(tmp_path / "c", OF))
    assert other.found != first.found


def test_an_interrupted_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = search(SETTINGS, SPACE, landscape, Log(tmp_path / "whole", OF))
    asked: list[Genome] = []

    def breaks(genome: Genome) -> Score:
        asked.append(genome)
        if len(asked) == 21:
            raise KeyboardInterrupt
        return landscape(genome)

    with pytest.raises(KeyboardInterrupt):
        search(SETTINGS, SPACE, breaks, Log(tmp_path / "cut", OF))
    with (tmp_path / "cut").open("a") as file:
        file.write('{"genome": "half a li')  # what a killed process leaves
    assert search(SETTINGS, SPACE, breaks, Log(tmp_path / "cut", OF)) == whole
    assert len(asked) == 21 + len(whole.found) - 20  # nothing twice but the one that broke off
    nothing_asked = search(SETTINGS, SPACE, lambda genome: pytest.fail("asked again"), Log(tmp_path / "cut", OF))
    assert nothing_asked == whole


def test_a_longer_search_begins_as_a_shorter_one(tmp_path: Path) -> None:
    short = search(SETTINGS, SPACE, landscape, Log(tmp_path / "log", OF))
    longer = SearchSettings(population=8, generations=8, seed=3)
    assert search(longer, SPACE, landscape, Log(tmp_path / "log", OF)).found[: len(short.found)] == short.found


def test_the_log_of_another_search_is_refused(tmp_path: Path) -> None:
    search(SETTINGS, SPACE, landscape, Log(tmp_path / "log", OF))
    with pytest.raises(VistError, match="not the log"):
        Log(tmp_path / "log", {"reader": "another"})
    (tmp_path / "text").write_text("no log\n")
    with pytest.raises(VistError, match="not the log"):
        Log(tmp_path / "text", OF)


class Sage:
    """A critic that knows the best style, fails once, and counts how often it is asked."""

    best = repair(Genome(font_size=6, row_height=8, margin=1), SPACE)

    def __init__(self) -> None:
        self.asked = 0

    def propose(self, found: Sequence[Found], space: Space, count: int) -> Proposals:
        self.asked += 1
        assert found[0].score.tokens < 1e9 and count == SETTINGS.proposals
        return Proposals((), "It is asleep.") if self.asked == 1 else Proposals((self.best,))


def test_proposals_are_read_and_logged_and_a_failure_ends_nothing(tmp_path: Path) -> None:
    sage, notes = Sage(), list[str]()
    outcome = search(SETTINGS, SPACE, landscape, Log(tmp_path / "log", OF), sage, note=notes.append)
    assert any("asleep" in note for note in notes) and sage.asked == SETTINGS.generations
    assert sage.best in {each.genome for each in outcome.found}
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"generation": 2, "proposed": [asdict(sage.best)]} in lines
    search(SETTINGS, SPACE, landscape, Log(tmp_path / "log", OF), sage)
    assert sage.asked == SETTINGS.generations + 1  # the failed generation only


def test_given_styles_are_read_first_and_a_narrow_space_ends_early(tmp_path: Path) -> None:
    narrow = {name: (getattr(Genome(), name),) for name in SPACE} | {"font_size": (8, 9, 10)}
    given = (Genome(font_size=9),)
    outcome = search(SETTINGS, narrow, landscape, Log(tmp_path / "log", OF), given=given)
    assert outcome.found[0].genome == given[0] and len(outcome.found) == 3


def test_the_plot_is_a_picture_of_the_front(tmp_path: Path) -> None:
    import io

    outcome = search(SETTINGS, SPACE, landscape, Log(tmp_path / "log", OF))
    drawn = front_plot(outcome, "a landscape", {"glyph": Found(Genome(), landscape(Genome()))})
    assert drawn == front_plot(outcome, "a landscape", {"glyph": Found(Genome(), landscape(Genome()))})
    picture = Image.open(io.BytesIO(drawn)).convert("RGB")
    blue = sum(pixel == (11, 123, 193) for pixel in picture.get_flattened_data())
    assert picture.size == (640, 400) and blue > 50


@pytest.mark.parametrize(
    "wrong", [{"population": 1}, {"generations": -1}, {"mutation": 2.0}, {"seed": 0.5}, {"proposals": True}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(VistError, match=next(iter(wrong))):
        SearchSettings(**wrong)


def test_a_log_from_before_alignment_goes_on_its_own_way(tmp_path: Path) -> None:
    """The digest is of the styles that the search read, in order, when alignment and letter spacing were no genes."""
    older = {name: values for name, values in SPACE.items() if name not in ("align", "letter_spacing")}
    log = tmp_path / "log.jsonl"
    outcome = search(SETTINGS, older, landscape, Log(log, {"space": older}))
    keys = "\n".join(each.genome.key for each in outcome.found)
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == "aafe821af1356407"
    space = begun_space(log, SPACE)
    assert space == older
    asked_nothing = search(SETTINGS, space, lambda genome: pytest.fail("asked again"), Log(log, {"space": space}))
    assert asked_nothing == outcome
    longer = SearchSettings(population=8, generations=7, seed=3)
    more = search(longer, space, landscape, Log(log, {"space": space}))
    assert more.found[: len(outcome.found)] == outcome.found
    assert {(each.genome.align, each.genome.letter_spacing) for each in more.found} == {("left", 0)}


@pytest.mark.parametrize("line", ["", "no JSON", '{"search": 3}', "[]", '{"search": {"space": {"dpi": [72]}}}'])
def test_any_other_log_leaves_the_space_as_it_is(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n")
    assert begun_space(tmp_path / "log.jsonl", SPACE) is SPACE is begun_space(tmp_path / "none.jsonl", SPACE)
