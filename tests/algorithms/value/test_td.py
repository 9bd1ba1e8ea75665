"""TD(λ): the textbook's loop, the forward view, and the random walks whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.value.td import TD
from etude.data.transition import Transition
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.tabular import Tabular
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.estimators.returns import gae
from etude.spaces import Discrete, EnvironmentSpec
from etude.struct import replace, validate
from etude.tabular.mdp import make_mdp
from etude.tabular.problems import random_walk
from etude.training import pure_train

KEY = jax.random.key(0)
STATES = 5
update = jax.jit(TD.update)


def experience(seed, time, copies):
    """[time, env]: successors follow on, and ends of both kinds are frequent."""
    rng = np.random.default_rng(seed)
    states = rng.integers(STATES, size=(time + 1, copies), dtype=np.int32)
    terminated, truncated = rng.random((2, time, copies)) < 0.15
    after = np.where(
        terminated | truncated,
        rng.integers(STATES, size=(time, copies), dtype=np.int32),
        states[1:],
    )
    return Transition(
        states[:-1],
        np.zeros((time, copies), np.int32),
        rng.normal(size=(time, copies)).astype(np.float32),
        after,
        terminated,
        truncated,
    )


def fresh(td, copies):
    state = td.init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(2), copies))
    return replace(
        state, value=jnp.asarray(np.random.default_rng(9).normal(size=STATES), jnp.float32)
    )


def slow(td, value, traces, lived):
    """The loop of Sutton & Barto's section 12.2, float64; of several copies' errors the mean
    counts, weighed by their traces."""
    value, traces, losses = np.array(value, float), np.array(traces, float), []
    time, copies = lived.reward.shape
    for t in range(time):
        errors = []
        for i in range(copies):
            s, after = lived.observation[t, i], lived.next_observation[t, i]
            error = (
                lived.reward[t, i]
                + td.discount * (0 if lived.terminated[t, i] else value[after])
                - value[s]
            )
            traces[i] *= td.discount * td.trace_decay
            traces[i, s] += 1
            errors.append(error)
        losses += [error**2 / 2 for error in errors]
        for s in range(STATES):
            if traces[:, s].any():
                value[s] += (
                    td.learning_rate * max(traces[:, s]) * np.average(errors, weights=traces[:, s])
                )
        traces[lived.terminated[t] | lived.truncated[t]] = 0
    return value, traces, np.mean(losses)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_updates_are_those_of_a_slow_loop(decay, copies):
    """Traces go on from one update to the next, and are cut where an episode ends, one way or the
    other."""
    td = TD(learning_rate=0.2, discount=0.9, trace_decay=decay)
    state = fresh(td, copies)
    value, traces = state.value, state.traces
    for i in range(2):
        lived = experience(i, 12, copies)
        state, metrics = update(td, state, lived, KEY)
        value, traces, loss = slow(td, value, traces, lived)
        np.testing.assert_allclose(state.value, value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.traces, traces, rtol=1e-5, atol=1e-6)
        assert (
            metrics["value_loss"] == pytest.approx(loss, rel=1e-4)
            and metrics["updates"] == 12 * copies
        )
        assert state.steps == 12 * copies * (i + 1)


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_backward_is_forward(decay):
    """For small steps the traces do what the λ-return does (Sutton & Barto, 2018, section 12.2): Σ
    Aₜ of a state's visits."""
    rate = 1e-3
    td = TD(learning_rate=rate, discount=0.9, trace_decay=decay)
    state, lived = fresh(td, 1), experience(3, 40, 1)
    # nothing is left to come
    lived = replace(lived, truncated=lived.truncated | (np.arange(40) == 39)[:, None])
    after, _ = update(td, state, lived, KEY)
    value = np.asarray(state.value)
    advantage = gae(
        lived.reward,
        value[lived.observation],
        value[lived.next_observation],
        lived.terminated,
        lived.terminated | lived.truncated,
        0.9,
        decay,
    )
    expected = np.zeros(STATES)
    np.add.at(expected, lived.observation, advantage)
    np.testing.assert_allclose((after.value - state.value) / rate, expected, atol=0.05)
    assert abs(expected).max() > 2


