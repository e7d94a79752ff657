"""An artifact: an .onnx file with its taps exposed, beside the weight file that it shares."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from .decoder_config import DecoderConfig
from .errors import InputError
from .positions import POSITIONS
from .reading import contents, is_regular
from .slices import producers
from .soundness import check_by_onnx, check_sound
from .sources import source_of
from .stages import default_axes, is_stage, split_tap_name
from .taps import Tap
from .weights import SharedWeights, inside, written_beside

FORMAT = "1"
PRODUCER = "opdiff"
STORED_IN = "stored_in"  # the fact: the type of half precision in which a graph by another hand holds its weights
_KEY = "opdiff."
_AT_ONCE = 1 << 20  # elements of a weight that are compared
Maps = dict[Path, np.memmap]  # weight files, by their resolved paths
Read = tuple[onnx.ModelProto, str]  # what an .onnx file holds, without what lies outside of it, and its SHA-256


class NoTaps(InputError):
    """A graph that exposes no stage under a name of the vocabulary: one that opdiff did not export."""


@dataclass(frozen=True, slots=True)
class Weight:
    """An initializer outside of the graph: a view of the mapped file, and where that view stands."""

    array: np.ndarray
    identity: tuple[str, int, int]

    def equals(self, other: Weight) -> bool:
        """Whether both are the same place of a file, or hold the same bits in one type and shape."""
        if self.identity == other.identity:
            return True
        a, b = self.array, other.array
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        rows = max(1, _AT_ONCE // max(1, a[:1].size)) if a.ndim else 1
        parts = (slice(start, start + rows) for start in range(0, len(a), rows)) if a.ndim else iter([...])
        return all(np.array_equal(_bytes(a[part]), _bytes(b[part])) for part in parts)


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of an array in C order, where they stand if they are in that order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens a graph takes: from `least` to `most`, or without an end."""

    least: int = 1
    most: int | None = None

    def facts(self) -> dict[str, str]:
        """As an artifact records them; nothing where any number will do."""
        least = {"min_tokens": str(self.least)} if self.least > 1 else {}
        return {**least, "max_tokens": str(self.most)} if self.most is not None else least


@dataclass(frozen=True, slots=True)
class InFile:
    """A tap as its file has it: the name of the value, its shape, and by which moves ("transpose" with an order of axes,
    "reshape" with a shape) it becomes the tap.
    """

    name: str
    shape: tuple[int, ...] | None = None
    moves: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def laid_out(self, value: np.ndarray) -> np.ndarray | None:
        """The tap's value; None where the file's is of another shape."""
        if self.shape is not None and value.shape != self.shape:
            return None
        for what, argument in self.moves:
            value = value.reshape(argument) if what == "reshape" else value.transpose(argument)
        return value


