"""A small instruction set made from plain text by templates: recall, quotation, continuation, classification.

Owns: the four tasks, their wordings, and how a dialogue is written as text. Must not know about tokenizers, pages or
models.

Decisions
- Answers are exact and come from the text itself or from its source, so nothing is invented and nothing is judged.
- The text comes first and the question last: while the text is read nobody knows what will be asked.
- A dialogue is lines of plain text (`User:`, `Assistant:`), ended by the tokenizer's end token: a tokenizer without
  chat tokens can write it. `CHAT_TEMPLATE` writes the same dialogue from a list of messages.
- Each task has several wordings, so that the question is understood and not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vist.errors import VistError
from vist.train.corpus import PackedCorpus
from vist.train.examples import last_blank
from vist.train.facts import Fact, make_facts, plant

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'User: ' if message['role'] == 'user' else 'Assistant: ' }}{{ message['content'] }}"
    "{{ '\n\n' if message['role'] == 'user' else eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
WORDINGS: dict[str, tuple[str, ...]] = {
    "recall": ("{question}", "According to the text: {question}", "{question} Answer from the text above."),
    "quote": (
        'Quote the words of the text that follow "{cue}".',
        'How does the text go on after "{cue}"?',
        'Repeat what comes after "{cue}" in the text above.',
    ),
    "continue": ("Continue the text.", "Write what comes next.", "Go on from where the text ends."),
    "classify": (
        "What kind of text is this: {choices}?",
        "Name the kind of the text above, one of {choices}.",
    ),
}
COPIED = ("recall", "quote")  # tasks whose answer stands in the text
CUE_WORDS, QUOTED_WORDS, CONTINUED = 6, 16, 160
FACTS_PER_KILOBYTE = 3.0


@dataclass(frozen=True)
class Instruction:
    """One dialogue: the text, what is asked about it, and the answer."""

    task: str
    text: str
    question: str
    answer_text: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The dialogue in chat format."""
        return [
            {"role": "user", "content": f"{self.text}\n\n{self.question}"},
            {"role": "assistant", "content": self.answer_text},
        ]

    @property
    def prompt(self) -> str:
        """Everything before the answer, as `CHAT_TEMPLATE` writes it with a generation prompt."""
        return f"User: {self.text}\n\n{self.question}\n\nAssistant:"

    @property
    def copied_from(self) -> int | None:
        """The character of the prompt at which its first occurrence of the answer begins; None where it has none."""
        asked_after = self.question.split('"')[1] if self.task == "quote" else ""
        place = self.prompt.find(f"{asked_after} {self.answer_text}".lstrip())
        return None if place < 0 or self.task not in COPIED else place + len(f"{asked_after} ".lstrip())

    @property
    def answer(self) -> str:
        """The answer with the blank before it."""
        return f" {self.answer_text}"


def draw_instruction(
    corpus: PackedCorpus,
    rng: np.random.Generator,
    tasks: Mapping[str, float],
    domains: Mapping[str, float],
    characters: int,
) -> Instruction:
    """One dialogue about a text of about `characters`; a pure function of the generator's state.

    Raises VistError for an unknown task.
    """
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise VistError(f"There is no instruction task {unknown[0]!r}; the tasks are: {', '.join(TASKS)}.")
    task = _pick(rng, tasks)
    domain = _pick(rng, domains)
    extra = CONTINUED if task == "continue" else 0
    text = corpus.window(rng, {domain: 1.0}, characters + extra).strip()
    text, blanks, answer = TASKS[task](text, rng, domain, tuple(domains))
    wording = WORDINGS[task][rng.integers(len(WORDINGS[task]))]
    return Instruction(task, text, wording.format(**blanks), answer)


def question_about(fact: Fact) -> str:
    """A planted fact's statement as a question."""
    subject = fact.cue.removesuffix(" is")
    subject = subject[0].lower() + subject[1:]
    return f"{'What' if fact.kind == 'number' else 'Who'} is {subject}?"


Made = tuple[str, dict[str, str], str]


def _recall(text: str, rng: np.random.Generator, domain: str, domains: tuple[str, ...]) -> Made:
    most = max(1, round(FACTS_PER_KILOBYTE * len(text) / 1000))
    facts = make_facts(rng, "train", int(rng.integers(1, most + 1)))
    asked = facts[rng.integers(len(facts))]
    return plant(text, facts, rng), {"question": question_about(asked)}, f"{asked.answer}."


def _quote(text: str, rng: np.random.Generator, domain: str, domains: tuple[str, ...]) -> Made:
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    first = int(rng.integers(0, max(1, len(words) - CUE_WORDS - QUOTED_WORDS)))
    cue = words[first : first + CUE_WORDS]
    quoted = words[first + CUE_WORDS : first + CUE_WORDS + QUOTED_WORDS]
    if not quoted:  # a text of a few words: all of it but the first
        cue, quoted = words[:1], words[1:]
    return text, {"cue": _between(text, cue)}, _between(text, quoted)


def _between(text: str, words: list[tuple[int, int]]) -> str:
    return text[words[0][0] : words[-1][1]] if words else ""


def _continue(text: str, rng: np.random.Generator, domain: str, domains: tuple[str, ...]) -> Made:
    cut = last_blank(text, max(0, len(text) - CONTINUED))
    return text[:cut], {}, text[cut:].strip()


def _classify(text: str, rng: np.random.Generator, domain: str, domains: tuple[str, ...]) -> Made:
    choices = [domains[place] for place in rng.permutation(len(domains))]
    named = ", ".join(choices[:-1]) + (" or " if len(choices) > 1 else "") + choices[-1]
    return text, {"choices": named}, f"{domain}."


TASKS: dict[str, Callable[[str, np.random.Generator, str, tuple[str, ...]], Made]] = {
    "recall": _recall,
    "quote": _quote,
    "continue": _continue,
    "classify": _classify,
}


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = list(weights)
    shares = np.array([weights[name] for name in names])
    return names[rng.choice(len(names), p=shares / shares.sum())]
