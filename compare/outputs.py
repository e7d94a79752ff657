"""Where a result goes beside the terminal: files, each written whole, of one result. Nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..graphs.errors import InputError
from ..graphs.weights import check_folder, written_beside
from .baseline import Compared
from .result import Result
from .verdict.verdict import Verdict

Found = Result | Verdict
Writer = Callable[[Result | Verdict, Compared | None], str]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that are asked for."""

    json: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    summary: Path | None = None
    model_explorer: Path | None = None

    @property
    def has_pictures(self) -> bool:
        """Whether one of them holds the values' pictures."""
        return self.json is not None or self.html is not None

    def check(self) -> None:
        """See to it that each can be written, before anything is run.

        Raises:
            InputError: one has no folder, or two are the same file.
        """
        paths = [path for path, _ in self._writers()]
        for path in paths:
            check_folder(path)
            if paths.count(path) > 1:
                raise InputError(f"{path}: two results would be written there; give each a file of its own")

    def write(self, found: Found, against: Compared | None = None) -> None:
        """Write each, whole or not at all.

        against: what a baseline says of a result.
        """
        texts = [(path, make(found, against)) for path, make in self._writers()]
        for path, text in texts:
            with written_beside(path) as partial:
                partial.write_text(text, encoding="utf-8")

    def _writers(self) -> Iterator[tuple[Path, Writer]]:
        makers: tuple[tuple[Path | None, Writer], ...] = (
            (self.json, lambda found, against: found.to_json() + "\n"),
            (self.html, _html),
            (self.junit, _junit),
            (self.summary, _summary),
            (self.model_explorer, _model_explorer),
        )
        yield from ((path, make) for path, make in makers if path is not None)


# Each is imported when it is asked for: templates and their engine take longer to load than a small comparison to run.
def _html(found: Found, against: Compared | None) -> str:
    from .report.html import page
    from .verdict.html import verdict_page

    return verdict_page(found) if isinstance(found, Verdict) else page(found)


def _junit(found: Found, against: Compared | None) -> str:
    from .report.junit import junit
    from .verdict.for_ci import verdict_junit

    return verdict_junit(found) if isinstance(found, Verdict) else junit(found, against)


def _summary(found: Found, against: Compared | None) -> str:
    from .report.summary import summary
    from .verdict.for_ci import verdict_summary

    return verdict_summary(found) if isinstance(found, Verdict) else summary(found, against)


def _model_explorer(found: Found, against: Compared | None) -> str:
    if isinstance(found, Verdict):
        raise InputError("--model-explorer: a verdict has no graph to colour; compare the two graphs")
    from .report.model_explorer import node_data

    has_nodes = any(row.b_nodes for row in found.rows)  # a recording has none
    return json.dumps(node_data(found, "b" if has_nodes else "a"), indent=1, allow_nan=False) + "\n"
