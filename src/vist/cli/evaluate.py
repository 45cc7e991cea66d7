"""`vist eval lm` and `vist eval recall`: measure any model on any texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.beside import BesideOption, load_beside
from vist.cli.inputs import DEFAULT_MODEL, load_reader, name_of, visible
from vist.cli.options import (
    AdaptiveOption,
    BatchOption,
    ContextsOption,
    Device,
    DeviceOption,
    DocumentsOption,
    FactsOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    PagesOption,
    ProximalOption,
    RatioOption,
    SeedOption,
    StylesOption,
    VisualTokensOption,
    WindowsOption,
)
from vist.cli.parts import LimitOption, OutOption, ResamplesOption, chosen, measure_parts, row_head, whole_numbers

if TYPE_CHECKING:
    from vist.eval.reader import Reader


class Kind(StrEnum):
    """Which facts are planted."""

    NUMBER = "number"
    NAME = "name"
    BOTH = "both"
    HEX = "hex"
    PATH = "path"
    IDENTIFIER = "identifier"
    DATE = "date"
    QUOTATION = "quotation"
    WORD_WORD = "word-word"
    WORD_NUMBER = "word-number"
    UUID_NUMBER = "uuid-number"
    SEVERAL = "several"
    AGGREGATION = "aggregation"
    ASSOCIATION = "association"
    DIALOGUE = "dialogue"
    ALL = "all"


def lm(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: PagesOption = 4,
    proximal: ProximalOption = 256,
    windows: WindowsOption = 4,
    documents: DocumentsOption = None,
    batch_size: BatchOption = 8,
    resamples: ResamplesOption = 10_000,
    ratio: RatioOption = None,
    visual_tokens: VisualTokensOption = None,
    adaptive: AdaptiveOption = False,
    cost: Annotated[bool, typer.Option("--cost", help="Also measure FLOPs, memory, time and speed.")] = False,
    beside: BesideOption = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Perplexity of the last 256 tokens under four conditions, with paired bootstrap intervals."""
    from vist.cli.output import console, differences_table, methods_table, remark, say_limit
    from vist.eval.cost import costs_of
    from vist.eval.files import write_json
    from vist.eval.lm import evaluate_lm, lm_rows
    from vist.eval.provenance import provenance
    from vist.eval.records import Ledger
    from vist.eval.windows import cut_windows, read_documents, with_wrong_texts
    from vist.model.dial import Dial

    reader = load_reader(model, device).dialled(Dial(ratio, visual_tokens, adaptive))
    setup = {"files": [str(path) for path in files], "pages": pages, "proximal_tokens": proximal, "windows": windows}
    setup |= {"cost": cost} | _setup_of(reader, beside)
    part = f"{', '.join(name_of(path) for path in files)}, {pages} pages"
    ledger = Ledger(out, "lm", row_head(provenance(model), seed, limit), setup | {"documents": documents})
    if ledger.has(part) and json is None:
        remark(f"{part}: finished by an earlier run, kept.")
        return
    texts = visible(read_documents(files, documents))
    found, short = cut_windows(reader, texts, pages, proximal, windows)
    passages, numbers = with_wrong_texts(reader, found[:limit], pages), [window.document for window in found[:limit]]
    others = load_beside(reader, beside, device)
    result = evaluate_lm(reader, passages, numbers, batch_size, resamples, seed, others)
    methods = [result.method_dict(method) for method in result.conditions]
    if cost:
        costs = costs_of(reader, others, passages[len(passages) // 2])
        methods = [row | costs[method].to_dict() for row, method in zip(methods, result.conditions, strict=True)]
    figures = result.to_dict()
    screen = console()
    say_limit(screen, limit)
    screen.print(methods_table(methods, result.scored))
    screen.print()
    screen.print(differences_table(figures, {method.value: method.label for method in result.conditions}))
    remark(f"{result.windows} windows of {result.documents} documents; bootstrap by {result.unit}; {_skipped(short)}.")
    if not ledger.has(part):
        axes = {"skipped_documents": short, "text_tokens": float(result.text_tokens.mean())}
        ledger.add(part, [row | axes for row in (*lm_rows(methods, figures), *result.by_distance)])
    if json is not None:
        setup |= {"seed": seed, "skipped_documents": short}
        write_json(json, provenance(model) | {"setup": setup, "methods": methods, "lm": figures})


def _setup_of(reader: Reader, beside: str | None) -> dict[str, Any]:
    """What is measured: the page style, the methods beside, and the setting of the dial where it is turned."""
    dial = {"dial": asdict(reader.dial)} if reader.dial.turned else {}
    return {"style": reader.style.to_dict(), "beside": beside, **dial}


def recall(
    files: FilesArgument,
    model: ModelOption = DEFAULT_MODEL,
    pages: PagesOption = 4,
    contexts: ContextsOption = 50,
    facts: FactsOption = 6,
    kind: Annotated[Kind, typer.Option("--kind", help="What is planted; both: numbers and names.")] = Kind.BOTH,
    styles: StylesOption = None,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="N,M", help="Also a grid: context lengths in pages ...")
    ] = None,
    depths: Annotated[int, typer.Option("--depths", min=2, help="... by so many depths of the needle.")] = 5,
    ratio: RatioOption = None,
    visual_tokens: VisualTokensOption = None,
    adaptive: AdaptiveOption = False,
    documents: DocumentsOption = None,
    batch_size: BatchOption = 4,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
    beside: BesideOption = None,
    limit: LimitOption = None,
    out: OutOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = None,
) -> None:
    """Exact recall of facts planted in real text, under four conditions: by kind, page, style, depth and length.

    Also says how misses fail: wrong characters, another needle, made up, refused.
    """
    from vist.eval.windows import read_documents
    from vist.model.dial import Dial

    reader = load_reader(model, device).dialled(Dial(ratio, visual_tokens, adaptive))
    count = contexts if limit is None else max(2, min(contexts, limit))
    texts = list(islice(visible(read_documents(files, documents)), count))
    others = load_beside(reader, beside, device)
    plan = _Recall(reader, texts, count, facts, pages, kind, batch_size, resamples, seed, others)
    names = chosen(styles) or (reader.style.name,)
    parts: dict[str, Any] = {
        f"{kind.value}: {name}, {pages} pages": lambda name=name: plan.planted(name if styles else None)
        for name in names
    }
    for length in whole_numbers(lengths, "--lengths") if lengths else ():
        for depth in (place / (depths - 1) for place in range(depths)):
            part = f"{kind.value}: grid, {length} pages, depth {depth:.0%}"
            parts[part] = lambda length=length, depth=depth: plan.cell(length, depth)
    setup = {"files": [str(path) for path in files], "pages": pages, "contexts": count, "facts": facts}
    setup |= {"documents": documents, "kinds": list(plan.kinds)} | _setup_of(reader, beside)
    asked: dict[str, Any] = {"model": model, "setup": setup, "seed": seed, "limit": limit, "out": out, "json": json}
    measure_parts("recall", parts, **asked, more=plan.summary)


