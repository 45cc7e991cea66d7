"""Token accounting: every published example is equal, models find their rule, text counts say how they were made."""

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import vist
from vist.errors import VistError
from vist.gateway import accounting
from vist.gateway.accounting import image_tokens, resolve_profile, text_tokens
from vist.gateway.estimate import COEFFICIENTS, count_classes, estimate_tokens
from vist.gateway.profiles import PROFILES
from vist.gateway.rules import GridRule

ALICE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")

# developers.openai.com/api/docs/guides/images-vision and its earlier address platform.openai.com/docs/guides/vision,
# "Calculating costs": the worked examples of the tile rule, and the table of base and tile tokens.
OPENAI_TILES = [
    ("gpt-4o", 1024, 1024, "high", 765),
    ("gpt-4o", 2048, 4096, "high", 1105),
    ("gpt-4o", 4096, 8192, "low", 85),
    ("gpt-4.1", 1024, 1024, "auto", 765),
    ("gpt-4o-mini", 1024, 1024, "low", 2833),
    ("gpt-4o-mini", 1024, 1024, "high", 2833 + 4 * 5667),
    ("gpt-5", 1024, 1024, "high", 70 + 4 * 140),
    ("gpt-5.1", 1024, 1024, "low", 70),
    ("o1", 1024, 1024, "high", 75 + 4 * 150),
    ("o3", 1024, 1024, "low", 75),
    ("computer-use-preview", 1024, 1024, "high", 65 + 4 * 129),
]
# community.openai.com/t/1281361 (2025): tokens billed by gpt-4.1 at the edge of a tile, less 8 for the prompt's text.
OPENAI_BILLED = [("gpt-4.1", 2049, 513, "high", 1445), ("gpt-4.1", 2050, 513, "high", 765)]
# The same guide in 2025, GPT-4.1 mini, nano and o4-mini: 1024 x 1024 is 1024 patches, 1800 x 2400 is 1452; times the
# multiplier, rounded up. 4000 x 1474 is what OpenAI's own calculator showed (community.openai.com/t/1281361).
OPENAI_PATCHES_2025 = [
    ("gpt-4.1-mini@2025", 1024, 1024, "auto", 1659),
    ("gpt-4.1-mini@2025", 1800, 2400, "auto", 2353),
    ("gpt-4.1-nano@2025", 1024, 1024, "auto", 2520),
    ("o4-mini@2025", 1800, 2400, "auto", 2498),
    ("gpt-4.1-mini@2025", 4000, 1474, "auto", 2348),
]
# The guide as of 2026-08-31, its algorithm carried out by hand for common sizes in a public note of that day.
OPENAI_PATCHES = [
    ("gpt-5.4", 1920, 1080, "high", 2448),
    ("gpt-5.4", 2560, 1440, "high", 2765),
    ("gpt-5.4", 4032, 3024, "high", 2942),
    ("gpt-5.4", 2048, 1227, "high", 2996),
    ("gpt-5.2", 4032, 3024, "high", 3687),
    ("gpt-4.1-mini", 1920, 1080, "high", 3305),
    ("gpt-4.1-mini", 4000, 3000, "high", 4977),
    ("gpt-4.1-nano", 1024, 1024, "auto", 2520),
    ("o4-mini", 1024, 1024, "auto", 1762),
    ("gpt-5-mini", 1024, 1024, "low", 1229),
    ("gpt-5-nano", 1024, 1024, "auto", 1536),
    ("gpt-5.6-sol", 4800, 6400, "original", 36_000),  # 30,000 patches, the most that is not refused
]
# platform.claude.com/docs/en/build-with-claude/vision and .../vision-coordinates, tables of examples, 2026-08.
CLAUDE = [
    ("claude-sonnet-4-5", 200, 200, "auto", 64),
    ("claude-sonnet-4-5", 1000, 1000, "auto", 1296),
    ("claude-sonnet-4-5", 1092, 1092, "auto", 1521),
    ("claude-sonnet-4-5", 1920, 1080, "auto", 1560),
    ("claude-sonnet-4-5", 2000, 1500, "auto", 1564),
    ("claude-sonnet-4-5", 3840, 2160, "auto", 1560),
    ("claude-sonnet-4-5", 3000, 200, "auto", 224),  # a panorama: 1568 x 105 px by the limit of the side
    ("claude-opus-4-7", 1920, 1080, "auto", 2691),
    ("claude-opus-4-7", 3840, 2160, "auto", 4784),
]
# The same page until 2025: about 54, 1334 and 1590 tokens, at width x height / 750; larger images about 1,600.
CLAUDE_2025 = [
    ("claude@2025", 200, 200, "auto", 54),
    ("claude@2025", 1000, 1000, "auto", 1334),
    ("claude@2025", 1092, 1092, "auto", 1590),
    ("claude@2025", 4000, 4000, "auto", 1600),
]
# ai.google.dev/gemini-api/docs/image-understanding (960 x 540 is 6 tiles of 258; 258 up to 384 px both sides), the
# crops' range of 256 to 768 px from firebase.google.com/docs/ai-logic; .../media-resolution for Gemini 3.
GEMINI = [
    ("gemini-2.5-flash", 960, 540, "auto", 6 * 258),
    ("gemini-2.0-flash", 384, 384, "auto", 258),
    ("gemini-2.5-pro", 385, 100, "auto", 2 * 258),
    ("gemini-2.5-pro", 3840, 2160, "auto", 15 * 258),
    ("gemini-1.5-pro", 3000, 3000, "auto", 258),
    ("gemini-3-pro-preview", 960, 540, "auto", 1120),
    ("gemini-3-pro-preview", 960, 540, "low", 280),
    ("gemini-3.1-pro", 960, 540, "medium", 560),
    ("gemini-3.1-pro", 960, 540, "high", 1120),
    ("gemini-3.5-flash", 960, 540, "ultra_high", 2240),
]
# huggingface.co/Qwen/Qwen2-VL-7B-Instruct: 4 to 16,384 tokens an image, 28 x 28 px each; Qwen3-VL's and GLM-4.6V's
# preprocessor_config.json: 32 px and 28 px, least and most px. 3584 = 128 x 28, 4096 = 128 x 32.
OPEN_MODELS = [
    ("Qwen/Qwen2-VL-7B-Instruct", 1, 1, "auto", 4),
    ("Qwen/Qwen2.5-VL-7B-Instruct", 3584, 3584, "auto", 16_384),
    ("qwen2.5-vl-72b", 224, 280, "auto", 80),
    ("qwen2.5-vl-72b", 4000, 5000, "auto", 16_302),
    ("qwen3-vl-8b", 1, 1, "auto", 64),
    ("qwen3-vl-8b", 320, 640, "auto", 200),
    ("qwen3-vl-8b", 4096, 4096, "auto", 16_384),
    ("zai-org/Glyph", 595, 842, "auto", 630),
    ("glm-4.5v", 1, 1, "auto", 9),
    ("glm-4.5v", 10, 1000, "auto", 100),  # enlarged to 28 x 2800 px first
    ("glm-4.6v", 3000, 3000, "auto", 6084),
]
# github.com/deepseek-ai/DeepSeek-OCR, "Support-Modes", and arXiv 2510.18234 section 3.2.2: n x 100 + 256.
DEEPSEEK = [
    ("deepseek-ai/DeepSeek-OCR", 512, 512, "tiny", 64),
    ("deepseek-ocr", 640, 640, "small", 100),
    ("deepseek-ocr", 1024, 1024, "base", 256),
    ("deepseek-ocr", 1280, 1280, "large", 400),
    ("deepseek-ocr", 640, 640, "gundam", 256),
    ("deepseek-ocr", 1280, 640, "gundam", 2 * 100 + 256),
    ("deepseek-ocr", 595, 842, "gundam", 6 * 100 + 256),  # 2 x 3 is the nearest to 595 : 842
]
PUBLISHED = [
    *OPENAI_TILES,
    *OPENAI_BILLED,
    *OPENAI_PATCHES_2025,
    *OPENAI_PATCHES,
    *CLAUDE,
    *CLAUDE_2025,
    *GEMINI,
    *OPEN_MODELS,
    *DEEPSEEK,
]


