"""What the errors of a driver mean: which may pass by themselves, and as what the others are raised."""

from __future__ import annotations

import re

from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, StorageError
from langchain_ttl_history.storage.redis.drivers import class_prefix, exceptions_of

__all__ = ["Failures", "is_of_another_loop", "is_of_replica"]

# What the server says of a script that could not take apart what is stored.
_DAMAGE = re.compile(
    "WRONGTYPE|user_script.*(bad argument|attempt to |Missing bytes|Bad data format|is damaged)", re.DOTALL
)

# When an async cluster client learns of a change, it takes connections away from requests under way, which find None in
# their place and fail with an AttributeError. With some versions of Python 3.12 and 3.13 it is a TypeError where the
# connection was lost in the moment before something is written to it.
_TAKEN_AWAY = (AttributeError, TypeError)


class Failures:
    """The errors that a request may end in.

    Args:
        library: The package of the driver: redis or valkey.
        is_cluster: Whether its clients are of a cluster.
    """

    def __init__(self, library: str, *, is_cluster: bool) -> None:
        errors = exceptions_of(library)
        prefix = class_prefix(library)
        self.no_script: type[Exception] = errors.NoScriptError
        """The server does not know a script."""
        self._unsettled: tuple[type[Exception], ...] = (errors.ClusterError, errors.TryAgainError, *_TAKEN_AWAY)
        if is_cluster:
            # A node may be gone, and another take its place; a thread that learns of it closes connections of others.
            self._unsettled += (errors.ConnectionError, ValueError)
        # The cluster's exception is the only one of a driver outside its tree of errors.
        self.of_driver: tuple[type[Exception], ...] = (
            getattr(errors, f"{prefix}Error"),
            getattr(errors, f"{prefix}ClusterException"),
        )
        """Those that the driver itself raises: it has put its connection in order."""
        # An answer of the server's, though the drivers count some among the errors of connections.
        self._refusals: tuple[type[Exception], ...] = (
            errors.ResponseError,
            errors.AuthenticationError,
            errors.AuthorizationError,
            errors.BusyLoadingError,
        )
        # A ValueError comes from a connection that another thread closed in the middle of a request.
        self.every: tuple[type[Exception], ...] = (*self.of_driver, OSError, ValueError, *self._unsettled)
        """All that stand for a server or a connection that is out of order."""

    def check(self, error: Exception, *, is_late: bool) -> None:
        """Raise unless a retry may succeed; a request that is sent again does not take effect twice.

        Args:
            error: One of `every`.
            is_late: Whether it was retried for long enough.

        Raises:
            AttributeError: The error is one, and not of a connection that was taken away.
            ConfigurationError: The error is one itself.
            CorruptRecordError: A script could not read what is stored, or a key is of another type.
            StorageError: Any other error that does not pass, or has not.
            TypeError: As with an AttributeError.
        """
        if isinstance(error, ConfigurationError):
            raise error  # It is a ValueError, which is among the failures.
        if isinstance(error, _TAKEN_AWAY) and "NoneType" not in str(error):
            raise error  # A mistake in a program, which no server can mend.
        if _DAMAGE.search(str(error)):
            raise CorruptRecordError(f"a record is damaged: {error}") from error
        # The client's connections may all be in use; one will be free.
        may_pass = isinstance(error, self._unsettled) or "Too many connections" in str(error)
        if not may_pass or is_late:
            # A cluster's client wraps what the first node that it asked has said.
            refused = any(isinstance(each, self._refusals) for each in (error, error.__cause__))
            what = "refused" if refused else "did not answer"
            raise StorageError(f"Redis {what}: {type(error).__name__}: {error}") from error


def is_of_replica(error: BaseException) -> bool:
    """Whether a replica refused a write; perhaps the primary that the connection was made to has become one.

    Its connections live on, so only a new one finds the server that took its place. Redis 6.2 quotes the refusal in an
    error of the script.
    """
    return "read only replica" in str(error)


def is_of_another_loop(error: RuntimeError) -> bool:
    """Whether an async client's connection belongs to another event loop than the one that uses it."""
    return "loop" in str(error)
