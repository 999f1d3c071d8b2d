"""What cannot leave the process that made it."""

from __future__ import annotations

from typing import NoReturn

from langchain_ttl_history.errors import ConfigurationError

__all__ = ["OfThisProcess"]


class OfThisProcess:
    """Something that holds locks or connections, so that neither it nor what holds it can be copied or pickled."""

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            f"{self!r} stays in the process that made it, and cannot be copied or pickled; open the storage anew where "
            "it is needed, by its URL"
        )
