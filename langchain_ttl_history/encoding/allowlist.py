"""The allow-list: which classes stored bytes may be made into."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from inspect import getattr_static
from typing import Any, TypeAlias

from langchain_ttl_history.encoding.class_names import module_of, same_everywhere
from langchain_ttl_history.encoding.plain import SCALARS
from langchain_ttl_history.errors import TypeNotAllowedError, printable

__all__ = ["AllowList", "TypeName"]

TypeName: TypeAlias = tuple[str, ...]
"""Module and name of a class."""


class AllowList:
    """Classes that may be rebuilt, which a program tells itself or LangGraph announces for it.

    ```text
     allowed as                  what stored bytes may then name, of the module app
     Outer.Ticket, the class     Outer.Ticket
     ("app", "Outer.Ticket")     the same, which is looked up each time
     ("app", "Ticket")           Ticket, and any class of that last name that is defined in app, Outer.Ticket for one:
                                 LangGraph announces a class by its last name alone
    ```

    Threads may use it at once without a lock: each step that decides something is a single one of a dict.

    Args:
        safe: Classes that are always allowed, by module and name.
        allowed: Further classes, themselves or as (module, name).
    """

    def __init__(self, safe: Collection[TypeName], allowed: Iterable[type | TypeName] = ()) -> None:
        self._safe = safe
        # By module and `__qualname__`; None for one that is allowed by name alone.
        self._classes: dict[TypeName, type | None] = {}
        # By module and `__name__`, which is all that LangGraph's serializer tells of a class: those that share
        # these, by `__qualname__`, and which came first.
        self._short: dict[TypeName, dict[str, type]] = {}
        self._first: dict[TypeName, str] = {}
        self.allow(allowed)

    def allow(self, types: Iterable[type | TypeName]) -> None:
        """Add classes."""
        for each in types:
            if isinstance(each, type):
                module = module_of(each)
                short = module, each.__name__
                self._first.setdefault(short, each.__qualname__)
                # It may have been defined anew, in a notebook for example.
                self._short.setdefault(short, {})[each.__qualname__] = each
                self._classes[module, each.__qualname__] = each
            else:
                self._classes.setdefault(_known(each), None)

    def has(self, names: Iterable[TypeName]) -> bool:
        """Whether all of these classes are allowed already."""
        return all(name in self._safe or name in self._classes for name in map(_known, names))

    def allow_all(self, other: AllowList) -> None:
        """Add the classes of another list."""
        for short, first in other._first.copy().items():
            if self._first.setdefault(short, first) == first:
                self._short.setdefault(short, other._short.get(short, {}).copy())
        self._classes.update(other._classes)

    def copy(self) -> AllowList:
        """An independent list of the same classes."""
        twin = AllowList(self._safe)
        twin.allow_all(self)
        return twin

    def resolve_short(self, module: str, name: str) -> Any:
        """As `resolve`, for the name that a class has within the one, or the function, that it is defined in."""
        module = same_everywhere(module)
        named = [*self._short.get((module, name), {}).values()]
        if len(named) > 1:
            raise _refused(
                f"several allowed classes of {module} are named {name}, and nothing tells which one was stored; allow "
                "only that one"
            )
        return named[0] if named else self.resolve(module, name)

    def resolve(self, module: str, name: str) -> Any:
        """The class, or whatever else has an allowed name.

        Raises:
            TypeNotAllowedError: It is not on the list.
        """
        module = same_everywhere(module)
        known = self._classes.get((module, name))
        if known is not None:
            return known
        # LangGraph announces a class by its `__name__`, wherever in its module it is defined.
        short = (module, name.rpartition(".")[2])
        is_announced = short in self._classes and self._classes[short] is None
        is_named = (module, name) in self._safe or (module, name) in self._classes
        if not is_named and not is_announced:
            raise _unlisted(module, name)
        try:
            found = _looked_up(module, name, anywhere=is_named)
            if not is_named and module_of(found) != module:
                raise AttributeError(f"{name} is imported into {module}, and not defined there")
        except (ImportError, AttributeError) as error:
            raise _refused(
                f"type {module}.{name} is allow-listed but not there ({error}); "
                "install the package that defines it, or restore the class"
            ) from error
        return found

    def remember(self, value: Any) -> None:
        """Allow the classes of an object this process stores, and of what it holds."""
        pending, seen = [value], set()
        while pending:
            each = pending.pop()
            kind = type(each)
            if kind in SCALARS or id(each) in seen:
                continue
            seen.add(id(each))
            if kind.__module__ != "builtins":
                self._learn(kind)
            if isinstance(each, Mapping):
                pending += [*each.keys(), *each.values()]
            elif isinstance(each, (list, tuple, set, frozenset)):
                pending += each
            elif not isinstance(each, (Enum, type)):
                pending += getattr(each, "__dict__", {}).values()

    def _learn(self, kind: type) -> None:
        module = module_of(kind)
        name = module, kind.__qualname__
        if self._classes.get(name) is kind:
            return
        # What is stored already by a short name is of the first class that has it.
        if self._first.setdefault((module, kind.__name__), kind.__qualname__) == kind.__qualname__:
            self.allow([kind])
        else:
            self._classes[name] = kind


def _known(names: TypeName) -> TypeName:
    """A class's names as it is listed by them."""
    module, *rest = names
    return same_everywhere(module), *rest


def _looked_up(module: str, name: str, *, anywhere: bool) -> Any:
    """What has this name in a module.

    Args:
        module: The module's name.
        name: The name in it, dotted for what is within something else.
        anywhere: Whether that may be anything, as the program named all of it itself. Otherwise stored bytes did, and
            only classes are looked into: a proxy, a module or a metaclass may run code for each name it is asked for.

    Raises:
        ImportError: There is no such module.
        AttributeError: There is nothing of that name.
        TypeNotAllowedError: It is within something else than a class.
    """
    found: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        found = getattr(found, part) if anywhere else getattr_static(found, part)
        if not anywhere and not issubclass(type(found), type):  # What is none may say that it is one.
            raise _refused(
                f"type {module}.{name} is not looked up, since {part} is not a class. Name the type in "
                "SessionBuffer(allow_types=[...])"
            )
    return getattr(found, last)


def _unlisted(module: str, name: str) -> TypeNotAllowedError:
    # LangGraph announces no class that is made in a function.
    advice = (
        ""
        if "<locals>" in name
        else (
            "; if it is a dataclass, an enum or a pydantic model that a graph's state declares, "
            "LANGGRAPH_STRICT_MSGPACK=true does as well, with which LangGraph announces such types"
        )
    )
    return _refused(f"type {module}.{name} is not allow-listed. Name it in SessionBuffer(allow_types=[{name}]){advice}")


def _refused(text: str) -> TypeNotAllowedError:
    # The names in it are stored bytes.
    return TypeNotAllowedError(printable(text))
