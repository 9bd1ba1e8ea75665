"""PPO learns the values that are known, and each hyperparameter does what it says."""
from functools import partial

import gymnasium
import gymnasium_probes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.trust_region.ppo import PPO, Batch, remaining
from etude.environments import probes
from etude.environments.gymnasium_backend import Gymnasium
from etude.environments.jax_backend import Jax, TimeLimit
from etude.errors import InvalidInput
from etude.experience import merge_axes
from etude.rollout import reset, rollout
from etude.spaces import Box, Discrete, Spec
from etude.struct import replace
from etude.training import progress, train

gymnasium_probes.register()
SMALL = PPO(hidden=(16,), learning_rate=1e-2, discount=0.9, gae_lambda=0.9, rollout_length=16, batch_size=64, epochs=4)


def learned(probe, algorithm=SMALL, iterations=150):
    """The state after training on 8 copies of a probe."""
    run = jax.jit(lambda key: train(algorithm, Jax(probe, 8), key, iterations)[0].state)
    return run(jax.random.key(0))


def lived(algorithm, probe=None, num_envs=8, key=0, length=None):
    """A state before its first update, and a rollout by it."""
    environment = Jax(probe or TimeLimit(probes.ObservationTimesAction(), 5), num_envs)
    state = algorithm.init(jax.random.key(key), environment.spec)
    policy = lambda observation, memory, key: algorithm.act(state, observation, memory, key, True)
    stage = reset(environment, jax.random.key(1))
    return state, rollout(environment, policy, stage, jax.random.key(2), length or algorithm.rollout_length)[1]


