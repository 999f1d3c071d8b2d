"""Checks what a graph hands over or asks for, before anything is stored or read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_ttl_history.errors import ConfigurationError, brief
from langchain_ttl_history.keys import valid_id

__all__ = [
    "check_checkpoint",
    "check_key",
    "check_narrowing",
    "checked_checkpoint_id",
    "checked_list",
    "checked_name",
    "checked_types",
    "checked_writes",
    "required_checkpoint_id",
]

# The fields of a checkpoint that are mappings.
_MAPPINGS = ("channel_values", "channel_versions", "versions_seen")


def checked_name(name: str, value: object) -> str:
    """The name of a namespace, a checkpoint or a task.

    Raises:
        ConfigurationError: It is not a string, or contains a NUL: what is stored under it could not be read again.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {brief(value)} of type {type(value).__name__}")
    if "\0" in value:
        raise ConfigurationError(f"{name} must not contain a NUL character: {brief(value)}")
    return value


def check_key(name: str, key: object) -> None:
    """Check the name of a key in a config, or of a channel in a state.

    Raises:
        ConfigurationError: It is not a string, is empty or too long, or contains what cannot be stored.
    """
    if type(key) is not str or not key.isprintable():
        raise ConfigurationError(f"{name} must be a string of printable characters, not {brief(key)}")
    valid_id(name, key)


def checked_checkpoint_id(id: object) -> str | None:
    """The checkpoint that a config names; None where it names none, as an empty string does.

    Raises:
        ConfigurationError: It is not a valid id.
    """
    return None if id is None or id == "" else valid_id("checkpoint_id", id)


def required_checkpoint_id(id: str | None) -> str:
    """The id of the checkpoint to write to.

    Raises:
        ConfigurationError: The config names none.
    """
    if id is None:
        raise ConfigurationError(
            "config['configurable'] has no 'checkpoint_id' to write to; pass the config that put returned"
        )
    return id


def check_checkpoint(checkpoint: Any, metadata: object) -> None:
    """Check that a checkpoint has what reading it needs; otherwise it would be stored and could not be read.

    Raises:
        ConfigurationError: It names what is wrong.
    """
    for name, value in (("checkpoint", checkpoint), ("metadata", metadata)):
        if not _is_mapping(value):
            raise ConfigurationError(f"{name} must be a mapping, not {brief(value)}")
    id = checkpoint.get("id")
    valid_id("checkpoint['id']", id if isinstance(id, str) else checked_name("checkpoint['id']", id))
    for field in _MAPPINGS:
        if not _is_mapping(value := checkpoint.get(field)):
            raise ConfigurationError(f"checkpoint[{field!r}] must be a mapping, not {brief(value)}")
    for node, seen in checkpoint["versions_seen"].items():
        if not _is_mapping(seen):
            raise ConfigurationError(f"checkpoint['versions_seen'][{node!r}] must be a mapping, not {brief(seen)}")


def _is_mapping(value: object) -> bool:
    # Most are dicts, for which the full check takes ten times as long.
    return type(value) is dict or isinstance(value, Mapping)


def checked_writes(writes: Any) -> list[tuple[str, Any]]:
    """What a task wrote, as pairs of a channel and a value.

    Raises:
        ConfigurationError: It is something else.
    """
    try:
        pairs = [(channel, value) for channel, value in writes]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"writes must be pairs of a channel and a value, not {brief(writes)}") from error
    for channel, _ in pairs:
        checked_name("a write's channel", channel)
    return pairs


def check_narrowing(filter: object, before: Any, limit: object) -> None:
    """Check the arguments that narrow a list of checkpoints.

    Raises:
        ConfigurationError: It names what is wrong.
    """
    for name, value, form in (("filter", filter, "{'source': 'loop'}"), ("before", before, "a config")):
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} must be a mapping like {form}, or None, not {brief(value)}")
    configurable = (before or {}).get("configurable")
    if configurable is not None and not isinstance(configurable, Mapping):
        raise ConfigurationError(f"before must be a config, with a mapping in 'configurable', not {brief(before)}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise ConfigurationError(f"limit must be a whole number, or None for all, not {brief(limit)}")


def checked_types(types: Any) -> list[tuple[str, ...]]:
    """Classes as LangGraph announces them, by module and name.

    Raises:
        ConfigurationError: They are named otherwise.
    """
    for each in checked_list("types", types):
        if not isinstance(each, (tuple, list)) or not all(isinstance(part, str) for part in each):
            raise ConfigurationError(
                f"a type must be named by a pair (module, name), not {brief(each)}; to allow a class itself, use "
                "SessionBuffer(allow_types=[...])"
            )
    return [(*each,) for each in types]


def checked_list(name: str, values: object) -> list[Any]:
    """Ids or names, as a list.

    Raises:
        ConfigurationError: It is not a list, or a single string, whose letters would be taken for the names.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} takes a list, not {brief(values)}; pass [{name[:-1]}]")
    return [*values]