@dataclass
class _Recall:
    """The parts of one `vist eval recall`; `first` is the result of the first of them."""

    reader: Reader
    texts: list[str]
    contexts: int
    facts: int
    pages: int
    kind: Kind
    batch_size: int
    resamples: int
    seed: int
    beside: dict[str, Reader]
    first: Any = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is planted."""
        from vist.eval.needles import FACT_KINDS, NEEDLE_KINDS

        return {Kind.BOTH: FACT_KINDS, Kind.ALL: NEEDLE_KINDS}.get(self.kind, (self.kind.value,))

    def planted(self, style: str | None) -> list[dict[str, Any]]:
        """Several facts in each context, in one style."""
        from vist.cli.output import console, recall_table, remark
        from vist.eval.recall import evaluate_recall, plan_contexts

        own = self.reader if style is None else self.reader.restyled(style)
        planned = plan_contexts(own, self.texts, self.contexts, self.facts, self.pages, self.kinds, self.seed)
        result = evaluate_recall(own, planned, self.pages, self.batch_size, self.beside)
        if self.first is None:
            self.first = result
            few = len(self.kinds) <= 3  # more columns than that do not fit a line; the rows below have every kind
            console().print(recall_table([row for row in result.rows() if few or row["kind"] == "all"]))
            remark(
                f"{self.contexts} contexts of {self.pages} pages, {self.facts} facts in each; Wilson 95 % intervals."
            )
        ratio = text_ratio(own, planned)
        return result.score_rows(self.resamples, self.seed, style=own.style.name, ratio=ratio)

    def cell(self, length: int, depth: float) -> list[dict[str, Any]]:
        """One fact in each context, at one depth of texts of one length."""
        from vist.eval.recall import evaluate_recall, plan_depth

        planned = plan_depth(self.reader, self.texts, self.contexts, length, depth, self.kinds, self.seed)
        rows = evaluate_recall(self.reader, planned, length, self.batch_size).score_rows(
            self.resamples, self.seed, depth=depth
        )
        return [row for row in rows if row["metric"] == "exact"]

    def summary(self) -> dict[str, Any]:
        """What the JSON file has besides the rows."""
        if self.first is None:
            return {}
        return {
            "recall": self.first.rows(),
            "recall_by_page": self.first.depth_rows(),
            "misses": self.first.miss_rows(),
        }


def text_ratio(reader: Reader, contexts: Sequence[Any]) -> float:
    """Text tokens per visual token of the first contexts."""
    few = contexts[:4]
    seen = reader.context_tokens([context.text for context in few])
    return sum(len(reader.ids(context.text)) for context in few) / max(1, sum(seen))


def _skipped(short: int) -> str:
    return f"{short} too short and left out" if short else "none was too short"
