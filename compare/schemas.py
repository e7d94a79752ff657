"""The JSON Schema of what --json writes, made from the records themselves. `python -m opdiff.compare.schemas FOLDER` writes the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from .result import SCHEMA, Result
from .saved import adapter
from .verdict.verdict import SCHEMA as VERDICT_SCHEMA
from .verdict.verdict import Verdict

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _WithNonFinite(GenerateJsonSchema):
    """Numbers that JSON cannot hold are text."""

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each file that is a record, by its name."""
    return {
        "result.json": _schema(Result, SCHEMA, {}),
        "verdict.json": _schema(Verdict, VERDICT_SCHEMA, {"passes": {"type": "boolean"}}),
    }


def _schema(kind: type, name: str, more: dict[str, Any]) -> dict[str, Any]:
    made = adapter(kind).json_schema(mode="serialization", schema_generator=_WithNonFinite)
    made["properties"] = {"schema": {"const": name}, **more, **made["properties"]}
    made["required"] = list(made["properties"])
    return {"$schema": _DIALECT, "title": name, **made}


if __name__ == "__main__":
    for file, schema in schemas().items():
        (Path(sys.argv[1]) / file).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
