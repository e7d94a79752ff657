"""A pair that parts, one that does not, and text that breaks what is careless; the pairs are of a dozen nodes, really compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from onnx_text import DECODER, save_decoder

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result

OTHER = DECODER.replace("act1 = Relu(up1)", "act1 = Abs(up1)")
HOSTILE = "<script>alert(1)</script> `a` ``b`` | * _c_ [d](e) ]]> &amp; \x00\x1b[31m\r\n::error::f % @team #1 $g$ https://h \udc80 \u202e"


@pytest.fixture(scope="session")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """B has another operator in its second block."""
    folder = tmp_path_factory.mktemp("parted")
    a, b = save_decoder(folder / "a.onnx"), save_decoder(folder / "b.onnx", text=OTHER)
    return compare(a, b, [1, 5, 3])


@pytest.fixture(scope="session")
def same(tmp_path_factory: pytest.TempPathFactory) -> Result:
    path = save_decoder(tmp_path_factory.mktemp("same") / "a.onnx")
    return compare(path, path, [1, 5, 3])


@pytest.fixture(scope="session")
def with_text(parted: Result) -> Callable[[str], Result]:
    """The pair that parts, with a text wherever files could have brought one in."""

    def made(text: str) -> Result:
        cause = replace(parted.root_causes[0], what=text, text=text, also_fits=(text,), source=f"{text}:1")
        sides = {role: replace(getattr(parted, role), name=text, runtime=text, path=text) for role in "ab"}
        return replace(parted, root_causes=(cause,), notes=(text,), verdict=text, **sides)

    return made


@pytest.fixture
def hostile(with_text: Callable[[str], Result]) -> Result:
    return with_text(HOSTILE)
