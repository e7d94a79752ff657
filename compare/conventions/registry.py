"""The catalogue's two registers: the model function of each stage, and the conventions that these functions read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import cleandoc

from ...graphs.decoder_config import DecoderConfig
from .case import Array
from .evaluate import Run
from .fit import Fitted, Question
from .settings import AS_CONFIGURED, Settings, Value
from .tables import MODELS, STANDARDS

Model = Callable[[Run, int | None], Array]
Alternatives = Callable[[Question], Iterable[Value]]
Fit = Callable[[Question], Iterable[Fitted]]

REGISTER: dict[str, Convention] = {}


@dataclass(eq=False, slots=True)
class Convention:
    """One nameable choice of mathematics.

    Args:
        name: `family.aspect`.
        stages: the stages whose model function reads it.
        standard: its value where nothing is set, from the configuration.
        alternatives: the values worth a try at a region; its docstring describes the convention.
        rank: 0 for likely and structural, 1 for numbers, 2 for what is rarely seen.
        last_resort: tried only when nothing else fits, because it can imitate other conventions.
        fit: values solved from the region's output, each raw and then shortened.
        number: for values that are names of numbers ("1/sqrt(width)"), the number.
        configured: what AS_CONFIGURED means for a configuration, in words.
    """

    name: str
    stages: tuple[str, ...]
    standard: Callable[[DecoderConfig], Value]
    alternatives: Alternatives
    rank: int = 0
    last_resort: bool = False
    fit: Fit | None = None
    number: Callable[[Value, DecoderConfig], float] | None = None
    configured: Callable[[DecoderConfig], str] | None = None

    def written(self, value: Value, config: DecoderConfig) -> str:
        """A value for a reader; the name of a number is one reading of it, and comes behind it."""
        if self.configured is not None and value == AS_CONFIGURED:
            return self.configured(config)
        if self.number is None or not isinstance(value, str):
            return str(value)
        number = f"{self.number(value, config):.7g}"
        return number if number == value else f"{number} ({value})"

    @property
    def description(self) -> str:
        """What it is, in the words of its docstring."""
        return cleandoc(self.alternatives.__doc__ or "")

    def fitted(self, fit: Fit) -> Fit:
        """Decorate the function that solves this convention's value from a region's output."""
        self.fit = fit
        return fit


def convention(
    name: str,
    stages: Sequence[str],
    standard: Value | Callable[[DecoderConfig], Value],
    *,
    rank: int = 0,
    last_resort: bool = False,
    number: Callable[[Value, DecoderConfig], float] | None = None,
    configured: Callable[[DecoderConfig], str] | None = None,
) -> Callable[[Alternatives], Convention]:
    """Decorate the function that yields a convention's alternatives, and enter it in the register."""
    default = standard if callable(standard) else lambda config: standard

    def enter(alternatives: Alternatives) -> Convention:
        assert name not in REGISTER, name
        entered = Convention(
            name, tuple(stages), default, alternatives, rank, last_resort, number=number, configured=configured
        )
        REGISTER[name] = entered
        STANDARDS[name] = default
        return entered

    return enter


def model(stage: str) -> Callable[[Model], Model]:
    """Decorate the function that computes a stage from the stages before it."""

    def enter(function: Model) -> Model:
        assert stage not in MODELS, stage
        MODELS[stage] = function
        return function

    return enter


def conventions() -> Iterator[Convention]:
    """Every convention, likelier ones first, then in the order of their definition."""
    yield from sorted(REGISTER.values(), key=lambda entered: entered.rank)


def standard_settings(config: DecoderConfig) -> Settings:
    """Every convention at its standard value for an architecture and a configuration."""
    return Settings({entered.name: entered.standard(config) for entered in REGISTER.values()})