def test_with_lambda_one_an_episode_teaches_its_return():
    """Online, so to the first order in α: from V = 0 a first visit moves by α times the discounted
    return from there."""
    td = TD(learning_rate=1e-3, discount=0.9, trace_decay=1.0)
    reward, over = np.float32([[1], [-2], [3], [5]]), np.array([[False], [False], [False], [True]])
    lived = Transition(
        np.int32([[0], [1], [2], [3]]),
        np.zeros((4, 1), np.int32),
        reward,
        np.int32([[1], [2], [3], [4]]),
        over,
        np.zeros((4, 1), bool),
    )
    state, _ = update(
        td, td.init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(2), 1)), lived, KEY
    )
    returns = [1 + 0.9 * (-2 + 0.9 * (3 + 0.9 * 5)), -2 + 0.9 * (3 + 0.9 * 5), 3 + 0.9 * 5, 5, 0]
    np.testing.assert_allclose(state.value / 1e-3, returns, atol=0.02)
    assert not state.traces.any()


@pytest.mark.slow
@pytest.mark.parametrize("length, left", [(5, 0.0), (19, -1.0)])
def test_the_random_walks_values_are_learned_for_every_lambda(length, left):
    """(s + 1) / 6 and (s - 9) / 10, with discount 1 (Sutton & Barto, 2018, examples 6.2 and
    7.1)."""
    process = random_walk(length, left=left)
    environment = JaxEnvs(Tabular(process), 8)

    @jax.jit
    @jax.vmap
    def learned(decay):
        td = TD(learning_rate=0.5, harmonic_decay_steps=1000.0, discount=1.0, trace_decay=decay)
        return pure_train(td, environment, KEY, 5000)[0].algorithm_state.value

    values = np.asarray(learned(np.float32([0, 0.5, 0.9])))
    exact = np.linspace(left, 1, length + 2)[1:-1]
    np.testing.assert_allclose(values, np.tile(exact, (3, 1)), atol=0.12)
    assert np.sqrt(((values - exact) ** 2).mean(1)).max() < 0.06


@pytest.mark.slow
def test_a_time_limit_is_no_end():
    forever = make_mdp(np.ones((1, 2, 1)), 1)
    td = TD(learning_rate=0.5, discount=0.8, trace_decay=0.9)
    environment = JaxEnvs(TimeLimit(Tabular(forever), 3), 2)
    value = jax.jit(lambda key: pure_train(td, environment, key, 200))(KEY)[0].algorithm_state.value
    np.testing.assert_allclose(value, [5], rtol=1e-4)


def test_every_action_is_taken_alike():
    """Exploring or not: the policy that is judged."""
    state = TD().init(KEY, EnvironmentSpec(Discrete(3), Discrete(4), 20_000))
    act = jax.jit(TD.act)
    for explore in (True, False):
        action, memory = act(TD(), state, np.zeros(20_000, np.int32), {"kept": 1}, KEY, explore)
        np.testing.assert_allclose(np.bincount(action), 5000, atol=300)
        assert memory == {"kept": 1} and action.dtype == jnp.int32


def test_the_table_starts_as_asked():
    state = TD(initial_value=0.5).init(KEY, EnvironmentSpec(Discrete(STATES), Discrete(2), 3))
    np.testing.assert_array_equal(state.value, np.full(STATES, 0.5))
    np.testing.assert_array_equal(state.traces, np.zeros((3, STATES)))


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"trace_decay": 1.1}, "trace_decay is 1.1; it must be at least 0 and at most 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting, message):
    with pytest.raises(InvalidInput, match=message):
        validate(TD(**setting))
