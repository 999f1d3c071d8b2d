"""This package's own records: plain data packed as bytes, and errors for those that cannot be unpacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from struct import error as StructError  # noqa: N812  # it is a class
from typing import Any, ParamSpec, TypeAlias, TypeVar

import ormsgpack

from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError

__all__ = [
    "BYTEARRAY",
    "INTEGER",
    "KEYS",
    "MESSAGE",
    "OBJECT",
    "PAIRS",
    "TEXT",
    "TUPLE",
    "TYPED",
    "Default",
    "Hook",
    "decoder",
    "list_header",
    "pack",
    "spelled_text",
    "unpack",
    "unpack_each",
    "unpack_marked",
    "unread_form",
]

KEYS = ormsgpack.OPT_NON_STR_KEYS
"""Every record is read with this option."""

MESSAGE, TYPED, TUPLE, TEXT, BYTEARRAY, INTEGER, PAIRS, OBJECT = range(1, 9)
"""The kinds of extensions in the stored format: add at the end, never reorder. `extensions` tells what each holds."""
Default: TypeAlias = Callable[[Any], Any]
"""Turns a value that MessagePack does not know into one that it does."""
Hook: TypeAlias = Callable[[int, bytes], Any]
"""Turns an extension of MessagePack, its kind and its bytes, back into a value."""

P = ParamSpec("P")
T = TypeVar("T")

_MARK = b"\xc3"


def pack(value: Any) -> bytes:
    """Plain data of this package's own making, as bytes."""
    try:
        return ormsgpack.packb(value)
    except TypeError:
        # An id may be a string with a lone surrogate.
        return ormsgpack.packb(_spelled(value))


def spelled_text(text: str) -> Any:
    """A string as MessagePack takes it: itself, or an extension if it has a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return ormsgpack.Ext(TEXT, text.encode("utf-8", "surrogatepass"))
    return text


def _spelled(value: Any) -> Any:
    if type(value) is str:
        return spelled_text(value)
    if type(value) is dict:
        return {key: _spelled(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return [_spelled(each) for each in value]
    return value


def _read(code: int, data: bytes) -> str:
    # MessagePack raises an error of its own in place of this one, and does not tell why.
    if code != TEXT:
        raise ValueError
    return data.decode("utf-8", "surrogatepass")


def unpack(packed: bytes) -> Any:
    """What `pack` packed.

    Raises:
        CorruptRecordError: The bytes are damaged.
    """
    return unpack_each([packed])[0]


def unpack_each(packed: Sequence[bytes]) -> list[Any]:
    """What `pack` packed, many at once; one call costs a third of a call for each.

    Raises:
        CorruptRecordError: The bytes are damaged.
    """
    try:
        return unpack_marked(packed, _read)
    except (ormsgpack.MsgpackDecodeError, TypeError) as error:
        raise CorruptRecordError(f"a record is damaged: {error}") from error


def unpack_marked(packed: Sequence[bytes], hook: Hook) -> list[Any]:
    """Packed values, unpacked with a mark behind the last one.

    MessagePack ignores what follows a value, so without the mark a damaged one could be read in part.

    Args:
        packed: Each value's bytes.
        hook: What to do with an extension; see `ormsgpack.unpackb`.

    Raises:
        CorruptRecordError: Something else than the mark follows.
        MsgpackDecodeError: The bytes are no values.
    """
    together = b"".join((list_header(len(packed) + 1), *packed, _MARK))
    values: list[Any] = ormsgpack.unpackb(together, ext_hook=hook, option=KEYS)
    if values.pop() is not True:
        raise CorruptRecordError("a record is longer than it was")
    return values


def unread_form(what: str, form: object, known: int) -> CorruptRecordError:
    """The error for a record that does not begin with the number of a known format.

    Args:
        what: Names the record.
        form: What it begins with.
        known: The newest format this version knows.
    """
    if isinstance(form, str):
        # A record that was sealed by a serializer begins with the name of its kind.
        text = f"{what} is sealed as {form!r}: give the buffer the serde= it was written with"
        return CorruptRecordError(text, tells_way_out=True)
    if type(form) is int and form > known:
        return CorruptRecordError(f"{what} is of format {form}, newer than {known}")
    return CorruptRecordError(f"{what} is damaged: it begins with {form!r}, which is no format")


def list_header(count: int) -> bytes:
    """The header that MessagePack puts before a list of `count` elements."""
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def decoder(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function that reads a record raise `CorruptRecordError` if the record has another shape than expected.

    Args:
        what: Names the record in the error.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def decode(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except (CorruptRecordError, TypeNotAllowedError):
                raise
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, StructError) as error:
                raise CorruptRecordError(f"{what} is damaged: {error!r}") from error

        return decode

    return decorate