@pytest.mark.parametrize(("model", "width", "height", "detail", "tokens"), PUBLISHED)
def test_published_examples_are_equal(model: str, width: int, height: int, detail: str, tokens: int) -> None:
    assert image_tokens(resolve_profile(model), width, height, detail) == tokens


@pytest.mark.parametrize(
    ("size", "seen"), [((1075, 1520), (924, 1307)), ((1920, 1080), (1456, 819)), ((1000, 1000), (1000, 1000))]
)
def test_claude_sees_the_documented_size(size: tuple[int, int], seen: tuple[int, int]) -> None:
    """Sizes of platform.claude.com/docs/en/build-with-claude/vision-coordinates."""
    assert GridRule(1568, 1568).resized(*size) == seen


@pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])
def test_every_row_has_a_source_a_day_and_counts_any_size(profile: accounting.Profile) -> None:
    assert profile.source.startswith("https://") and re.fullmatch(r"20\d\d-\d\d-\d\d", profile.read)
    assert profile.table in COEFFICIENTS and profile.rule.details[0] == "auto"
    assert resolve_profile(profile.name if "@" in profile.name else example(profile)) is profile
    for detail in profile.rule.details:
        for width, height in ((1, 1), (28, 28), (97, 3000), (3000, 97), (1568, 728)):
            tokens = image_tokens(profile, width, height, detail)
            assert isinstance(tokens, int) and tokens > 0


