"""Exact recall: facts are planted in the distant text and asked for.

Owns contexts with planted facts, the questions, what counts as exact, and the shares. Does not print or draw.

Decisions
- A question is the planted statement cut before its answer, after a blank line; the model answers by continuing it.
- Exact means: the greedy continuation starts with a blank and the answer, and no letter or digit follows.
- A context is encoded once for all its questions: pages are projected once and their keys and values repeated.
- The control "wrong" shows the pages of the next context, which hold other facts of the same kinds.
- Names and places come from the held-out split of `vist.train.facts`: no training text ever had them.
- A needle of several statements stands where its last one does. In the grid a context holds one needle at one depth.
- B batch, C contexts, F questions of a context, T text tokens, M visual tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vist.errors import VistError
from vist.eval.bootstrap import wilson
from vist.eval.conditions import Condition, Method, OtherMethod, Passage, build_inputs, pairs_with
from vist.eval.misses import Miss, classify
from vist.eval.needles import NEEDLE_KINDS, Needle, make_needles, statements
from vist.eval.reader import Reader
from vist.eval.scores import Row, score_rows
from vist.eval.windows import count_pages, fill_pages, next_border
from vist.render import layout
from vist.train.facts import Fact, plant

KINDS = ("number", "name")
_SLACK = 3  # tokens generated beyond the longest answer, so that what follows an answer is seen


@dataclass(frozen=True)
class RecallContext:
    """A distant text with its planted facts; `depths` holds the page of each fact, the first page being 0."""

    text: str
    facts: tuple[Needle | Fact, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """One question under one condition.

    `dropped` text tokens of its context did not fit the LLM; `others` are the answers of the other needles that the
    model was shown; `context` is the number of its context.
    """

    condition: Method
    fact: Needle | Fact
    depth: int
    continuation: str
    dropped: int
    others: tuple[str, ...] = ()
    context: int = 0

    @property
    def exact(self) -> bool:
        """Whether the continuation is the planted answer."""
        return is_exact(self.continuation, self.fact.answer)

    @property
    def miss(self) -> Miss | None:
        """How it failed; None where it did not."""
        return None if self.exact else classify(self.continuation, self.fact.answer, self.others)


@dataclass(frozen=True)
class Recall:
    """All answers under all conditions, and the number of contexts and pages they come from."""

    answers: tuple[Answer, ...]
    contexts: int
    pages: int

    @property
    def methods(self) -> list[Method]:
        """The conditions, and what was measured beside them, in the order of measuring."""
        return list(dict.fromkeys(answer.condition for answer in self.answers))

    def rows(self) -> list[dict[str, Any]]:
        """Exact share by condition and kind, "all" included, under their stable keys (docs/json.md)."""
        kinds = [kind for kind in NEEDLE_KINDS if any(answer.fact.kind == kind for answer in self.answers)]
        return [
            {"method": condition.value, "label": condition.label, "kind": kind, **self._share(condition, kind)}
            for condition in self.methods
            for kind in ["all", *kinds]
        ]

    def depth_rows(self) -> list[dict[str, Any]]:
        """Exact share by condition and page, the first page being 1."""
        counts: Counter[tuple[Method, int]] = Counter()
        hits: Counter[tuple[Method, int]] = Counter()
        for answer in self.answers:
            counts[answer.condition, answer.depth] += 1
            hits[answer.condition, answer.depth] += answer.exact
        return [
            {"method": condition.value, "page": depth + 1, **_shares(hits[condition, depth], number)}
            for (condition, depth), number in sorted(counts.items(), key=lambda item: (item[0][0].value, item[0][1]))
        ]

    def miss_rows(self) -> list[dict[str, Any]]:
        """Shares of all answers by condition and how they failed, under their stable keys (docs/evaluation.md)."""
        counts = Counter((answer.condition, answer.miss) for answer in self.answers)
        number = Counter(answer.condition for answer in self.answers)
        return [
            {"method": condition.value, "miss": miss.value, "share": counts[condition, miss] / number[condition]}
            for condition in self.methods
            for miss in Miss
        ]

    def score_rows(self, resamples: int = 10_000, seed: int = 0, **axes: Any) -> list[Row]:
        """Exact shares by kind and shares of the misses, paired by question, contexts drawn whole."""
        by_condition = {
            condition.value: [answer for answer in self.answers if answer.condition is condition]
            for condition in self.methods
        }
        first = by_condition[Condition.NONE.value]
        kinds = [kind for kind in NEEDLE_KINDS if any(answer.fact.kind == kind for answer in first)]
        measures: list[tuple[str, Any, str | None]] = [("exact", lambda answer: answer.exact, None)]
        measures += [(f"exact:{kind}", lambda answer: answer.exact, kind) for kind in kinds if len(kinds) > 1]
        measures += [(f"misses:{miss}", lambda answer, miss=miss: answer.miss is miss, None) for miss in Miss]
        rows: list[Row] = []
        pairs = pairs_with(method.value for method in self.methods if isinstance(method, OtherMethod))
        axes |= {"pages": self.pages, "pairs": pairs}
        for metric, score, kind in measures:
            inside = [kind is None or answer.fact.kind == kind for answer in first]
            values = {
                name: [float(score(answer)) for answer, wanted in zip(answers, inside, strict=True) if wanted]
                for name, answers in by_condition.items()
            }
            groups = [answer.context for answer, wanted in zip(first, inside, strict=True) if wanted]
            rows += score_rows(metric, values, groups=groups, resamples=resamples, seed=seed, **axes)
        return rows

    def _share(self, condition: Method, kind: str) -> dict[str, Any]:
        chosen = [a for a in self.answers if a.condition is condition and kind in ("all", a.fact.kind)]
        return _shares(sum(answer.exact for answer in chosen), len(chosen))


def _shares(hits: int, number: int) -> dict[str, Any]:
    bounds = wilson(hits, number)
    return {"exact": bounds.estimate, "low": bounds.low, "high": bounds.high, "n": number}


def is_exact(continuation: str, answer: str) -> bool:
    """Whether a continuation begins with a blank and the answer and then with no letter or digit."""
    expected = f" {answer}"
    following = continuation[len(expected) : len(expected) + 1]
    return continuation.startswith(expected) and not following.isalnum()


def plan_contexts(
    reader: Reader,
    texts: Sequence[str],
    contexts: int,
    facts: int,
    pages: int,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> list[RecallContext]:
    """`contexts` pieces of `texts`, evenly spread, each filling `pages` pages with `facts` facts planted in it.

    Kinds alternate. Raises VistError for fewer than two contexts (a context's pages are the wrong ones of the one
    before), no fact, an unknown kind, or texts too short for the pages.
    """
    _check(contexts, facts, kinds)
    places = [(text, end) for text, share in _shared_out(texts, contexts) for end in _ends(text, share)]
    planned = []
    for number, (text, end) in enumerate(places):
        base = fill_pages(text[: next_border(text, end)], pages, reader.style)
        if count_pages(base, reader.style) < pages:
            raise VistError(f"A text of {len(text)} characters does not fill {pages} pages; lower --pages.")
        planned.append(_plant(reader, base, pages, _facts(facts, kinds, seed, number), (seed, number)))
    return planned


def _check(contexts: int, facts: int, kinds: Sequence[str]) -> None:
    if contexts < 2:
        raise VistError(f"Recall needs at least 2 contexts, got {contexts}: each is the other's wrong pages.")
    if facts < 1:
        raise VistError(f"Recall needs at least 1 fact in a context, got {facts}.")
    unknown = [kind for kind in kinds if kind not in NEEDLE_KINDS]
    if unknown or not kinds:
        raise VistError(f"Unknown kind of fact {unknown[0] if unknown else ''!r}; choose of {', '.join(NEEDLE_KINDS)}.")


def _shared_out(texts: Sequence[str], contexts: int) -> list[tuple[str, int]]:
    """How many contexts each text gives: the same number each, the rest to the first ones."""
    chosen = list(texts)[:contexts]
    if not chosen:
        raise VistError("There is no text to plant facts in; give at least one file that is not empty.")
    return [(text, contexts // len(chosen) + (number < contexts % len(chosen))) for number, text in enumerate(chosen)]


def _ends(text: str, count: int) -> Iterable[int]:
    """`count` ends of pieces, the last one the end of the text, none in its first part."""
    return (
        (int(end) for end in np.linspace(len(text) / (count + 1), len(text), count).round())
        if count > 1
        else [len(text)]
    )


def _facts(count: int, kinds: Sequence[str], seed: int, number: int) -> list[Needle | Fact]:
    rng = np.random.default_rng((seed, number, 1))
    turned = [kinds[(number * count + place) % len(kinds)] for place in range(count)] if count < len(kinds) else None
    share = Counter(turned or (kinds[place % len(kinds)] for place in range(count)))
    made = [fact for kind in kinds if share[kind] for fact in make_needles(rng, kind, share[kind])]
    return [made[place] for place in rng.permutation(len(made))]


def _plant(
    reader: Reader, base: str, pages: int, facts: Sequence[Needle | Fact], seed: tuple[int, int]
) -> RecallContext:
    """Plant the facts in as much of the end of `base` as lets the whole fit the pages."""
    parts = [Needle(fact.kind, (statement,), "", "") for fact in facts for statement in statements(fact)]

    def planted(text: str) -> str:
        return plant(text, parts, np.random.default_rng(seed))  # type: ignore[arg-type]  # only statements are read

    return _fitted(reader, base, pages, tuple(facts), planted)


def _fitted(
    reader: Reader, base: str, pages: int, facts: tuple[Needle | Fact, ...], planted: Callable[[str], str]
) -> RecallContext:
    """The context of as much of the end of `base` as fits the pages with the facts planted by `planted`."""
    room = len(base) - sum(len(statement) + 2 for fact in facts for statement in statements(fact))
    while room > 0:
        text = planted(base[next_border(base, len(base) - room) :].lstrip())
        spans = layout(text, reader.style).spans
        if len(spans) <= pages:
            places = [text.index(statements(fact)[-1]) for fact in facts]
            depths = np.searchsorted(spans[:, 1], places, side="right")
            return RecallContext(text, facts, tuple(depths.tolist()))
        room -= max(1, room // 100)
    raise VistError(
        f"{len(facts)} facts leave no room for other text on {pages} pages; lower --facts or raise --pages."
    )


def plan_depth(
    reader: Reader, texts: Sequence[str], contexts: int, pages: int, depth: float, kinds: Sequence[str], seed: int = 0
) -> list[RecallContext]:
    """`contexts` texts of `pages` pages, each with one needle at `depth` (0 the start, 1 the end): a cell of the grid.

    Raises VistError as `plan_contexts` does.
    """
    _check(contexts, 1, kinds)
    planned = []
    places = [(text, end) for text, share in _shared_out(texts, contexts) for end in _ends(text, share)]
    for number, (text, end) in enumerate(places):
        base = fill_pages(text[: next_border(text, end)], pages, reader.style)
        if count_pages(base, reader.style) < pages:
            raise VistError(f"A text of {len(text)} characters does not fill {pages} pages; lower --lengths.")
        rng = np.random.default_rng((seed, number, 1))
        needle = make_needles(rng, kinds[number % len(kinds)], 1)[0]
        said = " ".join(statements(needle))

        def planted(text: str, said: str = said) -> str:
            place = next_border(text, min(len(text) - 1, round(depth * len(text)))) if depth < 1 else len(text)
            return f"{text[:place].rstrip()} {said} {text[place:].lstrip()}".strip()

        planned.append(_fitted(reader, base, pages, (needle,), planted))
    return planned


def evaluate_recall(
    reader: Reader,
    contexts: Sequence[RecallContext],
    pages: int,
    batch_size: int = 4,
    beside: Mapping[str, Reader] | None = None,
) -> Recall:
    """Ask for every fact under the four conditions and of the methods `beside`; `batch_size` contexts at a time."""
    following = [*contexts[1:], contexts[0]]
    pairs = list(zip(contexts, following, strict=True))
    answers: list[Answer] = []
    work: list[tuple[Method, Reader, Condition]] = [(condition, reader, condition) for condition in Condition]
    work += [(OtherMethod(name), other, Condition.VISUAL) for name, other in (beside or {}).items()]
    with tqdm(total=len(work) * len(pairs), desc="recall", unit="context", delay=2, leave=False) as progress:
        for method, own, condition in work:
            for start in range(0, len(pairs), batch_size):
                batch = pairs[start : start + batch_size]
                answers += [replace(answer, condition=method) for answer in ask(own, condition, batch, start)]
                progress.update(len(batch))
    return Recall(tuple(answers), len(contexts), pages)


def ask(
    reader: Reader, condition: Condition, pairs: Sequence[tuple[RecallContext, RecallContext]], first: int = 0
) -> list[Answer]:
    """The answers to all questions of a batch of (context, context shown as wrong); `first` is its first number."""
    numbers = [first + place for place, (context, _) in enumerate(pairs) for _ in context.facts]
    asked = [(context, other, number) for context, other in pairs for number in range(len(context.facts))]
    longest = max(len(reader.following(f" {context.facts[number].answer}")) for context, _, number in asked)
    passages = [
        Passage(context.text, other.text, tuple(reader.following(f"\n\n{context.facts[number].cue}")))
        for context, other, number in asked
    ]
    without_pages = Condition.NONE if condition.has_pages else condition
    inputs = build_inputs(reader, without_pages, passages, reserve=longest + _SLACK)
    with torch.inference_mode():
        visual = _visual_context(reader, condition, pairs) if condition.has_pages else {}
        output = reader.model.generate(
            **inputs.tensors, **visual, max_new_tokens=longest + _SLACK, do_sample=False, num_beams=1
        )
    new = output[:, inputs.tensors["input_ids"].shape[1] :]
    texts = reader.written(new.tolist())
    return [
        Answer(
            condition,
            context.facts[number],
            context.depths[number],
            text,
            dropped,
            tuple(fact.answer for fact in (other if condition is Condition.WRONG else context).facts),
            place,
        )
        for (context, other, number), text, dropped, place in zip(
            asked, texts, inputs.dropped_tokens, numbers, strict=True
        )
    ]


def _visual_context(
    reader: Reader, condition: Condition, pairs: Sequence[tuple[RecallContext, RecallContext]]
) -> dict[str, Tensor]:
    """`cross_kv` and `cross_mask` with a row for each question, from one encoding of each context."""
    shown = [(other if condition is Condition.WRONG else context).text for context, other in pairs]
    context = reader.encode_pages(reader.page_inputs(shown))
    questions = torch.tensor([len(context.facts) for context, _ in pairs], device=reader.device)
    cross_kv = reader.model.project_context(context.states)
    return {
        "cross_kv": cross_kv.repeat_interleave(questions, dim=0),
        "cross_mask": context.mask.repeat_interleave(questions, dim=0),
    }
