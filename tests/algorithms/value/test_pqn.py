"""PQN: its targets and updates against NumPy, its schedules, and the values it learns where they
are known."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from filling import filled
from oracles import global_norm

from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.pqn import PQN, PQNState, TargetBatch
from etude.algorithms.value.q_functions import DiscreteQ
from etude.data.transition import Transition, random_permutation
from etude.errors import InvalidInput
from etude.nn.networks import make_network
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
TIME, ENVS = 8, 3
SPEC = EnvironmentSpec(Box((3,)), Discrete(4), ENVS)
SMALL = PQN(
    hidden=(5,),
    rollout_length=TIME,
    batch_size=6,
    epochs=2,
    learning_rate=0.01,
    discount=0.9,
    q_lambda=0.8,
    exploration_steps=100.0,
)
no_steps = np.int32(0)


def fresh(pqn, seed=0):
    """The state before the first step."""
    network = filled(
        lambda: make_network(KEY, SPEC.observation, (5,), 4, layer_norm=pqn.layer_norm), seed, 1.0
    )
    q = DiscreteQ(network, ScalarHead(), 4, SPEC.observation)
    return PQNState(q, pqn.optimizer(no_steps).init(q), no_steps)


def random_experience(seed=0):
    """Experience [time, env], with ends of both kinds."""
    rng = np.random.default_rng(seed)
    observation, after = rng.normal(size=(2, TIME, ENVS, 3)).astype(np.float32)
    ends = rng.random((2, TIME, ENVS)) < 0.2
    return Transition(
        observation,
        rng.integers(4, size=(TIME, ENVS), dtype=np.int32),
        rng.normal(0, 3, size=(TIME, ENVS)).astype(np.float32),
        after,
        *ends,
    )


@jax.jit
def estimate_target(pqn, q, experience):
    return pqn.estimate_target(q, experience)


def values(q, observation):
    """Those of every action, in NumPy."""
    return np.asarray(jax.jit(type(q).__call__)(q, observation))


@jax.jit
def fit(pqn, learned, batch):
    return pqn.fit_q(learned, batch, no_steps)


@jax.jit
def update(pqn, state, experience, key):
    return pqn.update(state, experience, key)


class Slow:
    """One hidden layer with layer norm, its gradient and RAdam (Liu et al., 2020, algorithm 2),
    written out in float64."""

    def __init__(self, q):
        (first, second), (norm,) = q.network.head.layers, q.network.head.norms
        self.norm = norm is not None
        parts = [
            first.weight,
            first.bias,
            *((norm.weight, norm.bias) if self.norm else ()),
            second.weight,
            second.bias,
        ]
        self.q = [np.asarray(x, float) for x in parts]
        self.first, self.second = ([np.zeros_like(x) for x in self.q] for _ in range(2))
        self.updates = 0

    def forward(self, x):
        """(normalized, before the activation, hidden, values, standard deviation)"""
        w1, b1, *scale, w2, b2 = self.q
        before = np.asarray(x, float) @ w1.T + b1
        centerd = before - before.mean(-1, keepdims=True)
        std = np.sqrt((centerd**2).mean(-1, keepdims=True) + 1e-5)
        normal = centerd / std
        into = normal * scale[0] + scale[1] if self.norm else before
        return normal, into, np.maximum(into, 0), np.maximum(into, 0) @ w2.T + b2, std

    def values(self, x):
        return self.forward(x)[3]

    def target(self, pqn, x):
        """[time, env], from the definition: G = r + γ ((1 - λ) max Q + λ G'), backwards."""
        best = self.values(x.next_observation).max(-1)
        target = np.zeros((TIME, ENVS))
        for i in range(ENVS):
            for t in reversed(range(TIME)):
                if x.terminated[t, i]:
                    future = 0.0
                elif x.truncated[t, i] or t == TIME - 1:
                    future = best[t, i]
                else:
                    future = (1 - pqn.q_lambda) * best[t, i] + pqn.q_lambda * target[t + 1, i]
                target[t, i] = x.reward[t, i] + pqn.discount * future
        return target

    def fit(self, pqn, batch):
        """Take a gradient step: (loss, mean value, gradient norm)."""
        rows, n = np.arange(len(batch.target)), len(batch.target)
        normal, into, hidden, values, std = self.forward(batch.observation)
        error = batch.target - values[rows, batch.action]
        back = np.zeros_like(values)
        back[rows, batch.action] = -error / n
        slope = (back @ self.q[-2]) * (into > 0)
        gradient = [back.T @ hidden, back.sum(0)]
        if self.norm:
            gradient = [(slope * normal).sum(0), slope.sum(0), *gradient]
            scaled = slope * self.q[2]
            slope = (
                scaled
                - scaled.mean(-1, keepdims=True)
                - normal * (scaled * normal).mean(-1, keepdims=True)
            ) / std
        gradient = [slope.T @ batch.observation, slope.sum(0), *gradient]
        norm = math.sqrt(sum((g**2).sum() for g in gradient))
        self.updates += 1
        t, longest = self.updates, 2 / (1 - 0.999) - 1
        length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        for i, g in enumerate(gradient):
            g = g * min(1, pqn.max_gradient_norm / norm)
            self.first[i] = 0.9 * self.first[i] + 0.1 * g
            self.second[i] = 0.999 * self.second[i] + 0.001 * g**2
            step = self.first[i] / (1 - 0.9**t)
            if length >= 5:  # else the second moment is not yet to be trusted
                rectified = math.sqrt(
                    (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                )
                step = rectified * step / (np.sqrt(self.second[i] / (1 - 0.999**t)) + 1e-8)
            self.q[i] = self.q[i] - pqn.learning_rate * step
        return (error**2 / 2).mean(), values[rows, batch.action].mean(), norm


def weights(q):
    layer = zip(q.network.head.layers[:-1], q.network.head.norms, strict=True)
    inner = [
        x
        for one, norm in layer
        for part in (one, norm)
        if part is not None
        for x in (part.weight, part.bias)
    ]
    return [*inner, q.network.head.layers[-1].weight, q.network.head.layers[-1].bias]


@pytest.mark.parametrize("layer_norm", [True, False])
def test_updates_are_those_of_numpy(layer_norm):
    """Ten in a row, over RAdam's change of mind and gradients clipped and not."""
    pqn = replace(SMALL, layer_norm=layer_norm, max_gradient_norm=12.0, learning_rate=0.02)
    q = fresh(pqn).q
    slow, now, norms = Slow(q), (q, pqn.optimizer(no_steps).init(q)), []
    for seed in range(10):
        x = random_experience(seed)
        target = np.asarray(estimate_target(pqn, now[0], x))
        np.testing.assert_allclose(target, slow.target(pqn, x), rtol=2e-3, atol=2e-3)
        batch = TargetBatch(x.observation[:, 0], x.action[:, 0], target[:, 0])
        now, metrics = fit(pqn, now, batch)
        loss, value, norm = slow.fit(pqn, batch)
        norms.append(norm)
        assert metrics["q_loss"] == pytest.approx(loss, rel=2e-3) and metrics[
            "q_value"
        ] == pytest.approx(value, abs=2e-3)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3), weights(now[0]), slow.q
        )
    assert min(norms) < 12 < max(norms)


