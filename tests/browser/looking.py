"""A page that is open in a browser, and what a reader does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


@dataclass(frozen=True, slots=True)
class Opened:
    """A page that is open, and what it asked for or complained of since."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def cell(self, tap: str) -> Any:
        """The map's cell of a tap."""
        return self.page.locator(".grid button").filter(has_text=tap).first

    def cell_text(self, tap: str) -> str:
        """What is seen in it."""
        return self.cell(tap).locator("i:visible").inner_text()

    def dialog(self, tap: str) -> Any:
        return self.page.get_by_role("dialog", name=tap)

    def open(self, tap: str) -> Any:
        """Click its cell; the dialog that opens."""
        self.cell(tap).click()
        return self.dialog(tap)

    @property
    def focused_tap(self) -> str:
        return str(self.page.evaluate("document.activeElement.textContent")).split()[0].rstrip(",")

    @property
    def width(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def switch(self, n: int) -> None:
        """Show the n-th of the map's scales."""
        self.page.get_by_role("radio").nth(n).check(force=True)


Open = Callable[..., Opened]
