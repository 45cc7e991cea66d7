"""The model card of a VIST model or adapter, as Markdown with the Hub's metadata.

Owns its text. Writes only what the config and the weights say; quality is for whoever measured it to add.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"[\w][\w.-]*(?:/[\w][\w.-]*)?")


def public_id(source: str | None) -> str | None:
    """The source of a backbone if others can fetch it, a Hub id; None for a folder or an unnamed model."""
    if not source or not _HUB_ID.fullmatch(source) or Path(source).exists():
        return None
    return source


def model_card(
    name: str, config: Any, backbones: dict[str, dict[str, Any]], counts: dict[str, int], adapter: bool, tags: list[str]
) -> str:
    """The text of README.md.

    `backbones`: for "llm" and "vision" their `id`, `revision`, `model_type` and `fingerprint`, as in the adapter file.
    `counts`: parameters, `trained` and `total`. `tags` follow the project's own.
    """
    ids = [found for part in ("llm", "vision") if (found := public_id(backbones[part]["id"]))]
    load = "from_adapter" if adapter else "from_pretrained"
    kind = "an adapter: what was trained, without the two backbones" if adapter else "a whole model, backbones included"
    rows = "\n".join(_backbone_row(label, backbones[part]) for label, part in (("LLM", "llm"), ("vision", "vision")))
    lora = f"rank {config.lora_rank}" if config.lora_rank else "none"
    return f"""{_metadata(ids, tags)}
# {name}

{name} reads distant text as rendered pages: a frozen vision encoder and a resampler turn each page into
{config.num_visual_tokens} visual tokens, and the language model attends to those by cross-attention in every layer
(VIST, arXiv:2502.00791). This repository holds {kind}.

| backbone | source | revision | type | fingerprint |
|---|---|---|---|---|
{rows}

| choice | value |
|---|---|
| visual tokens per page | {config.num_visual_tokens} |
| reducer | {config.reducer}, {config.resampler_layers} layers, width {config.resampler_size} |
| page style | {config.style} |
| LoRA on the language model | {lora} |
| parameters, trained | {counts["trained"]:,} of {counts["total"]:,} |

```python
import vist

model = vist.VistForConditionalGeneration.{load}("{name}")
```

The backbones keep their own licences and limits. What pages lose is exact strings: names, numbers and code may be
misread. Quality has not been stated by whoever wrote this card.
"""


def _metadata(ids: list[str], tags: list[str]) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", *(f"- {tag}" for tag in ("vist", "long-context", "token-compression", *tags))]
    lines += ["base_model:", *(f"- {source}" for source in ids)] if ids else []
    return "\n".join([*lines, "---"])


def _backbone_row(label: str, backbone: dict[str, Any]) -> str:
    source = public_id(backbone["id"]) or "a model that is not on the Hub"
    revision = (backbone["revision"] or "-") if public_id(backbone["id"]) else "-"
    return f"| {label} | {source} | {revision} | {backbone['model_type']} | `{backbone['fingerprint']}` |"
