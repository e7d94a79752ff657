"""The directive `json-schema FILE`: every record of a JSON Schema, with its description and a table of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import SphinxDirective

Schema = dict[str, Any]
_NAPOLEON = Config(napoleon_use_param=False, napoleon_custom_sections=[("Fields", "params_style")])


class SchemaTables(SphinxDirective):
    """Reads FILE, whose path is from the page's folder, and writes the record at its top first."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.relfn2path(self.arguments[0])[1])
        self.env.note_dependency(str(path))
        schema = json.loads(path.read_text(encoding="utf-8"))
        records = {schema["title"]: schema, **schema.get("$defs", {})}
        return [self._record(path.stem, name, record) for name, record in records.items()]

    def _record(self, file: str, name: str, record: Schema) -> nodes.section:
        section = nodes.section(ids=[_anchor(file, name)])
        section += nodes.title(text=name)
        lines = [*_described(record.get("description", "")), "", *_table(file, record)]
        self.state.nested_parse(StringList(lines, source=f"{file}:{name}"), self.content_offset, section)
        return section


def _anchor(file: str, name: str) -> str:
    return f"{file}-{name}".replace("/", "-").replace(".", "-").lower()


def _described(docstring: str) -> list[str]:
    """A record's docstring as reStructuredText."""
    return GoogleDocstring(docstring.replace("Args:\n", "Fields:\n").replace("|", r"\|"), _NAPOLEON).lines()


def _table(file: str, record: Schema) -> Iterator[str]:
    yield from (
        ".. list-table::",
        "   :header-rows: 1",
        "   :align: left",
        "   :widths: 30 70",
        "",
        "   * - field",
        "     - type",
    )
    for field, kind in record.get("properties", {}).items():
        yield f"   * - ``{field}``"
        yield f"     - {_type(file, kind)}"


def _type(file: str, kind: Schema) -> str:
    """A type in words; a record's name leads to its table."""
    if "$ref" in kind:
        name = kind["$ref"].rsplit("/", 1)[-1]
        return f"`{name} <#{_anchor(file, name)}>`__"
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(_type(file, one) for one in kind["anyOf"]))
    if "const" in kind or "enum" in kind:
        return ", ".join(f"``{json.dumps(one)}``" for one in kind.get("enum", [kind.get("const")]))
    if "prefixItems" in kind:
        return "[" + ", ".join(_type(file, one) for one in kind["prefixItems"]) + "]"
    if "items" in kind:
        return f"list of {_type(file, kind['items'])}"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"object: name to {_type(file, kind['additionalProperties'])}"
    return str(kind.get("type", "any"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("json-schema", SchemaTables)
    return {"parallel_read_safe": True}