@dataclass(frozen=True)
class Artifact:
    """A graph with its taps. `weights` holds the external initializers by name; `facts` what the exporter wrote.

    given: the inputs, where it was made for these alone.
    in_file: where each tap is in the file; None: under its own name.
    first_position: what the first token is fed as its position, where it takes positions.
    """

    path: Path
    model: onnx.ModelProto = field(repr=False)
    taps: tuple[Tap, ...] = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    facts: Mapping[str, str] = field(repr=False)
    sha256: str = ""
    given: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    first_position: int = 0
    in_file: Mapping[str, InFile] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def has_table(self) -> bool:
        """Whether it says itself which of its values are taps; else they are told by their names."""
        return "taps" in self.facts

    @property
    def tap_names(self) -> tuple[str, ...]:
        return tuple(tap.name for tap in self.taps)

    @property
    def takes_positions(self) -> bool:
        """Whether it is fed the positions of its tokens."""
        return any(info.name == POSITIONS for info in self.model.graph.input)

    @cached_property
    def config(self) -> dict[str, object]:
        """The decoder's configuration; empty where none is recorded, or it cannot be read."""
        try:
            return dict(json.loads(self.facts["config"]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return {}

    @cached_property
    def decoder(self) -> DecoderConfig | None:
        """The same, read; None where none is recorded, or it cannot be."""
        try:
            return DecoderConfig.from_json(self.facts["config"])
        except (KeyError, InputError):
            return None

    @property
    def vocab_size(self) -> int:
        """How many tokens the decoder's configuration has; a large number where none is recorded."""
        size = self.config.get("vocab_size")
        return size if isinstance(size, int) else 1 << 31

    @cached_property
    def states(self) -> dict[str, str]:
        """For each input that takes what the step before left, the tap that leaves it; empty where it keeps no cache."""
        try:
            found = dict(json.loads(self.facts["cache"]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return {}
        inputs, taps = {info.name for info in self.model.graph.input}, set(self.tap_names)
        return {name: tap for name, tap in found.items() if name in inputs and tap in taps}

    @cached_property
    def lengths(self) -> Lengths:
        """How many tokens it takes; any number where nothing is recorded, or it cannot be read."""
        try:
            most = self.facts.get("max_tokens")
            return Lengths(int(self.facts.get("min_tokens", 1)), None if most is None else int(most))
        except ValueError:
            return Lengths()

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """See to it that the graph can be fed with these tokens.

        Raises:
            InputError: it takes no such number of tokens; one is outside of the vocabulary.
        """
        self._check_length(len(tokens))
        size = self.vocab_size
        for token in tokens:
            if not 0 <= token < size:
                raise InputError(f"token {token}: outside of the vocabulary of {self.path} (0 to {size - 1})")

    def _check_length(self, n: int) -> None:
        least, most = self.lengths.least, self.lengths.most
        if least <= n and (most is None or n <= most):
            return
        if least == most:
            raise InputError(
                f"{self.path}: exported for exactly {most} tokens, where {n} are given; give {most}, or export it with "
                f"--length {n}"
            )
        takes = f"{least} or more" if most is None else f"{least} to {most}"
        raise InputError(
            f"{self.path}: takes {takes} tokens, where {n} are given; give {'more' if n < least else 'fewer'}"
        )

    @property
    def runtime(self) -> str:
        """The variant and its options, `legacy:converter=on`; the file's name where nothing is recorded."""
        try:
            options = dict(json.loads(self.facts.get("options", "{}")))
        except (ValueError, TypeError, RecursionError):
            options = {}
        return ":".join((self.facts.get("runtime", self.name), *(f"{k}={v}" for k, v in options.items())))

    def checkpoint_weights(self) -> SharedWeights | None:
        """All of the checkpoint's tensors, those too that this graph does not read; None where they are not there.

        Raises:
            InputError: the recorded file lies outside of the folder, or is damaged.
        """
        if "weights" not in self.facts:
            return None
        file = inside(self.path, self.facts["weights"], f"{self.path}: the checkpoint's weights")
        return SharedWeights(file) if file.is_file() else None

    def tap(self, name: str) -> Tap:
        return next(tap for tap in self.taps if tap.name == name)

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """For each value that a node makes, that node."""
        return producers(self.model.graph)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """The initializers inside the graph, by name."""
        return {i.name: i for i in self.model.graph.initializer if i.name not in self.weights}

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto]:
        """The type of each value that has one recorded."""
        graph = self.model.graph
        return {info.name: info.type for info in (*graph.value_info, *graph.output, *graph.input)}

    @cached_property
    def order(self) -> dict[str, int]:
        """Each node's values, by where they come in the graph."""
        return {name: n for n, name in enumerate(name for node in self.model.graph.node for name in node.output)}


def save_artifact(
    model: onnx.ModelProto, path: Path, axes: Mapping[str, tuple[str, ...]], facts: Mapping[str, str]
) -> None:
    """Write the graph with its taps' axes and the exporter's facts, checked by onnx.checker, whole or not at all."""
    facts = {"format": FORMAT, "taps": json.dumps({name: list(words) for name, words in axes.items()}), **facts}
    model.producer_name = PRODUCER
    onnx.helper.set_model_props(model, {_KEY + key: value for key, value in facts.items()})
    check_by_onnx(model)
    with written_beside(path) as partial:
        partial.write_bytes(model.SerializeToString())


def refer_to_external(tensor: onnx.TensorProto, file: str, offset: int, n_bytes: int) -> None:
    """Let an initializer's data stand in a file beside the .onnx."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", offset), ("length", n_bytes)):
        tensor.external_data.add(key=key, value=str(value))


def load_artifact(path: str | Path, maps: Maps | None = None, read: Read | None = None) -> Artifact:
    """Read an .onnx file and map its weights.

    Args:
        maps: the files that are mapped already; graphs that share it share each weight's place in memory.
        read: what the file holds, where it was read already.
    Raises:
        InputError: no such file, no ONNX graph, no taps, or weights that are missing, cut short or outside its folder.
    """
    path = Path(path)
    model, sha256 = read or read_model(path)
    try:
        facts = {p.key.removeprefix(_KEY): p.value for p in model.metadata_props if p.key.startswith(_KEY)}
        taps = tuple(_taps(path, model, facts))
    except (TypeError, ValueError, AttributeError, OSError) as e:  # names that are no text, and the like
        raise InputError(f"{path}: damaged ({type(e).__name__}); export it again") from e
    weights = weights_outside(path, model.graph.initializer, {} if maps is None else maps)
    artifact = Artifact(path, model, taps, weights, facts, sha256)
    _check_weights(artifact)
    return artifact


def _check_weights(artifact: Artifact) -> None:
    """See to it that the graph's weight file is the one that it was written for: another one may have taken its place since."""
    shared = artifact.checkpoint_weights()
    if shared is None:
        return
    is_other = shared.metadata.get("checkpoint") != artifact.facts.get("checkpoint", shared.metadata.get("checkpoint"))
    for name, weight in artifact.weights.items():
        if name in shared:
            is_other |= weight.identity != (str(shared.file_of(name).resolve()), *shared.location(name))
    if is_other:
        raise InputError(
            f"{artifact.path}: its weight file {shared.path.name} was written anew since, for another checkpoint or in another "
            "order; export it again"
        )


def read_model(path: Path) -> Read:
    """What an .onnx file holds.

    Raises:
        InputError: no such file, or no ONNX graph.
    """
    data = contents(path, "give the path of an .onnx file")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as e:
        raise InputError(f"{path}: not an ONNX file, or cut short; export it again") from e
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX file (it holds no graph); export it with opdiff export")
    check_sound(str(path), model)
    return model, hashlib.sha256(data).hexdigest()


def _taps(path: Path, model: onnx.ModelProto, facts: Mapping[str, str]) -> Iterable[Tap]:
    try:
        axes = {str(name): tuple(map(str, words)) for name, words in json.loads(facts.get("taps", "{}")).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as e:
        raise InputError(f"{path}: its table of taps cannot be read ({e}); export it again") from e
    if not axes and model.producer_name != PRODUCER:  # one of opdiff's own without its table is cut short
        axes = _named_as_stages(model.graph)
    if not axes:
        raise NoTaps(
            f"{path}: no taps in it: neither a table of them nor outputs that are named as stages (blk.0.q_proj, logits); "
            "export it with opdiff export, which exposes them"
        )
    maker = producers(model.graph)
    outputs = {output.name for output in model.graph.output}
    for name, words in axes.items():
        if name not in outputs or name not in maker:
            raise InputError(f"{path}: tap {name} is in its table of taps but no output of its graph; export it again")
        yield Tap(name, words, source_of(maker[name]))


def _named_as_stages(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """For a graph that opdiff did not export: the outputs that have a stage's name, with the axes of such a rank."""
    found = {}
    for output in graph.output:
        dims = output.type.tensor_type.shape.dim
        layouts = default_axes(split_tap_name(output.name)[1], len(dims)) if is_stage(output.name) else ()
        in_batch = [words for words in layouts if words[0] == "batch"]
        if layouts:
            found[output.name] = in_batch[0] if in_batch and dims[0].dim_value == 1 else layouts[0]
    return found


def weights_outside(path: Path, initializers: Iterable[onnx.TensorProto], maps: Maps) -> dict[str, Weight]:
    """The initializers whose data stand in files beside the .onnx, mapped, by name.

    Raises:
        InputError: one of the files is missing, cut short, or outside of the folder.
    """
    files: dict[str, Path] = {}
    try:
        return {
            tensor.name: _weight(path, tensor, maps, files)
            for tensor in initializers
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
    except (TypeError, ValueError, AttributeError, OSError) as e:
        raise InputError(f"{path}: damaged ({type(e).__name__}); export it again") from e


def _weight(path: Path, tensor: onnx.TensorProto, maps: Maps, files: dict[str, Path]) -> Weight:
    """The weight, mapped; `files` has those that were found already, by their location."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where, location = f"{path}: weight {tensor.name}", entries.get("location", "")
    if location not in files:
        files[location] = inside(path, location, where)
    file = files[location]
    if file not in maps:
        if not is_regular(file):
            raise InputError(
                f"{where}: its file {file.name:.80} is not there, or is no file; it belongs beside the .onnx"
            )
        try:
            maps[file] = np.memmap(file, mode="c")
        except (OSError, ValueError) as e:
            raise InputError(f"{where}: its file {file.name} cannot be read; it belongs beside the .onnx") from e
    dtype = _dtype(tensor, where)
    n_bytes = math.prod(tensor.dims) * dtype.itemsize
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", n_bytes))
    except ValueError as e:
        raise InputError(f"{where}: its offset or length is no number; export it again") from e
    if min(tensor.dims, default=0) < 0 or offset < 0 or length != n_bytes or offset + length > maps[file].size:
        raise InputError(
            f"{where}: reaches outside of {file.name}, which is cut short or another file; export it again"
        )
    array = np.asarray(maps[file][offset : offset + length]).view(dtype).reshape(tuple(tensor.dims))
    return Weight(array, (str(file), offset, length))


def _dtype(tensor: onnx.TensorProto, where: str) -> np.dtype:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, ValueError, TypeError) as e:
        raise InputError(f"{where}: an unknown data type ({tensor.data_type}); export it again") from e
