"""`vist tune`: the page styles that a reader reads best for the fewest tokens, found by a genetic search."""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, read_clean
from vist.cli.options import Device, DeviceOption, SeedOption
from vist.errors import VistError

if TYPE_CHECKING:
    from vist.tune.genome import Genome
    from vist.tune.objective import Pricing
    from vist.tune.readers import PageReader
    from vist.tune.run import Outcome

KEY = "VIST_TUNE_KEY"  # environment variable, so that no key is in a list of processes


class Who(StrEnum):
    """Who reads the pages."""

    ENCODER = "encoder"
    TESSERACT = "tesseract"
    ENDPOINT = "endpoint"


def tune(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The text that is drawn and read; '-' is standard input.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Log, styles and plot; an old log goes on.")],
    reader: Annotated[
        Who, typer.Option("--reader", help="A model's TextViT, Tesseract, or an endpoint.")
    ] = Who.ENCODER,
    model: Annotated[
        str, typer.Option("--model", help="The model whose encoder reads, or the endpoint's model.")
    ] = DEFAULT_MODEL,
    url: Annotated[
        str, typer.Option("--url", help=f"OpenAI-compatible endpoint, ending in /v1; its key in ${KEY}.")
    ] = "",
    tokens_of: Annotated[
        str | None, typer.Option("--tokens-of", metavar="MODEL", help="Price pages as for this hosted or open model.")
    ] = None,
    population: Annotated[int, typer.Option("--population", min=2, help="Styles that survive a generation.")] = 16,
    generations: Annotated[int, typer.Option("--generations", min=0, help="Generations after the first.")] = 8,
    mutation: Annotated[float, typer.Option("--mutation", help="Share of the genes that change in a child.")] = 0.15,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Stretches of the text that are read.")] = 4,
    characters: Annotated[int, typer.Option("--characters", min=100, help="Characters of each stretch.")] = 600,
    critic_url: Annotated[
        str, typer.Option("--critic-url", help=f"OpenAI-compatible endpoint that proposes styles; its key in ${KEY}.")
    ] = "",
    critic_model: Annotated[str, typer.Option("--critic-model", help="The critic's model.")] = "",
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Search for page styles that a reader reads best for the fewest tokens.

    Prints the styles that none beats in both; styles.json in the folder holds them for `PageStyle.from_dict`.
    """
    from vist.cli.output import remark
    from vist.tune.archive import Found
    from vist.tune.critic import Critic
    from vist.tune.genome import SPACE, repair
    from vist.tune.objective import Objective, take_samples
    from vist.tune.plot import front_plot
    from vist.tune.run import Log, SearchSettings, begun_space, search

    settings = SearchSettings(population, generations, mutation, seed=seed)
    if bool(critic_url) != bool(critic_model):
        raise VistError("--critic-url and --critic-model belong together; give both or none.")
    who, pricing = _reader(reader, model, url, tokens_of, device)
    read, long = take_samples(read_clean(file), samples, characters, seed)
    space = begun_space(out / "log.jsonl", who.narrow(SPACE))
    objective = Objective(who, pricing, read, long)
    given = {name: repair(genome, space) for name, genome in _known().items()}
    of: dict[str, Any] = {"reader": who.name, "tokens_of": tokens_of or model, "critic": critic_model}
    of |= {"text": _digest([*read, long])}
    of |= {"population": population, "mutation": mutation, "seed": seed, "space": {**space}}
    critic = Critic(critic_url, critic_model, os.environ.get(KEY, "")) if critic_url else None
    log = Log(out / "log.jsonl", of)
    outcome = search(settings, space, objective.score, log, critic, tuple(given.values()), remark)
    scores = {name: log.scores.get(genome.key) for name, genome in _known().items() if given[name] == genome}
    marked = {name: Found(_known()[name], score) for name, score in scores.items() if score}
    _report(out, of, outcome, front_plot(outcome, who.name, marked))


def _report(out: Path, of: dict[str, Any], outcome: Outcome, plot: bytes) -> None:
    """Write what was found and print it."""
    from vist.cli.output import console, styles_table
    from vist.eval.files import write_json, write_whole

    rows: list[dict[str, Any]] = [
        {"accuracy": each.score.accuracy, "tokens": each.score.tokens, "generation": each.generation}
        | {"genome": asdict(each.genome), "style": each.genome.style().to_dict()}
        for each in outcome.archive.front
    ]
    write_json(out / "styles.json", {"of": of, "read": len(outcome.found), "styles": rows})
    write_whole(out / "front.png", plot)
    console().print(styles_table(rows))


def _reader(reader: Who, model: str, url: str, tokens_of: str | None, device: Device) -> tuple[PageReader, Pricing]:
    """Who reads, and how pages are priced for it."""
    from vist.gateway.profiles import resolve_profile
    from vist.tune import readers
    from vist.tune.objective import page_pricing, provider_pricing

    if reader is Who.ENCODER:
        loaded = load_reader(model, device)
        priced = provider_pricing(resolve_profile(tokens_of)) if tokens_of else None
        return readers.EncoderReader(loaded), priced or page_pricing(loaded.model.config.num_visual_tokens)
    if reader is Who.ENDPOINT:
        if not url or model == DEFAULT_MODEL:
            raise VistError("--reader endpoint needs --url and --model; give the address, ending in /v1, and a name.")
        priced = provider_pricing(resolve_profile(tokens_of or model))
        return readers.EndpointReader(url, model, os.environ.get(KEY, "")), priced
    if not tokens_of:
        raise VistError("Tesseract has no tokens; say with --tokens-of whose pages are priced, for example gpt-4o.")
    return readers.TesseractReader(), provider_pricing(resolve_profile(tokens_of))


def _known() -> dict[str, Genome]:
    """Well-known styles: as near as the space has them they begin the search, unchanged they are marked in its plot."""
    from vist.tune.genome import Genome

    return {
        "vist": Genome(72, 224, 224, font_size=10, row_height=14, margin=1, newline="space", tab_width=1),
        "glyph": Genome(),
        "gateway": Genome(72, 504, 1120, font_size=10, row_height=13, margin=1),
    }


def _digest(texts: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
