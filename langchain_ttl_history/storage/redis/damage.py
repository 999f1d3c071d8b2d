"""Says which key an error is about, so that an operator knows what to look at. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.redis.commands import Eval, Scan, Script

__all__ = ["located", "shown", "which_keys"]

_WRONG = Script.load("wrong")
# A forgetting may be about thousands of keys.
_NAMED = 3


def shown(name: bytes) -> str:
    """A key or a field as errors show it."""
    return repr(name.decode("utf-8", "backslashreplace"))


def which_keys(failed: Eval | Scan) -> Eval:
    """The request that tells which keys of one that failed are of another type; only errors cost it."""
    return Eval(_WRONG, failed.keys if isinstance(failed, Eval) else (), ())


def located(error: CorruptRecordError, failed: Eval | Scan, wrong: Sequence[int]) -> CorruptRecordError:
    """The error with the key that it is about.

    Args:
        error: What a script failed with.
        failed: The request.
        wrong: The reply to `which_keys`.
    """
    keys = failed.keys if isinstance(failed, Eval) else ()
    if 1 in wrong:
        text = (
            f"key {shown(keys[0])}, where a user's sessions are listed, holds something else: rename or remove it "
            "(DEL); the sessions stay, and each is listed again once it was used, or can be deleted by its name"
        )
    elif wrong:
        text = f"key {_several([keys[each - 1] for each in wrong])}, where a session is stored, holds something else"
    elif keys:
        text = f"{error}, in key {_several(keys)}"
    else:
        return error
    located = CorruptRecordError(text, tells_way_out=1 in wrong)
    located.__cause__ = error.__cause__
    return located


def _several(keys: Sequence[bytes]) -> str:
    more = " or others" if len(keys) > _NAMED else ""
    return " or ".join(map(shown, keys[:_NAMED])) + more
