"""Structs as pytrees, and hyperparameters held to what they were declared with."""

import math
from dataclasses import FrozenInstanceError
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.struct import replace, static, struct, traced, validate


@struct
class Knobs:
    rate: float = traced(0.5, above=0, at_most=1)
    weight: float = traced(1.0, at_least=0)
    free: float = traced(3.0)
    sizes: tuple[int, ...] = static((4, 4), at_least=1)
    kind: Literal["plain", "fancy"] = static("plain")
    flag: bool = static(True)

    def validate_fields(self):
        if self.weight > 100 * self.rate:
            raise InvalidInput("weight is too large for the rate")


def test_traced_fields_are_children_and_static_ones_structure():
    assert jax.tree.leaves(Knobs()) == [0.5, 1.0, 3.0]
    assert jax.tree.structure(Knobs()) == jax.tree.structure(Knobs(rate=0.1))
    assert jax.tree.structure(Knobs()) != jax.tree.structure(Knobs(sizes=(5,)))
    swept = jax.vmap(lambda knobs: knobs.rate * len(knobs.sizes))(
        Knobs(*map(jnp.float32, ([0.1, 0.2], [1, 1], [0, 0])))
    )
    np.testing.assert_allclose(swept, [0.2, 0.4])


def test_structs_do_not_change():
    knobs = Knobs()
    with pytest.raises(FrozenInstanceError):
        knobs.rate = 1.0
    assert replace(knobs, rate=0.1).rate == 0.1 and knobs.rate == 0.5


@pytest.mark.parametrize(
    "knobs",
    [
        Knobs(),
        Knobs(rate=1.0),
        Knobs(weight=0.0),
        Knobs(free=-math.inf),
        Knobs(sizes=()),
        Knobs(sizes=(1,)),
        Knobs(kind="fancy"),
        Knobs(rate=np.float32(0.5)),
    ],
    ids=str,
)
def test_what_is_within_bounds_is_let_through(knobs):
    validate(knobs)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(rate=0.0), r"^rate is 0.0; it must be above 0 and at most 1$"),
        (dict(rate=1.5), "rate is 1.5; it must be above 0 and at most 1"),
        (dict(rate=math.nan), "rate is nan; it must be above 0"),
        (dict(rate=None), "rate is None; it must be above 0"),
        (dict(weight=-1e-9), "weight is -1e-09; it must be at least 0"),
        (dict(sizes=(4, 0)), "sizes is 0; it must be at least 1"),
        (dict(kind="odd"), "kind is 'odd'; choose one of plain, fancy"),
        (dict(weight=60.0), "weight is too large for the rate"),
    ],
)
def test_what_is_not_is_named_with_what_is_allowed(wrong, message):
    with pytest.raises(InvalidInput, match=message):
        validate(Knobs(**wrong))


def test_a_sweep_inside_a_program_is_not_asked_for_its_values():
    @struct
    class Rate:
        rate: float = traced(0.5, above=0)

    rates = np.float32([-1, 2])
    np.testing.assert_array_equal(jax.vmap(lambda rate: validate(Rate(rate)) or rate)(rates), rates)
