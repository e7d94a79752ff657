"""One HTML document that needs nothing but itself: a template with its styles, scripts and data inlined."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ....graphs.printable import printable
from .numbers import number, percent

_HERE = Path(__file__).parent


def document(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """The page of a template.

    Args:
        styles, scripts: files of this folder, inlined in this order.
        values: what the template tells; text among them is escaped, and what does not show in it is written out.
    """
    style, script = _joined(styles), _joined(scripts)
    policy = _policy(style, script)
    return _environment().get_template(template).render(style=style, script=script, policy=policy, **values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.filters.update(number=number, percent=percent)
    return made


def _shown(value: Any) -> Any:
    return printable(value) if type(value) is str else value  # Markup is a str of another type, and is safe as it is


def _joined(names: Sequence[str]) -> Markup:
    return Markup("\n".join((_HERE / name).read_text(encoding="utf-8") for name in names))


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded from anywhere; only this style and this script may run."""
    allowed = f"script-src {_hash(script)}; style-src {_hash(style)}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
