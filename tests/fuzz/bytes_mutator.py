"""Damage to bytes, whatever they mean: what a bad disk, a cut download or a hostile hand does."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
           (1 << 40), (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
TEXTS = (b"\0", b"\xff\xfe", b"\x1b[2J", b"\r\n", b"..", b"../../etc/passwd", b"/etc/passwd", b"%s%n", "\u202e".encode(),
         b"<script>", b"\xed\xa0\x80", b"A" * 300)  # fmt: skip
_MOST_AT_ONCE = 16
_Edit = Callable[[bytearray, int, Random], None]


def damaged(data: bytes, random: Random, head: int = 1024) -> bytes:
    """The data with one to six edits, half of them among the first `head` bytes, where most formats say what follows."""
    found = bytearray(data)
    for _ in range(random.randint(1, 6)):
        end = len(found) if random.random() < 0.5 else min(len(found), head)
        if not end:
            break
        random.choice(_EDITS)(found, random.randrange(end), random)
    return bytes(found)


def _one_byte(data: bytearray, at: int, random: Random) -> None:
    data[at] = random.randrange(256)


def _one_bit(data: bytearray, at: int, random: Random) -> None:
    data[at] ^= 1 << random.randrange(8)


def _removed(data: bytearray, at: int, random: Random) -> None:
    del data[at : at + random.randint(1, _MOST_AT_ONCE)]


def _added(data: bytearray, at: int, random: Random) -> None:
    data[at:at] = random.randbytes(random.randint(1, _MOST_AT_ONCE))


def _repeated(data: bytearray, at: int, random: Random) -> None:
    part = data[at : at + random.randint(1, 8 * _MOST_AT_ONCE)]
    data[at:at] = part * random.choice((1, 2, 9))


def _moved(data: bytearray, at: int, random: Random) -> None:
    part = data[at : at + random.randint(1, _MOST_AT_ONCE)]
    to = random.randrange(len(data))
    data[to : to + len(part)] = part


def _number(data: bytearray, at: int, random: Random) -> None:
    width = random.choice((1, 2, 4, 8))
    data[at : at + width] = (random.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")


def _text(data: bytearray, at: int, random: Random) -> None:
    text = random.choice(TEXTS)
    data[at : at + (len(text) if random.random() < 0.5 else 0)] = text


def _cut(data: bytearray, at: int, random: Random) -> None:
    if random.random() < 0.3:
        del data[at:]


_EDITS: tuple[_Edit, ...] = (_one_byte, _one_bit, _removed, _added, _repeated, _moved, _number, _text, _cut)
