"""The URL of a Redis or Valkey server: checked at once, and made into clients later."""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple
from unicodedata import category
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from langchain_ttl_history.errors import ConfigurationError, unknown_url
from langchain_ttl_history.storage.redis.drivers import class_prefix, exceptions_of, introduction, options_of_clusters
from langchain_ttl_history.storage.redis.packing import in_one_piece
from langchain_ttl_history.storage.redis.tls import SharedContext

__all__ = ["ServerURL"]

# Seconds; a URL may say otherwise: ?socket_timeout=1&socket_connect_timeout=1
_DEFAULTS: Mapping[str, float] = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
# Connections of one loop; a URL may say otherwise: ?max_connections=200
_CONNECTIONS = 50
# How often and after how many seconds a request is sent again when its connection broke: a
# connection that lay idle is often found closed.
_RETRIES, _PAUSE, _LONGEST_PAUSE = 2, 0.02, 0.2
# An address of version 6, with its zone.
_ADDRESS = re.compile(r"[\da-f]*:[\da-f:.]*(%[\w.-]+)?")

# Options by which a URL itself says who connects.
_INTRODUCED = re.compile(r"(^|&)lib_(name|version)=")
# An option that a URL sets, without another behind a wrong sign: the drivers' errors show some values.
_OPTION = re.compile(r"[^=]*=(?!.*password=).*")


class _Scheme(NamedTuple):
    library: str
    plain: str
    """The scheme for the library."""
    tls: bool
    cluster: bool


_SCHEMES: Mapping[str, _Scheme] = {
    name + suffix: _Scheme(library, name, name != library, bool(suffix))
    for library, names in (("redis", ("redis", "rediss")), ("valkey", ("valkey", "valkeys")))
    for name in names
    for suffix in ("", "+cluster")
}


