"""`vist doctor`: is everything there that vist needs, and what would be faster or better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader
from vist.cli.options import Device, JsonOption, ModelOption

SCRIPTS = {
    "Latin": "aé",
    "Greek": "αΩ",
    "Cyrillic": "жЯ",
    "Arabic": "عربي",
    "Hebrew": "אב",
    "Devanagari": "हिन्दी",
    "Thai": "ไทย",
    "Chinese": "漢字",
    "Japanese": "かなカナ",
    "Korean": "한글",
    "Mathematics": "∑∞≤",
    "Emoji": "😀🚀",
}
_LEAST_SPACE = 2**30


@dataclass(frozen=True)
class Check:
    """One finding: `state` is "ok", "note" (works, could be better) or "fail"."""

    name: str
    state: str
    finding: str


def doctor(model: ModelOption = DEFAULT_MODEL, json: JsonOption = None) -> None:
    """Check the installation: versions, threads, device, shaping, fonts by script, the packaged model, disk space.

    Exit status 1 if something that vist needs is missing.
    """
    from vist.cli.output import console

    checks = [*_software(), *_hardware(), *_rendering(), _model(model), _space(Path.cwd())]
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}
    screen = console()
    for check in checks:
        screen.print(f"{marks[check.state]}  {check.name:<16}", end="")
        screen.print(check.finding, markup=False, soft_wrap=True)
    if json is not None:
        from vist.eval.files import write_json
        from vist.eval.provenance import provenance

        write_json(json, provenance(model) | {"checks": [vars(check) for check in checks]})
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


def _software() -> list[Check]:
    import sys

    from vist.eval.provenance import versions

    found = versions()
    python = Check("python", "ok" if sys.version_info >= (3, 11) else "fail", f"{found.pop('python')} (3.11 or newer)")
    return [python, Check("packages", "ok", ", ".join(f"{name} {number}" for name, number in found.items()))]


def _hardware() -> list[Check]:
    import torch

    from vist.eval.provenance import machine
    from vist.train.precision import bf16_is_fast

    facts = machine()
    threads = f"{facts['torch_threads']} torch threads on {facts['cores']} cores, {facts['processor']}"
    device = facts["gpu"] or "no GPU that torch can use; the CPU works, training is slower"
    fast = bf16_is_fast()
    return [
        Check("processor", "ok", threads),
        Check("device", "ok" if torch.cuda.is_available() else "note", device),
        Check("bf16", "ok" if fast else "note", "in hardware" if fast else "emulated: training runs in fp32"),
    ]


def _rendering() -> list[Check]:
    from PIL import features

    raqm = features.check("raqm")
    shaping = (
        f"raqm {features.version('raqm')}" if raqm else "this Pillow lacks raqm: Arabic and Indic are drawn unshaped"
    )
    covered = scripts_covered()
    missing = [name for name, font in covered.items() if font is None]
    fonts = (
        "every script of the list has a font"
        if not missing
        else (f"no font for {', '.join(missing)}: such text is counted as lost; install Noto fonts for it")
    )
    used = ", ".join(f"{name}: {font}" for name, font in covered.items() if font is not None)
    return [
        Check("shaping", "ok" if raqm else "note", shaping),
        Check("fonts", "fail" if "Latin" in missing else "note" if missing else "ok", fonts),
        Check("fonts used", "ok", used),
    ]


def scripts_covered() -> dict[str, str | None]:
    """For each script the font that draws its sample, None where no installed font has it."""
    from vist.render import PAGE_STYLES
    from vist.render.fonts import FontStack

    stack = FontStack(PAGE_STYLES["vist"].font)
    found: dict[str, str | None] = {}
    for name, sample in SCRIPTS.items():
        wanted = {ord(character) for character in sample}
        faces = (face for face in stack.covering(ord(sample[0])) if stack.covers(face, wanted))
        face = next(faces, None)
        found[name] = None if face is None else stack.paths[face].name
    return found


def _model(name: str) -> Check:
    import torch

    from vist.errors import VistError

    try:
        reader = load_reader(name, Device.CPU)
        with torch.inference_mode():
            inputs = reader.text_inputs([reader.ids("Alice")]) | reader.page_inputs(
                ["Alice was beginning to get tired."]
            )
            reader.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except VistError as error:
        return Check("model", "fail", str(error))
    return Check("model", "ok", f"{name}: {_size(reader)}, loads, reads a page and writes")


def _size(reader: Any) -> str:
    return f"{sum(parameter.numel() for parameter in reader.model.parameters()) / 1e6:.1f} M parameters"


def _space(place: Path) -> Check:
    import shutil

    free = shutil.disk_usage(place).free
    return Check("disk space", "ok" if free >= _LEAST_SPACE else "note", f"{free / 2**30:.1f} GiB free in {place}")
