"""Frozen dataclasses as JAX pytrees, with traced and static fields and bounds on their values."""

import dataclasses
import math
from typing import Any, dataclass_transform, get_args, get_origin, get_type_hints

import jax

from etude.errors import InvalidInput

replace = dataclasses.replace


def traced(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a field that is a child of the pytree, so that `vmap` can sweep over it.

    `validate` checks its bounds.
    """
    return dataclasses.field(default=default, metadata={"bounds": (above, at_least, at_most)})


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


@dataclass_transform(frozen_default=True)
def struct(cls):
    """Make a class an immutable pytree: `static` fields are its structure, all others children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def validate(algorithm: Any) -> None:
    """Check every hyperparameter against its declared options and bounds.

    Then call the algorithm's own `validate_fields`, if it has one. Raises InvalidInput naming the
    field, its value and the values that are allowed.
    """
    hints = get_type_hints(type(algorithm))
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if isinstance(value, jax.core.Tracer):
            continue  # a sweep inside `vmap`: the values are not known at compile time
        options = get_args(hints[field.name]) if get_origin(hints[field.name]) is not tuple else ()
        if options and all(isinstance(option, str) for option in options) and value not in options:
            raise InvalidInput(f"{field.name} is {value!r}; choose one of {', '.join(options)}")
        for number in value if isinstance(value, tuple) else (value,):
            _check_bounds(field, number)
    if validate_fields := getattr(algorithm, "validate_fields", None):
        validate_fields()


def _check_bounds(field, number):
    above, at_least, at_most = field.metadata.get("bounds", (None, None, None))
    requirement = " and ".join(
        text
        for bound, text in (
            (above, f"above {above}"),
            (at_least, f"at least {at_least}"),
            (at_most, f"at most {at_most}"),
        )
        if bound is not None
    )
    if not requirement or isinstance(number, (bool, str)):
        return
    try:
        in_bounds = (
            not math.isnan(number)
            and (above is None or number > above)
            and (at_least is None or number >= at_least)
            and (at_most is None or number <= at_most)
        )
    except TypeError:
        in_bounds = False
    if not in_bounds:
        raise InvalidInput(f"{field.name} is {number}; it must be {requirement}")
