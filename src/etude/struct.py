"""Frozen dataclasses as JAX pytrees, with traced, static and nested fields and their bounds."""

import dataclasses
import math
import operator
import types
from typing import Any, dataclass_transform, get_args, get_origin, get_type_hints

import jax

from etude.errors import InvalidInput, shown
from etude.kinds import code_fields, kinds_of

replace = dataclasses.replace
LARGEST = 2**31 - 1  # of a size or a count: no array is larger, and no counter goes further


def traced(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
) -> Any:
    """Declare a field that is a child of the pytree, so that `vmap` can sweep over it.

    `validate` checks its bounds, and that it is finite unless `infinite`, or its default, says that
    it need not be.
    """
    metadata = {"bounds": (above, at_least, at_most), "infinite": infinite}
    return dataclasses.field(default=default, metadata=metadata)


def static(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a field that is fixed at compile time: a size, an option or a function.

    `validate` checks its bounds.
    """
    return dataclasses.field(
        default=default, metadata={"static": True, "bounds": (above, at_least, at_most)}
    )


def nested(default: Any) -> Any:
    """Declare a field that is a struct with settings of its own, or None.

    Its type is the union of the kinds that it may be: `replay: Uniform | Prioritized`.
    """
    return dataclasses.field(default=default)


def code(default: Any = None) -> Any:
    """Declare a static field that holds a function of the user, or None.

    It is given from Python, or by its name module:function where a person types it: it is no flag
    of its own, and config.json holds its name alone, which nothing imports.
    """
    return dataclasses.field(default=default, metadata={"static": True, "code": True})


@dataclass_transform(frozen_default=True)
def struct(cls):
    """Make a class an immutable pytree: `static` fields are its structure, all others children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def validate(settings: Any, path: str = "") -> None:
    """Check every field of a struct against its declared options and bounds, nested ones too.

    Then call the struct's own `validate_fields`, if it has one. Raises InvalidInput naming the
    field, after the `path` of the fields around it, its value and the values that are allowed.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        name, value, hint = path + field.name, getattr(settings, field.name), hints[field.name]
        if isinstance(value, jax.core.Tracer):
            continue  # a sweep inside `vmap`: the values are not known at compile time
        if field.name in code_fields(type(settings)):
            if value is not None and not callable(value):
                raise InvalidInput(f"{name} is {value!r:.80}; it must be a function, or None")
            continue
        if kinds := tuple(kinds_of(hint).values()):
            if not isinstance(value, kinds):
                raise InvalidInput(f"{name} is {value!r}; it must be {_join_kinds(kinds)}")
            if value is not None:
                validate(value, name + ".")
            continue
        if get_origin(hint) is tuple and not isinstance(value, tuple):
            items = tuple(value) if isinstance(value, list) else (value,)
            raise InvalidInput(f"{name} is {value!r}; write it as a tuple: {items!r}")
        options = get_args(hint) if get_origin(hint) is not tuple else ()
        if options and all(isinstance(option, str) for option in options) and value not in options:
            raise InvalidInput(f"{name} is {value!r}; choose one of {', '.join(options)}")
        element_type = get_args(hint)[0] if get_origin(hint) is tuple else hint
        for number in value if isinstance(value, tuple) else (value,):
            _check_type(name, number, element_type)
            _check_bounds(name, field, number, element_type)
    if validate_fields := getattr(settings, "validate_fields", None):
        try:
            validate_fields()
        except InvalidInput as error:
            raise InvalidInput(
                f"{path.removesuffix('.')}: {error}" if path else str(error)
            ) from None


def _join_kinds(kinds):
    names = ("None" if kind is types.NoneType else f"{kind.__name__}(...)" for kind in kinds)
    return " or ".join(names)


def _check_type(name, number, hint):
    if hint is bool and not isinstance(number, bool):
        raise InvalidInput(f"{name} is {number!r}; it must be True or False")
    is_number = not isinstance(number, (bool, str))
    if hint is float and not is_number:
        raise InvalidInput(f"{name} is {number!r}; it must be a number")
    if hint is not int:
        return
    try:
        operator.index(number)
    except TypeError:
        is_number = False
    if not is_number:
        raise InvalidInput(f"{name} is {number!r}; it must be a whole number")
    if number > LARGEST:
        raise InvalidInput(f"{name} is {shown(number)}; it must be at most {LARGEST:,}")


def _check_bounds(name, field, number, hint):
    above, at_least, at_most = field.metadata.get("bounds", (None, None, None))
    requirements = [
        text
        for bound, text in (
            (above, f"above {above}"),
            (at_least, f"at least {at_least}"),
            (at_most, f"at most {at_most}"),
        )
        if bound is not None
    ]
    if (hint is not float and not requirements) or isinstance(number, (bool, str)):
        return
    try:
        is_number = not math.isnan(number)
        is_finite = not math.isinf(number) or _may_be_infinite(field)
        in_bounds = (
            (above is None or number > above)
            and (at_least is None or number >= at_least)
            and (at_most is None or number <= at_most)
        )
    except TypeError:
        is_number = is_finite = in_bounds = False
    if not (is_number and is_finite and in_bounds):
        finite = [] if is_finite else ["finite"]
        requirement = " and ".join(requirements + finite) or "a number"
        raise InvalidInput(f"{name} is {number}; it must be {requirement}")


def _may_be_infinite(field):
    defaults = field.default if isinstance(field.default, tuple) else (field.default,)
    return field.metadata.get("infinite", False) or any(
        isinstance(default, float) and math.isinf(default) for default in defaults
    )