def test_without_decay_the_target_is_that_of_one_step_q_learning():
    q, x = fresh(SMALL).q, random_experience()
    target = np.asarray(estimate_target(replace(SMALL, q_lambda=0.0), q, x))
    now, after = values(q, x.observation), values(q, x.next_observation)
    error = jax.jit(jax.vmap(jax.vmap(rlax.q_learning)))(
        now, x.action, x.reward, 0.9 * ~x.terminated, after
    )
    value = np.take_along_axis(now, x.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(target - value, error, rtol=1e-4, atol=1e-4)


def test_a_truncation_is_no_termination():
    """Where an episode was cut off the target bootstraps, from the true successor; either way
    nothing after it counts."""
    q, x = fresh(SMALL).q, random_experience()
    nothing = np.zeros((TIME, ENVS), bool)
    at = np.zeros((TIME, ENVS), bool)
    at[3] = True
    going, cut, over = (
        np.asarray(
            estimate_target(SMALL, q, replace(x, terminated=terminated, truncated=truncated))
        )
        for terminated, truncated in ((nothing, nothing), (nothing, at), (at, nothing))
    )
    best = values(q, x.next_observation)[3].max(-1)
    np.testing.assert_allclose(cut[3], x.reward[3] + 0.9 * best, rtol=1e-5)
    np.testing.assert_allclose(over[3], x.reward[3], rtol=1e-6)
    assert (np.abs(going[3] - cut[3]) > 1e-3).all()
    np.testing.assert_array_equal(going[4:], cut[4:])
    other = replace(
        x,
        reward=np.concatenate([x.reward[:4], x.reward[4:] + 100]),
        truncated=at,
        terminated=nothing,
    )
    np.testing.assert_array_equal(np.asarray(estimate_target(SMALL, q, other))[:4], cut[:4])


@pytest.mark.slow
def test_an_update_is_epochs_of_steps_on_targets_from_before():
    """Every sample is used once an epoch, in an order of its own."""
    state, x = fresh(SMALL), random_experience()
    after, metrics = update(SMALL, state, x, KEY)
    target = np.asarray(estimate_target(SMALL, state.q, x)).ravel()
    now, told, orders = (state.q, state.opt_state), [], []
    for key in jax.random.split(KEY, 2):
        order = np.asarray(random_permutation(key, TIME * ENVS))
        orders.append(order)
        assert sorted(order) == list(range(TIME * ENVS))
        for rows in order.reshape(-1, 6):
            now, one = fit(
                SMALL,
                now,
                TargetBatch(
                    x.observation.reshape(-1, 3)[rows], x.action.ravel()[rows], target[rows]
                ),
            )
            told.append(one)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), after.q, now[0])
    assert (
        metrics["updates"] == len(told) == 8
        and after.steps == TIME * ENVS
        and (orders[0] != orders[1]).any()
    )
    for name in ("q_loss", "q_value"):
        assert metrics[name] == pytest.approx(np.mean([one[name] for one in told]), rel=1e-3)


