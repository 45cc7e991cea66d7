"""`report.html` of result rows: tables and plots of everything that was measured, self-contained.

Owns what the page says; the words are in assets/templates/results.html.j2. Does not measure.

Decisions
- As the demo's report: images are data URIs, no script, no web font, all text of files escaped.
- Of each task first the plots, then the tables; a table longer than a screen is folded.
"""

from __future__ import annotations

from collections.abc import Sequence

from vist.eval.figures import draw_all
from vist.eval.report import svg_uri, template_environment
from vist.eval.scores import Row
from vist.eval.tables import TABLES, grouped, origin, tables

UNFOLDED = 25  # lines of a table


def render_results(rows: Sequence[Row], mark_commits: bool = False) -> str:
    """The page as HTML."""
    sections = [
        {
            "title": f"{task}: {model}",
            "origin": [line.replace("`", "").replace("**", "") for line in origin(chosen)],
            "limited": any(row.get("limit") is not None for row in chosen),
            "plots": [
                {"title": title, **{name: svg_uri(svg) for name, svg in drawn.items()}}
                for title, drawn in draw_all(chosen, task)
            ],
            "tables": [
                {"name": name, "head": head, "body": body, "folded": len(body) > UNFOLDED}
                for name, (head, body) in zip(TABLES, tables(chosen, mark_commits), strict=True)
                if head
            ],
        }
        for (task, model), chosen in grouped(rows).items()
    ]
    template = template_environment().get_template("results.html.j2")
    return template.render(sections=sections, mixed=mark_commits)
