"""What LangGraph's own serializer packs, rebuilt from allow-listed types alone; its safe types and its snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ormsgpack
from langchain_core.messages.base import TextAccessor
from langchain_core.runnables.utils import AddableDict
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError, printable

__all__ = ["LANGGRAPH", "SAFE", "delta_snapshot", "dumped", "is_snapshot", "revived", "snapshot_value"]

LANGGRAPH = JsonPlusSerializer()

# Its extension types: how a class is called, an array, a `DeltaChannel`'s snapshot.
_ONE_ARGUMENT, _POSITIONAL, _KEYWORDS, _METHOD, _PYDANTIC_1, _PYDANTIC_2, _ARRAY, _DELTA = range(8)

# LangGraph's own containers, the one in which a streamed LangChain runnable hands its output to a graph, Python's
# mappings, the text of a message, and what LangChain's middleware keeps in a state (from langchain-core 1.8 on),
# besides the types LangGraph's serializer calls safe.
SAFE = SAFE_MSGPACK_TYPES | {
    ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
    ("langgraph._internal._io", "AddableValuesDict"),
    ("langgraph.pregel._io", "AddableValuesDict"),
    (AddableDict.__module__, AddableDict.__qualname__),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    (TextAccessor.__module__, TextAccessor.__qualname__),
    ("langchain_core.decisions.types", "BoxAnswer"),
    ("langchain_core.decisions.types", "BoxCoordinates"),
    ("langchain_core.decisions.types", "ChoiceAnswer"),
    ("langchain_core.decisions.types", "NoulAnswer"),
    ("langchain_core.decisions.types", "ScoreAnswer"),
}

# Where Python 3.13 says that its paths are defined, and every other version: the only stored classes of the standard
# library that change their module.
_PATHS_OF_313, _PATHS = "pathlib._local", "pathlib"


def dumped(value: Any) -> tuple[str, bytes]:
    """A value as LangGraph's serializer packs it, in the same bytes on every version of Python."""
    kind, packed = LANGGRAPH.dumps_typed(value)
    if type(value).__module__ == _PATHS_OF_313:
        packed = ormsgpack.packb(ormsgpack.unpackb(packed, ext_hook=_as_of_any_version))
    return kind, packed


def _as_of_any_version(code: int, data: bytes) -> Any:
    _, *rest = ormsgpack.unpackb(data)
    return ormsgpack.Ext(code, ormsgpack.packb([_PATHS, *rest]))


def revived(code: int, data: bytes, parts: Any, resolve: Callable[[str, str], Any]) -> Any:
    """An object that LangGraph's serializer packed as an extension.

    Args:
        code: The extension's type.
        data: What the extension holds, packed.
        parts: The same, unpacked.
        resolve: Gives an allow-listed class by module and name.

    Raises:
        TypeNotAllowedError: It is not on the list.
    """
    if code == _DELTA:
        return delta_snapshot(parts)
    if code == _ARRAY:
        array = LANGGRAPH._unpack_ext_hook(code, data)  # noqa: SLF001  # an array's bytes are its own format
        if array is None:
            raise CorruptRecordError("an array cannot be read: it is damaged, or numpy is not installed")
        return array
    module, name, payload = parts[:3]
    if module == _PATHS_OF_313:
        module = _PATHS
    cls: Any = resolve(module, name)
    if code == _METHOD:
        method = parts[3]
        if not any((base.__module__, base.__qualname__, method) in SAFE_MSGPACK_METHODS for base in cls.__mro__):
            raise TypeNotAllowedError(
                printable(f"{module}.{name}.{method} may not be called: LangGraph does not list it as safe")
            )
        return getattr(cls, method)(payload)
    if code == _ONE_ARGUMENT:
        return cls(payload)
    if code == _POSITIONAL:
        if (module, name) == ("langgraph.types", "Send") and len(payload) == 3:
            return cls(payload[0], payload[1], timeout=payload[2])
        return cls(*payload)
    try:
        return cls(**payload)
    except Exception:
        if code not in (_PYDANTIC_1, _PYDANTIC_2):
            raise
        # A model that was changed after it had been validated.
        return cls.model_construct(**payload)


def delta_snapshot(value: Any) -> Any:
    """A `DeltaChannel`'s stored value."""
    return _DeltaSnapshot(value)


def is_snapshot(value: Any) -> bool:
    """Whether a channel's value is a `DeltaChannel`'s snapshot."""
    return type(value) is _DeltaSnapshot


def snapshot_value(value: Any) -> Any:
    """A channel's value, out of its snapshot if it is one."""
    return value.value if is_snapshot(value) else value
