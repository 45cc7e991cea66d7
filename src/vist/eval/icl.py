"""In-context learning: demonstrations as pages, a question as text, the label chosen by its likelihood.

Owns the prompts of the four conditions, the choice of the label and its accuracies. Does not know files or tables.

Decisions
- n_e demonstrations are distant and n_d stay text right before the question. "none" has the n_d alone, "visual" the
  pages of the n_e before them, "wrong" the pages of another set's demonstrations, "full" all of them as text.
- Demonstrations are drawn anew for every `per_draw` test examples. 1 is CEPE's way and reads as many contexts as there
  are examples; the default shares a draw among a few, which costs a fraction. The examples of one draw are resampled
  together, with those of the other seeds at the same place, so intervals hold for new demonstrations too.
- The four ways to choose a label have CEPE's names: `nll_acc` by likelihood, `nll_acc_norm` by likelihood per token,
  `nll_acc_calibrated` after subtracting what the label gets with no prompt at all, and `nll_acc_calibrated_norm`.
- Other methods stand beside the conditions with the same n_d as text: those that draw pages read the same pages, those
  that read text the same demonstrations, a blank line after each.
- What does not fit the LLM is cut from the left: first the oldest demonstrations, then the start of a question that
  alone fills more than half of the window. Both are counted and reported.
- Q questions, L labels, M visual tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from vist.errors import VistError
from vist.eval.conditions import Condition, Method, OtherMethod, pairs_with
from vist.eval.labelled import Example, LabelledSet, draw_demonstrations, pick_test_examples
from vist.eval.likelihood import continuation_scores
from vist.eval.reader import Reader
from vist.eval.scores import Row, score_rows
from vist.render import Pages, PageStyle, render

BETWEEN = "\n\n"
CHOICES = ("nll_acc", "nll_acc_norm", "nll_acc_calibrated", "nll_acc_calibrated_norm")


class Strategy(StrEnum):
    """How demonstrations are put on pages (the paper tries four, and finds a blank line after each best)."""

    BLANK = "blank"  # one after the other, a blank line after each
    LINES = "lines"  # one after the other, each from a new line
    JOINED = "joined"  # one after the other as running text
    SEPARATE = "separate"  # every demonstration on a page of its own


@dataclass(frozen=True)
class IclConfig:
    """How much is read.

    Attributes:
        encoder_shots, decoder_shots: n_e demonstrations in pages and n_d as text.
        examples: test examples of each set.
        seeds: of the draws of demonstrations.
        per_draw: test examples that share a draw.
        strategy: how demonstrations are put on pages.
        resamples: of the bootstrap.
    """

    encoder_shots: int = 18
    decoder_shots: int = 2
    examples: int = 250
    seeds: tuple[int, ...] = (42, 43, 44)
    per_draw: int = 25
    strategy: Strategy = Strategy.BLANK
    resamples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("encoder_shots", "examples", "per_draw"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.decoder_shots < 0:
            raise VistError(f"decoder_shots must be 0 or more, got {self.decoder_shots}.")
        if not self.seeds:
            raise VistError("No seeds were given; the paper uses 42, 43 and 44.")


@dataclass
class _Tally:
    """What is gathered over all draws: hits (method, choice) -> list, groups, and what was cut or shown."""

    hits: dict[tuple[Method, str], list[float]]
    groups: list[int]
    cut: dict[Method, int]
    tokens: dict[Method, list[int]]
    long_questions: int = 0


def draw_pages(reader: Reader, demonstrations: Sequence[str], strategy: Strategy) -> list[Pages]:
    """The pages of demonstrations, as stretches to be put one behind the other."""
    lines = [" ".join(text.split()) for text in demonstrations]
    style: PageStyle = replace(reader.style, newline="break")
    if strategy is Strategy.SEPARATE:
        return [render(line, style) for line in lines]
    if strategy is Strategy.JOINED:
        return [render(" ".join(lines), style)]
    return [render(("\n\n" if strategy is Strategy.BLANK else "\n").join(lines), style)]


def evaluate_icl(
    reader: Reader,
    source: LabelledSet,
    other: LabelledSet | None,
    config: IclConfig,
    beside: Mapping[str, Reader] | None = None,
) -> list[Row]:
    """Accuracy of one set under the four conditions and of the methods `beside`, by each way to choose a label.

    `other` gives the wrong pages; without it they hold demonstrations of the same set whose labels are wrong.
    Raises VistError for more demonstrations than there are, a question that leaves no room in the LLM's window, and a
    method that cannot go on from a cache.
    """
    others = {OtherMethod(name): _cached(name, own) for name, own in (beside or {}).items()}
    methods: list[Method] = [*Condition, *others]
    examples = pick_test_examples(source, config.examples)
    labels = [reader.following(f" {label}") for label in source.labels]
    lengths = np.array([len(label) for label in labels])
    plain = continuation_scores(_cached("the model", reader), [], [[]], labels)[0]
    unprompted: dict[Method, np.ndarray] = dict.fromkeys(Condition, plain)
    unprompted |= {method: continuation_scores(own, [], [[]], labels)[0] for method, own in others.items()}
    tally = _Tally({}, [], dict.fromkeys(methods, 0), {method: [] for method in methods})
    for seed in config.seeds:
        for group, start in enumerate(range(0, len(examples), config.per_draw)):
            batch = examples[start : start + config.per_draw]
            rng = np.random.default_rng((seed, group))
            found = _score(reader, source, other, batch, labels, config, rng, tally, others)
            for method, scores in found.items():
                for choice, chosen in choose(scores, lengths, unprompted[method]).items():
                    right = [
                        source.labels[place] == example.label for place, example in zip(chosen, batch, strict=True)
                    ]
                    tally.hits.setdefault((method, choice), []).extend(map(float, right))
            tally.groups += [group] * len(batch)
    return _rows(source, config, tally)


def _cached(name: str, reader: Reader) -> Reader:
    """The reader of a method. Raises VistError for one that reads every continuation from the start."""
    if not isinstance(reader.model, PreTrainedModel):
        raise VistError(
            f"In-context learning reads labels after a cache, which {name!r} does not keep; it takes VIST models and "
            "trained models with a text context."
        )
    return reader


def choose(scores: np.ndarray, lengths: np.ndarray, unprompted: np.ndarray) -> dict[str, np.ndarray]:
    """Which label (Q,) each way takes: `scores` (Q,L) log-likelihoods, `lengths` (L,) tokens, `unprompted` (L,)."""
    calibrated = scores - unprompted
    kinds = (scores, scores / lengths, calibrated, calibrated / lengths)
    return {name: values.argmax(1) for name, values in zip(CHOICES, kinds, strict=True)}


def _score(
    reader: Reader,
    source: LabelledSet,
    other: LabelledSet | None,
    batch: Sequence[Example],
    labels: Sequence[Sequence[int]],
    config: IclConfig,
    rng: np.random.Generator,
    tally: _Tally,
    others: Mapping[OtherMethod, Reader],
) -> dict[Method, np.ndarray]:
    """Log-likelihoods (Q,L) of one draw of demonstrations under each condition and of each other method."""
    drawn = draw_demonstrations(source, config.encoder_shots + config.decoder_shots, rng)
    shown = [source.demonstration(example) for example in drawn]
    distant, near = shown[: config.encoder_shots], shown[config.encoder_shots :]
    wrong = _wrong(source, other, drawn[: config.encoder_shots], rng)
    window = reader.context_limit - 1 - max(len(label) for label in labels)
    questions = []
    for example in batch:
        ids = reader.following(source.query(example.text))
        tally.long_questions += len(ids) > window // 2
        questions.append(ids[-(window // 2) :])
    room = window - max(len(ids) for ids in questions)
    scores: dict[Method, np.ndarray] = {}
    for condition in Condition:
        visual: Mapping[str, Tensor] | None = None
        text = [*distant, *near] if condition is Condition.FULL else near
        if condition.has_pages:
            visual, used = _context(reader, wrong if condition is Condition.WRONG else distant, config.strategy)
            tally.tokens[condition].append(used[0])
        prefix = reader.ids("".join(demonstration + BETWEEN for demonstration in text))
        if condition is Condition.FULL:
            without = reader.ids("".join(demonstration + BETWEEN for demonstration in near))
            tally.tokens[condition].append(min(len(prefix), room) - min(len(without), room))
        tally.cut[condition] += max(0, len(prefix) - room)
        scores[condition] = continuation_scores(reader, prefix[max(0, len(prefix) - room) :], questions, labels, visual)
    prefix = reader.ids("".join(demonstration + BETWEEN for demonstration in near))
    for method, own in others.items():
        context, used = _context(own, distant, config.strategy)
        tally.tokens[method].append(used[0])
        tally.cut[method] += max(0, len(prefix) - room)
        scores[method] = continuation_scores(own, prefix[max(0, len(prefix) - room) :], questions, labels, context)
    return scores


def _context(reader: Reader, demonstrations: Sequence[str], strategy: Strategy) -> tuple[dict[str, Tensor], list[int]]:
    """What a model makes of demonstrations: of their pages, or of their text where it reads text."""
    if reader.reads_pages:
        return reader.read_pages([draw_pages(reader, demonstrations, strategy)])
    return reader.read_texts([BETWEEN.join(demonstrations)])


def _wrong(
    source: LabelledSet, other: LabelledSet | None, drawn: Sequence[Example], rng: np.random.Generator
) -> list[str]:
    if other is not None:
        count = min(len(drawn), len(other.train))
        return [other.demonstration(example) for example in draw_demonstrations(other, count, rng)]
    shift = {label: source.labels[(place + 1) % len(source.labels)] for place, label in enumerate(source.labels)}
    return [source.demonstration(Example(example.text, shift[example.label])) for example in drawn]


def _rows(source: LabelledSet, config: IclConfig, tally: _Tally) -> list[Row]:
    rows: list[Row] = []
    text_tokens = float(np.mean(tally.tokens[Condition.FULL]) + tally.cut[Condition.FULL] / _draws(tally))
    methods = {method.value: method for method in tally.tokens}
    pairs = pairs_with(name for name, method in methods.items() if isinstance(method, OtherMethod))
    for choice in CHOICES:
        values = {name: tally.hits[method, choice] for name, method in methods.items()}
        rows += score_rows(choice, values, groups=tally.groups, pairs=pairs, resamples=config.resamples)
    for row in rows:
        method = methods[row["method"]]
        carried: Any = float(np.mean(tally.tokens[method] or [0]))
        row |= {
            "context_tokens": carried,
            "ratio": text_tokens / carried if carried and method is not Condition.FULL else None,
            "dropped_tokens": tally.cut[method] / _draws(tally),
            "long_questions": tally.long_questions,
            "labels": len(source.labels),
        }
    return rows


def _draws(tally: _Tally) -> int:
    return len(tally.tokens[Condition.FULL])
