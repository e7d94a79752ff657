"""Damage to what a protobuf message holds: the bytes can be parsed, and the graph says something else."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from .bytes_mutator import NUMBERS, TEXTS, damaged

_BITS = {FieldDescriptor.TYPE_INT32: 31, FieldDescriptor.TYPE_INT64: 63, FieldDescriptor.TYPE_UINT64: 64}
_TEXTS = ("", "a", "embed", "logits", "w0", "tokens", "blk.0.ffn_down", "..", "/etc/passwd", "\0", "\x1b[31m", "a" * 4000,
          "\u202e", "ai.onnx.ml", "com.microsoft", "ai.onnx.training", "If", "Loop", "Scan", "Gather", "MatMul", "Reshape",
          "Cast", "Constant", "Identity", "Transpose", "Pad", "Slice", "Expand", "Tile", "QuickGelu", "FusedMatMul",
          "GroupQueryAttention", "-1", "99999999999999999999", "1e9", "nan")  # fmt: skip


def changed(message: Message, random: Random) -> Message:
    """A copy with one to four changes at any depth."""
    found = type(message)()
    found.CopyFrom(message)
    for _ in range(random.randint(1, 4)):
        _change(random.choice(list(_messages(found))), random, found)
    return found


def _messages(message: Message, depth: int = 0) -> Iterator[Message]:
    yield message
    if depth < 12:
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for one in value if _is_repeated(field) else [value]:
                    yield from _messages(one, depth + 1)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _change(message: Message, random: Random, whole: Message) -> None:
    present = [field for field, _ in message.ListFields()]
    fields = present if present and random.random() < 0.8 else list(message.DESCRIPTOR.fields)
    field = random.choice(fields)
    if _is_repeated(field):
        _change_list(message, field, random, whole)
    elif random.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _graft(getattr(message, field.name), random, whole)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), random))


def _change_list(message: Message, field: Any, random: Random, whole: Message) -> None:
    items = getattr(message, field.name)
    kind, n = random.random(), len(items)
    if n and kind < 0.2:
        del items[random.randrange(n)]
    elif n and kind < 0.3:
        keep = list(items)
        random.shuffle(keep)
        del items[:]
        items.extend(keep)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if n and kind < 0.6:
            items.add().CopyFrom(items[random.randrange(n)])
        else:
            _graft(items.add(), random, whole)
    elif n and kind < 0.8:
        at = random.randrange(n)
        items[at] = _value(field, items[at], random)
    else:
        items.extend([_value(field, items[0] if n else None, random)] * random.choice((1, 1, 2, 70)))


def _graft(message: Message, random: Random, whole: Message) -> None:
    """Put another message of the same type here, from anywhere in the file; a graph into its own node too."""
    same = [one for one in _messages(whole) if one.DESCRIPTOR is message.DESCRIPTOR and one is not message]
    if same:
        taken = type(message)()
        taken.CopyFrom(random.choice(same))
        message.CopyFrom(taken)


def _value(field: Any, value: Any, random: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return random.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return damaged(value, random) if value and random.random() < 0.7 else random.choice((b"", *TEXTS))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, float("inf"), float("nan"), 1e-40))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return random.choice([one.number for one in field.enum_type.values])
    limit = 1 << _BITS.get(field.type, 31)
    near = (value or 0) + random.choice((-1, 1))
    number = random.choice((near, *NUMBERS, *(-one for one in NUMBERS)))
    return max(-limit, min(limit - 1, number)) if field.type != FieldDescriptor.TYPE_UINT64 else number % limit
