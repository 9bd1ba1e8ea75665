"""A network of the user's own is called on each row, its floats are trained, and what is no network
is refused."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from filling import call, filled
from torsos import Own, own, plain, wider

from etude.errors import InvalidInput
from etude.nn.critics import critic_values, make_critics
from etude.nn.custom_torso import CustomTorso, make_custom_torso
from etude.nn.linear import affine
from etude.nn.networks import make_dueling_network, make_network, make_torso
from etude.nn.noisy import NoisyLinear, add_noise_layers
from etude.nn.recurrent import GRU
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec

KEY = jax.random.key(0)
BOX = Box((3,))
DICT = Composite((Box((2,)), Discrete(3)), ("arm", "choice"))
PAIR = Composite((DICT, Box((2, 1))))


def values(space, *leading):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.integers(0, 3, (*leading, *x.shape)).astype(x.dtype),
        jax.eval_shape(space.zeros),
    )


def rows(observation, *leading):
    """Each single observation, in order."""
    for index in np.ndindex(*leading):
        yield jax.tree.map(lambda x, index=index: x[index], observation)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("maker", "space"), [(own, BOX), (plain, BOX), (Own, DICT), (plain, PAIR), (own, Discrete(3))]
)
def test_it_is_the_network_called_by_hand_on_each_row(maker, space, leading):
    torso = filled(lambda: make_custom_torso(maker, KEY, space))
    observation = values(space, *leading)
    features = call(torso, observation)
    by_hand = np.stack([call_alone(torso, row) for row in rows(observation, *leading)])
    assert features.shape == (*leading, 2)
    np.testing.assert_allclose(features, by_hand.reshape(*leading, 2), rtol=1e-5, atol=1e-6)


def test_compiled_is_what_it_computes_uncompiled():
    torso, x = filled(lambda: make_custom_torso(plain, KEY, BOX)), values(BOX, 4)
    with jax.disable_jit():
        uncompiled = torso(x)
    np.testing.assert_allclose(call(torso, x), uncompiled, rtol=1e-5)


@jax.jit
def call_alone(torso, observation):
    return torso.network(observation)


class Mixed(eqx.Module):
    """What is trained, and what is not."""

    weight: Any
    table: Any
    name: str
    power: int
    nothing: None
    activation: Any
    size: int = eqx.field(static=True)

    def __call__(self, x):
        return self.activation(self.weight @ x) ** self.power + self.table[: self.size]


def mixed(key, space):
    weight = jax.random.normal(key, (2, 3))
    return Mixed(weight, np.ones(4), "mixed", 2, None, jax.nn.tanh, 2)


def test_floats_are_trained_and_all_else_stays():
    torso = make_custom_torso(mixed, KEY, BOX)
    assert set(torso.parameters) == {".weight", ".table"}
    assert [leaf.dtype for leaf in jax.tree.leaves(torso)] == [jnp.float32] * 2
    before, optimizer = torso.network, optax.sgd(0.1)
    gradient = jax.grad(lambda torso: torso(jnp.ones((4, 3))).sum())(torso)
    after = optax.apply_updates(torso, optimizer.update(gradient, optimizer.init(torso))[0]).network
    assert (before.weight != after.weight).all() and (before.table != after.table)[:2].all()
    for name in ("name", "power", "nothing", "activation", "size"):
        assert getattr(after, name) == getattr(mixed(KEY, BOX), name)


def test_two_calls_make_one_structure_and_compile_one_program():
    program = jax.jit(lambda torso, x: torso(x))
    for key in jax.random.split(KEY):
        torso = make_custom_torso(mixed, key, BOX)
        program(torso, jnp.ones((2, 3)))
    assert program._cache_size() == 1
    assert jax.tree.structure(torso) == jax.tree.structure(make_custom_torso(mixed, KEY, BOX))
    many = jax.vmap(lambda key: make_custom_torso(mixed, key, BOX))(jax.random.split(KEY, 5))
    assert many.parameters[".weight"].shape == (5, 2, 3)
    assert jax.vmap(lambda torso: torso(jnp.ones((4, 3))))(many).shape == (5, 4, 2)


@jax.jit
def by_layers(head, torso, x):
    return affine(head, torso(x))


def test_it_replaces_the_hidden_layers_of_every_kind_of_network():
    """The head is linear on its features, and so is each stream of dueling."""
    x = values(BOX, 5)
    network = filled(lambda: make_network(KEY, BOX, (8, 8), 4, torso=own))
    assert isinstance(network.encoder, CustomTorso) and len(network.head.layers) == 1
    expected = by_layers(network.head.layers[0], network.encoder, x)
    np.testing.assert_allclose(call(network, x), expected, rtol=1e-5)

    torso, head = filled(lambda: make_torso(KEY, BOX, (8, 8), 4, torso=own))
    assert torso.layers == () and head.weight.shape == (4, 2)
    np.testing.assert_allclose(call(torso, x)[0], call(torso.encoder, x))

    dueling = filled(lambda: make_dueling_network(KEY, BOX, (8,), 4, torso=own))
    assert dueling.head.trunk is None
    value, advantage = (
        by_layers(stream.layers[0], dueling.encoder, x)
        for stream in (dueling.head.value, dueling.head.advantage)
    )
    expected = value + advantage - advantage.mean(-1, keepdims=True)
    np.testing.assert_allclose(call(dueling, x), expected, rtol=1e-5, atol=1e-6)


def test_a_recurrent_cell_reads_its_features():
    torso, head = filled(lambda: make_torso(KEY, BOX, (8,), 4, recurrent=GRU(5), torso=wider))
    assert torso.cell.input_projection.weight.shape[1] == 3 and head.weight.shape == (4, 5)
    features, carry = call(torso, values(BOX, 2))
    np.testing.assert_array_equal(features, carry[0])


def test_critics_read_observation_and_action_as_a_tuple():
    spec = EnvironmentSpec(DICT, Box((2,), low=-1.0, high=1.0))
    critics = filled(lambda: make_critics(KEY, spec, (8,), torso=plain))
    observation, action = values(DICT, 4), np.float32(np.random.default_rng(1).normal(size=(4, 2)))
    q = jax.jit(critic_values)(critics, observation, action)
    critic = critics[1]
    features = call(critic.encoder, (observation, action))
    np.testing.assert_allclose(q[1], affine(critic.head.layers[0], features)[:, 0], rtol=1e-5)
    opposite, middle = (
        jax.jit(critic_values)(critics, observation, factor * action) for factor in (-1, 0)
    )
    assert (np.abs(q + opposite - 2 * middle) > 1e-5).all(), "Q is not linear in the action"


def test_noise_is_added_to_the_head_alone():
    noisy = filled(lambda: add_noise_layers(make_network(KEY, BOX, (), 4, torso=Own), sigma=0.5))
    assert isinstance(noisy.head.layers[0], NoisyLinear)
    assert isinstance(noisy.encoder.network.mlp.layers[0], eqx.nn.Linear)


# What is refused


def with_lambda(key, space):
    return eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=key), eqx.nn.Lambda(lambda x: 2 * x)])


def closure(key, space):
    weight = jax.random.normal(key, (2, 3))
    return lambda observation: weight @ observation


def times(factor, x):
    return factor * x


@dataclasses.dataclass
class Unhashable:
    """A maker of one's own, which is no frozen dataclass."""

    units: int = 2

    def __call__(self, key, space):
        return eqx.nn.Linear(3, self.units, key=key)


