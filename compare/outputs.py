"""Where a result goes beside the terminal: files, each written whole, of one result. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..graphs.errors import InputError
from ..graphs.weights import check_folder, written_beside
from .result import Result
from .verdict.verdict import Verdict

Found = Result | Verdict


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that are asked for."""

    json: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    summary: Path | None = None
    model_explorer: Path | None = None

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

    def write(self, found: Found) -> None:
        """Write each, whole or not at all."""
        texts = [(path, make(found)) for path, make in self._writers()]
        for path, text in texts:
            with written_beside(path) as partial:
                partial.write_text(text, encoding="utf-8")

    def _writers(self) -> Iterator[tuple[Path, Callable[[Found], str]]]:
        makers: tuple[tuple[Path | None, Callable[[Found], str]], ...] = (
            (self.json, lambda found: found.to_json() + "\n"),
            (self.html, _html),
            (self.junit, _junit),
            (self.summary, _summary),
            (self.model_explorer, _model_explorer),
        )
        yield from ((path, make) for path, make in makers if path is not None)


# Each is imported when it is asked for: templates and their engine take longer to load than a small comparison to run.
def _html(found: Found) -> str:
    from .report.html import page

    return page(found)


def _junit(found: Found) -> str:
    from .report.junit import junit

    return junit(found)


def _summary(found: Found) -> str:
    from .report.summary import summary

    return summary(found)


def _model_explorer(found: Found) -> str:
    if isinstance(found, Verdict):
        raise InputError("--model-explorer: a verdict has no graph to colour; compare the two graphs")
    from .report.model_explorer import model_explorer

    return model_explorer(found)
