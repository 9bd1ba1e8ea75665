"""DQN: one update against NumPy, its schedules and its target network, and the values it learns
where they are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from batches import one_step, sample
from filling import filled
from oracles import (
    Adam,
    adam_moment,
    choices,
    clip_by_global_norm,
    experience,
    global_norm,
    mlp_backward,
    mlp_forward,
    polyak,
    weights_of,
)

from etude.algorithms.value.dqn import DQN, DQNState
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.q_functions import DiscreteQ
from etude.data.replay import ring_buffer
from etude.data.transition import zeros_like_spec
from etude.errors import InvalidInput
from etude.nn.networks import make_network
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((3,)), Discrete(4), 2)
SMALL = DQN(
    hidden=(5,),
    batch_size=6,
    capacity=12,
    rollout_length=3,
    warmup_steps=12,
    gradient_steps=2,
    target_interval=3,
    exploration_steps=100.0,
)


def q_network(seed=0, loss="huber"):
    return DiscreteQ(
        filled(lambda: make_network(KEY, SPEC.observation, (5,), SPEC.action.n), seed),
        ScalarHead(loss),
        SPEC.action.n,
        SPEC.observation,
    )


def state_of(dqn, q, target_q):
    """A state with these networks, before the first step."""
    ring = ring_buffer.init(zeros_like_spec(SPEC), dqn.capacity, SPEC.num_envs, dqn.rollout_length)
    return DQNState(
        q, target_q, dqn.optimizer(jnp.int32(0)).init(q), ring, (), jnp.int32(0), jnp.int32(0)
    )


def fresh(dqn):
    return state_of(dqn, q_network(), q_network())


def transitions(seed, *leading, scale=1.0):
    return experience(seed, *leading, action=choices(4), reward=(0.0, scale))


@jax.jit
def estimate_target(dqn, q, target_q, transition):
    return dqn.estimate_target(q, target_q, one_step(dqn, transition), KEY)


@jax.jit
def fit(dqn, state, transition):
    state, _, metrics = dqn.fit_q(state, one_step(dqn, transition), KEY)
    return state, metrics


@jax.jit
def update(dqn, state, experience, key):
    return dqn.update(state, experience, key)


class Slow:
    """One hidden layer, its gradient and Adam, written out in float64."""

    def __init__(self, q, target_q):
        self.q, self.target_q, self.adam = weights(q), weights(target_q), Adam()

    def fit(self, dqn, batch):
        """Take a gradient step: (loss, mean value, gradient norm)."""
        rows, n = np.arange(len(batch.reward)), len(batch.reward)
        next_values = mlp_forward(self.target_q, batch.next_observation)[1]
        chosen = mlp_forward(self.q if dqn.double else self.target_q, batch.next_observation)[
            1
        ].argmax(-1)
        future = np.where(batch.terminated, 0, next_values[rows, chosen])
        hidden, values = mlp_forward(self.q, batch.observation)
        error = batch.reward + dqn.discount * future - values[rows, batch.action]
        if dqn.head.loss_type == "huber":
            loss, slope = (
                np.where(abs(error) <= 1, error**2 / 2, abs(error) - 0.5).mean(),
                np.clip(error, -1, 1),
            )
        else:
            loss, slope = (error**2 / 2).mean(), error
        back = np.zeros_like(values)
        back[rows, batch.action] = -slope / n
        gradient, _ = mlp_backward(self.q, batch.observation, hidden, back)
        gradient, norm = clip_by_global_norm(gradient, dqn.max_gradient_norm)
        self.q = self.adam.step(self.q, gradient, dqn.learning_rate)
        if self.adam.count % dqn.target_interval == 0:
            self.target_q = polyak(self.target_q, self.q, dqn.target_rate)
        return loss, values[rows, batch.action].mean(), norm


def weights(q):
    return weights_of(q.network.head)


@pytest.mark.parametrize("double, loss, rate", [(True, "huber", 1.0), (False, "squared", 0.1)])
def test_updates_are_those_of_numpy(double, loss, rate):
    """Eight in a row, over moves of the target, errors on both sides of Huber's knee and clipped
    gradients."""
    dqn = replace(
        SMALL,
        double=double,
        head=ScalarHead(loss),
        target_rate=rate,
        max_gradient_norm=0.6,
        learning_rate=0.05,
        discount=0.9,
    )
    q, target_q = q_network(0, loss), q_network(1, loss)
    slow, now = Slow(q, target_q), state_of(dqn, q, target_q)
    norms = []
    for i in range(8):
        batch = transitions(i, 6, scale=2.0)
        now, metrics = fit(dqn, now, batch)
        told, value, norm = slow.fit(dqn, batch)
        norms.append(norm)
        assert metrics["q_loss"] == pytest.approx(told, rel=1e-4) and metrics[
            "q_value"
        ] == pytest.approx(value, abs=1e-5)
        for ours, theirs in ((now.q, slow.q), (now.target_q, slow.target_q)):
            jax.tree.map(
                partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), weights(ours), theirs
            )
        assert now.gradient_steps_taken == i + 1
    assert min(norms) < 0.6 < max(norms)


def test_a_hard_target_is_a_copy_every_so_often_and_untouched_between():
    dqn = replace(SMALL, target_rate=1.0)
    now = state_of(dqn, q_network(0), q_network(1))
    for i in range(1, 8):
        before = now.target_q
        now, _ = fit(dqn, now, transitions(i, 6))
        # to the last bit
        jax.tree.map(np.testing.assert_array_equal, now.target_q, now.q if i % 3 == 0 else before)
    assert (weights(now.q)[0] != weights(now.target_q)[0]).any()


def test_a_polyak_target_moves_its_share_of_the_way():
    dqn = replace(SMALL, target_interval=1, target_rate=0.01)
    now = state_of(dqn, q_network(0), q_network(1))
    for i in range(3):
        before = now.target_q
        now, _ = fit(dqn, now, transitions(i, 6))
        expected = jax.tree.map(
            lambda t, q: 0.99 * np.asarray(t) + 0.01 * np.asarray(q), before, now.q
        )
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), now.target_q, expected
        )


@pytest.mark.parametrize("limit", [0.01, 1e9])
def test_the_gradient_is_clipped_by_its_global_norm(limit):
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    dqn, q = replace(SMALL, max_gradient_norm=limit), q_network(0)
    batch = transitions(0, 6)

    def loss(q, target):
        value = jnp.take_along_axis(q(batch.observation), batch.action[:, None], -1)[:, 0]
        return rlax.huber_loss(target - value).mean()

    gradient = jax.device_get(jax.jit(jax.grad(loss))(q, estimate_target(dqn, q, q, batch)[:, 0]))
    norm = global_norm(gradient)
    assert 0.01 < norm < 1e9
    state, _ = fit(dqn, state_of(dqn, q, q), batch)
    moment = adam_moment(state.opt_state)
    expected = jax.tree.map(lambda g: 0.1 * g * min(1, limit / norm), gradient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-9), moment, expected)


def test_double_targets_with_equal_networks_are_plain_ones():
    batch, q, other = transitions(0, 50), q_network(0), q_network(1)
    double, single = replace(SMALL, double=True), replace(SMALL, double=False)
    np.testing.assert_array_equal(
        estimate_target(double, q, q, batch), estimate_target(single, q, q, batch)
    )
    apart = [np.asarray(estimate_target(dqn, q, other, batch)) for dqn in (double, single)]
    # the target's own choice is its best
    assert (apart[0] <= apart[1]).all() and (apart[0] < apart[1]).any()


def test_play_is_random_as_often_as_epsilon_says():
    dqn = replace(SMALL, exploration=EpsilonGreedy(1.0, 0.0), exploration_steps=100.0)
    observation = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    state = fresh(dqn)
    act = jax.jit(DQN.act, static_argnames="explore")
    greedy, memory = act(dqn, state, observation, {"kept": 1}, KEY, explore=False)
    greedy = np.asarray(greedy)
    np.testing.assert_array_equal(greedy, np.argmax(jax.jit(lambda q: q(observation))(state.q), -1))
    assert memory == {"kept": 1}
    for steps, epsilon in ((0, 1), (60, 0.4), (100, 0)):
        action, memory = jax.device_get(
            act(dqn, replace(state, steps=np.int32(steps)), observation, (), KEY, explore=True)
        )
        assert action.dtype == greedy.dtype and action.shape == greedy.shape and memory == ()
        # one of four is the greedy one
        assert (action != greedy).mean() == pytest.approx(0.75 * epsilon, abs=0.015)
        if epsilon == 1:
            np.testing.assert_allclose(np.bincount(action), 5000, atol=300)


def test_nothing_is_learned_before_the_warmup_is_over():
    """It counts environment steps, six an update here: twelve are enough."""
    state = fresh(SMALL)
    first, metrics = update(SMALL, state, transitions(0, 3, 2), KEY)
    assert metrics["updates"] == 0 and first.gradient_steps_taken == 0 and first.steps == 6
    for before, after in (
        (state.q, first.q),
        (state.target_q, first.target_q),
        (state.opt_state, first.opt_state),
    ):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    second, metrics = update(SMALL, first, transitions(1, 3, 2), KEY)
    assert metrics["updates"] == 2 and second.gradient_steps_taken == 2 and second.steps == 12
    assert (weights(second.q)[0] != weights(first.q)[0]).any()


def test_an_update_is_an_insert_and_gradient_steps_on_draws():
    state = replace(fresh(SMALL), steps=np.int32(100))
    state, _ = update(SMALL, state, transitions(0, 3, 2), jax.random.key(1))
    newest = transitions(1, 3, 2)
    after, metrics = update(SMALL, state, newest, KEY)
    ring = jax.jit(ring_buffer.insert)(state.replay, newest)
    jax.tree.map(np.testing.assert_array_equal, after.replay, ring)
    now, told = state, []
    for key in jax.random.split(KEY, 2):
        now, one = fit(SMALL, now, sample(ring, jax.random.split(key)[0], 6))
        told.append(one)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        (after.q, after.target_q),
        (now.q, now.target_q),
    )
    for name in ("q_loss", "q_value"):
        assert metrics[name] == pytest.approx(np.mean([one[name] for one in told]), rel=1e-5)


def test_the_target_starts_as_a_copy_and_the_buffer_empty():
    state = jax.jit(lambda: SMALL.init(KEY, SPEC))()
    jax.tree.map(np.testing.assert_array_equal, state.q, state.target_q)
    assert state.replay.inserted == state.steps == state.gradient_steps_taken == 0
    assert state.replay.storage.observation.shape == (6, 2, 3)
    assert jax.tree.map(jnp.shape, state.q) == jax.tree.map(jnp.shape, q_network())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="batch_size 100 is larger than capacity 50"):
        validate(DQN(batch_size=100, capacity=50))
    with pytest.raises(
        InvalidInput,
        match=r"capacity 100 cannot hold one rollout of 128 \(rollout_length 64 × num_envs 2\)",
    ):
        jax.eval_shape(
            partial(DQN(capacity=100, rollout_length=64, hidden=()).init, spec=SPEC), KEY
        )
