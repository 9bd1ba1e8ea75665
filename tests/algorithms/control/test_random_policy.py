"""Random actions: of every kind, as often as they should be, and legal ones alone."""

import jax
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium_spaces import ACTIONS

from etude.algorithms.control.random_policy import Random
from etude.environments.wrappers.action_mask import ACTION_MASK
from etude.errors import InvalidInput
from etude.spaces import (
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    space_from_gymnasium,
    to_environment_action,
)

KEY, OTHER = jax.random.key(0), jax.random.key(1)
N = 20_000
OBSERVATION = np.zeros((N, 3), np.float32)


def drawn(action_space, key=KEY, observation=OBSERVATION, mask=None, explore=True):
    """(the policy's actions, the environment's) of each row of observations."""
    seen = space_from_gymnasium(Box(-1, 1, (3,)))
    if mask is not None:
        seen = Composite((mask, seen), (ACTION_MASK, "observation"))
    random = Random()
    state = random.init(key, EnvironmentSpec(seen, action_space, len(OBSERVATION)))

    @jax.jit
    def act(observation, key):
        action, memory = random.act(state, observation, (), key, explore)
        assert memory == ()
        return action, to_environment_action(action_space, action)

    return jax.device_get(act(observation, key))


def frequencies(x):
    """How often each value occurs, in the order of the values, as a share."""
    return np.unique(x, return_counts=True)[1] / len(x)


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_of_every_kind_are_actions_of_the_environment(kind):
    space = ACTIONS[kind]
    action, given = drawn(space_from_gymnasium(space, "action"))
    assert action.shape == (N, *space.shape)
    assert all(space.contains(row) for row in given[:100].astype(space.dtype))


def test_choices_are_equally_likely_and_independent():
    action, _ = drawn(Discrete(3, start=-1))
    np.testing.assert_allclose(frequencies(action), np.full(3, 1 / 3), atol=0.02)
    bits, _ = drawn(MultiBinary((2, 2)))
    joint = bits.reshape(N, 4) @ [8, 4, 2, 1]
    np.testing.assert_allclose(frequencies(joint), np.full(16, 1 / 16), atol=0.01)
    several, _ = drawn(MultiDiscrete((2, 3), (0, 5), (2,)))
    np.testing.assert_allclose(frequencies(several @ [3, 1]), np.full(6, 1 / 6), atol=0.01)


def test_each_element_of_a_box_is_drawn_by_its_bounds():
    """Uniform between two bounds, exponential from one, normal without: as Gymnasium draws."""
    low, high = (np.float32([-2, 0, 5, -np.inf, -np.inf]), np.float32([2, 10, np.inf, -3, np.inf]))
    space = Box(low, high, seed=0)
    action, given = drawn(space_from_gymnasium(space, "action"))
    assert np.abs(action[:, :2]).max() <= 1 and (given >= low).all() and (given <= high).all()
    np.testing.assert_allclose(action.mean(0), [0, 0, 6, -4, 0], atol=0.03)
    np.testing.assert_allclose(action.var(0), [1 / 3, 1 / 3, 1, 1, 1], atol=0.06)
    np.testing.assert_allclose(np.corrcoef(action.T), np.eye(5), atol=0.03)
    quantiles = np.linspace(0.05, 0.95, 19)
    gymnasium_draws = np.stack([space.sample() for _ in range(N)])
    np.testing.assert_allclose(
        np.quantile(given, quantiles, 0), np.quantile(gymnasium_draws, quantiles, 0), atol=0.2
    )
    np.testing.assert_array_equal(given[:, 2:], action[:, 2:])  # not scaled


def test_every_integer_of_a_box_is_equally_likely():
    action, given = drawn(space_from_gymnasium(Box(np.int32([0, 7]), np.int32([3, 7]), dtype="i4")))
    assert np.abs(action).max() <= 1 and (given[:, 1] == 7).all()
    np.testing.assert_allclose(frequencies(given[:, 0]), np.full(4, 1 / 4), atol=0.02)


def test_only_legal_actions_are_taken():
    """Equally often, by a mask of each copy's own."""
    mask = np.int8([[1, 0, 1], [0, 1, 0]])[np.arange(N) % 2]
    observation = {ACTION_MASK: mask, "observation": OBSERVATION}
    action, _ = drawn(Discrete(3), observation=observation, mask=MultiBinary((3,)))
    assert (action[1::2] == 1).all() and set(action[::2]) == {0, 2}
    np.testing.assert_allclose(frequencies(action[::2]), [0.5, 0.5], atol=0.02)
    mask = np.tile(np.int8([0, 1, 1, 1, 0]), (N, 1))
    observation = {ACTION_MASK: mask, "observation": OBSERVATION}
    several = MultiDiscrete((2, 3), (0, 0), (2,))
    action, _ = drawn(several, observation=observation, mask=MultiBinary((5,)))
    assert (action[:, 0] == 1).all() and set(action[:, 1]) == {0, 1}


@pytest.mark.parametrize("kind", ["discrete", "bounded"])
def test_the_key_alone_decides(kind):
    """Not the mode of the policy, for it has none; copies differ."""
    space = space_from_gymnasium(ACTIONS[kind], "action")
    action, _ = drawn(space)
    np.testing.assert_array_equal(drawn(space, explore=False)[0], action)
    alike = 1 / 3 if kind == "discrete" else 0
    for another in (drawn(space, OTHER)[0], np.roll(action, 1, 0)):
        np.testing.assert_allclose((another == action).mean(), alike, atol=0.02)


def test_what_it_cannot_draw_is_refused():
    with pytest.raises(InvalidInput, match="action_mask has shape"):
        mask = np.ones((N, 2), np.int8)
        observation = {ACTION_MASK: mask, "observation": OBSERVATION}
        drawn(Discrete(3), observation=observation, mask=MultiBinary((2,)))
