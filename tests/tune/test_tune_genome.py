"""Genomes: every one has a style, whatever chance, crossover, mutation or a critic make of it."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vist.errors import VistError
from vist.render import PAGE_STYLES, render
from vist.tune.genome import GENES, SPACE, Genome, cross, draw, from_dict, mutate, narrow, repair

genomes = st.builds(
    Genome,
    **{
        name: st.sampled_from(SPACE[name]) if isinstance(SPACE[name][0], str) else st.integers(0, 2000)
        for name in GENES
    },
)


@given(genomes)
def test_whatever_the_genes_the_repaired_genome_has_a_readable_style(genome: Genome) -> None:
    fixed = repair(genome, SPACE)
    assert all(getattr(fixed, name) in SPACE[name] for name in GENES)
    style = fixed.style()
    assert style.font_size <= style.row_height and abs(style.foreground - style.background) >= 128
    assert repair(fixed, SPACE) == fixed


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_children_have_the_genes_of_their_parents_and_mutants_differ(seed: int, rate: float) -> None:
    rng = random.Random(seed)
    first, second = draw(rng, SPACE), draw(rng, SPACE)
    child = cross(first, second, rng, SPACE)
    inherited = [getattr(child, name) in (getattr(first, name), getattr(second, name)) for name in GENES]
    assert sum(inherited) >= len(GENES) - 2  # repair may touch the row or the letters, and one grey
    mutate(child, rng, SPACE, rate).style()


def test_most_mutations_change_something() -> None:
    rng = random.Random(0)
    genome = repair(Genome(), SPACE)
    assert sum(mutate(genome, rng, SPACE, 0.1) != genome for _ in range(200)) > 180


def test_the_paper_styles_are_in_the_space() -> None:
    """Glyph's page and ours, as the renderer's presets have them."""
    ours = Genome(72, 224, 224, font_size=10, row_height=14, margin=1, newline="space", tab_width=1)
    assert repair(ours, SPACE) == ours
    assert {**ours.style().to_dict(), "name": "vist"} == PAGE_STYLES["vist"].to_dict()
    glyph, preset = Genome().style(), PAGE_STYLES["glyph"]
    assert repair(Genome(), SPACE) == Genome()
    assert (glyph.font_size, glyph.row_height, glyph.margin_left) == (preset.font_size, preset.row_height, 10)
    assert abs(glyph.width - preset.width) <= 10 and abs(glyph.height - preset.height) <= 10


def test_dpi_scales_every_length() -> None:
    low, high = Genome(dpi=60).style(), Genome(dpi=120).style()
    for name in ("width", "height", "row_height", "font_size", "margin_left"):
        assert getattr(high, name) == pytest.approx(
            2 * getattr(low, name), abs=20 if name in ("width", "height") else 2
        ), name


def test_marks_for_line_breaks_are_drawn() -> None:
    genome = Genome(newline="marks")
    assert genome.prepare("one\n    two") == "one\u00b6 \u00bbtwo"
    assert Genome().prepare("one\ntwo") == "one\ntwo"
    assert len(render(genome.prepare("one\ntwo"), genome.style())) == 1


def test_a_gene_that_is_none_is_refused() -> None:
    with pytest.raises(VistError, match="gene"):
        from_dict({"kerning": 1}, SPACE)
    with pytest.raises(VistError, match="kerning"):
        narrow(SPACE, {"kerning": (1,)})
    assert from_dict({"font_size": 9.4, "font": "Comic Sans", "dpi": 1e9}, SPACE).dpi == 120


def test_alignment_and_spacing_reach_the_page() -> None:
    spaced = Genome(align="justify", letter_spacing=2)
    assert (spaced.style().align, spaced.style().letter_spacing) == ("justify", 2)
    px = {
        (points, dpi): Genome(dpi, letter_spacing=points).style().letter_spacing
        for points in (-1, 2)
        for dpi in (60, 120)
    }
    assert px == {(-1, 60): -1, (-1, 120): -1, (2, 60): 2, (2, 120): 3}
    drawn = draw(random.Random(0), {**SPACE, "align": ("center",), "letter_spacing": (1,)})
    assert (drawn.align, drawn.letter_spacing) == ("center", 1)


def test_genomes_from_before_alignment_are_the_same_genomes() -> None:
    old = {name: value for name, value in asdict(Genome()).items() if name not in ("align", "letter_spacing")}
    assert from_dict(old, SPACE) == Genome()
    assert Genome().key == " ".join(f"{name}={value}" for name, value in old.items())
    assert len({genome.key for genome in (Genome(), Genome(align="right"), Genome(letter_spacing=1))}) == 3
