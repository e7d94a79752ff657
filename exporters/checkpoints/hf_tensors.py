"""How GGUF's tensors are made of those of an HF folder: renamed, split, transposed, stacked, their rows in another order."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import TensorNameMap, get_tensor_name_map

from ...graphs.decoder_config import DecoderConfig
from ...graphs.errors import InputError
from .families import family_of_architecture
from .families.family import DecoderFamily
from .gguf_header import quoted
from .shapes import QKV, Shape
from .splitting import parts_of

_ARCHITECTURES = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
_KINDS = (".weight", ".bias")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One of GGUF's tensors, from one of HF's or from several that are stacked.

    sources: HF names. transposed: its last two axes change places first. rows: which rows are taken, in this order, along which
    axis; None: all. plus_one: then 1 is added, in float32. flat: it has one axis only.
    """

    sources: tuple[str, ...]
    transposed: bool = False
    rows: range | tuple[int, ...] | None = None
    axis: int = 0
    plus_one: bool = False
    flat: bool = False

    @property
    def first_row(self) -> int | None:
        """From which row on the source holds it as it is; None where it does not."""
        if self.transposed or self.plus_one or len(self.sources) > 1 or self.axis:
            return None
        if self.rows is None:
            return 0
        return self.rows.start if isinstance(self.rows, range) and self.rows.step == 1 else None

    @property
    def is_as_stored(self) -> bool:
        """Whether it is the source, whole and as it is."""
        return self == Recipe(self.sources[:1], flat=self.flat)

    def shape(self, shape_of: Callable[[str], Shape]) -> Shape:
        """Its shape, from those of the sources."""
        shape = list(shape_of(self.sources[0]))
        if self.transposed:
            shape[-2:] = shape[:-3:-1]
        shape[self.axis] = shape[self.axis] if self.rows is None else len(self.rows)
        shape = [math.prod(shape)] if self.flat else shape
        return (len(self.sources), *shape) if len(self.sources) > 1 else tuple(shape)

    def values(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """The tensor in C order: a view of the source where that is one."""
        parts = [self._taken(read(source)) for source in self.sources]
        return np.stack(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])

    def _taken(self, array: np.ndarray) -> np.ndarray:
        array = np.swapaxes(array, -1, -2) if self.transposed else array
        if isinstance(self.rows, range):
            rows = slice(self.rows.start, self.rows.stop, self.rows.step)
            array = array[(slice(None),) * self.axis + (rows,)]
        elif self.rows is not None:
            array = np.take(array, self.rows, self.axis)
        array = array.reshape(-1) if self.flat else array
        return array.astype(np.float32) + np.float32(1) if self.plus_one else array


def recipes(config: DecoderConfig, shapes: Mapping[str, Shape]) -> dict[str, Recipe]:
    """A recipe for each of a decoder's tensors, from the names and the shapes of all of HF's.

    Raises:
        InputError: a tensor of HF's has no name in GGUF, or two have one.
    """
    family = family_of_architecture(config.architecture)
    made: dict[str, Recipe] = {}
    for name, sources in _sources(family, shapes).items():
        whole = Recipe(tuple(sources), transposed=_is_transposed(family, name, shapes[sources[0]]))
        for part, recipe in _split(config, family, name, whole, shapes):
            if part in made:
                raise _unknown(sources[0])
            made[part] = recipe
    return made


def _sources(family: DecoderFamily, hf_names: Iterable[str]) -> dict[str, list[str]]:
    """GGUF name -> HF names, those of a list of modules in their order."""
    known = get_tensor_name_map(_ARCHITECTURES[family.architecture], 1)
    numbered: dict[str, dict[int, str]] = {}
    for hf_name in hf_names:
        if _of_block(hf_name) in family.hf_tensors.settings:
            continue
        name, number = _gguf_name(family, known, hf_name)
        if number in numbered.setdefault(name, {}):
            raise _unknown(hf_name)
        numbered[name][number] = hf_name
    return {name: [by_number[n] for n in sorted(by_number)] for name, by_number in numbered.items()}