@pytest.mark.parametrize("action_space", [probes.DISCRETE, probes.CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize(("probe", "values"), [
    (probes.ConstantValue, {0.0: 1}), (probes.ValueFromObservation, {-1.0: -1, 1.0: 1}), (probes.Discounting, {0.0: 0.9, 1.0: 1})])
def test_probes_have_their_known_values(probe, values, action_space):
    state = learned(probe(action_space=action_space))
    for observation, expected in values.items():
        np.testing.assert_allclose(state.value(jnp.full((1,), observation)), [expected], atol=0.1)


@pytest.mark.parametrize("probe", [probes.ActionToReward, probes.ObservationTimesAction])
def test_the_policy_learns_what_pays(probe):
    discrete = learned(probe())
    for observation in (-1.0, 1.0) if probe is probes.ObservationTimesAction else (0.0,):
        best = int(observation >= 0)
        assert jnp.exp(discrete.policy(jnp.full((1,), observation)).log_prob(jnp.int32(best))) > 0.9
        np.testing.assert_allclose(discrete.value(jnp.full((1,), observation)), [1], atol=0.25)
    continuous = learned(probe(action_space=probes.CONTINUOUS), iterations=300)
    for observation in (-1.0, 1.0) if probe is probes.ObservationTimesAction else (0.0,):
        target = probes.TARGET * (np.sign(observation) or 1)
        np.testing.assert_allclose(continuous.policy(jnp.full((1,), observation)).mode(), [target], atol=0.15)


@pytest.mark.parametrize("backend", ["jax", "gymnasium"])
def test_a_time_limit_is_no_death(backend):
    """Reward 1 for ever, cut off after 5 steps: worth 1 / (1 - γ) = 5, and not 1 + γ + ... + γ⁴ = 3.4."""
    algorithm = replace(SMALL, discount=0.8)
    if backend == "jax":
        state = learned(TimeLimit(probes.TimeLimited(), 5), algorithm, 200)
    else:
        environment = Gymnasium(partial(gymnasium.make, "etude-probes/TimeLimited-v0", disable_env_checker=True), 8)
        for report in progress(algorithm, environment, jax.random.key(0), 200 * 128, chunk_seconds=10):
            state = jax.tree.map(jnp.copy, report.training.state)
    np.testing.assert_allclose(state.value(jnp.zeros(1)), [5], atol=0.4)


@pytest.mark.parametrize("action_space", [probes.DISCRETE, probes.CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_ratio_is_exactly_one_before_the_first_update(action_space, normalize):
    """Also where the batch is another size than the rollout, and for the statistics the policy acted with."""
    algorithm = replace(SMALL, normalize_observation=normalize, batch_size=32)
    state, experience = lived(algorithm, probes.ObservationTimesAction(action_space=action_space))
    batch = algorithm.estimate(state, experience)
    acted = state.policy(algorithm.normalised(state, experience.observation)).log_prob(experience.action)
    np.testing.assert_array_equal(batch.log_prob, acted.ravel())
    for rows in np.arange(128).reshape(-1, 32):
        _, metrics = algorithm.policy_loss(state.policy, jax.tree.map(lambda x: x[rows], batch), algorithm.clip)
        assert float(metrics["kl"]) == 0 and float(metrics["clipped"]) == 0


def test_the_first_gradient_is_the_policy_gradient():
    state, experience = lived(SMALL)
    batch = SMALL.estimate(state, experience)
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    surrogate = jax.grad(lambda policy: SMALL.policy_loss(policy, batch, 0.2)[0])(state.policy)
    vanilla = jax.grad(lambda policy: -(policy(batch.observation).log_prob(batch.action) * advantage).mean())(state.policy)
    for ours, theirs in zip(jax.tree.leaves(surrogate), jax.tree.leaves(vanilla), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_clipped_objective_against_a_loop():
    state, experience = lived(SMALL)
    other = SMALL.init(jax.random.key(7), Spec(Box((1,)), Discrete(2), 8)).policy
    batch = SMALL.estimate(state, experience)
    batch = replace(batch, log_prob=batch.log_prob - 0.3 * jax.random.normal(jax.random.key(0), batch.log_prob.shape))
    advantage = np.asarray((batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8))
    ratio = np.exp(np.asarray(other(batch.observation).log_prob(batch.action) - batch.log_prob))
    expected = [-min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratio, advantage, strict=True)]
    loss, metrics = SMALL.policy_loss(other, batch, 0.2)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["clipped"], (np.abs(ratio - 1) > 0.2).mean(), atol=1e-6)
    assert 0.05 < metrics["clipped"] < 0.95, "some are to be clipped, some not"


@pytest.mark.parametrize("clip", [0.1, np.inf])
def test_value_clipping_against_a_loop(clip):
    algorithm = replace(SMALL, value_clip=clip)
    state, experience = lived(algorithm)
    batch = algorithm.estimate(state, experience)
    now = np.asarray(algorithm.init(jax.random.key(5), Spec(Box((1,)), Discrete(2), 8)).value(batch.observation)[..., 0])
    terms = []
    for v, old, target in zip(now, np.asarray(batch.value), np.asarray(batch.target), strict=True):
        held = old + min(max(v - old, -clip), clip)
        terms.append(max((target - v) ** 2, (target - held) ** 2))
    loss = algorithm.value_loss(algorithm.init(jax.random.key(5), Spec(Box((1,)), Discrete(2), 8)).value, batch)
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


def test_the_entropy_bonus_keeps_the_policy_undecided():
    def entropy(coefficient):
        algorithm = replace(SMALL, entropy_coefficient=coefficient)
        return float(learned(probes.ActionToReward(), algorithm, 60).policy(jnp.zeros(1)).entropy())
    assert entropy(0.0) < 0.1 < 0.3 < entropy(2.0)


def test_learning_rate_and_clip_fall_linearly_to_zero():
    np.testing.assert_allclose([remaining(jnp.int32(s), 1000.0) for s in (0, 250, 1000, 5000)], [1, 0.75, 0, 0])
    assert remaining(jnp.int32(10**9), jnp.inf) == 1
    state, experience = lived(SMALL)
    for decay, moves in ((64.0, False), (np.inf, True)):
        late = replace(state, steps=jnp.int32(64))
        after, _ = replace(SMALL, learning_rate_decay=decay).update(late, experience, jax.random.key(0))
        moved = any((a != b).any() for a, b in zip(jax.tree.leaves(after.policy), jax.tree.leaves(state.policy), strict=True))
        assert moved == moves


def test_observation_statistics_are_those_of_what_was_seen():
    algorithm = replace(SMALL, normalize_observation=True)
    state, experience = lived(algorithm, TimeLimit(probes.Counter(), 100), length=32)
    after, _ = algorithm.update(state, experience, jax.random.key(0))
    seen = np.asarray(merge_axes(experience.observation), np.float64)
    (statistics,) = after.observations
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, seen.var(0), rtol=1e-5)
    normal = algorithm.normalised(after, experience.observation)
    np.testing.assert_allclose(np.mean(normal), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(normal), 1, atol=1e-3)


def test_rewards_are_divided_by_the_spread_of_the_discounted_return():
    algorithm = replace(SMALL, normalize_reward=True)
    state, experience = lived(algorithm, TimeLimit(probes.TimeLimited(), 5))
    running, sums = np.zeros(8), []
    for reward, done in zip(np.asarray(experience.reward), np.asarray(experience.done), strict=True):
        running = running + reward
        sums.append(running.copy())
        running = 0.9 * running * ~done
    after, reward = algorithm.scale_reward(state, experience)
    np.testing.assert_allclose(after.returns.variance, np.var(sums), rtol=1e-4)
    np.testing.assert_allclose(reward, np.asarray(experience.reward) / np.std(sums), rtol=1e-4)
    np.testing.assert_allclose(after.running_return, running, rtol=1e-5)
    unchanged, same = SMALL.scale_reward(state, experience)
    assert unchanged is state and same is experience.reward


def test_the_gradient_is_clipped_by_its_global_norm():
    state, experience = lived(SMALL)
    transform = replace(SMALL, max_gradient_norm=0.1).optimizer(jnp.int32(0))
    gradient = jax.tree.map(lambda x: 3 * jnp.ones_like(x), (state.policy, state.value))
    _, memory = transform.update(gradient, transform.init((state.policy, state.value)))
    first_moment = jax.tree.leaves(memory[1][0].mu)                     # (1 - .9) times what Adam was given
    np.testing.assert_allclose(np.sqrt(sum((np.asarray(x) ** 2).sum() for x in first_moment)), 0.1 * 0.1, rtol=1e-4)


def test_every_sample_is_used_once_an_epoch():
    """The batches of an epoch are a partition of the rollout, whatever is left over of it."""
    state, experience = lived(replace(SMALL, epochs=1))
    _, metrics = replace(SMALL, epochs=3, batch_size=48).update(state, experience, jax.random.key(0))
    assert int(metrics["updates"]) == 3 * (128 // 48)
    assert set(Batch.__dataclass_fields__) == {"observation", "action", "log_prob", "value", "advantage", "target"}


def test_a_batch_larger_than_the_rollout_is_refused():
    with pytest.raises(InvalidInput, match="batch_size 64 is larger than a rollout of 32"):
        replace(SMALL, batch_size=64, rollout_length=16).init(jax.random.key(0), Spec(Box((1,)), Discrete(2), 2))