def example(profile: accounting.Profile) -> str:
    names = {
        "o-series": "o3-2025-04-16",
        "claude-4.7": "claude-sonnet-5",
        "claude": "claude-opus-4-6",
        "gemini-1": "gemini-1.5-pro",
        "gemini-2": "gemini-2.5-flash",
        "gemini-3": "gemini-3-flash-preview",
        "qwen2-vl": "qwen2.5-vl-7b-instruct",
        "glm-4v": "glm-4.5v",
    }
    return names.get(profile.name, profile.name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("gpt-5-mini", "gpt-5-mini"),
        ("gpt-5-mini@2025", "gpt-4.1-mini@2025"),
        ("GPT-5.4-nano", "gpt-5.4"),
        ("gpt-6-sol", "gpt-5.6"),
        ("claude-3-5-sonnet-20241022", "claude"),
        ("claude-3.7-sonnet", "claude"),
        ("claude-opus-4-20250514", "claude"),
        ("claude-opus-4-6", "claude"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude"),
        ("claude-opus-4-7", "claude-4.7"),
        ("anthropic/claude-opus-4.8", "claude-4.7"),
        ("claude-opus-4-10", "claude-4.7"),
        ("claude-fable-5-1", "claude-4.7"),
        ("models/gemini-2.0-flash-001", "gemini-2"),
        ("qwen3.5-27b", "qwen3-vl"),
    ],
)
def test_models_find_their_row(model: str, name: str) -> None:
    assert resolve_profile(model).name == name


