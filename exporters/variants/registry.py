"""Which variants there are, and how one is asked for: `legacy:converter=on`, `runtime.py:MyRuntime:eps=1e-5`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from torch import nn

from ...graphs.errors import InputError
from ..bound import BoundCheckpoint
from ..checkpoints import Family
from ..refusal import reason, with_own_line
from .dsl import dsl
from .hf import build as hf
from .legacy import legacy
from .own_file import beside, imported
from .reference import reference

Builder = Callable[..., nn.Module]
OWN_DECODERS: dict[str, Builder] = {"dsl": dsl, "legacy": legacy, "reference": reference}
BUILDERS = OWN_DECODERS | {"hf": hf}


@dataclass(frozen=True)
class VariantRequest:
    """A variant with its options, checked: `name` for its file, `builder`, and `options` as given.

    folder: where the file of a user's own variant lies.
    """

    name: str
    builder: Builder
    options: Mapping[str, str]
    folder: Path | None = None

    def at_home(self) -> AbstractContextManager[None]:
        """A block in which the variant's code may import the files that lie beside its own."""
        return nullcontext() if self.folder is None else beside(self.folder)

    def has_uniform_blocks(self, checkpoint: BoundCheckpoint) -> bool:
        """Whether all blocks are known to be alike, so that they may be instantiated from one."""
        follows_storage = self.options.get("activations") == "ggml"
        is_known = self.builder in OWN_DECODERS.values() and checkpoint.config.has_equal_blocks
        return is_known and (not follows_storage or checkpoint.stores_blocks_alike())

    @property
    def weights(self) -> str:
        return self.options.get("weights", "as_stored")

    def build(self, checkpoint: BoundCheckpoint) -> nn.Module:
        """The torch module.

        Raises:
            InputError: the builder cannot take this checkpoint, or returns something else than a module.
        """
        if self.builder in OWN_DECODERS.values():
            _check_covered(self.name, checkpoint.config)
        try:
            with self.at_home():
                module = self.builder(checkpoint, **self.options)
        except InputError as e:
            if self.folder is None:
                raise
            raise InputError(f"variant {self.name}: {with_own_line(e)}") from e
        except (Exception, SystemExit) as e:  # a user's own code may raise anything
            raise InputError(f"variant {self.name}: cannot be built: {reason(e)}") from e
        if not isinstance(module, nn.Module):
            raise InputError(f"variant {self.name}: {self.builder.__name__} returned no torch module")
        return module


def _check_covered(name: str, config: object) -> None:
    """Raise where opdiff's own decoder does not cover the checkpoint's family."""
    if isinstance(config, Family):
        raise InputError(
            f"variant {name}: not for this {config.model_type} ({config.refusal}); --variant hf takes it as it is"
        )


def parse_variant(text: str) -> VariantRequest:
    """Read `NAME[:key=value...]` or `FILE.py:NAME[:key=value...]`.

    Raises:
        InputError: an unknown variant, file, name, option or value; the message lists those that exist.
    """
    head, *rest = text.split(":")
    if head.endswith(".py"):
        if not rest:
            raise InputError(f"variant {text}: name the function or class in the file, as in {head}:MyRuntime")
        name, builder, rest = rest[0], _from_file(Path(head), rest[0]), rest[1:]
        return VariantRequest(name, builder, _options(head, builder, rest), Path(head).resolve().parent)
    if head not in BUILDERS:
        raise InputError(f"variant {head}: unknown; there are {', '.join(BUILDERS)}, or FILE.py:NAME of your own")
    return VariantRequest(head, BUILDERS[head], _options(head, BUILDERS[head], rest))


def _options(variant: str, builder: Builder, texts: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    parameters = dict(list(inspect.signature(builder).parameters.items())[1:])
    hints = get_type_hints(builder if inspect.isfunction(builder) else builder.__init__)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in parameters:
            known = ", ".join(parameters) or "none"
            raise InputError(f"variant {variant}: option {text!r} is unknown; its options are: {known} (key=value)")
        allowed = get_args(hints.get(key)) if get_origin(hints.get(key)) is Literal else ()
        if allowed and value not in allowed:
            raise InputError(f"variant {variant}: {key}={value} is unknown; {key} is one of: {', '.join(allowed)}")
        options[key] = value
    return options


def _from_file(path: Path, name: str) -> Builder:
    module = imported(path)
    builder = getattr(module, name, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{path}: holds no {name}; it has {', '.join(names) or 'nothing to call'}")
    return builder
