"""Every odd input has an answer: drawn, counted, or refused in one sentence."""

import errno
import io
import os
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from vist.errors import RenderLossError, VistError
from vist.render import Pages, PageStyle, iter_pages, layout, render

ALONE = PageStyle(name="alone", fallback=())


def same(left, right):
    return left.hashes == right.hashes and np.array_equal(left.spans, right.spans) and left.losses == right.losses


def test_empty_text_has_no_pages():
    pages = render("")
    assert len(pages) == 0 and pages.pixels.shape == (0, 224, 224) and pages.spans.shape == (0, 2)
    assert pages.ink.shape == (0, 16, 16) and pages.hashes == [] and not pages.loss
    assert len(layout("")) == 0 and list(iter_pages("")) == []


def test_text_shorter_than_a_page():
    pages = render("Hi")
    assert len(pages) == 1 and pages.ink[0].sum() == 1 and pages.ink[0, 0, 0]


def test_only_blanks_is_a_page_without_ink():
    pages = render(" \n ")
    assert len(pages) == 1 and not pages.ink.any() and (pages.pixels == 255).all()


@pytest.mark.parametrize("text", ["a\0b", "a\x1bb", "a\x7fb", "a\ud800b", "a\udfffb"])
def test_controls_and_surrogates_are_replaced_and_counted(text):
    pages = render(text)
    assert pages.loss.replaced == {ord(text[1]): 1} and pages.loss.count() == 1
    assert np.array_equal(pages.pixels, render("a\ufffdb").pixels)
    with pytest.raises(RenderLossError, match=f"U\\+{ord(text[1]):04X}"):
        render(text, on_loss="raise")


def test_newlines_and_tabs_are_folded_without_loss():
    pages = render("a\r\nb\tc\n", on_loss="raise")
    assert pages.loss.folded == {0x0A: 2, 0x09: 1} and not pages.loss
    assert np.array_equal(pages.pixels, render("a b c ").pixels)
    assert render("a\nb\tc", "code").loss.counts == {}


def test_byte_order_mark_and_invisible_characters_are_dropped_and_counted():
    pages = render("\ufeffa\u200bb\u00adc\u200ed")
    assert pages.loss.dropped == {0xFEFF: 1, 0x200B: 1, 0xAD: 1, 0x200E: 1}
    assert np.array_equal(pages.pixels, render("abcd").pixels)


def test_blanks_of_all_kinds_leave_no_ink():
    pages = render("\u00a0\u2003\u3000\u202f\u1680", ALONE)
    assert (pages.pixels == 255).all() and not pages.loss


def test_a_no_break_space_does_not_break():
    words = "aaaa\u00a0bbbb " * 20
    placed = layout(words)
    rows = placed.page * 16 + placed.row
    assert all(rows[i] == rows[i + 1] for i, char in enumerate(words) if char == "\u00a0")


