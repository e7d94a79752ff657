"""A result as one page that opens from disk: the answer and the causes, the map, how the error grows, the logits, each tap."""

from __future__ import annotations

from html import escape

from ..result import Result
from .page.data import data, tap_places, token_text
from .page.document import document
from .page.grid import grid
from .sentences import WITHOUT_EFFECT, coverage, detail_lines, headline, latent_lines, logits_text, short_lines

_STYLES = ("style/page.css", "style/map.css", "style/growth.css", "style/tap.css", "vendor/uPlot.min.css")
_SCRIPTS = ("dom", "picture", "chart", "growth", "map", "tap", "main")


def page(result: Result) -> str:
    """The whole HTML, which loads nothing."""
    causes = [(short_lines(cause, result), tuple(detail_lines(cause, result)), cause) for cause in result.root_causes]
    return document(
        "result.html",
        _STYLES,
        ("vendor/uPlot.iife.min.js", *(f"script/{name}.js" for name in _SCRIPTS)),
        result=result,
        headline=headline(result),
        causes=causes,
        logits=logits_text(result),
        without_effect=WITHOUT_EFFECT,
        latent=latent_lines(result),
        coverage=coverage(result),
        grid=grid(result),
        places=tap_places(result),
        token_text=lambda token: token_text(result, token),
        data=data(result),
    )


def fragment(result: Result) -> str:
    """The page in a frame of its own, for a notebook: nothing of it reaches the notebook's own document."""
    frame = 'style="width:100%;height:50rem;border:1px solid #8888" sandbox="allow-scripts" title="opdiff report"'
    return f'<iframe {frame} srcdoc="{escape(page(result))}"></iframe>'
