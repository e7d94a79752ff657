"""Settings: which value each convention has, as an immutable mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

AS_CONFIGURED = "as_configured"  # what the configuration says of the block
Value = str | float | int | bool | None | tuple["Value", ...]


class Settings(Mapping[str, Value]):
    """Convention names and their values; whatever is not set is standard. Hashable, and never changed in place."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values: dict[str, Value] = dict(sorted((values or {}).items()))

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Settings({self._values!r})"

    def with_value(self, name: str, value: Value) -> Settings:
        """These settings with one convention changed."""
        return Settings({**self._values, name: value})
