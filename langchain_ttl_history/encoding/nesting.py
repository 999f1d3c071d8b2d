"""How deep values nest within each other while they are read, and how much memory they take: both have bounds.

MessagePack bounds how deep one value nests. But what an extension holds is a value of its own, read by a call of its
own while the one around it is still open (here each tuple is an extension):

```text
 [(b"ab", (1,))]     91 c7 09 03 92 c4 02 61 62 d5 03 91 01
 (b"ab", (1,))                   92 c4 02 61 62 d5 03 91 01      1 level for the extension, and those in what it holds
 (1,)                                                 91 01      as many more
```

Each level takes some of the stack, and a process whose stack is full is gone. And what an extension holds is a copy,
with all extensions in it, so that a small record of many levels would fill the memory.
"""

from __future__ import annotations

from threading import local

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["Nesting", "enter", "levels"]

# How deep lists, mappings and extensions may nest within each other; and up to which depth it is not counted exactly.
_DEEPEST, _SHALLOW = 2_000, 30
# The extensions that are open may have this many bytes together, or this many times those of the outermost one; plain
# data takes up to 70 times its size in memory.
_HELD, _TIMES = 256 * 1024 * 1024, 32
# Smaller ones are not counted.
_LARGE = 64 * 1024


class Nesting(local):
    """How deep in a value each thread is that reads one."""

    depth: int = 0
    """In levels. Whoever calls `enter` puts this back when what the extension holds is read."""

    def __init__(self) -> None:
        self.held: list[tuple[int, int]] = []
        """For each large extension that is open its depth, and its bytes with those of all it lies within."""


# Functions, since to look up a method of something that each thread has of its own takes as long as all of `enter`.


def enter(nesting: Nesting, data: bytes) -> None:
    """Count an extension that holds this, and is going to be read.

    Raises:
        CorruptRecordError: It lies too deep, or those that are open take too much memory.
    """
    before = nesting.depth
    nesting.depth = depth = before + 1 + levels(data, _SHALLOW)
    if depth > _DEEPEST:
        raise CorruptRecordError("a value is nested too deeply")
    if len(data) > _LARGE:
        _hold(nesting.held, before, depth, len(data))


def _hold(held: list[tuple[int, int]], before: int, depth: int, size: int) -> None:
    while held and held[-1][0] > before:
        held.pop()  # It is read by now, since what lies within it is deeper.
    total = size + (held[-1][1] if held else 0)
    held.append((depth, total))
    most = max(_HELD, held[0][1] * _TIMES)
    if total > most:
        raise CorruptRecordError(
            f"a value is nested too deeply for its size: what it lies within takes more than {most >> 20} MiB"
        )


# The bytes that a list or a mapping may begin with; they may stand elsewhere, too.
_CONTAINERS = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
# How many bytes of a length, or of a value, follow a first byte from 0xC0 on; and which of them begin with a length.
_SIZES = (0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17, 1, 2, 4, 2, 4, 2, 4)
_WITH_LENGTH = frozenset((*range(0xC4, 0xCA), *range(0xD9, 0xDC)))


def levels(packed: bytes, most: int) -> int:
    """How deep lists and mappings nest in a packed value, not counting what its extensions hold.

    If that is certainly at most `most`, another number up to that may be given, which is found faster.
    """
    bound = len(packed) - len(packed.translate(None, _CONTAINERS))
    if bound <= most:
        return bound
    # For each list or mapping that is open, how many values of it are to come.
    left, deepest, at = [1], 0, 0
    while left and at < len(packed):
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        first = packed[at]
        at += 1
        if 0x80 <= first < 0xA0:
            left.append((first & 0xF) << (first < 0x90))
        elif 0xA0 <= first < 0xC0:
            at += first & 0x1F
        elif 0xC0 <= first < 0xE0:
            size = _SIZES[first - 0xC0]
            length = int.from_bytes(packed[at : at + size], "big")
            at += size
            if first >= 0xDC:
                left.append(length << (first >= 0xDE))
            elif first in _WITH_LENGTH:
                at += length + (0xC7 <= first < 0xCA)  # An extension's type follows its length.
        deepest = max(deepest, len(left) - 1)
    return deepest