def test_a_megabyte_without_blanks():
    text = "x" * 1_000_000
    pages = render(text, "vist-7")
    placed = layout(text[:5000], "vist-7")
    per_row = np.bincount(placed.page * 16 + placed.row)
    assert (per_row[:-1] == per_row[0]).all() and len(pages) == -(-1_000_000 // (16 * int(per_row[0])))
    assert pages.spans[-1, 1] == 1_000_000


def test_cjk_without_a_font_is_missing_and_visible():
    pages = render("漢字 and text", ALONE)
    assert pages.loss.missing == {0x5B57: 1, 0x6F22: 1}
    assert np.array_equal(pages.pixels, render("\ufffd\ufffd and text", ALONE).pixels)
    with pytest.raises(RenderLossError, match="2 characters that no font has .* U\\+5B57 CJK UNIFIED"):
        render("漢字", ALONE, on_loss="raise")


def test_loss_is_told_for_each_page():
    text = "word " * 300 + "\0" + " word" * 300
    pages = render(text)
    where = next(i for i, (a, b) in enumerate(pages.spans) if a <= text.index("\0") < b)
    assert [report.count() for report in pages.losses] == [int(i == where) for i in range(len(pages))]
    assert pages.loss.to_dict() == {"replaced": {"U+0000": 1}}


def test_more_pages_than_allowed():
    with pytest.raises(VistError, match=r"needs 9 pages of style 'vist' and the limit is 2: .*raise max_pages"):
        render("word " * 1100, max_pages=2)
    with pytest.raises(VistError, match="the limit is 1"):
        render("word " * 1100, PageStyle(max_pages=1))
    with pytest.raises(VistError, match="the limit is 1"):
        list(iter_pages("word " * 1100, PageStyle(max_pages=1)))
    assert len(render("word " * 1100, max_pages=9)) == 9


@pytest.mark.parametrize("wrong", [b"bytes", None, 3, ["list"]])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(VistError, match=type(wrong).__name__):
        render(wrong)
    with pytest.raises(VistError, match=type(wrong).__name__):
        layout(wrong)


def test_other_mistakes():
    with pytest.raises(VistError, match="on_loss='ignore'"):
        render("a", on_loss="ignore")
    with pytest.raises(VistError, match="max_pages=0"):
        render("a", max_pages=0)
    with pytest.raises(VistError, match="text mode"):
        list(iter_pages(io.BytesIO(b"abc")))
    with pytest.raises(VistError, match="no font 'Comic'"):
        render("a", PageStyle(font="Comic"))


def test_a_file_that_is_no_font(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"not a font")
    with pytest.raises(VistError, match="not an outline font"):
        render("a", PageStyle(font=str(tmp_path / "a.ttf")))


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_a_stream_gives_the_same_pages(size, monkeypatch):
    monkeypatch.setattr(sys.modules["vist.render.layout"], "BLOCK", 2048)
    lines = ["It was the best of times, it was the worst of times — אבג דה (1859)\r\n", "\t中文 e\u0301 😀\0\n"]
    text = "".join(lines[i % 7 == 3] for i in range(250))
    if size == 1:
        text = text[:9000]
    whole = render(text, ALONE)
    parts = list(iter_pages((text[i : i + size] for i in range(0, len(text), size)), ALONE))
    assert same(Pages.concatenate(parts, ALONE), whole) and "".join(p.text for p in parts) == text
    assert same(Pages.concatenate(iter_pages(io.StringIO(text, newline=""), ALONE), ALONE), whole)


def test_memory_does_not_grow_with_the_text():
    def stream(size):
        tracemalloc.start()
        count = sum(len(pages) for pages in iter_pages(("some words to read " * 50 for _ in range(size // 950)), ALONE))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, peak

    render("some words to read ", ALONE)
    (_, small), (pages, large) = stream(200_000), stream(2_000_000)
    assert pages * 224 * 224 > 100e6 and large < 1.2 * small and large < 30e6


def test_save_writes_pages_and_manifest(tmp_path):
    pages = render("word " * 300 + "\0")
    folder = pages.save(tmp_path / "new" / "pages")
    manifest = pages.manifest()
    assert sorted(os.listdir(folder)) == ["manifest.json", *(page["file"] for page in manifest["pages"])]
    for number, page in enumerate(manifest["pages"]):
        with Image.open(folder / page["file"]) as image:
            assert np.array_equal(np.asarray(image), pages.pixels[number])
    with pytest.raises(VistError, match="exists already"):
        pages.save(folder)


@pytest.mark.parametrize("name", ["page-00001.png", "manifest.json"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, name):
    import builtins

    plain = builtins.open

    def full(path, *rest, **more):
        if str(path).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return plain(path, *rest, **more)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(VistError, match="No space left on device"):
        render("word " * 300).save(tmp_path / "pages")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(VistError, match="could not be written"):
        render("a").save(tmp_path / "file" / "pages")
    assert os.listdir(tmp_path) == ["file"]


def test_pages_are_cut_and_joined():
    text = "some words " * 300
    pages = render(text)
    one, rest = pages[0], pages[1:]
    assert len(one) == 1 and one.text + rest.text == text and one.spans.tolist() == [[0, len(one.text)]]
    assert same(Pages.concatenate([one, rest], pages.style), pages)
    assert [page.hashes[0] for page in pages] == pages.hashes
    assert np.array_equal(np.asarray(pages.to_image(1)), pages.pixels[1])
    with pytest.raises(VistError, match="steps of 2"):
        pages[::2]
    with pytest.raises(IndexError):
        pages[len(pages)]
