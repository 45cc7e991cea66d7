"""`vist eval stress` and `vist eval languages`: what pages the encoder holds out against, and what languages cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL, load_reader, visible
from vist.cli.options import Device, DeviceOption, FilesArgument, JsonOption, ModelOption, SeedOption
from vist.cli.parts import DataOption, LimitOption, OutOption, ResamplesOption, chosen, measure_parts


def stress(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: Annotated[int, typer.Option("--pages", min=2, help="Full pages that are read.")] = 100,
    only: Annotated[
        str | None, typer.Option("--only", metavar="A,B", help="Groups of variations, for example size,blur.")
    ] = None,
    scripts: Annotated[
        Path | None, typer.Option("--scripts", metavar="FILE", help="Also texts by 'script' (and 'language').")
    ] = None,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Characters that TextViT's reading head names right on changed pages, beside the same pages unchanged.

    Fonts, weights, sizes, colours, JPEG, blur, noise, rotation, shift, typos, and on request scripts.
    """
    from vist.eval.readback import plan_pages
    from vist.eval.stress import check_encoder, count_read
    from vist.eval.windows import read_documents

    reader = load_reader(model, device)
    check_encoder(reader)
    texts = list(visible(read_documents(files)))
    count = pages if limit is None else max(2, min(pages, limit))
    planned = [page.text for page in plan_pages(reader, texts, count, seed)[0]]
    plain = count_read(reader, planned, None, seed)
    parts = _variation_parts(reader, planned, plain, chosen(only), resamples, seed)
    if scripts is not None:
        parts |= _script_parts(reader, scripts, count, resamples, seed)
    setup = {"files": [str(path) for path in files], "pages": count, "style": reader.style.to_dict()}
    setup["scripts"] = None if scripts is None else str(scripts)
    measure_parts("stress", parts, model=model, setup=setup, seed=seed, limit=limit, out=out, json=json)


def _variation_parts(
    reader: Any, texts: list[str], plain: Any, groups: tuple[str, ...], resamples: int, seed: int
) -> dict[str, Any]:
    """The pages as they are, and a part for each variation of the groups (all without any)."""
    from vist.cli.output import remark
    from vist.errors import VistError
    from vist.eval.stress import Variation, count_read, stress_rows, variations

    possible, missing = variations()
    known = list(dict.fromkeys(variation.group for variation in possible))
    for name in groups:
        if name not in known:
            raise VistError(f"There is no group of variations {name!r}; choose of {', '.join(known)}.")
    for part, reason in missing.items():
        remark(f"{part} is left out: {reason}.")

    def measure(variation: Variation) -> list[dict[str, Any]]:
        read = count_read(reader, texts, variation, seed)
        return stress_rows(read, plain, resamples, seed, group=variation.group)

    parts: dict[str, Any] = {"as drawn": lambda: stress_rows(plain, None, resamples, seed, group="none")}
    for variation in possible:
        if not groups or variation.group in groups:
            parts[variation.part] = lambda variation=variation: measure(variation)
    return parts


def _script_parts(reader: Any, file: Path, count: int, resamples: int, seed: int) -> dict[str, Any]:
    """A part for each script of a file, at most `count` pages of it."""
    from vist.eval.languages import read_languages
    from vist.eval.stress import count_read, stress_rows

    by_script: dict[str, list[str]] = {}
    for item in read_languages(file):
        drawn = reader.draw(item.text)
        by_script.setdefault(item.script, []).extend(drawn[number].text for number in range(len(drawn)))

    def measure(name: str) -> list[dict[str, Any]]:
        return stress_rows(
            count_read(reader, by_script[name][:count], None, seed), None, resamples, seed, group="script"
        )

    return {f"script: {name}": lambda name=name: measure(name) for name in sorted(by_script)}  # type: ignore[misc]


def languages(
    data: DataOption,
    model: ModelOption = DEFAULT_MODEL,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="A,B", help="Languages by the beginning of their names; 'all' for every one."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Another tokenizer to count with: a folder or a Hub id.")
    ] = None,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Visual tokens against tokenizer tokens by language, and the characters that no installed font can draw.

    FOLDER/corpus/multilingual/test has 'text', 'language' and 'script'. --limit counts pages of each language.
    """
    from vist.cli.output import remark
    from vist.eval.languages import MAIN, LanguageText, count_tokens, language_rows, read_languages

    folder = data / "corpus" / "multilingual"
    file = (folder if folder.is_dir() else data) / "test.parquet"
    texts = read_languages(file, () if only == "all" else chosen(only) or MAIN)
    reader = load_reader(model, device)
    if tokenizer is not None:
        from vist.errors import VistError

        try:
            from transformers import AutoTokenizer

            other = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise VistError(f"Cannot load a tokenizer from {tokenizer!r}: {str(error).splitlines()[0]}") from error

    def tokens_of(text: str) -> int:
        if tokenizer is None:
            return len(reader.ids(text))
        return len(other(text, add_special_tokens=False, verbose=False).input_ids)

    def measure(item: LanguageText) -> list[dict[str, Any]]:
        counts = count_tokens(reader, item.text, tokens_of, limit)
        if counts["lost"].sum() > 0.01 * counts["characters"].sum():
            remark(f"{item.language}: some characters have no font here, see 'lost'.")
        return language_rows(counts, resamples, seed, script=item.script)

    measure_parts(
        "languages",
        {item.language: lambda item=item: measure(item) for item in texts},  # type: ignore[misc]
        model=model,
        setup={"data": str(data), "tokenizer": tokenizer, "style": reader.style.to_dict()},
        seed=seed,
        limit=limit,
        out=out,
        json=json,
    )
