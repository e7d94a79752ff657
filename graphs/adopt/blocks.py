"""Weights in blocks of a few bits, each block with its scale, as the floats that they stand for: what is unpacked is a constant."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from .expansions import Body, expansion

# What the 16 levels of a type are, in parts of a block's largest number. Source: onnxruntime, blockwise_quant_block_bnb4.h.
_FP4 = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_LEVELS = ((*_FP4, *(-level for level in _FP4)), _NF4)


@expansion("MatMulNBits", 4, "K N bits block_size accuracy_level")
def _matmul_n_bits(body: Body) -> list[NodeProto] | None:
    """A product with a weight [N, K] in blocks of 2, 4 or 8 bits."""
    x, packed, scales, zeros = (body.read(n) for n in range(4))
    bits, width, n_out, block = (int(body.number(name, 0)) for name in ("bits", "K", "N", "block_size"))
    if bits not in (2, 4, 8):
        return None
    n_blocks = -(-width // block)
    stored = np.asarray(body.values[packed].array).reshape(n_out, n_blocks, -1)
    levels = _unpacked(stored, bits)[..., :block].astype(np.float32)
    middle = np.full((n_out, n_blocks, 1), float(1 << (bits - 1)), np.float32)
    if zeros:
        held = np.asarray(body.values[zeros].array)
        if held.dtype.kind != "u":
            middle = held.astype(np.float32).reshape(n_out, n_blocks, 1)
        else:
            middle = _unpacked(held.reshape(n_out, -1), bits)[:, :n_blocks, None].astype(np.float32)
    steps = np.asarray(body.values[scales].array, np.float32).reshape(n_out, n_blocks, 1)
    weight = ((levels - middle) * steps).reshape(n_out, -1)[:, :width]
    far = np.broadcast_to(steps, (n_out, n_blocks, block)).reshape(n_out, -1)[:, :width]
    return body.ends(body.op("MatMul", x, body.hold(weight.T, far.T)))


@expansion("MatMulBnb4", 3, "K N block_size quant_type training_mode transB")
def _matmul_bnb4(body: Body) -> list[NodeProto] | None:
    """A product with a weight [N, K], in blocks of 4 bits whose levels are not equally far apart."""
    x, packed, scales = (body.read(n) for n in range(3))
    width, n_out, block, kind = (int(body.number(name, 0)) for name in ("K", "N", "block_size", "quant_type"))
    if kind not in (0, 1) or not body.number("transB", 1):
        return None
    n_all, stored = width * n_out, np.asarray(body.values[packed].array).ravel()
    places = _unpacked(stored, 4).reshape(-1, 2)[:, ::-1].ravel()[:n_all]  # the upper half of a byte comes first
    steps = np.repeat(np.asarray(body.values[scales].array, np.float32).ravel(), block)[:n_all]
    levels = np.array(_LEVELS[kind], np.float32)
    order = np.argsort(levels, kind="stable")
    gaps, far = np.diff(levels[order]), np.zeros(len(levels), np.float32)
    far[order] = np.maximum(np.append(gaps, 0), np.append(0, gaps))
    weight, far_of_each = ((table[places] * steps).reshape(n_out, width).T for table in (levels, far))
    return body.ends(body.op("MatMul", x, body.hold(weight, far_of_each)))


@expansion("GatherBlockQuantized", 4, "gather_axis quantize_axis block_size bits")
def _rows_of_blocks(body: Body) -> list[NodeProto] | None:
    """Rows of a table in blocks of 4 or 8 bits."""
    packed, places, scales, zeros = (body.read(n) for n in range(4))
    stored, bits = np.asarray(body.values[packed].array), int(body.number("bits", 4))
    is_packed = stored.dtype == np.uint8
    axis = int(body.number("quantize_axis", 1)) % stored.ndim
    if bits not in (4, 8) or (is_packed and bits == 4 and axis != stored.ndim - 1):
        return None
    block, steps = int(body.number("block_size", 128)), np.asarray(body.values[scales].array, np.float32)
    levels = _unpacked(stored, bits) if is_packed else stored
    middle = np.full_like(steps, 1 << (bits - 1) if is_packed else 0)
    if zeros:
        held = np.asarray(body.values[zeros].array)
        middle = (_unpacked(held, bits) if is_packed else held)[..., : steps.shape[-1]].astype(np.float32)
    middle, far = (np.repeat(x, block, axis).take(range(levels.shape[axis]), axis) for x in (middle, steps))
    table = body.hold((levels.astype(np.float32) - middle) * far, far)
    return body.ends(body.op("Gather", table, places, axis=int(body.number("gather_axis", 0))))


def _unpacked(stored: np.ndarray, bits: int) -> np.ndarray:
    """Bytes as numbers of so many bits, the lower ones first."""
    if bits == 8:
        return stored
    parts = [stored >> start & (1 << bits) - 1 for start in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*stored.shape[:-1], -1)
