"""Many blocks from one: the second block of an exported pattern, repeated."""

from __future__ import annotations

import onnx

from .errors import InputError

_PATTERN, _FIRST = "blk.1.", "blk.0."


def with_blocks(model: onnx.ModelProto, n_blocks: int) -> onnx.ModelProto:
    """A model of `n_blocks` blocks from one of two, named by region: blocks 2 and on are block 1 with other weights.

    Raises:
        InputError: what follows the blocks reads something of block 1 other than its output, so it cannot be repeated.
    """
    nodes = list(model.graph.node)
    places = [i for i, node in enumerate(nodes) if node.name.startswith(_PATTERN)]
    before, after = nodes[: places[0]], nodes[places[-1] + 1 :]
    blocks = nodes[places[0] : places[-1] + 1]
    made = {name for node in nodes for name in node.output}
    inner = {name for node in blocks for name in node.input if _is_block_output(name, _FIRST) and name in made}
    outer = {name for node in after for name in node.input if name.startswith(_PATTERN) and name in made}
    if {_PATTERN + name.removeprefix(_FIRST) for name in inner} != outer:
        raise InputError(
            f"block 1 reads {sorted(inner)} of block 0, but what follows reads {sorted(outer)} of block 1; "
            "blocks that are not alike cannot be instantiated from one"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(before)
    for n in range(1, n_blocks):
        result.graph.node.extend(_renumbered(node, n) for node in blocks)
    result.graph.node.extend(_moved(node, n_blocks - 1, outer) for node in after)
    for field in ("input", "output", "value_info", "initializer"):
        _repeat(getattr(result.graph, field), n_blocks)
    return result


def _is_block_output(name: str, block: str) -> bool:
    return name.startswith(block) and "/" not in name


def _renumbered(node: onnx.NodeProto, n: int) -> onnx.NodeProto:
    """Block 1's node as block n's: block 1's names become n's, and what it read of block 0 becomes n - 1's."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = _name(node.name, n)
    copy.input[:] = [_name(name, n) for name in node.input]
    copy.output[:] = [_name(name, n) for name in node.output]
    for prop in copy.metadata_props:
        prop.value = prop.value.replace("blocks.1", f"blocks.{n}")
    return copy


def _name(name: str, n: int) -> str:
    if name.startswith(_PATTERN):
        return f"blk.{n}.{name.removeprefix(_PATTERN)}"
    if _is_block_output(name, _FIRST):
        return f"blk.{n - 1}.{name.removeprefix(_FIRST)}"
    return name


def _moved(node: onnx.NodeProto, last: int, outer: set[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [_name(name, last) if name in outer else name for name in node.input]
    return copy


def _repeat(entries: object, n_blocks: int) -> None:
    """Repeat block 1's entries of a repeated field for the blocks that follow, each behind the one before it."""
    old = list(entries)  # type: ignore[call-overload]
    new = []
    pattern = [entry for entry in old if entry.name.startswith(_PATTERN)]
    for entry in old:
        new.append(entry)
        if pattern and entry is pattern[-1]:
            new.extend(_entry(p, n) for n in range(2, n_blocks) for p in pattern)
    copies = [_entry(entry, None) for entry in new]
    del entries[:]  # type: ignore[attr-defined]
    entries.extend(copies)  # type: ignore[attr-defined]


def _entry(entry: object, n: int | None) -> object:
    copy = type(entry)()
    copy.CopyFrom(entry)  # type: ignore[attr-defined]
    if n is not None:
        copy.name = _name(entry.name, n)  # type: ignore[attr-defined]
    return copy
