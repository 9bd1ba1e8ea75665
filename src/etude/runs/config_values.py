"""Values in config.json: hyperparameters as strict JSON, and read back by the types of fields."""

import dataclasses
import math
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from etude.kinds import code_fields, kinds_of, qualified_name, tag_of
from etude.runs.torsos import TorsoLike, restore_torso
from etude.storage.files import CorruptFile


def plain_fields(struct: Any) -> dict[str, Any]:
    """The fields of a struct of hyperparameters in strict JSON; of code, its name."""
    names = [field.name for field in dataclasses.fields(struct)]
    code = code_fields(type(struct))
    plain = {name: _plain(getattr(struct, name)) for name in names if name not in code}
    return {name: plain[name] if name in plain else _name(getattr(struct, name)) for name in names}


def _name(code):
    return None if code is None else qualified_name(code)


def _plain(value):
    """A hyperparameter in strict JSON: infinities become strings, arrays numbers.

    A nested struct is an object with its tag as "kind".
    """
    if dataclasses.is_dataclass(value):
        return {"kind": tag_of(type(value)), **plain_fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def typed_struct(
    cls: Any, values: dict[str, Any], path: str = "", torso: TorsoLike | None = None
) -> Any:
    """A struct of hyperparameters from its fields in JSON; `path` is that of the struct."""
    hints = get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if set(values) != names:
        mismatched = sorted(path + name for name in set(values) ^ names)
        raise CorruptFile(
            f"config.json names other hyperparameters than {cls.__name__} has: "
            f"{', '.join(mismatched)}"
        )
    code = {name: restore_torso(values[name], torso) for name in code_fields(cls)}
    plain = {
        name: typed_value(path + name, value, hints[name], torso)
        for name, value in values.items()
        if name not in code
    }
    return cls(**plain | code)


def typed_value(name, value, hint, torso=None):
    """Convert a value read from JSON to the type of its field."""
    if kinds := kinds_of(hint):
        if value is None and "none" in kinds:
            return None
        if isinstance(value, dict) and value.get("kind") in [*kinds] and value["kind"] != "none":
            fields = {key: item for key, item in value.items() if key != "kind"}
            return typed_struct(kinds[value["kind"]], fields, name + ".", torso)
        raise CorruptFile(
            f"config.json gives {name} as {value!r}; its kind must be one of {', '.join(kinds)}"
        )
    if get_origin(hint) is UnionType and NoneType in get_args(hint):
        return None if value is None else typed_value(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(typed_value(name, item, get_args(hint)[0]) for item in value)
    if hint is float and (type(value) in (int, float) or value in ("inf", "-inf")):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    if value in get_args(hint) and isinstance(value, str):
        return value
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    raise CorruptFile(
        f"config.json gives {name} as {value!r}, which is no {getattr(hint, '__name__', hint)}"
    )