class ServerURL:
    """A URL that a driver understands.

    Raises:
        ConfigurationError: Its scheme is not known, its driver is not installed, or it cannot be read.
    """

    def __init__(self, url: str) -> None:
        name, _, rest = url.partition(":")
        scheme = _SCHEMES.get(name)
        if scheme is None:
            raise ConfigurationError(
                f"{unknown_url('Redis', _SCHEMES, url)}; "
                f"write redis://host:6379/0, with one of these schemes: {', '.join(_SCHEMES)}"
            )
        if not rest.startswith("//"):
            # Not shown, since it may hold a password.
            raise ConfigurationError(f"a {name} URL is written {name}://host:6379/0")
        self.given = url
        """The URL itself, with its password."""
        self.library: str = scheme.library
        """The package of the driver: redis or valkey."""
        self.is_cluster: bool = scheme.cluster
        self._context = SharedContext() if scheme.tls else None
        # As the driver has it, which knows no scheme for clusters.
        self._plain = f"{scheme.plain}:{rest}"
        self._scheme = name
        try:
            import_module(self.library)
        except ImportError as error:
            raise ConfigurationError(
                # Between these quotes it works in every shell, that of Windows included.
                f'{name}:// needs the package {self.library!r}: pip install "langchain-ttl-history[{self.library}]"'
            ) from error
        self._parts = self._split()
        own = getattr(exceptions_of(self.library), f"{class_prefix(self.library)}Error")
        try:
            self._check()
        except TypeError as error:
            # Not what the driver says, and not chained: the option it names may be a part of a password.
            raise self._unreadable(self._unknown(str(error))) from None
        except (ValueError, LookupError, AttributeError, NameError, own) as error:  # Some values drivers do not check.
            raise ConfigurationError(f"{self!r} is no URL that {self.library} understands: {error}") from error

    def __repr__(self) -> str:
        # Only what a password cannot be a part of.
        host, port = self._parts.hostname or "", self._parts.port
        place = f"[{host}]" if ":" in host else host
        return repr(f"{self._scheme}://{place}{'' if port is None else f':{port}'}{self._parts.path}")

    def _split(self) -> SplitResult:
        """The parts of the URL; it is refused if a password cannot be told from the rest.

        Of such a URL the error shows nothing, and not what a parser says either: that quotes a part.
        """
        # A password may look like a port as far as its first special character, and the rest like an option.
        if "#" in self._plain:
            raise self._unreadable("a # means nothing here, and in a password is written as %23")
        flaw = "the host must be a name or an address, and the port a number up to 65535"
        with suppress(ValueError):
            parts = urlsplit(self._plain)
            _ = parts.port
            database = parts.path.strip("/")
            if "@" in parts.path + parts.query:
                flaw = "an @ stands behind the host"
            elif not all(_OPTION.fullmatch(each) for each in parts.query.split("&") if each):
                flaw = "what follows a ? must be options, name=value with an & between them"
            elif database and not (database.isascii() and database.isdigit()):
                # The drivers would take database 0, or 12 where 1/2 stands.
                flaw = "the path must be the number of a database"
            elif _is_host(parts.hostname or ""):
                return parts
        # Raised out here, so that the parser's error is no context of this one.
        raise self._unreadable(flaw)

    def _unreadable(self, flaw: str) -> ConfigurationError:
        return ConfigurationError(
            f"'{self._scheme}://...' cannot be read: {flaw}. "
            f"Write {self._scheme}://user:password@host:6379/0?option=value, with special characters of a user name, "
            "a password or an option written as codes, which urllib.parse.quote(password, safe='') does"
        )

    def _unknown(self, refusal: str) -> str:
        """What is wrong with the option that a driver's error names; it is counted, since its name is not shown."""
        flaw = f"an option is not known to {self.library}"
        for number, (name, _) in enumerate(parse_qsl(self._parts.query, keep_blank_values=True), 1):
            if f"argument '{name}'" in refusal:
                flaw = f"option {number} is not known to {self.library}"
                if name.startswith("ssl_") and self._context is None:
                    tls = self._scheme.replace(self.library, f"{self.library}s")
                    flaw = f"option {number} is one of TLS, which needs {tls}://"
                break
        return f"{flaw}, or an & in the password is not written as %26"

    def _check(self) -> None:
        """Parse the URL as the clients will, to report an error now; they are made only when needed."""
        module = import_module(f"{self.library}.connection")
        # Not by `parse_url`, which only newer versions have there.
        pool = module.ConnectionPool.from_url(self._plain)
        options = pool.connection_kwargs
        # The drivers find out about these only when they send something.
        codecs.lookup(options.get("encoding", "utf-8"))
        for name in _DEFAULTS:
            if not 0 < options.get(name, 1) < threading.TIMEOUT_MAX:
                raise ValueError(f"{name} must be a number of seconds above 0")
        if not self.is_cluster:
            pool.make_connection()
            return
        if options.get("db"):
            raise ValueError("a cluster has only database 0")
        known = options_of_clusters(self.library)
        pool.connection_class(**{name: value for name, value in options.items() if name not in known})

    def client(self, *, asynchronous: bool) -> Any:
        """A new client; a cluster's sync one connects at once."""
        client = self._client(asynchronous=asynchronous)
        if asynchronous and self._context is not None:
            self._context.share(client, is_cluster=self.is_cluster)
        return client

    def _client(self, *, asynchronous: bool) -> Any:
        package = f"{self.library}.asyncio" if asynchronous else self.library
        prefix = class_prefix(self.library)
        if self.is_cluster:
            made = getattr(import_module(f"{package}.cluster"), f"{prefix}Cluster")
        else:
            made = getattr(import_module(package), prefix)
        retry = import_module(f"{package}.retry").Retry
        errors = exceptions_of(self.library)
        backoff = import_module(f"{self.library}.backoff").ExponentialBackoff(_LONGEST_PAUSE, _PAUSE)
        options: dict[str, Any] = {
            **_DEFAULTS,
            # Of a connection that is refused, only newer drivers make an error of their own in time.
            "retry": retry(backoff, _RETRIES, (errors.ConnectionError, ConnectionRefusedError)),
        }
        if not _INTRODUCED.search(self._parts.query):
            options |= introduction(self.library, is_cluster=self.is_cluster)
        pools = import_module(f"{package}.connection")
        if self.is_cluster:
            if not asynchronous:
                options["connection_pool_class"] = lambda **kwargs: in_one_piece(
                    self.library, pools.ConnectionPool(**kwargs)
                )
            return made.from_url(self._plain, **options)
        # valkey-py retries only after errors that are also named here.
        options["retry_on_error"] = [errors.ConnectionError]
        if not asynchronous:
            # No limit: there are as many connections as threads that call at once.
            pool = pools.ConnectionPool.from_url(self._plain, max_connections=2**31, **options)
            return made.from_pool(in_one_piece(self.library, pool))
        # A task that finds all connections in use waits for one, up to a timeout, instead of being refused.
        options |= {"max_connections": _CONNECTIONS, "timeout": _DEFAULTS["socket_timeout"]}
        return made.from_pool(pools.BlockingConnectionPool.from_url(self._plain, **options))


def _is_host(text: str) -> bool:
    """Whether it can be a name or an address: a password that got here comes with characters that no host has."""
    if ":" in text:
        return _ADDRESS.fullmatch(text) is not None
    # Decoded, as the drivers do. The vowels of many scripts are marks, not letters.
    return all(each in "-._" or each.isalnum() or category(each)[0] == "M" for each in unquote(text))
