"""Many copies in one loop: true successors, true first observations, Gymnasium's time limit, scaled
actions."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_probes import Counter as GymnasiumCounter

from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS, CartPole
from etude.environments.probes import Counter, TimeLimited
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box, Composite, Discrete, MultiDiscrete, to_environment_action
from etude.struct import static, struct
from etude.trees import where_done


def loop(environment, start, actions, key):
    """(observation acted on, outcome) [time, env] of `environment` under `actions` [time, env,
    ...]."""

    def step(carry, now):
        state, observation = carry
        state, following, outcome = environment.step(state, *now)
        return (state, following), (observation, outcome)

    return jax.tree.map(
        np.asarray,
        jax.jit(
            lambda: jax.lax.scan(step, start, (actions, jax.random.split(key, len(actions))))[1]
        )(),
    )


def test_every_successor_is_true():
    """10^5 steps of copies that end at different times."""
    length, copies, steps = 10, 16, 6250
    environment = JaxEnvs(Counter(length), copies)
    phases = (jnp.arange(copies, dtype=jnp.float32) % length)[:, None]
    observation, outcome = loop(
        environment, (phases, phases), np.zeros((steps, copies), np.int32), jax.random.key(0)
    )
    assert observation.size == 10**5
    assert (outcome.next_observation == observation + 1).all()
    np.testing.assert_array_equal(outcome.terminated, outcome.next_observation[..., 0] == length)
    ended = outcome.terminated[:-1]
    assert 0 < ended.mean() < 1 and (ended.any(1) & ~ended.all(1)).any()  # rows end apart
    assert (observation[1:][ended] == 0).all()
    np.testing.assert_array_equal(observation[1:][~ended], outcome.next_observation[:-1][~ended])


@pytest.mark.slow
def test_successors_of_a_real_environment_are_what_its_dynamics_say():
    copies, steps = 8, 400
    environment = JaxEnvs(TimeLimit(CartPole(), 30), copies)
    key_reset, key_actions, key_steps = jax.random.split(jax.random.key(1), 3)
    actions = jax.random.randint(key_actions, (steps, copies), 0, 2)
    observation, outcome = loop(environment, environment.reset(key_reset), actions, key_steps)
    force = jnp.where(actions == 1, 10.0, -10.0)[..., None]
    np.testing.assert_allclose(
        outcome.next_observation,
        jax.vmap(jax.vmap(CartPole().dynamics))(observation, force),
        atol=1e-6,
    )
    done = outcome.terminated | outcome.truncated
    assert outcome.terminated.any() and outcome.truncated.any()
    first = observation[1:][done[:-1]]
    assert (np.abs(first) <= 0.05).all()
    assert len(np.unique(first, axis=0)) == len(first)  # and each start is its own
    np.testing.assert_array_equal(
        observation[1:][~done[:-1]], outcome.next_observation[:-1][~done[:-1]]
    )


@pytest.mark.slow
def test_a_reset_follows_from_its_key_and_gives_every_copy_its_own_start():
    environment = JaxEnvs(PORTS["Acrobot-v1"](), 5)
    (state, observation), (again, _) = (
        environment.reset(jax.random.key(0)),
        environment.reset(jax.random.key(0)),
    )
    other, _ = environment.reset(jax.random.key(1))
    assert observation.shape == (5, 6) and state.time.shape == (5,)
    np.testing.assert_array_equal(state.state, again.state)
    assert len(np.unique(np.concatenate([state.state, other.state]), axis=0)) == 10


@pytest.mark.parametrize("length, limit", [(10, 9), (10, 10), (10, 11), (1, 1)])
def test_time_limit_flags_are_those_of_gymnasium(length, limit):
    """Also where both ends fall on the same step: Gymnasium then sets both flags."""
    steps = 50
    env = gymnasium.wrappers.TimeLimit(GymnasiumCounter(length), limit)
    environment = JaxEnvs(TimeLimit(Counter(length), limit), 1)
    start = environment.reset(jax.random.key(0))
    observation, outcome = loop(
        environment, start, np.zeros((steps, 1), np.int32), jax.random.key(0)
    )
    first, _ = env.reset()
    for t in range(steps):
        assert observation[t, 0] == first
        first, reward, terminated, truncated, _ = env.step(0)
        told = (
            outcome.next_observation[t, 0],
            outcome.reward[t, 0],
            outcome.terminated[t, 0],
            outcome.truncated[t, 0],
        )
        assert told == (first, reward, terminated, truncated)
        if terminated or truncated:
            first, _ = env.reset()


def test_time_limits_keep_the_truncations_of_what_they_wrap():
    environment = JaxEnvs(TimeLimit(TimeLimit(TimeLimited(), 3), 5), 1)
    start = environment.reset(jax.random.key(0))
    _, outcome = loop(environment, start, np.zeros((12, 1), np.int32), jax.random.key(0))
    np.testing.assert_array_equal(outcome.truncated[:, 0], np.arange(1, 13) % 3 == 0)


@struct
class Echo:
    """Observes the action it was given, as a tree, and a key it keeps in its state; never ends."""

    action_space: Box | Discrete | MultiDiscrete = static()

    @property
    def observation_space(self):
        return Composite((self.action_space, Box((), low=0.0, high=1.0)), ("action", "chance"))

    def reset(self, key):
        return key, {"action": self.action_space.zeros(), "chance": jnp.float32(0)}

    def step(self, state, action, key):
        told = {"action": action, "chance": jax.random.uniform(key)}
        return state, StepResult(told, jnp.float32(0), told["chance"] < 0.5, jnp.bool_(False))


@pytest.mark.parametrize(
    "space, action, expected",
    [
        (
            Box((2,), low=(-2.0, 0.0), high=(2.0, 10.0)),
            [[-1.0, -1.0], [0.5, 0.5], [3.0, 0.0]],
            [[-2, 0], [1, 7.5], [2, 5]],
        ),
        (Box((1,)), [[-7.0], [0.0], [7.0]], [[-7.0], [0.0], [7.0]]),
        (Discrete(3, start=-1), [0, 1, 2], [-1, 0, 1]),
        (MultiDiscrete((2, 3), (0, 5), (2,)), [[0, 0], [1, 2], [1, 1]], [[0, 5], [1, 7], [1, 6]]),
    ],
)
def test_an_environment_gets_actions_in_its_own_terms(space, action, expected):
    environment = JaxEnvs(Echo(space), 3)
    state, _ = environment.reset(jax.random.key(0))
    _, _, outcome = environment.step(state, jnp.asarray(action), jax.random.key(1))
    np.testing.assert_allclose(outcome.next_observation["action"], expected)
    np.testing.assert_array_equal(
        outcome.next_observation["action"], to_environment_action(space, jnp.asarray(action))
    )


def test_trees_and_keys_restart_row_by_row():
    environment = JaxEnvs(Echo(Discrete(3)), 64)
    state, _ = environment.reset(jax.random.key(0))
    new, observation, outcome = jax.jit(environment.step)(
        state, np.ones(64, np.int32), jax.random.key(1)
    )
    assert 0 < outcome.terminated.sum() < 64
    np.testing.assert_array_equal(observation["action"], np.where(outcome.terminated, 0, 1))
    same = (jax.random.key_data(new) == jax.random.key_data(state)).all(1)
    np.testing.assert_array_equal(same, ~outcome.terminated)


@pytest.mark.slow
def test_pendulum_gets_its_torque_from_a_policy_in_the_unit_interval():
    environment = JaxEnvs(PORTS["Pendulum-v1"](), 3)
    start, _ = environment.reset(jax.random.key(0))
    _, _, outcome = environment.step(start, np.float32([[-1], [0.25], [5]]), jax.random.key(1))
    new = jax.vmap(PORTS["Pendulum-v1"]().environment.dynamics)(
        start.state, np.float32([[-2], [0.5], [2]])
    )
    np.testing.assert_allclose(outcome.next_observation[:, 2], new[:, 1], rtol=1e-6)


def test_where_done_chooses_rows_whatever_their_shape():
    done = jnp.array([True, False, True])
    for shape in [(), (2,), (2, 4)]:
        new, old = np.ones((3, *shape), np.float32), np.zeros((3, *shape), np.float32)
        np.testing.assert_array_equal(where_done(done, new, old).reshape(3, -1).mean(1), [1, 0, 1])


@pytest.mark.system  # uncompiled, each operation is a program
def test_a_loop_compiles_to_what_it_computes_uncompiled():
    environment = JaxEnvs(TimeLimit(CartPole(), 2), 3)
    actions, key = np.ones((4, 3), np.int32), jax.random.key(0)
    start = environment.reset(jax.random.key(2))
    compiled = loop(environment, start, actions, key)
    with jax.disable_jit():
        plain = loop(environment, start, actions, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), compiled, plain)