def test_an_update_knows_how_many_steps_were_taken():
    """At the end of the decay nothing moves but the count."""
    state = replace(fresh(SMALL), steps=np.int32(500))
    after, _ = update(replace(SMALL, learning_rate_decay=500.0), state, random_experience(), KEY)
    jax.tree.map(np.testing.assert_array_equal, after.q, state.q)
    assert after.steps == 500 + TIME * ENVS


def test_samples_that_fill_no_batch_wait_for_the_next_epoch():
    """Seven do not divide a rollout of 24."""
    state, x = fresh(SMALL), random_experience()
    after, _ = jax.eval_shape(replace(SMALL, batch_size=7).update, state, x, KEY)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_the_learning_rate_falls_linearly_to_zero():
    """RAdam's first step is the rate times the gradient."""
    pqn, x = (
        replace(SMALL, learning_rate_decay=1000.0, max_gradient_norm=math.inf),
        random_experience(),
    )
    q = fresh(pqn).q
    batch = TargetBatch(x.observation[0], x.action[0], x.reward[0])
    fit_at = jax.jit(
        lambda steps: pqn.fit_q((q, pqn.optimizer(no_steps).init(q)), batch, steps)[0][0]
    )
    subtract = lambda after, before: np.asarray(after) - np.asarray(before)
    moved = [
        global_norm(jax.tree.map(subtract, fit_at(steps), q))
        for steps in (0, 250, 900, 1000, 10**9)
    ]
    np.testing.assert_allclose(np.array(moved) / moved[0], [1, 0.75, 0.1, 0, 0], atol=1e-4)
    assert moved[0] > 1e-3


def test_epsilon_falls_linearly_and_stays():
    pqn = replace(SMALL, initial_epsilon=0.8, final_epsilon=0.2, exploration_steps=1000.0)
    told = [float(pqn.epsilon(np.int32(steps))) for steps in (0, 250, 500, 1000, 10**9)]
    np.testing.assert_allclose(told, [0.8, 0.65, 0.5, 0.2, 0.2], rtol=1e-6)


def test_play_is_random_as_often_as_epsilon_says():
    pqn = replace(SMALL, initial_epsilon=1.0, final_epsilon=0.0, exploration_steps=100.0)
    observation = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    state = fresh(pqn)
    act = jax.jit(PQN.act, static_argnames="explore")
    greedy, memory = act(pqn, state, observation, {"kept": 1}, KEY, explore=False)
    greedy = np.asarray(greedy)
    # but for rounding
    assert (greedy == np.argmax(values(state.q, observation), -1)).mean() > 0.999
    assert memory == {"kept": 1}
    for steps, epsilon in ((0, 1), (60, 0.4), (100, 0)):
        now = replace(state, steps=np.int32(steps))
        action, memory = jax.device_get(act(pqn, now, observation, (), KEY, explore=True))
        assert action.dtype == greedy.dtype and action.shape == greedy.shape and memory == ()
        # one of four is the greedy one
        assert (action != greedy).mean() == pytest.approx(0.75 * epsilon, abs=0.015)
        if epsilon == 1:
            np.testing.assert_allclose(np.bincount(action), 5000, atol=300)


def test_the_network_is_normed_when_it_should_be():
    for layer_norm in (True, False):
        pqn = replace(SMALL, layer_norm=layer_norm)
        state = jax.eval_shape(lambda pqn=pqn: pqn.init(KEY, SPEC))
        assert (state.q.network.head.norms[0] is not None) is layer_norm
        assert jax.tree.map(jnp.shape, state.q) == jax.tree.map(jnp.shape, fresh(pqn).q)


def test_values_out_of_bounds_are_refused():
    with pytest.raises(
        InvalidInput,
        match=r"batch_size 25 is larger than a rollout of 24 .*\(rollout_length 8 × num_envs 3\)",
    ):
        replace(SMALL, batch_size=25).init(KEY, SPEC)
    with pytest.raises(InvalidInput, match=r"q_lambda is 1\.5"):
        validate(replace(SMALL, q_lambda=1.5))
    validate(PQN())
