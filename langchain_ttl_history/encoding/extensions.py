r"""Values that MessagePack has no form for, as extensions: a length, the number of a kind, and bytes.

```text
 c7 03 03 92 01 02      (1, 2): 3 bytes, of kind 3, and they are the list [1, 2]
```

The kinds of the stored format, by examples, and what their bytes are or, in brackets, are when they are unpacked:

```text
 1 MESSAGE    HumanMessage("Hi", id="m1")    ["m1", bytes]                 as `messages` packs it
 2 TYPED      Decimal("1.5")                 ["msgpack", bytes]            as LangGraph's serializer packs it
 3 TUPLE      (1, 2)                         [1, 2]
 4 TEXT       "\ud800"                       ed a0 80                      what UTF-8 refuses
 5 BYTEARRAY  bytearray(b"ab")               61 62
 6 INTEGER    2**64                          b"18446744073709551616"       what has more than 64 bits
 7 PAIRS      {"\ud800": 1}                  [["\ud800", 1]]               a mapping with such keys; see `spelling`
 8 OBJECT     {1, 2}                         ["builtins", "set", 3, [1, 2]]
                                               class, the way it was taken apart, what it held; see `objects`
```

What LangGraph's serializer packed has extensions too, of kinds of its own; see `langgraph_values`. Only allow-listed
types are rebuilt from either, and what is not allowed raises, where LangGraph's own reader would hand back raw data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import local
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage

from langchain_ttl_history.encoding.allowlist import AllowList, TypeName
from langchain_ttl_history.encoding.class_names import module_of
from langchain_ttl_history.encoding.langgraph_values import SAFE, dumped, revived
from langchain_ttl_history.encoding.layouts import is_core
from langchain_ttl_history.encoding.messages import pack_message, pack_plain, unpack_messages
from langchain_ttl_history.encoding.nesting import Nesting, enter
from langchain_ttl_history.encoding.objects import put_together, taken_apart, would_lose
from langchain_ttl_history.encoding.plain import OPTIONS
from langchain_ttl_history.encoding.records import (
    BYTEARRAY,
    INTEGER,
    KEYS,
    MESSAGE,
    OBJECT,
    PAIRS,
    TEXT,
    TUPLE,
    TYPED,
    pack,
)
from langchain_ttl_history.encoding.spelling import Pairs, spelled
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError, printable
from langchain_ttl_history.keys import OwnedThread

__all__ = ["Extensions", "UnmadeError", "refusal"]


class UnmadeError(CorruptRecordError):
    """An object that its class cannot rebuild from what it held."""

    def __init__(self, text: str, kind: type = object) -> None:
        super().__init__(printable(text))
        self.kind = kind


class Extensions:
    """Packs and rebuilds what MessagePack has no form for.

    Args:
        allowed: Types that may be rebuilt besides LangGraph's safe ones, as classes or
            (module, name).
        learning: Whether a type that is packed becomes allowed by that.
    """

    def __init__(self, allowed: Iterable[type | TypeName], *, learning: bool) -> None:
        self._learning = learning
        self._allowed = AllowList(SAFE, allowed)
        self._failure = local()
        self._nesting = Nesting()

    def allows(self, names: Iterable[TypeName]) -> bool:
        """Whether all of these types are allowed already."""
        return self._allowed.has(names)

    def allowing(self, extra: Iterable[TypeName]) -> Extensions:
        """A copy that allows more types. If types are learned, the two share one list, otherwise each has its own."""
        twin = Extensions((), learning=self._learning)
        twin._allowed = self._allowed if self._learning else self._allowed.copy()
        twin._allowed.allow(extra)
        return twin

    def learn_with(self, other: Extensions) -> None:
        """Share the list of another, so that each rebuilds the types that either packed."""
        if other._allowed is not self._allowed:
            other._allowed.allow_all(self._allowed)
            self._allowed = other._allowed

    # MessagePack raises an error of its own in place of what a hook raised, so the first failure is remembered here.
    # So is whether one failed (`inside`): the parts of the value were then tried both ways already (`_ext`), and trying
    # them again at each level of a value that holds itself would never end.

    def forget_failure(self) -> None:
        """Forget the failure of an earlier attempt in this thread."""
        self._failure.__dict__.clear()

    def failure(self, error: Exception) -> Exception:
        """Take the failure behind an error that MessagePack raised; that error itself if no hook failed."""
        found: Exception = self._failure.__dict__.pop("error", error)
        return found

    # Messages

    def learn(self, message: BaseMessage) -> None:
        """Allow the classes of a message this process stores, if types are learned; LangChain's own need no leave."""
        if self._learning and not is_core(message):
            self._allowed.remember(message)

    def messages(self, packed: Sequence[bytes], ids: Iterable[str | None]) -> list[BaseMessage]:
        """The messages that were packed, with these ids.

        Raises:
            CorruptRecordError: One is damaged or of a newer format.
            TypeNotAllowedError: It is of a type that is not allow-listed.
        """
        try:
            return unpack_messages(packed, ids, self.hook, self._allowed.resolve)
        except (CorruptRecordError, TypeNotAllowedError) as error:
            raise self.unread("a message", error) from error

    def unread(self, what: str, error: Exception) -> Exception:
        """The exception to raise for a record whose reading raised this error."""
        inner = self.failure(error)
        if isinstance(inner, UnmadeError):
            return inner
        if isinstance(inner, TypeNotAllowedError):
            # It says what to do, and whoever writes the value tries as well whether it can be read.
            return TypeNotAllowedError(str(inner))
        told = isinstance(inner, CorruptRecordError) and inner.tells_way_out
        return CorruptRecordError(printable(f"{what} cannot be read: {inner}"), tells_way_out=told)

    # Objects

    def default(self, value: Any) -> Any:
        """A value as an extension; see `ormsgpack.packb`."""
        try:
            return self._packable(value)
        except Exception as error:
            self._failure.inside = True
            if isinstance(error, (TypeNotAllowedError, RecursionError)):
                self._failure.__dict__.setdefault("error", error)
            raise

    def _packable(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, BaseMessage):
            self.learn(value)
            # Spelled out at once, as the parts of an object below.
            packed = pack_plain(value) or pack_message(value, self.default, spelled)
            return self._ext(MESSAGE, [value.id, packed])
        if kind is OwnedThread:
            return spelled(str.__str__(value))
        if kind is int:  # Of more than 64 bits, or MessagePack would not have asked.
            return ormsgpack.Ext(INTEGER, str(value).encode())
        if kind is Pairs or kind is tuple:
            return self._ext(PAIRS if kind is Pairs else TUPLE, list(value))
        if would_lose(value):
            raise TypeNotAllowedError(refusal(kind))
        if self._learning:
            self._allowed.remember(value)
        parts = taken_apart(value)
        if parts is not None:
            # Spelled out at once: a part could come back as an equal value of another type, unnoticed.
            return self._ext(OBJECT, [module_of(kind), kind.__qualname__, *map(spelled, parts)])
        try:
            return ormsgpack.Ext(TYPED, pack(list(dumped(value))))
        except TypeError as error:
            raise TypeNotAllowedError(refusal(kind)) from error

    def _ext(self, code: int, parts: list[Any]) -> Any:
        """An extension that holds these parts: as they are, or spelled out if MessagePack refuses one."""
        self._failure.inside = False
        try:
            return ormsgpack.Ext(code, ormsgpack.packb(parts, self.default, OPTIONS))
        except TypeError:
            if self._failure.inside:
                raise
            parts = [spelled(each) for each in parts]
            return ormsgpack.Ext(code, ormsgpack.packb(parts, self.default, OPTIONS))

    def hook(self, code: int, data: bytes) -> Any:
        """The value of an extension; see `ormsgpack.unpackb`."""
        before = self._nesting.depth
        try:
            enter(self._nesting, data)
            return self._extension(code, data)
        except Exception as error:
            self._failure.__dict__.setdefault("error", error)
            raise
        finally:
            self._nesting.depth = before

    def _extension(self, code: int, data: bytes) -> Any:
        if code == TEXT:
            return data.decode("utf-8", "surrogatepass")
        if code == BYTEARRAY:
            return bytearray(data)
        if code == INTEGER:
            return int(data)
        if code == TYPED:
            kind, payload = ormsgpack.unpackb(data)
            if kind != "msgpack":
                # Another kind would be read by LangChain's own loader, which knows no allow-list of ours.
                raise CorruptRecordError(f"a value of kind {kind!r} is not of this format")
            enter(self._nesting, payload)
            return ormsgpack.unpackb(payload, ext_hook=self._revive, option=KEYS)
        inner = ormsgpack.unpackb(data, ext_hook=self.hook, option=KEYS)
        if code == MESSAGE:
            packed = inner[1]
            enter(self._nesting, packed)
            return self.messages([packed], [inner[0]])[0]
        if code == TUPLE:
            return tuple(inner)
        if code == PAIRS:
            return dict(inner)
        if code == OBJECT:
            module, name, how, state = inner
            cls = self._allowed.resolve(module, name)
            try:
                return put_together(cls, how, state)
            except CorruptRecordError:
                raise
            except Exception as error:  # a class's own code may raise anything
                raise UnmadeError(f"an object of {module}.{name} cannot be rebuilt: {error}", cls) from error
        raise CorruptRecordError(f"extension {code} is of a newer format")

    def _revive(self, code: int, data: bytes) -> Any:
        """As `hook`, for an extension within what LangGraph's serializer packed."""
        before = self._nesting.depth
        try:
            enter(self._nesting, data)
            parts = ormsgpack.unpackb(data, ext_hook=self._revive, option=KEYS)
            return revived(code, data, parts, self._allowed.resolve_short)
        except Exception as error:
            self._failure.__dict__.setdefault("error", error)
            raise
        finally:
            self._nesting.depth = before


def refusal(kind: type) -> str:
    """Why a value of a type is refused, and what to do."""
    return (
        f"a value of type {kind.__module__}.{kind.__qualname__} cannot be "
        "stored, since it would not come back as it is. Store plain data, a dataclass or a "
        "pydantic model; outside the messages, checkpointer(serde=...) takes a serializer that knows the type"
    )
