"""Fields that a program has added to a class since an object of it was stored: they get their defaults.

One without a default stays absent, as pydantic's `model_construct` leaves it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo, ModelPrivateAttr
from pydantic_core import PydanticUndefined

__all__ = ["absent_from", "fill_dataclass", "fill_model"]


def fill_dataclass(made: Any, stored: dict[str, Any]) -> None:
    """Set the fields that were added to a dataclass.

    Args:
        made: The object; changed in place, though its class may be frozen.
        stored: The fields it was stored with.
    """
    for field in dataclasses.fields(made):
        if field.name in stored:
            continue
        if field.default is not dataclasses.MISSING:
            object.__setattr__(made, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            object.__setattr__(made, field.name, field.default_factory())


def absent_from(value: BaseModel) -> list[str]:
    """The fields and private attributes with a default that an object lacks all the same: somebody deleted them."""
    there = {*value.__dict__, *(value.__pydantic_private__ or ())}
    return [name for name, field in _all_of(type(value)).items() if name not in there and _has_default(field)]


def fill_model(
    cls: type[BaseModel],
    fields: dict[str, Any],
    extra: dict[str, Any] | None,
    private: dict[str, Any] | None,
    absent: Collection[str] = (),
) -> dict[str, Any] | None:
    """Fill in what was added to a pydantic model since an object of it was stored.

    Args:
        cls: The model.
        fields: The fields that the object was stored with; the added ones are added.
        extra: What it was stored with under other names; the value of one that is a field by now moves to the fields.
        private: Its private attributes.
        absent: What it lacked when it was stored; see `absent_from`.

    Returns:
        The private attributes, those that were added included.
    """
    added: dict[str, Any] = {}
    for name, field in _all_of(cls).items():
        if name in fields or name in absent or (private is not None and name in private):
            continue
        if extra and name in extra:
            fields[name] = extra.pop(name)
        elif _has_default(field):
            try:
                made = _default(field, fields)
            except Exception:  # noqa: BLE001, S112  # a program's own, which may need a field that is not there
                continue
            if isinstance(field, FieldInfo):
                fields[name] = made
            else:
                added[name] = made
    return {**(private or {}), **added} if added else private


def _all_of(cls: type[BaseModel]) -> dict[str, FieldInfo | ModelPrivateAttr]:
    return {**cls.model_fields, **cls.__private_attributes__}


def _has_default(field: FieldInfo | ModelPrivateAttr) -> bool:
    return field.default_factory is not None or not (field.default is PydanticUndefined or field.default is ...)


def _default(field: FieldInfo | ModelPrivateAttr, before: dict[str, Any]) -> Any:
    """A default, made by the factory if there is one, which may ask for the fields `before` this one."""
    # Pydantic's own `get_default` takes other arguments in each of its releases.
    factory: Any = field.default_factory
    if factory is None:
        return copy.deepcopy(field.default)
    return factory(before) if getattr(field, "default_factory_takes_validated_data", False) else factory()
