"""Fields that a program has added to a class since an object of it was stored: they get their defaults.

One without a default stays absent, as pydantic's `model_construct` leaves it.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo, ModelPrivateAttr
from pydantic_core import PydanticUndefined

__all__ = ["fill_dataclass", "fill_model", "filled_private"]


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


def fill_model(cls: type[BaseModel], fields: dict[str, Any]) -> None:
    """Add the fields that were added to a pydantic model to those that an object was stored with, in place."""
    if cls.model_fields.keys() <= fields.keys():
        return
    for name, field in cls.model_fields.items():
        if name not in fields and not field.is_required():
            fields[name] = _default(field, fields)


def filled_private(
    cls: type[BaseModel], fields: dict[str, Any], private: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The private attributes that an object of these fields was stored with, and those that were added to its class."""
    there = private or {}
    added = {
        name: _default(attribute, fields)
        for name, attribute in cls.__private_attributes__.items()
        if name not in there and (attribute.default_factory or attribute.default is not PydanticUndefined)
    }
    return {**there, **added} if added else private


def _default(field: FieldInfo | ModelPrivateAttr, before: dict[str, Any]) -> Any:
    """A default, made by the factory if there is one, which may ask for the fields `before` this one."""
    # Pydantic's own `get_default` takes other arguments in each of its releases.
    factory: Any = field.default_factory
    if factory is None:
        return copy.deepcopy(field.default)
    return factory(before) if getattr(field, "default_factory_takes_validated_data", False) else factory()
