"""How flags and config.json name what is no number: kinds of structs, code. Read without JAX."""

import dataclasses
import functools
import re
import types
from typing import Any, Union, get_args, get_origin


def kinds_of(hint: Any) -> dict[str, Any]:
    """The kinds that a nested field of type `hint` may be, by tag; {} for any other field.

    A tag names a kind on the command line and in config.json: the attribute `tag` of the struct,
    else its name in lower case with hyphens. None has the tag "none".
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    is_nested = all(dataclasses.is_dataclass(x) or x is types.NoneType for x in options)
    return {tag_of(option): option for option in options} if is_nested else {}


def is_switch(kinds: dict[str, Any]) -> bool:
    """Whether the kinds are one struct or None, so that yes or no chooses between them."""
    return len(kinds) == 2 and types.NoneType in kinds.values()


def tag_of(kind: type) -> str:
    """The tag of a kind of nested setting; see `kinds_of`."""
    if kind is types.NoneType:
        return "none"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__)
    return getattr(kind, "tag", words.lower())


def code_fields(cls: Any) -> list[str]:
    """The names of the fields of a struct's class that hold code; see `etude.struct.code`."""
    return [field.name for field in dataclasses.fields(cls) if "code" in field.metadata]


def qualified_name(value: Any) -> str:
    """The name module:name of a class or function; of other callables, that of their class.

    A `functools.partial` has the name of its function.
    """
    while isinstance(value, functools.partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