class Static(eqx.Module):
    weight: Any
    sizes: Any = eqx.field(static=True)

    def __call__(self, x):
        return self.weight @ x


def linear(inputs):
    return lambda key, space: eqx.nn.Linear(inputs, 2, key=key)


def returning(result):
    """A maker of a network whose weight is not read, but for what it returns."""
    return lambda key, space: jax.tree_util.Partial(result, jnp.ones(3))


def fails(key, space):
    raise KeyError("no such layer\nand more")


REFUSED = {
    "a network itself": (
        eqx.nn.Linear(3, 2, key=KEY),
        r"torso is Linear\(...\), which is a network itself; give the function that makes it, "
        r"torso\(key, space\)",
    ),
    "other arguments": (lambda key: own(key, BOX), r"<lambda> takes \(key\); it must take \(key, "),
    "a layer's class": (eqx.nn.Linear, r"Linear takes \(in_features: .*; it must take \(key, spac"),
    "unhashable": (Unhashable(), "Unhashable cannot be hashed .* give a function, or a frozen"),
    "failing": (fails, r"fails raised KeyError: 'no such layer\\nand more'; it was called with a"),
    "no network": (lambda key, space: 3, "makes 3, which is not callable; make a network"),
    "whole numbers": (
        lambda key, space: jax.tree_util.Partial(times, jnp.arange(3)),
        "holds an array of int32 at .*, and only arrays of floats can be trained; keep it as a Pyt",
    ),
    "a key": (
        lambda key, space: jax.tree_util.Partial(times, key),
        r"holds an array of key<fry> at .*; keep it as a Python number or a tuple",
    ),
    "a static array": (
        lambda key, space: Static(jnp.ones((2, 3)), np.arange(2)),
        "holds an array in a static field .*; keep it as a tuple, or as an array of floats",
    ),
    "a set": (
        lambda key, space: jax.tree_util.Partial(times, {1, 2}),
        r"that cannot be hashed \(TypeError: unhashable type: 'set'\); keep it as a number",
    ),
    "a function inside": (with_lambda, "another structure at each call, .* at the top of a module"),
    "a closure": (closure, "keep weights in a pytree: an Equinox module, or jax.tree_util.Parti"),
    "other sizes": (linear(7), "raised TypeError: dot_general .*; it was called with one value of"),
    "a value of Python": (
        returning(lambda weight, x: weight * (2 if x[0] > 0 else 1)),
        "raised TracerBoolConversionError: Attempted boolean conversion of traced array",
    ),
    "a matrix": (
        returning(lambda weight, x: jnp.outer(weight, x)),
        r"returns an array of float32 of shape \(3, 3\) for one value of Box\(.*; it must return "
        r"features, a vector of floats of shape \(n,\)",
    ),
    "a number": (returning(lambda weight, x: x.sum()), r"an array of float32 of shape \(\) for o"),
    "choices": (
        returning(lambda weight, x: jnp.int32(x)),
        r"an array of int32 of shape \(3,\) for one value of",
    ),
    "a pair": (returning(lambda weight, x: (x, x)), "returns a tuple for one value of"),
}


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_maker_of_a_network_is_refused(case):
    torso, message = REFUSED[case]
    with pytest.raises(InvalidInput, match=message) as refused:
        jax.eval_shape(partial(make_network, space=BOX, hidden=(), outputs=1, torso=torso), KEY)
    assert "\n" not in str(refused.value)
