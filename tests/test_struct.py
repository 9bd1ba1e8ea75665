"""Structs as pytrees, hyperparameters held to what they were declared with, and kinds of them."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Literal, Optional

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.kinds import code_fields, kinds_of, qualified_name, tag_of
from etude.struct import code, nested, replace, static, struct, traced, validate


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


@struct
class Limits:
    limit: float = traced(2.0, above=0, infinite=True)
    decay: float = traced(math.inf, above=0)


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
        Knobs(free=-1e30),
        Limits(limit=math.inf, decay=1.0),
        Limits(),
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
        (dict(weight=math.inf), "^weight is inf; it must be at least 0 and finite$"),
        (dict(free=-math.inf), "^free is -inf; it must be finite$"),
        (dict(free=math.nan), "^free is nan; it must be a number$"),
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


@pytest.mark.parametrize("field", ["limit", "decay"])
def test_what_may_be_infinite_is_a_number_all_the_same(field):
    for value in (math.nan, -math.inf):
        with pytest.raises(InvalidInput, match=f"^{field} is {value}; it must be above 0$"):
            validate(Limits(**{field: value}))


def test_a_sweep_inside_a_program_is_not_asked_for_its_values():
    @struct
    class Rate:
        rate: float = traced(0.5, above=0)

    rates = np.float32([-1, 2])
    np.testing.assert_array_equal(jax.vmap(lambda rate: validate(Rate(rate)) or rate)(rates), rates)


# Kinds: structs in fields of structs


@struct
class Fixed:
    pass


@struct
class Decaying:
    start: float = traced(1.0, at_least=0)
    end: float = traced(0.5, at_least=0)
    tag = "falling"

    def validate_fields(self):
        if self.end > self.start:
            raise InvalidInput(f"end {self.end} is above start {self.start}")


@struct
class Buffer:
    alpha: float = traced(0.5, at_least=0)
    schedule: Fixed | Decaying = nested(Fixed())


@struct
class Agent:
    rate: float = traced(0.1, above=0)
    replay: Fixed | Buffer = nested(Fixed())
    noise: Decaying | None = nested(None)


@struct
class Owner:
    agent: Agent = nested(Agent())


@pytest.mark.parametrize(
    ("hint", "kinds"),
    [
        (Fixed | Buffer, {"fixed": Fixed, "buffer": Buffer}),
        (Buffer | Fixed, {"buffer": Buffer, "fixed": Fixed}),
        (Buffer, {"buffer": Buffer}),
        (Decaying | None, {"falling": Decaying, "none": type(None)}),
        (Optional[Buffer], {"buffer": Buffer, "none": type(None)}),  # noqa: UP045
        (float, {}),
        (float | None, {}),
        (Fixed | float, {}),
        (tuple[int, ...], {}),
        (Literal["fixed", "buffer"], {}),
    ],
    ids=str,
)
def test_kinds_are_the_structs_of_a_union_in_its_order(hint, kinds):
    assert list(kinds_of(hint).items()) == list(kinds.items())


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Uniform", "uniform"),
        ("EpsilonGreedy", "epsilon-greedy"),
        ("QLearning", "q-learning"),
        ("TD3", "td3"),
        ("DQN", "dqn"),
        ("GRU", "gru"),
        ("HTTPServer", "http-server"),
    ],
)
def test_a_tag_is_the_words_of_a_name(name, tag):
    assert tag_of(type(name, (), {})) == tag
    assert tag_of(type(name, (), {"tag": "another"})) == "another"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Agent(replay=Buffer(alpha=-1.0)), "replay.alpha is -1.0; it must be at least 0"),
        (Agent(replay="buffer"), "replay is 'buffer'; it must be Fixed(...) or Buffer(...)"),
        (Agent(replay=None), "replay is None; it must be Fixed(...) or Buffer(...)"),
        (Agent(replay=Buffer), f"replay is {Buffer!r}; it must be Fixed(...) or Buffer(...)"),
        (Agent(noise=Fixed()), "noise is Fixed(); it must be Decaying(...) or None"),
        (Agent(noise=True), "noise is True; it must be Decaying(...) or None"),
        (Agent(noise=Decaying(0.1, 0.2)), "noise: end 0.2 is above start 0.1"),
        (
            Owner(Agent(replay=Buffer(schedule=Decaying(end=-1.0)))),
            "agent.replay.schedule.end is -1.0; it must be at least 0",
        ),
        (
            Owner(Agent(replay=Buffer(schedule=Decaying(end=2.0)))),
            "agent.replay.schedule: end 2.0 is above start 1.0",
        ),
        (Owner(Agent(rate=0.0)), "agent.rate is 0.0; it must be above 0"),
        (Owner(None), "agent is None; it must be Agent(...)"),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_kind_is_named_with_its_path(wrong, message):
    with pytest.raises(InvalidInput) as error:
        validate(wrong)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "right",
    [
        Agent(),
        Agent(noise=Decaying()),
        Owner(Agent(replay=Buffer(schedule=Decaying(1.0, 0.0)), noise=Decaying(2.0))),
    ],
    ids=str,
)
def test_kinds_within_their_bounds_are_let_through(right):
    validate(right)


def test_a_sweep_reaches_the_fields_of_a_kind():
    """They are children of the whole; which kind it is belongs to the structure."""
    agent = Agent(replay=Buffer())
    assert jax.tree.leaves(agent) == [0.1, 0.5]
    assert jax.tree.structure(agent) != jax.tree.structure(Agent())
    alphas = np.float32([0.0, 2.0])

    def doubled(alpha):
        swept = replace(agent, replay=replace(agent.replay, alpha=alpha))
        validate(swept)
        return jax.tree.map(lambda x: 2 * x, swept).replay.alpha

    np.testing.assert_array_equal(jax.vmap(doubled)(alphas), 2 * alphas)


# Code


@struct
class Coded:
    make: Callable | None = code()
    rate: float = traced(1.0)


def test_code_is_structure_and_must_be_callable():
    assert code_fields(Coded) == ["make"]
    assert jax.tree.leaves(Coded(math.sin)) == [1.0]
    assert jax.tree.structure(Coded(math.sin)) != jax.tree.structure(Coded(math.cos))
    for right in (None, math.sin, Coded, partial(math.pow, 2)):
        validate(Coded(right))
    for wrong in (3, "math:sin", (math.sin,)):
        with pytest.raises(InvalidInput, match="make is .*; it must be a function, or None"):
            validate(Coded(wrong))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (math.sin, "math:sin"),
        (Coded, f"{__name__}:Coded"),
        (partial(partial(math.pow, 2), 3), "math:pow"),
        (Coded(), f"{__name__}:Coded"),
        (lambda x: x, f"{__name__}:<lambda>"),
    ],
    ids=["function", "class", "partial", "object", "lambda"],
)
def test_code_has_the_name_of_its_function_or_class(value, name):
    assert qualified_name(value) == name
