"""The table of verbs.

Owns which verb is which function. Imports no heavy library: the verbs do, when they run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from vist import __version__
from vist.cli.ablate import ablate
from vist.cli.cost import cost
from vist.cli.demo import demo
from vist.cli.dial import dial
from vist.cli.distance import distance
from vist.cli.doctor import doctor
from vist.cli.encode import encode
from vist.cli.evaluate import lm, recall
from vist.cli.failures import guarded
from vist.cli.gateway import gateway
from vist.cli.generate import generate
from vist.cli.icl import icl
from vist.cli.longwrite import longwrite
from vist.cli.qa import qa
from vist.cli.readback import readback
from vist.cli.render import render
from vist.cli.results import report
from vist.cli.stress import languages, stress
from vist.cli.train import train
from vist.cli.tune import tune

SETTINGS = {"help_option_names": ["-h", "--help"]}


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        context_settings=SETTINGS,
        pretty_exceptions_enable=False,
    )


app = _group(
    "Read long text at a fraction of the tokens: distant text becomes pages, pages become a few visual tokens."
)
evaluation = _group("Measure a model beside its controls: no context, wrong pages, full text.")

VERBS: tuple[Callable[..., None], ...] = (demo, render, generate, gateway, tune, train, encode, ablate, cost, doctor)
MEASURES: tuple[Callable[..., None], ...] = (
    lm,
    recall,
    icl,
    qa,
    readback,
    stress,
    languages,
    distance,
    dial,
    longwrite,
    report,
)
for verb in VERBS:
    app.command()(guarded(verb))
for measure in MEASURES:
    evaluation.command()(guarded(measure))
app.add_typer(evaluation, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vist {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Read long text at a fraction of the tokens: distant text becomes pages, pages become a few visual tokens."""