def _gguf_name(family: DecoderFamily, known: TensorNameMap, hf_name: str) -> tuple[str, int]:
    """GGUF's name of HF's tensor, and its number in a list of modules: `experts.3`."""
    in_block = re.fullmatch(r"([a-z_.]+\.)(\d+)\.(.+)", hf_name)
    if in_block is None:
        name = known.get_name(hf_name, _KINDS)
        if name is None:
            raise _unknown(hf_name)
        return name, 0
    before, block, rest = in_block.groups()
    listed = re.fullmatch(r"(.*\b(?:experts|norms))\.(\d+)(.*)", rest)
    number = int(listed[2]) if listed else 0
    rest = listed[1] + listed[3] if listed else rest
    stem, kind = _stem_and_kind(rest)
    part = family.hf_tensors.renamed.get(stem)
    names = (table.get_name(f"{before}0.{rest}", _KINDS) for table in (known, _of_llama()))
    found = f"blk.0.{part}.{kind}" if part else next(filter(None, names), None)
    if found is None:
        raise _unknown(hf_name)
    return found.replace("blk.0.", f"blk.{block}."), number


def _of_block(hf_name: str) -> str:
    """The name within a block; empty outside of the blocks."""
    found = re.fullmatch(r"[a-z_.]+\.\d+\.(.+)", hf_name)
    return found[1] if found else ""


@cache
def _of_llama() -> TensorNameMap:
    """The names of dense blocks, which the table of a mixture of experts may not have."""
    return get_tensor_name_map(MODEL_ARCH.LLAMA, 1)


def _stem_and_kind(rest: str) -> tuple[str, str]:
    """`mlp.router.bias` is (`mlp.router`, `bias`); so is `mlp.router_bias`, and what has no kind is a weight."""
    found = re.fullmatch(r"(.*)[._](weight|bias)", rest)
    return (found[1], found[2]) if found else (rest, "weight")


def _is_transposed(family: DecoderFamily, name: str, shape: Shape) -> bool:
    of_experts = family.hf_tensors.experts_in_out and len(shape) == 3
    return of_experts or (family.hf_tensors.transposed and name.startswith("blk.") and len(shape) == 2)


def _split(
    config: DecoderConfig, family: DecoderFamily, name: str, whole: Recipe, shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, Recipe]]:
    shape = whole.shape(shapes.__getitem__)
    if "ffn_gate_up_exps" in name:
        for n, part in enumerate(("ffn_gate_exps", "ffn_up_exps")):
            yield name.replace("ffn_gate_up_exps", part), replace(whole, rows=_half(family, n, shape[1]), axis=1)
        return
    for part, of in parts_of(config, name, shape):
        rows = None if of.rows is None else range(*of.rows)
        which = part.split(".")[-2]
        if name != part and which in QKV and family.hf_tensors.qkv_by_head:
            yield part, replace(whole, rows=_of_heads(config, QKV.index(which)))
        elif which in QKV[:2] and family.hf_tensors.paired_rows:
            yield part, replace(whole, rows=tuple(_paired(config.head_dim, rows or range(shape[0]))))
        else:
            gains = family.hf_tensors.gains_without_one and part.endswith("norm.weight")
            yield part, replace(whole, rows=rows, plus_one=gains, flat=which == "ffn_gate_inp_shexp")


def _half(family: DecoderFamily, n: int, n_rows: int) -> range:
    """Gate's rows, or up's."""
    if family.hf_tensors.experts_in_out:
        return range(n, n_rows, 2)
    return range(n * n_rows // 2, (n + 1) * n_rows // 2)


def _of_heads(config: DecoderConfig, which: int) -> tuple[int, ...]:
    """The rows of q, k or v where each head has its q, k and v after each other."""
    dim = config.head_dim
    return tuple(head * 3 * dim + which * dim + i for head in range(config.n_heads) for i in range(dim))


def _paired(head_dim: int, rows: range) -> Iterator[int]:
    """Within each head rows i and i + D/2 side by side: a half-split RoPE pairing becomes an interleaved one.

    Source: llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute.
    """
    for start in range(rows.start, rows.stop, head_dim):
        for i in range(head_dim // 2):
            yield from (start + i, start + i + head_dim // 2)


def _unknown(hf_name: str) -> InputError:
    return InputError(f"tensor {quoted(hf_name)} is no part of the decoders that opdiff knows; use another checkpoint")
