"""`report.html`: one self-contained page with the figures, the plots and the pages as the encoder sees them.

Owns what the page says. Layout and words are in assets/templates/report.html.j2. Does not measure.

Decisions
- Nothing is loaded from elsewhere: images are data URIs, there is no script and no web font.
- The overlay is SVG over the page's own pixels, so that every word can say its importance.
- All text that comes from the read file is escaped.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from vist.eval import plots
from vist.eval.demo import Demo
from vist.eval.importance import WordBox, token_importance, word_boxes
from vist.eval.reader import Reader
from vist.eval.recall import Recall
from vist.render import Pages

TEMPLATES = Path(__file__).parent.parent / "assets" / "templates"
_EXAMPLES = 6


@dataclass(frozen=True)
class PagePicture:
    """One page for the report: its image as a data URI and the boxes of its words."""

    image: str
    width: int
    height: int
    words: list[WordBox]
    text: str


def render_report(reader: Reader, text: str, demo: Demo, head: dict[str, Any], title: str) -> str:
    """The page as HTML. `text` is the whole text that was read, `head` is `vist.eval.provenance.provenance`'s."""
    importance, source = token_importance(reader, text)
    pages = reader.draw(demo.passage.distant)
    boxes = word_boxes(reader, demo.passage.distant, importance)
    values = demo.to_dict()
    return (
        template_environment()
        .get_template("report.html.j2")
        .render(
            **values,
            title=title,
            head=head,
            config=demo.config,
            style=reader.style,
            loss_sentence=demo.rendering.loss.sentence(),
            by_name={row["name"]: row for row in values["methods"]},
            recall_of={row["method"]: row for row in values["recall"] if row["kind"] == "all"},
            examples=example_answers(demo.recall),
            labels={row["name"]: row["label"] for row in values["methods"]},
            pictures=page_pictures(pages, boxes),
            importance_source=source,
            plots=_plots(values),
            proximal=reader.tokenizer.decode(demo.passage.proximal),
        )
    )


def page_pictures(pages: Pages, boxes: list[WordBox]) -> list[PagePicture]:
    """Each page's pixels with the boxes that lie on it."""
    return [
        PagePicture(
            image=png_uri(pages.to_image(number)),
            width=pages.style.width,
            height=pages.style.height,
            words=[box for box in boxes if box.page == number],
            text=pages[number].text,
        )
        for number in range(len(pages))
    ]


def png_uri(image: Image.Image) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_uri(svg: str) -> str:
    """A drawing as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def example_answers(recall: Recall) -> list[dict[str, Any]]:
    """The first questions, with what was said under each condition and by each method beside the model."""
    by_method = {
        method: [answer for answer in recall.answers if answer.condition is method] for method in recall.methods
    }
    return [
        {
            "cue": together[0].fact.cue,
            "answer": together[0].fact.answer,
            "page": together[0].depth + 1,
            "said": {
                answer.condition.value: {"text": " ".join(answer.continuation.split()), "exact": answer.exact}
                for answer in together
            },
        }
        for together in list(zip(*by_method.values(), strict=True))[:_EXAMPLES]
    ]


def _plots(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    labels = {row["method"]: row["label"] for row in values["recall"]}
    drawn = {
        "perplexity": plots.perplexity_plot(values["methods"]),
        "recall": plots.recall_plot(values["recall"]),
        "depth": plots.depth_plot(values["recall_by_page"], labels),
        "cost": plots.cost_plot(values["methods"]),
    }
    return {name: {theme: svg_uri(svg) for theme, svg in themes.items()} for name, themes in drawn.items()}


def template_environment() -> Environment:
    """Where the reports' templates come from: text is escaped, and a value that is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share, "size": size, "flops": flops}
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """A number with thousands separated, or a dash."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 0) -> str:
    """A share as per cent, or a dash."""
    return "–" if value is None or value != value else f"{value:.{digits}%}".replace("%", " %")


def size(value: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def flops(value: float) -> str:
    """Operations in G or T."""
    return f"{value / 1e12:.2f} T" if value >= 1e12 else f"{value / 1e9:.2f} G"