@pytest.mark.parametrize(
    "model", ["", "gpt-3.5-turbo", "gpt-5.3", "o3-mini", "claude-2.1", "gemini-4-pro", "llama-3", "gpt-4", "xgpt-4o"]
)
def test_unknown_models_are_refused_with_what_is_known(model: str) -> None:
    with pytest.raises(VistError, match=f"{re.escape(repr(model))}; known families: gpt-4o, .*deepseek-ocr") as refused:
        resolve_profile(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "width", "height", "detail", "message"),
    [
        ("gpt-4o", 0, 10, "auto", "0 x 10 px"),
        ("gpt-4o", 10.5, 10, "auto", "10.5 x 10 px"),
        ("gpt-4o", 10, 10**9, "auto", "whole numbers from 1 to 1,000,000"),
        ("gpt-4o", 10, 10, "original", "gpt-4o has no detail 'original'; choose one of auto, high, low"),
        ("claude-opus-5", 10, 10, "high", "claude-4.7 has no detail 'high'; choose one of auto"),
        ("gpt-5.6", 4832, 6400, "auto", "30,200 patches.*30,000 at most"),
        ("qwen2-vl", 1, 300, "auto", "too slim"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(
    model: str, width: int, height: int, detail: str, message: str
) -> None:
    with pytest.raises(VistError, match=message):
        image_tokens(resolve_profile(model), width, height, detail)


@pytest.fixture(autouse=True)
def no_tiktoken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No encoding is cached, whatever this machine has."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    accounting._cached_encoding.cache_clear()
    yield
    accounting._cached_encoding.cache_clear()


def test_a_given_tokenizer_counts_exactly() -> None:
    profile = resolve_profile("gpt-4o")
    for tokenizer in (str.split, lambda text: 3, lambda text: {"input_ids": [1, 2, 3]}, Encoded):
        count = text_tokens(profile, "one two three", tokenizer)  # type: ignore[arg-type]
        assert count == accounting.TokenCount(3, True, "the given tokenizer")
    with pytest.raises(VistError, match="returned float"):
        text_tokens(profile, "one", lambda text: 1.5)


class Encoded:
    """What the tokenizers library returns."""

    def __init__(self, text: str) -> None:
        self.ids = text.split()


def test_tiktoken_counts_where_its_encoding_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[object] = []
    stub = types.ModuleType("tiktoken")

    class Encoding:
        def encode(self, text: str, disallowed_special: tuple[str, ...]) -> list[str]:
            calls.append(disallowed_special)
            return list(text)

    stub.get_encoding = lambda name: calls.append(name) or Encoding()  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "tiktoken", stub)
    profile = resolve_profile("gpt-4o")
    assert not text_tokens(profile, "abc").exact and calls == []  # nothing cached: it must not go and fetch it
    # The name that tiktoken gives the cached file of o200k_base.
    (tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790").touch()
    accounting._cached_encoding.cache_clear()
    assert text_tokens(profile, "abc") == accounting.TokenCount(3, True, "tiktoken o200k_base")
    assert calls == ["o200k_base", ()]
    assert not text_tokens(resolve_profile("claude-opus-5"), "abc").exact


def test_without_a_tokenizer_the_count_says_that_it_is_an_estimate() -> None:
    count = text_tokens(resolve_profile("gpt-4o"), ALICE)
    assert not count.exact and count.source == "estimate by character class, calibrated on o200k_base"
    assert "tokenizer unknown here" in text_tokens(resolve_profile("gemini-2.5-pro"), ALICE).source
    assert text_tokens(resolve_profile("gpt-4o"), "").count == 0


# Tokens of the first 100,000 characters of the packaged book, counted once with each tokenizer.
ALICE_TOKENS = {"o200k_base": 24187, "cl100k_base": 24355, "deepseek-v3": 24696, "claude-2023": 26228}


@pytest.mark.parametrize("table", COEFFICIENTS)
def test_the_estimate_of_english_prose_is_close(table: str) -> None:
    assert estimate_tokens(ALICE[:100_000], table) == pytest.approx(ALICE_TOKENS[table], rel=0.1)


def test_characters_count_by_class() -> None:
    classes = count_classes("Hello, world 12345!\nпривет 你好 한국 — é ዘ")
    expected = {"words": 2, "letters": 10, "threes": 2, "digits": 5, "punctuation": 2, "newlines": 1}
    scripts = {"cyrillic": 6, "han": 2, "hangul": 2, "dashes": 1, "latin": 1, "unseen": 1}
    assert classes == expected | scripts


def test_tables_price_every_class_and_a_longer_text_costs_more() -> None:
    assert len({tuple(table) for table in COEFFICIENTS.values()}) == 1
    for table in COEFFICIENTS:
        assert estimate_tokens("你好" * 100, table) > estimate_tokens("你好", table) > 0
        assert estimate_tokens("ዘ" * 50, table) == 100
