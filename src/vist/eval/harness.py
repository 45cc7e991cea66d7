"""A model of the project inside lm-evaluation-harness: its tasks, our pages.

Owns the split of a prompt into pages and text, and the three requests of the harness. Does not know tasks or metrics.
Not imported by anything else: the harness is an extra, `pip install 'vist[harness]'`.

    from lm_eval import simple_evaluate
    from vist.eval.harness import VistLM

    simple_evaluate(model=VistLM.load("vist-nano"), tasks=["arc_easy"], num_fewshot=20)

Decisions
- The dial is `near_tokens`: so many tokens at the end of a prompt stay text (a few more, to begin at a word), all
  before them becomes pages. A prompt that is no longer has no pages.
- `max_pages` bounds the pages; what is farther away than they reach is left out and counted, as is text that does not
  fit the LLM.
- The controls are the same class with another `condition`: "none" drops the distant part, "wrong" shows pages of a
  packaged book instead, "full" keeps it as text as far as it fits.
- Blanks at the end of a context belong to its continuation, and the two are tokenized together: the harness's rule.
- The start token is put before the ids, never before the text, as everywhere in this project: a tokenizer given
  "<s>text" as one string may split it otherwise. `vist-nano`'s does not, so its figures are the same either way.
- A rolling likelihood scores half of `near_tokens` at a time, after the other half as text and all before it as pages.
- B batch, T text tokens, M visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vist.errors import VistError
from vist.eval.conditions import Condition
from vist.eval.reader import Reader
from vist.eval.windows import BOOK, OTHER_BOOK, fill_pages, first_token, packaged_text

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise ImportError("vist.eval.harness needs lm-evaluation-harness: pip install 'vist[harness]'.") from error

NEW_TOKENS = 256  # written at most where a task does not say


@dataclass(frozen=True)
class _Row:
    """One sequence: distant text, token ids of the near text, and of these the last `scored` that are scored."""

    distant: str
    near: tuple[int, ...]
    scored: int = 0


class VistLM(LM):
    """A model for `lm_eval.simple_evaluate(model=...)`.

    `near_tokens` of a prompt's end stay text, what is before them becomes at most `max_pages` pages; `condition` makes
    it one of the controls. `cut` counts the prompts of which something was left out.
    """

    def __init__(
        self,
        reader: Reader,
        near_tokens: int = 256,
        max_pages: int = 16,
        condition: Condition | str = Condition.VISUAL,
        batch_size: int = 8,
        name: str = "",
    ) -> None:
        super().__init__()
        for option, value in (("near_tokens", near_tokens), ("max_pages", max_pages), ("batch_size", batch_size)):
            if value < 1:
                raise VistError(f"{option} must be at least 1, got {value}.")
        if near_tokens >= reader.context_limit:
            raise VistError(f"near_tokens must be below the LLM's {reader.context_limit} tokens, got {near_tokens}.")
        self.reader, self.near_tokens, self.max_pages = reader, near_tokens, max_pages
        self.condition, self.batch_size, self.name = Condition(condition), batch_size, name
        self.cut = 0
        self._device = reader.device

    @classmethod
    def load(cls, model: str = "vist-nano", **options: Any) -> VistLM:
        """The adapter of a packaged model, a folder or a Hub id (`vist.load`), on a GPU if there is one."""
        import vist

        loaded: Any
        loaded, processor = vist.load(model)
        place = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(Reader(loaded.to(place), processor), name=str(model), **options)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): log-likelihood of the continuation, and whether it is the greedy one."""
        rows = [self._pair(*request.args) for request in requests]
        scores = self._score(rows, disable_tqdm)
        for request, score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return scores

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each (text,): log-likelihood of all of it, every token scored once."""
        found = []
        for request in requests:
            total = sum(score for score, _ in self._score(self._stretches(request.args[0]), disable_tqdm))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            found.append(total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, options): what is written until a stop string or `max_gen_toks` tokens.

        Raises VistError for more tokens than the LLM's window has room for.
        """
        found: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        with tqdm(total=len(requests), desc="writing", disable=disable_tqdm) as progress:
            for places in groups.values():
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    texts = self._write([requests[place].args[0] for place in batch], requests[batch[0]].args[1])
                    for place, text in zip(batch, texts, strict=True):
                        found[place] = text
                        self.cache_hook.add_partial("generate_until", requests[place].args, text)
                    progress.update(len(batch))
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt, by the tokenizer's own template."""
        return str(
            self.reader.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    @property
    def tokenizer_name(self) -> str:
        """What caches of the harness are named by."""
        return f"vist-{self.name or 'model'}".replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {
            "model_name": self.name,
            "near_tokens": self.near_tokens,
            "max_pages": self.max_pages,
            "condition": self.condition.value,
            "page_style": self.reader.style.to_dict(),
            "cut_prompts": self.cut,
        }

    def split(self, text: str) -> tuple[str, str]:
        """A prompt as distant and near text; joined they are the prompt."""
        ids, places = self.reader.ids_with_places(text)
        if len(ids) <= self.near_tokens:
            return "", text
        place = places[first_token(text, places, len(ids) - self.near_tokens)]
        return text[:place], text[place:]

    def _pair(self, context: str, continuation: str) -> _Row:
        stripped = context.rstrip()
        distant, near = self.split(stripped)
        tokens = self.reader.following if distant else self.reader.ids
        before, whole = tokens(near), tokens(near + context[len(stripped) :] + continuation)
        return self._row(distant, whole, max(1, len(whole) - len(before)))

    def _row(self, distant: str, near: Sequence[int], scored: int = 0, reserve: int = 0) -> _Row:
        """A sequence that fits: the near text is cut from the left, and so is the distant one under "full"."""
        room = self.reader.context_limit - 1 - reserve
        if room < max(1, scored):
            raise VistError(
                f"{scored + reserve} tokens to score or write do not fit the LLM's {self.reader.context_limit}; "
                "lower max_gen_toks or take a task with shorter answers."
            )
        cut = len(near) > room
        near = list(near)[max(0, len(near) - room) :]
        if self.condition is Condition.FULL and distant:
            ids = self.reader.ids(distant)
            cut |= len(ids) > room - len(near)
            near = ids[max(0, len(ids) - (room - len(near))) :] + near
        if not self.condition.has_pages:
            distant = ""
        elif distant:
            kept = fill_pages(distant, self.max_pages, self.reader.style)
            cut |= len(kept) < len(distant)
            distant = kept if self.condition is Condition.VISUAL else _another(kept)
        self.cut += cut
        return _Row(distant, tuple(near), scored)

    def _stretches(self, text: str) -> list[_Row]:
        """The rows that score every token of a text once."""
        ids, places = self.reader.ids_with_places(text)
        step = max(1, self.near_tokens // 2)
        rows = []
        for start in range(0, len(ids), step):
            end = min(start + step, len(ids))
            first = first_token(text, places, start - step) if start > step else 0
            rows.append(self._row(text[: places[first]], ids[first:end], end - start))
        return rows

    @torch.inference_mode()
    def _score(self, rows: Sequence[_Row], quiet: bool) -> list[tuple[float, bool]]:
        """Log-likelihood of the last `scored` tokens of each row, and whether each of them is the likeliest."""
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted(range(len(rows)), key=lambda place: (len(rows[place].near), rows[place].distant))
        with tqdm(total=len(rows), desc="scoring", disable=quiet) as progress:
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                batch = [rows[place] for place in places]
                longest = max(row.scored for row in batch)
                inputs = self._inputs(batch)
                logits = self.reader.model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits
                chances = logits[:, :-1].float().log_softmax(-1)
                for number, (place, row) in enumerate(zip(places, batch, strict=True)):
                    own, targets = chances[number, -row.scored :], inputs["input_ids"][number, -row.scored :]
                    likely = own.gather(1, targets[:, None]).sum()
                    scores[place] = (float(likely), bool((own.argmax(-1) == targets).all()))
                progress.update(len(batch))
        return scores

    @torch.inference_mode()
    def _write(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        options = dict(options)
        until = options.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        tokens = int(options.pop("max_gen_toks", NEW_TOKENS))
        if not options.setdefault("do_sample", False):
            options.pop("temperature", None)
        rows = []
        for context in contexts:
            distant, near = self.split(context)
            ids = self.reader.following(near) if distant else self.reader.ids(near)
            rows.append(self._row(distant, ids, reserve=tokens))
        inputs = self._inputs(rows)
        output = self.reader.model.generate(**inputs, max_new_tokens=tokens, num_beams=1, **options)
        new = output[:, inputs["input_ids"].shape[1] :]
        return [_until(text, stops) for text in self.reader.written(new.tolist())]

    def _inputs(self, rows: Sequence[_Row]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (B,T) and, where any row has pages, `cross_states` (B,M,D), `cross_mask`.

        A distant text that several rows share is drawn and encoded once.
        """
        tensors = self.reader.text_inputs([row.near for row in rows])
        texts = list(dict.fromkeys(row.distant for row in rows))
        if any(texts):
            pages = self.reader.stack_pages([[self.reader.draw(text)] if text else [] for text in texts])
            context = self.reader.model.encode_context(**pages)
            own = torch.tensor([texts.index(row.distant) for row in rows], device=self.reader.device)
            tensors |= {"cross_states": context.states[own], "cross_mask": context.mask[own]}
        return tensors


def _another(text: str) -> str:
    """As much of a packaged book that the text is not from."""
    name = BOOK if text[:200] not in packaged_text(BOOK) else OTHER_BOOK
    return packaged_text(name)[: len(text)]


def _until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
