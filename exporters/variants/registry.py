"""Which variants there are, and how one is asked for: `legacy:converter=on`, `runtime.py:MyRuntime:eps=1e-5`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from torch import nn

from ...graphs.errors import InputError
from ..bound import BoundCheckpoint
from .dsl import dsl
from .hf import build as hf
from .legacy import legacy
from .reference import reference

Builder = Callable[..., nn.Module]
BUILDERS: dict[str, Builder] = {"dsl": dsl, "legacy": legacy, "reference": reference, "hf": hf}


@dataclass(frozen=True)
class VariantRequest:
    """A variant with its options, checked: `name` for its file, `builder`, and `options` as given."""

    name: str
    builder: Builder
    options: Mapping[str, str]

    def has_uniform_blocks(self, checkpoint: BoundCheckpoint) -> bool:
        """Whether all blocks are known to be alike, so that they may be instantiated from one."""
        follows_storage = self.options.get("activations") == "ggml"
        return self.builder in (dsl, legacy, reference) and (not follows_storage or checkpoint.stores_blocks_alike())

    @property
    def weights(self) -> str:
        return self.options.get("weights", "as_stored")

    def build(self, checkpoint: BoundCheckpoint) -> nn.Module:
        """The torch module.

        Raises:
            InputError: the builder cannot take this checkpoint, or returns something else than a module.
        """
        try:
            module = self.builder(checkpoint, **self.options)
        except InputError:
            raise
        except Exception as e:  # a user's own code may raise anything
            reason = (str(e).splitlines() or [""])[0]
            raise InputError(f"variant {self.name}: cannot be built ({type(e).__name__}: {reason})") from e
        if not isinstance(module, nn.Module):
            raise InputError(f"variant {self.name}: {self.builder.__name__} returned no torch module")
        return module


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
    elif head in BUILDERS:
        name, builder = head, BUILDERS[head]
    else:
        raise InputError(f"variant {head}: unknown; there are {', '.join(BUILDERS)}, or FILE.py:NAME of your own")
    return VariantRequest(name, builder, _options(head, builder, rest))


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
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a Python file that holds {name}")
    spec = importlib.util.spec_from_file_location(f"opdiff_variant_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # the user's own file may raise anything
        raise InputError(f"{path}: cannot be imported ({type(e).__name__}: {e})") from e
    builder = getattr(module, name, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{path}: holds no {name}; it has {', '.join(names) or 'nothing to call'}")
    return builder
