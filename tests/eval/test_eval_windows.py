"""Where windows begin and end."""

from __future__ import annotations

import pytest

from tiny_vist import alice
from vist.errors import VistError
from vist.eval.reader import Reader
from vist.eval.windows import count_pages, cut_window, cut_windows, fill_pages, packaged_text, with_wrong_texts
from vist.render import PAGE_STYLES

STYLE = PAGE_STYLES["vist"]


def slowly_filled(text: str, pages: int) -> str:
    """Add words at the front, one after the other, until they no longer fit."""
    starts = [0, *(place + 1 for place, character in enumerate(text[:-1]) if character.isspace())]
    kept = ""
    for start in reversed(starts):
        if count_pages(text[start:], STYLE) > pages:
            break
        kept = text[start:]
    return kept


@pytest.mark.parametrize("pages", [1, 2])
def test_distant_text_is_the_longest_that_fits(pages: int) -> None:
    text = alice(4_000).replace("\n", " ")
    kept = fill_pages(text, pages, STYLE)
    slow = slowly_filled(text[-pages * 1000 :], pages)
    assert text.endswith(kept)
    assert count_pages(kept, STYLE) == pages
    assert abs(len(kept) - len(slow)) <= 12  # adding a word in front can shift rows either way
    assert text[len(text) - len(kept) - 1].isspace()


def test_a_text_that_fits_is_kept_whole() -> None:
    assert fill_pages("A short one.", 3, STYLE) == "A short one."


def test_a_text_without_blanks_is_cut_anywhere() -> None:
    kept = fill_pages("x" * 5_000, 1, STYLE)
    assert count_pages(kept, STYLE) == 1
    assert count_pages(kept + "xx", STYLE) == 2


def test_text_and_tokens_of_a_window_are_one_piece_of_the_document(reader: Reader) -> None:
    text = alice(20_000)
    window = cut_window(reader, text, 15_000, pages=2, proximal=50)
    assert window is not None
    proximal = reader.tokenizer.decode(window.proximal)
    assert text[:15_000].endswith(window.distant + proximal)
    assert proximal[0].isspace()
    assert 50 <= len(window.proximal) < 60
    assert reader.ids(window.distant + proximal) == [*reader.ids(window.distant), *window.proximal]


def test_windows_are_spread_over_the_document_and_short_texts_are_counted(reader: Reader) -> None:
    text = alice(30_000)
    windows, short = cut_windows(reader, ["Too short.", text], pages=1, proximal=40, windows=4)
    assert (len(windows), short) == (4, 1)
    assert {window.document for window in windows} == {1}
    places = [text.index(window.distant) for window in windows]
    assert places == sorted(places)
    assert places[0] < 4_000
    assert places[-1] > 28_000


def test_texts_that_are_all_too_short_are_refused(reader: Reader) -> None:
    with pytest.raises(VistError, match="fills 4 pages and 256 tokens.*longest has 500 characters"):
        cut_windows(reader, [alice(500)], pages=4, proximal=256, windows=2)


def test_wrong_pages_are_another_documents(reader: Reader) -> None:
    texts = [alice(9_000)[number * 3_000 : (number + 1) * 3_000] for number in range(3)]
    windows, _ = cut_windows(reader, texts, pages=1, proximal=30, windows=2)
    for window, passage in zip(windows, with_wrong_texts(reader, windows, 1), strict=True):
        assert passage.distant == window.distant
        assert passage.wrong not in texts[window.document]


def test_a_single_book_is_contrasted_with_another_one(reader: Reader) -> None:
    for name, other in (("alice_in_wonderland", "flatland_opening"), ("flatland_opening", "alice_in_wonderland")):
        windows, _ = cut_windows(reader, [packaged_text(name)], pages=1, proximal=30, windows=3)
        passages = with_wrong_texts(reader, windows, 1)
        assert all(passage.wrong in packaged_text(other) for passage in passages)
        assert len({passage.wrong for passage in passages}) == 3
        assert all(count_pages(passage.wrong, STYLE) == 1 for passage in passages)
