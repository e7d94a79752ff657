"""A result that was saved as JSON, read back: checked against the record's own types, so that what is drawn is what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..graphs.errors import InputError
from ..graphs.reading import text_in
from .result import SCHEMA, Result
from .verdict.verdict import SCHEMA as VERDICT_SCHEMA
from .verdict.verdict import Verdict

_KINDS: dict[str, type] = {SCHEMA: Result, VERDICT_SCHEMA: Verdict}


def read_saved(path: Path) -> Result | Verdict:
    """What `opdiff compare --json` or `opdiff verdict --json` wrote.

    Raises:
        InputError: the file cannot be read, is no result, or is one of another version.
    """
    content = _json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, str) or not schema.startswith("opdiff."):
        raise InputError(f"{path}: no result of opdiff; give a file that --json wrote")
    if schema not in _KINDS:
        known = ", ".join(_KINDS)
        raise InputError(
            f"{path}: its schema is {schema!r:.40}, and this opdiff reads {known}; run the comparison again"
        )
    without = {key: value for key, value in content.items() if key not in ("schema", "passes")}
    try:
        found: Result | Verdict = adapter(_KINDS[schema]).validate_python(without)
    except (ValidationError, RecursionError) as e:
        raise InputError(f"{path}: no whole result ({_first(e)}); run the comparison again") from e
    if isinstance(found, Result):
        for what in _loose(found):
            raise InputError(f"{path}: no whole result ({what}); run the comparison again")
    return found


def _loose(result: Result) -> Iterator[str]:
    """What names a tap that is not there."""
    shown, apart = ({one.tap for one in records} for records in (result.rows, result.divergences))
    yield from (f"divergences: {tap!r:.80} has no row" for tap in apart - shown)
    for n, cause in enumerate(result.root_causes):
        if not cause.taps or not set(cause.taps) <= apart:
            yield f"root_causes.{n}: it has taps that do not differ, or none"
    for n, one in enumerate(result.latent):
        if not one.taps or not set(one.taps) <= shown:
            yield f"latent.{n}: it has taps that have no row, or none"


def read_result(path: Path) -> Result:
    """The same, of `opdiff compare` alone.

    Raises:
        InputError: as above, or it is a verdict.
    """
    found = read_saved(path)
    if not isinstance(found, Result):
        raise InputError(f"{path}: a verdict, where the result of opdiff compare is wanted")
    return found


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """What checks a record of this type."""
    return TypeAdapter(kind)


def _json(path: Path) -> Any:
    try:
        return json.loads(text_in(path, "give a file that --json wrote"))
    except (ValueError, RecursionError) as e:  # no JSON, or too deep
        raise InputError(f"{path}: not JSON ({e!s:.80}); give a file that --json wrote") from e


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too deep"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
