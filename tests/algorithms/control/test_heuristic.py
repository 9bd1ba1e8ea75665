"""Controllers written by hand: LunarLander's is Gymnasium's, step by step, and it lands."""

from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import pytest

from etude.algorithms.control.heuristic import HEURISTICS, Heuristic, HeuristicState
from etude.environments import make
from etude.errors import InvalidInput
from etude.rollout import bind_policy, evaluate
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.spaces import Box, Discrete, EnvironmentSpec, to_environment_action

LANDERS = ["LunarLander-v3", "LunarLanderContinuous-v3"]
CARTS = ["CartPole-v1", "etude/CartPoleWithoutVelocity-v1"]
every_lander = pytest.mark.parametrize("name", LANDERS)


@pytest.fixture(scope="module")
def gymnasium_heuristic():
    pytest.importorskip("Box2D", reason="it has no wheel for every platform")
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return heuristic


def actions_of(name, observations):
    """The environment's actions for observations [row, 8], exploring and not."""
    action_space = HEURISTICS[name].action_space
    heuristic = Heuristic()
    spec = EnvironmentSpec(Box((8,)), action_space, len(observations), name)
    state = heuristic.init(jax.random.key(0), spec)

    @jax.jit
    def act(observations):
        both = [heuristic.act(state, observations, (), None, explore) for explore in (True, False)]
        return [(to_environment_action(action_space, action), memory) for action, memory in both]

    (action, memory), (same_action, _) = jax.device_get(act(observations))
    assert memory == ()
    np.testing.assert_array_equal(action, same_action)
    return action


@every_lander
def test_it_is_that_of_gymnasium_wherever_the_lander_is(name, gymnasium_heuristic):
    rng = np.random.default_rng(0)
    scale = np.array([[0.1], [0.4], [1.0]]).repeat(2_000, 0)
    flight = (scale * rng.normal(size=(6_000, 6))).astype(np.float32)
    legs = (rng.random((6_000, 2)) < 0.2).astype(np.float32)
    observations = np.concatenate([flight, legs], 1)
    environment = SimpleNamespace(unwrapped=SimpleNamespace(continuous=name == LANDERS[1]))
    expected = [gymnasium_heuristic(environment, observation) for observation in observations]
    actions = actions_of(name, observations)
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    if name == LANDERS[0]:
        assert np.bincount(actions).min() > 300  # every engine fires


@every_lander
def test_it_is_that_of_gymnasium_along_episodes(name, gymnasium_heuristic):
    observations, expected = [], []
    with gymnasium.make(name) as environment:
        for seed in range(3):
            observation, _ = environment.reset(seed=seed)
            done = False
            while not done:
                observations.append(observation)
                expected.append(gymnasium_heuristic(environment, observation))
                observation, _, terminated, truncated, _ = environment.step(expected[-1])
                done = terminated or truncated
    observations = np.stack(observations)
    assert observations[:, 6:].any() and not observations[:, 6:].all()
    np.testing.assert_allclose(actions_of(name, observations), expected, atol=1e-5)


@pytest.mark.system
@every_lander
def test_it_lands(name):
    """Actions at random return about -190 on average."""
    pytest.importorskip("Box2D", reason="it has no wheel for every platform")
    environment, heuristic = make(name, 10, "gymnasium"), Heuristic()
    policy = bind_policy(heuristic, heuristic.init(None, environment.spec), environment)
    returns, _ = jax.jit(lambda key: evaluate(environment, policy, key, 100))(jax.random.key(0))
    environment.close()
    assert returns.mean() > 200


def test_a_pole_is_balanced_with_velocities_and_with_a_memory_in_their_place():
    """For 500 steps in every episode; and what is remembered gives the actions of the velocities,
    but for the first step, at which there are none."""
    controllers = {name: HEURISTICS[name] for name in CARTS}
    carts = {name: make(name, 20, "jax") for name in CARTS}

    @jax.jit
    def play(key):
        heuristic, returns = Heuristic(), []
        for name, cart in carts.items():
            policy = bind_policy(heuristic, HeuristicState(controllers[name]), cart)
            returns.append(evaluate(cart, policy, key, 20)[0])
        return returns

    np.testing.assert_array_equal(play(jax.random.key(0)), 500)
    rng = np.random.default_rng(0)
    before, velocity = rng.normal(size=(2, 100, 2)).astype(np.float32)
    after = before + 0.02 * velocity
    told = np.stack([after[:, 0], velocity[:, 0], after[:, 1], velocity[:, 1]], 1)
    remembering = controllers[CARTS[1]]
    action, memory = remembering.act(after, before)
    np.testing.assert_array_equal(action, told @ [0.1, 0.2, 3, 1] > 0)
    np.testing.assert_array_equal(memory, after)
    first, _ = remembering.act(after, remembering.initial_memory(100, None))
    np.testing.assert_array_equal(first, after @ [0.1, 3] > 0)


@pytest.mark.parametrize("name, told", [("Acrobot-v1", "'Acrobot-v1'"), ("", "without an id")])
def test_an_environment_without_a_heuristic_is_refused(name, told):
    spec = EnvironmentSpec(Box((8,)), Discrete(4), 1, name)
    with pytest.raises(
        InvalidInput,
        match=f"no heuristic for .*{told}; .* LunarLander-v3, LunarLanderCont.* or random",
    ):
        Heuristic().init(jax.random.key(0), spec)


@pytest.mark.parametrize(
    "changes", [{"frame_stack": 2}, {"options": {"continuous": True}}], ids=["frames", "options"]
)
def test_other_spaces_than_those_of_the_id_are_refused(changes):
    pytest.importorskip("Box2D", reason="it has no wheel for every platform")
    with pytest.raises(
        InvalidInput, match=r"'LunarLander-v3' reads Box\(shape=\(8,\).* such as --frame-stack"
    ):
        resolve_settings(Heuristic(), "LunarLander-v3", RunOptions(steps=10, **changes))
