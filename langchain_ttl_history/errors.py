"""Every error this package raises on purpose, in one tree; and how their texts show what was refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import timedelta
from decimal import Decimal
from reprlib import Repr
from uuid import UUID

__all__ = [
    "ConfigurationError",
    "CorruptRecordError",
    "MissingUserError",
    "SessionDeletedError",
    "StorageError",
    "TTLHistoryError",
    "TypeNotAllowedError",
    "brief",
    "printable",
    "type_of",
    "unknown_url",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What a file of settings leaves around a value.
_PADDING = " \t\r\n'\""


class TTLHistoryError(Exception):
    """The root of the tree: catch it to catch all of them."""


class ConfigurationError(TTLHistoryError, ValueError):
    """A setting, an id or a config is wrong; nothing was stored."""


class MissingUserError(ConfigurationError):
    """No user was named and there is no default user."""


class StorageError(TTLHistoryError):
    """The storage could not be reached or refused to work; its error is the cause."""


class CorruptRecordError(TTLHistoryError):
    """A stored record cannot be read: damaged, or written in a newer format."""

    def __init__(self, *args: object, tells_way_out: bool = False) -> None:
        super().__init__(*args)
        # If not, one is added to the message as soon as the session is known.
        self.tells_way_out = tells_way_out


class TypeNotAllowedError(TTLHistoryError, TypeError, ValueError):
    """A value of this type would not come back as it went in, so nothing was stored; or it may not be rebuilt here.

    A `TypeError` and a `ValueError` too: what serializers raise for a value they refuse.
    """


class SessionDeletedError(TTLHistoryError):
    """The session was deleted while this turn was running; its write was refused."""


class _Brief(Repr):
    """Like `repr`, but short, and never fails: what is refused may be a whole conversation, or have no `repr`."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:
            return "an int of too many digits to show"

    def repr_instance(self, x: object, level: int) -> str:
        # What an object says of itself may be a secret.
        plain = isinstance(x, (type(None), bool, type, timedelta, float, bytes, UUID, Decimal))
        return super().repr_instance(x, level) if plain else object.__repr__(x).partition(" at ")[0] + ">"


brief: Callable[[object], str] = _Brief().repr
"""How an error shows what it refuses."""


def printable(text: str, kept: str = "") -> str:
    """How a text that was stored is shown: a terminal obeys control codes, and a log takes line breaks for its own.

    Args:
        text: Any text.
        kept: Characters that are left as they are, though they are not printable.
    """
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


def type_of(refused: object) -> str:
    """How an error shows what it refuses where that may hold a password: a URL as bytes, or in a tuple."""
    return brief(refused) if isinstance(refused, type) else f"an object of type {type(refused).__name__}"


def unknown_url(what: str, schemes: Collection[str], url: str) -> str:
    """What an error says of a URL that has none of these schemes; it shows no more than a scheme.

    What stands in a scheme's place but looks like none may be a password.
    """
    if url.strip(_PADDING).partition(":")[0] in schemes:
        return "the URL begins or ends with a space or a quotation mark"
    found = _SCHEME.match(url)
    return f"no {what} is known for {brief(found[1])} URLs" if found else f"this is no URL of a {what}"
