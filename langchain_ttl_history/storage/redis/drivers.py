"""What clients of redis-py and valkey-py are: of which driver, async or not, of a cluster or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module, metadata
from inspect import signature
from types import ModuleType
from typing import Any

__all__ = [
    "class_prefix",
    "connection_to",
    "described",
    "exceptions_of",
    "introduction",
    "is_async",
    "is_client",
    "is_of_cluster",
    "library_of",
    "options_of_clusters",
    "way_out",
]

_DRIVERS = ("redis", "valkey")
_OURS = "langchain-ttl-history"


def library_of(client: Any) -> str | None:
    """The package an object is of, redis or valkey; None if it is of neither."""
    return next((package for package in map(_package_of, type(client).__mro__) if package in _DRIVERS), None)


def is_client(found: Any) -> bool:
    """Whether an object of a driver, or of anyone else, is a client that answers each command at once."""
    # A pipeline has all that a client has, but collects commands.
    collects = any("Pipeline" in each.__name__ for each in type(found).__mro__ if _package_of(each) in _DRIVERS)
    return library_of(found) is not None and hasattr(found, "evalsha") and not collects


def way_out(found: Any) -> str:
    """What to pass instead of an object that is no client; empty if nothing is known."""
    return "; pass its master_for(name)" if hasattr(found, "master_for") else ""


def is_async(client: Any) -> bool:
    """Whether a client of a driver is for event loops."""
    return any(".asyncio" in each.__module__ for each in type(client).__mro__)


def is_of_cluster(client: Any) -> bool:
    """Whether a client of a driver is a cluster's."""
    return hasattr(client, "get_primaries")


def connection_to(client: Any, node: Any) -> Any:
    """The client of one node that a cluster's sync client asks; each driver has named it after itself."""
    return getattr(client, f"get_{library_of(client)}_connection")(node)


def described(client: Any) -> str:
    """What a client of a driver is, without its password, which some versions of redis-py show."""
    known = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    where = ", ".join(f"{name}={known[name]!r}" for name in ("host", "port", "path", "db") if name in known)
    package = f"{library_of(client)}.asyncio" if is_async(client) else library_of(client)
    return f"{package}.{type(client).__name__}({where})"


def exceptions_of(library: str) -> ModuleType:
    """The module of a driver's errors."""
    return import_module(f"{library}.exceptions")


def options_of_clusters(library: str) -> Collection[str]:
    """The names of the options that a driver's async clients of clusters take; its sync ones do not tell."""
    made = getattr(import_module(f"{library}.asyncio.cluster"), f"{class_prefix(library)}Cluster")
    return signature(made.__init__).parameters


@cache  # Each event loop makes a client, and to look a version up takes as long as a few requests.
def introduction(library: str, *, is_cluster: bool) -> Mapping[str, Any]:
    """Options for a driver's client, by which a server's `CLIENT LIST` names this package beside the driver."""
    try:
        version = metadata.version(_OURS)
    except metadata.PackageNotFoundError:
        return {}  # A program that was bundled into one file may come without.
    try:
        info = import_module(f"{library}.driver_info").DriverInfo
    except ImportError:  # valkey-py, and redis-py before 7.2
        return {"lib_name": f"{library}-py({_OURS}_v{version})"}
    if is_cluster and "driver_info" not in options_of_clusters(library):
        return {}  # Those of redis-py 7.2 to 7.4 take neither option without an error or a warning.
    return {"driver_info": info().add_upstream_driver(_OURS, version)}


def class_prefix(library: str) -> str:
    """What the names of a driver's classes begin with."""
    return library.title()


def _package_of(made: type) -> str:
    return made.__module__.partition(".")[0]
