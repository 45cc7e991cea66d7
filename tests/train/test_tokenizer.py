from hypothesis import given
from hypothesis import strategies as st

from vist.train.tokenizer import train_tokenizer

TEXTS = [
    "The cat sat on the mat in 1984, and the dog did not.",
    "def f(x):\n    return x + 10\n",
    "Ünïcödé “quotes” – 日本",
]
TOKENIZER = train_tokenizer(TEXTS * 20, 320, 128)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.decode(ids) == text or "<|" in text


def test_digits_are_single_tokens() -> None:
    tokens = TOKENIZER.tokenize("in 1984 or 1984")
    assert [token for token in tokens if any(char.isdigit() for char in token)] == list("19841984")


def test_size_and_special_tokens() -> None:
    assert len(TOKENIZER) == 320
    assert TOKENIZER.bos_token_id == TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert TOKENIZER.padding_side == "left"


def test_texts_start_with_the_start_token_unless_special_tokens_are_off() -> None:
    with_start = TOKENIZER("The cat").input_ids
    assert with_start == [TOKENIZER.bos_token_id, *TOKENIZER("The cat", add_special_tokens=False).input_ids]
