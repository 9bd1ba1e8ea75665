"""Playing a process: frequencies against its arrays, returns against its exact objective, ends
against Gymnasium, and back."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import CartPole
from etude.environments.probes import Counter
from etude.environments.protocol import StepResult
from etude.environments.tabular import Tabular, mdp_from_environment, sample_index
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.rollout import BoundPolicy, evaluate
from etude.spaces import Discrete
from etude.struct import static, struct
from etude.tabular import evaluation
from etude.tabular.mdp import from_gymnasium, make_mdp

SHAPE = 4, 3, 4
KEY = jax.random.key(0)


def random_process(seed, end=True, sure=False):
    """Random, with steps that cannot be and, with `end`, some likelier to be the last than others;
    `sure`: deterministic."""
    rng = np.random.default_rng(seed)
    law = (
        np.eye(4)[rng.integers(4, size=SHAPE[:2])] if sure else rng.dirichlet(np.ones(4), SHAPE[:2])
    )
    law[0, 0] = [0.5, 0, 0, 0.5] if not sure else law[0, 0]
    ends = (rng.random(SHAPE) < 0.3 if sure else rng.random(SHAPE) / 2) if end else 0
    initial = np.eye(4)[2] if sure else np.array([0.2, 0.3, 0, 0.5])
    return make_mdp(law, rng.normal(size=SHAPE), ends, initial)


def test_spaces_are_those_of_the_arrays():
    environment = Tabular(random_process(0))
    assert environment.observation_space == Discrete(4) and environment.action_space == Discrete(3)


def test_steps_are_as_frequent_as_the_arrays_say():
    """χ² of first states, successors and ends; rewards are those of where the step led."""
    process, n = random_process(0), 4000
    environment = Tabular(process)

    @jax.jit
    def play(key):
        key_reset, key_step = jax.random.split(key)
        first, seen = jax.vmap(environment.reset)(jax.random.split(key_reset, n))
        state, action = (x.ravel() for x in jnp.indices(SHAPE[:2]))
        step = jax.vmap(jax.vmap(environment.step, (None, None, 0)), (0, 0, 0))
        return first, seen, *step(state, action, jax.random.split(key_step, (12, n)))

    first, seen, after, outcome = jax.device_get(play(jax.random.key(0)))
    np.testing.assert_array_equal(first, seen)
    np.testing.assert_array_equal(after, outcome.next_observation)
    assert after.dtype == first.dtype == np.int32 and outcome.reward.dtype == np.float32
    assert not outcome.truncated.any()
    held = [(first, np.asarray(process.initial, float))]
    held += [(after[i], np.asarray(process.transition, float).reshape(12, 4)[i]) for i in range(12)]
    for drawn, probabilities in held:
        counts, possible = np.bincount(drawn, minlength=4), probabilities > 0
        assert counts[~possible].sum() == 0
        expected = n * probabilities[possible] / probabilities.sum()
        assert scipy.stats.chisquare(counts[possible], expected).pvalue > 1e-3
    place = np.repeat(np.arange(12), n), after.ravel()
    np.testing.assert_allclose(
        outcome.reward.ravel(), np.asarray(process.reward).reshape(12, 4)[place]
    )
    rate = np.asarray(process.termination).reshape(12, 4)
    visits, ended = np.zeros((2, 12, 4))
    np.add.at(visits, place, 1)
    np.add.at(ended, place, outcome.terminated.ravel())
    z = (ended - visits * rate) / np.sqrt(np.maximum(visits * rate * (1 - rate), 1))
    assert abs(z).max() < 4  # of 48, each as good as normal


@pytest.mark.slow
def test_rollouts_earn_the_exact_objective():
    """Within four standard errors; a quarter of the episodes is cut off by the limit of five
    steps."""
    process, policy = (
        random_process(1),
        np.random.default_rng(1).dirichlet(np.ones(3), 4).astype(np.float32),
    )
    environment = JaxEnvs(TimeLimit(Tabular(process), 5), 500)

    def play(key):
        follow = BoundPolicy(
            lambda state, memory, key: (jax.random.categorical(key, jnp.log(policy)[state]), memory)
        )
        return evaluate(environment, follow, key, 5000)

    returns, lengths = jax.device_get(jax.jit(play)(KEY))
    exact = jax.jit(evaluation.expected_return, static_argnames="horizon")(
        process, policy, 1.0, horizon=5
    )
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(len(returns))
    marginals = np.asarray(
        jax.jit(evaluation.state_marginals, static_argnames="horizon")(process, policy, horizon=5)
    ).sum(1)
    assert abs(lengths.mean() - marginals.sum()) < 4 * lengths.std() / np.sqrt(len(lengths))
    assert 0.1 < (lengths == 5).mean() < 0.5 and lengths.max() == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Taxi-v4", "CliffWalking-v1", "FrozenLake-v1"])
def test_steps_are_gymnasiums_own(name):
    """From the same states with the same actions: where there is chance, what Gymnasium drew is one
    of the ways with its odds."""
    env, process = gymnasium.make(name).unwrapped, from_gymnasium(name)
    environment, rng = Tabular(process), np.random.default_rng(0)
    env.reset(seed=0)
    steps = 300
    state, action = (
        rng.integers(process.num_states, size=steps),
        rng.integers(process.num_actions, size=steps),
    )
    theirs = []
    for s, a in zip(state, action, strict=True):
        env.s = int(s)
        after, reward, terminated, _, told = env.step(int(a))
        assert process.transition[s, a, after] >= told["prob"] - 1e-6
        theirs.append((after, reward, terminated))
    after, reward, terminated = map(np.array, zip(*theirs, strict=True))
    np.testing.assert_allclose(np.asarray(process.reward)[state, action, after], reward)
    np.testing.assert_array_equal(np.asarray(process.termination)[state, action, after], terminated)
    if name != "FrozenLake-v1":
        ours = jax.jit(jax.vmap(environment.step))(
            state, action, jax.random.split(jax.random.key(0), steps)
        )[1]
        np.testing.assert_array_equal(ours.next_observation, after)
        np.testing.assert_allclose(ours.reward, reward)
        np.testing.assert_array_equal(ours.terminated, terminated)
    first, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(1), 500))
    assert (env.initial_state_distrib[np.asarray(first)] > 0).all()
    assert len(np.unique(first)) > (200 if name == "Taxi-v4" else 0)


@pytest.mark.slow
def test_a_deterministic_process_comes_back_as_it_was():
    process = random_process(2, sure=True)
    again = mdp_from_environment(Tabular(process), jax.random.key(0))
    np.testing.assert_array_equal(again.transition, process.transition)
    np.testing.assert_array_equal(again.initial, process.initial)
    seen = np.asarray(process.transition) > 0  # of what never happens nothing is known
    np.testing.assert_allclose(np.asarray(again.reward)[seen], np.asarray(process.reward)[seen])
    np.testing.assert_array_equal(
        np.asarray(again.termination)[seen], np.asarray(process.termination)[seen]
    )
    assert not np.asarray(again.reward)[~seen].any()


@pytest.mark.slow
def test_a_random_process_comes_back_within_its_standard_error():
    process, samples = random_process(3), 1000
    again = mdp_from_environment(Tabular(process), jax.random.key(0), samples)
    p = np.asarray(process.transition)
    assert (abs(again.transition - p) <= 4.5 * np.sqrt(p * (1 - p) / samples) + 1e-6).all()
    assert abs(again.initial - process.initial).max() < 4.5 * 0.5 / np.sqrt(4 * samples)
    likely = p > 0.1
    np.testing.assert_allclose(
        np.asarray(again.reward)[likely], np.asarray(process.reward)[likely], rtol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(again.termination)[likely],
        np.asarray(process.termination)[likely],
        atol=4.5 * 0.5 / np.sqrt(0.1 * samples),
    )


@struct
class Ring:
    """Five places round; an action counted from -1 goes back, stays or goes on; arriving at 0 pays
    1 and ends."""

    action_space: Discrete = static(Discrete(3, start=-1))
    observation_space = Discrete(5)

    def reset(self, key):
        return jnp.int32(2), jnp.int32(2)

    def step(self, state, action, key):
        after = (state + action) % 5
        return after, StepResult(after, jnp.float32(after == 0), after == 0, jnp.bool_(True))


@pytest.mark.slow
def test_actions_are_the_environments_own_and_a_truncation_is_no_end():
    process = mdp_from_environment(Ring(), jax.random.key(0))
    places = np.arange(5)
    for action in range(3):
        np.testing.assert_array_equal(
            process.transition[places, action, (places + action - 1) % 5], np.ones(5)
        )
    np.testing.assert_array_equal(process.expected_reward, np.asarray(process.transition)[:, :, 0])
    np.testing.assert_array_equal(
        1 - process.continues.sum(-1), np.asarray(process.transition)[:, :, 0]
    )
    np.testing.assert_array_equal(process.initial, np.eye(5)[2])


@pytest.mark.parametrize(
    "environment, samples, message",
    [
        (CartPole(), 1, r"the observation space is Box\(.*an environment as an MDP has Discrete"),
        (Counter(3), 1, r"the observation space is Box\("),
        (
            TimeLimit(Ring(), 3),
            1,
            "the state of TimeLimit is not its observation; unwrap it, for a time limit keeps a "
            "clock",
        ),
        (Ring(), 0, "samples is 0; it must be at least 1"),
    ],
)
def test_environments_that_are_no_table_are_refused(environment, samples, message):
    with pytest.raises(InvalidInput, match=message):
        mdp_from_environment(environment, jax.random.key(0), samples)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-24])
def test_what_cannot_be_is_never_drawn(uniform, monkeypatch):
    """At the ends of the random numbers, and among so many states that XLA adds them in blocks:
    sums rise and fall a little."""
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.float32(uniform))
    rng = np.random.default_rng(0)
    weights = rng.random((1000, 500)) * (rng.random((1000, 500)) < 0.2)
    weights[:, 50] += 1e-3
    p = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    drawn = np.asarray(jax.jit(jax.vmap(lambda p: sample_index(KEY, p)))(p))
    assert (p[np.arange(1000), drawn] > 0).all()
    expected = [
        np.flatnonzero(
            row.astype(float).cumsum() >= row.astype(float).sum() * (1 - uniform) - 1e-9
        )[0]
        for row in p
    ]
    assert (drawn == expected).mean() > 0.99  # rounding may take a neighbor
