"""The byte-level BPE tokenizer of `vist-nano`.

Owns: how the tokenizer is trained, which special tokens it has, where its tokens begin in a text. Must not know about
models or pages.

Decisions
- Byte-level: every text has a tokenization and comes back unchanged.
- Digits are single tokens: a number is read and written digit by digit, never as a memorised chunk.
- Every text starts with the end-of-text token, as every sequence of training does, unless special tokens are off.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
# Words with their blank, single digits, runs of punctuation, line breaks, other blanks.
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+| +(?!\S)|\s"


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`, with `vocab_size` entries in all, the two special tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )


def first_visible(text: str, offsets: np.ndarray) -> np.ndarray:
    """(T,) the first character of each text token, its leading blank left out; `offsets` are (T, 2) characters."""
    starts = offsets[:, 0]
    blank = np.array([text[start].isspace() for start in starts], dtype=bool)
    return starts + (blank & (offsets[:, 1] - starts > 1))
