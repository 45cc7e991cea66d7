"""Which model counts images and text by which rule: a table with a source and a date for every row.

Owns the table and the way from a model's name to its row. Knows nothing about how a rule computes: `rules` does.

Decisions
- A row says where its rule was read and on which day. The providers' pages were read through public notes that quote
  them, the open models' rules in their processors' code and configuration; docs/accounting.md says which.
- Rules change under a model's name. An older rule that is still served by other hosts keeps a row of its own, named
  `<model>@2025`, so that it can be asked for and its published examples stay tested.
- A name belongs to a row when a pattern of the row matches its beginning and the match ends at the end, a hyphen or an
  at sign: `gpt-5-2025-08-07` is gpt-5, `gpt-5.3` is not. The longest match wins. An unknown name is refused, because
  a wrong rule can promise a saving that is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vist.errors import VistError
from vist.gateway.rules import (
    AreaRule,
    CropRule,
    GridRule,
    ImageRule,
    LevelRule,
    MergeRule,
    ModeRule,
    PatchRule,
    TileRule,
)

_OPENAI = "https://developers.openai.com/api/docs/guides/images-vision"
_CLAUDE = "https://platform.claude.com/docs/en/build-with-claude/vision"
_GEMINI = "https://ai.google.dev/gemini-api/docs/image-understanding"
_RESOLUTION = "https://ai.google.dev/gemini-api/docs/media-resolution"
_QWEN2 = "https://huggingface.co/Qwen/Qwen2-VL-7B-Instruct"
_QWEN3 = "https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct"
_GLM = "https://huggingface.co/zai-org/GLM-4.6V-Flash"
_OCR = "https://github.com/deepseek-ai/DeepSeek-OCR"


@dataclass(frozen=True)
class Profile:
    """How one family of models counts.

    Attributes:
        name: the row's own name, for messages and reports.
        pattern: regular expression for the beginning of the models' names, in lower case.
        rule: how images are counted.
        source: where the rule was published.
        read: the day it was read, as ISO date.
        table: coefficients of the text estimate, a key of `estimate.COEFFICIENTS`.
        encoding: the tiktoken encoding of the models, or None when theirs is another tokenizer.
    """

    name: str
    pattern: str
    rule: ImageRule
    source: str
    read: str
    table: str
    encoding: str | None = None


def _openai(
    name: str, pattern: str, rule: ImageRule, read: str = "2026-08-31", encoding: str = "o200k_base"
) -> Profile:
    return Profile(name, pattern, rule, _OPENAI, read, encoding, encoding)


def _budget(multiplier: float, patches: int, longest: int = 2048) -> PatchRule:
    """A patch rule that is the same at every level of detail."""
    return PatchRule(multiplier, {detail: (longest, patches) for detail in ("auto", "high", "low")})


_GPT_5_4 = PatchRule(1.2, {"auto": (2048, 2500), "high": (2048, 2500), "low": (2048, 6144), "original": (6000, 10_000)})
# Only `auto` and `original` are documented for these; the others cannot cost more than the image as it is.
_GPT_5_6 = PatchRule(1.2, {detail: (65_535, None) for detail in ("auto", "original", "high", "low")})

PROFILES: tuple[Profile, ...] = (
    _openai("gpt-4o", r"(?:chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4\.5)", TileRule(85, 170)),
    _openai("gpt-4-turbo", r"gpt-4-(?:turbo|vision)", TileRule(85, 170), "2025-07-01", "cl100k_base"),
    _openai("gpt-4o-mini", r"gpt-4o-mini", TileRule(2833, 5667)),
    _openai("gpt-5", r"gpt-5(?:\.1)?", TileRule(70, 140)),
    _openai("o-series", r"o[13]", TileRule(75, 150)),
    _openai("computer-use-preview", r"computer-use-preview", TileRule(65, 129), "2025-07-01"),
    _openai("gpt-4.1-mini", r"gpt-4\.1-mini", _budget(1.62, 6144)),
    _openai("gpt-4.1-nano", r"gpt-4\.1-nano", _budget(2.46, 6144)),
    _openai("o4-mini", r"o4-mini", _budget(1.72, 6144)),
    _openai("gpt-5-mini", r"gpt-5-mini", _budget(1.2, 6144)),
    _openai("gpt-5-nano", r"gpt-5-nano", _budget(1.5, 6144)),
    _openai("gpt-5.2", r"gpt-5\.2", _budget(1.2, 6144)),
    _openai("gpt-5.4", r"gpt-5\.[45]", _GPT_5_4),
    _openai("gpt-5.6", r"(?:gpt-5\.6|gpt-6)", _GPT_5_6, "2026-09-27"),
    # Until 2026 the patch models had one budget of 1,536 patches, and two of them other multipliers.
    _openai("gpt-4.1-mini@2025", r"(?:gpt-4\.1-mini|gpt-5-mini)@2025", _budget(1.62, 1536, 65_535), "2025-07-01"),
    _openai("gpt-4.1-nano@2025", r"(?:gpt-4\.1-nano|gpt-5-nano)@2025", _budget(2.46, 1536, 65_535), "2025-07-01"),
    _openai("o4-mini@2025", r"o4-mini@2025", _budget(1.72, 1536, 65_535), "2025-07-01"),
    Profile(
        "claude-4.7",
        r"claude-[a-z]+-(?:4[.-](?:[7-9]|[1-9]\d)|[5-9]|[1-9]\d)(?:[.-]\d{1,2})?(?!\d)",
        GridRule(2576, 4784),
        _CLAUDE,
        "2026-08-31",
        "claude-2023",
    ),
    Profile(
        "claude",
        r"claude-(?:3(?:[.-][57])?(?:-[a-z]+)?|[a-z]+-4(?:[.-][0-6](?!\d))?)(?!\d)",
        GridRule(1568, 1568),
        _CLAUDE,
        "2026-08-31",
        "claude-2023",
    ),
    Profile("claude@2025", r"claude@2025", AreaRule(750, 1568, 1600), _CLAUDE, "2025-05-01", "claude-2023"),
    Profile("gemini-1", r"gemini-1\.\d", LevelRule({"auto": 258}), _GEMINI, "2025-11-18", "o200k_base"),
    Profile("gemini-2", r"gemini-2\.\d", CropRule(), _GEMINI, "2026-08-31", "o200k_base"),
    Profile(
        "gemini-3",
        r"gemini-3(?:\.\d)?",
        LevelRule({"auto": 1120, "low": 280, "medium": 560, "high": 1120, "ultra_high": 2240}),
        _RESOLUTION,
        "2026-09-27",
        "o200k_base",
    ),
    Profile("qwen2-vl", r"qwen2(?:\.5)?-vl", MergeRule(28, 3136, 12_845_056), _QWEN2, "2026-11-21", "deepseek-v3"),
    Profile("qwen3-vl", r"qwen3(?:-vl|\.5)", MergeRule(32, 65_536, 16_777_216), _QWEN3, "2026-11-21", "deepseek-v3"),
    # A still image counts as two frames in the range of px.
    Profile(
        "glm-4v",
        r"(?:glm-4\.[156]v|glm-ocr|glyph)",
        MergeRule(28, 12_544 // 2, 9_633_792 // 2, enlarge=True),
        _GLM,
        "2026-11-21",
        "deepseek-v3",
    ),
    Profile(
        "deepseek-ocr",
        r"deepseek-ocr",
        ModeRule(
            {"tiny": 64, "small": 100, "base": 256, "large": 400}, crop=100, overview=256, small=640, crops=(2, 9)
        ),
        _OCR,
        "2025-10-23",
        "deepseek-v3",
    ),
)

# Models that a row's pattern would take in, and that read no images or count them by an unpublished rule.
_WITHOUT_RULE = re.compile(
    r"(?:o[13]-mini|gpt-4o(?:-mini)?-(?:audio|realtime|transcribe|tts)|o1-preview|deepseek-ocr-2)"
)


@lru_cache(maxsize=1024)
def resolve_profile(model: str) -> Profile:
    """Return the row of a model.

    Args:
        model: the model's name as a request gives it; a host's prefix (`openai/`, `models/`, `us.anthropic.`) is
            ignored, and so are capitals.

    Raises:
        VistError: the table has no rule for the model.
    """
    name = re.sub(r"^(?:[a-z]+\.)?(?:anthropic|openai|google)\.", "", model.strip().lower().rpartition("/")[2])
    best, length = None, 0
    for profile in PROFILES if not _WITHOUT_RULE.match(name) else ():
        match = re.match(profile.pattern + r"(?=\Z|[-@:])", name)
        if match and match.end() > length:
            best, length = profile, match.end()
    if best is None:
        known = ", ".join(profile.name for profile in PROFILES)
        raise VistError(f"No image-token rule is known for the model {model!r}; known families: {known}.")
    return best
