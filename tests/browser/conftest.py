"""A real browser, and pages of small graphs that were really compared, opened from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser.looking import WIDE, Opened
from onnx_text import DECODER, save_decoder

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.graphs.taps import Source

OTHER = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a page's HTML from disk; more: how the browser is set."""
    contexts = []

    def open_page(html: str, **more: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": WIDE, **more}))
        found = Opened(contexts[-1].new_page())
        found.page.on("request", lambda request: found.asked.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        found.page.goto((tmp_path / "page.html").as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """B has another operator in its second block."""
    folder = tmp_path_factory.mktemp("parted")
    a, b = save_decoder(folder / "a.onnx"), save_decoder(folder / "b.onnx", text=OTHER)
    return compare(a, b, [1, 5, 3])


@pytest.fixture
def with_text(parted: Result) -> Callable[[str], Result]:
    """The same with a text wherever a file could have brought one in."""

    def made(text: str) -> Result:
        node = Source(text, text, text, text, text)
        first, *rest = (replace(row, a_nodes=(node,) * 3, b_nodes=(node,), reason=text) for row in parted.rows)
        rows = (replace(first, tap=text, stage=text), *rest)
        sides = {name: replace(getattr(parted, name), name=text, runtime=text, path=text) for name in "ab"}
        cause = replace(parted.root_causes[0], what=text, text=text, source=text, also_fits=(text,))
        fault = replace(parted.divergences[0], a_node=node, b_node=node, difference=text, relations=(text,))
        found = {"rows": rows, "root_causes": (cause,), "divergences": (fault,), "notes": (text,), "only_a": (text,)}
        return replace(parted, pieces=dict.fromkeys(range(8), text), verdict=text, **found, **sides)

    return made
