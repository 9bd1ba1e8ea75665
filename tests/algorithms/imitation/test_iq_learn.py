"""IQ-Learn: the least loss is where the theory has it, and Q is optimal for the reward it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled
from scipy.optimize import minimize

import etude
from etude.algorithms.imitation.iq_learn import IQLearn
from etude.algorithms.protocol import Outside, init_state
from etude.data.dataset import dataset_shapes
from etude.data.replay.ring_buffer import Indices, buffer_of
from etude.data.replay.sequence import sequence_batch
from etude.data.transition import ReplayBatch, Transition
from etude.nn.recurrent import GRU, step_cell
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, struct

# Two choices one after the other: from state 0 action a leads to state 1 + a, where any ends the
# episode. How often the expert takes the first, and then the second:
COUNTS = np.array([[6, 2], [3, 3], [1, 1]])  # [state, action]; 6 = 3 + 3, 2 = 1 + 1
TAU, ALPHA = 0.7, 0.8
KEY = jax.random.key(0)
TABULAR = IQLearn(discount=1.0, temperature=TAU, regularization=ALPHA)


def steps_of(counts):
    """Each step as often as it is counted."""
    state, action = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    ends = state > 0
    return Transition(
        jnp.asarray(state),
        jnp.asarray(action),
        jnp.full(len(state), jnp.nan),  # which nothing may read
        jnp.asarray(np.where(ends, 0, 1 + action)),
        jnp.asarray(ends),
        jnp.zeros(len(state), bool),
    )


def as_batch(steps):
    """Steps as a batch, each with a weight of one."""
    return ReplayBatch(steps, TABULAR.discount * ~steps.terminated, jnp.ones(len(steps.action)))


def loss_by_loop(q, expert, everywhere):
    """L(Q), step by step; `everywhere` are the steps of the second mean."""
    q, expert, everywhere = jax.tree.map(np.asarray, (q, expert, everywhere))
    value = lambda s: TAU * np.log(np.exp(q[s] / TAU).sum())

    def next_values(steps):
        return [
            0.0 if ends else value(s)
            for s, ends in zip(steps.next_observation, steps.terminated, strict=True)
        ]

    chosen = [q[s, a] for s, a in zip(expert.observation, expert.action, strict=True)]
    rewards = np.subtract(chosen, next_values(expert))
    differences = np.subtract([value(s) for s in everywhere.observation], next_values(everywhere))
    return -np.mean(rewards - rewards**2 / (4 * ALPHA)) + np.mean(differences)


def test_the_loss_is_that_of_a_loop_over_steps():
    """The agent's own steps count in the second mean alone."""
    q = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    expert, played = steps_of(COUNTS), steps_of(np.array([[3, 4], [0, 1], [2, 0]]))
    for steps, everywhere in (
        (None, expert),
        (played, jax.tree.map(lambda *x: jnp.concatenate(x), expert, played)),
    ):
        own = None if steps is None else as_batch(steps)
        loss, metrics = TABULAR.loss(lambda s: q[s], as_batch(expert), own)
        np.testing.assert_allclose(loss, loss_by_loop(q, expert, everywhere), rtol=1e-4)
        assert metrics["loss"] == loss


def test_the_least_loss_has_the_reward_of_the_theory_and_its_soft_optimal_q():
    """r = 2α (1 - ρ_π / ρ_expert), and soft value iteration of r gives Q back."""
    expert = as_batch(steps_of(COUNTS))
    loss_of = jax.jit(
        jax.value_and_grad(lambda q: TABULAR.loss(lambda s: q.reshape(3, 2)[s], expert)[0])
    )
    found = minimize(
        lambda q: [np.asarray(x, np.float64) for x in loss_of(jnp.float32(q))],
        np.zeros(6),
        jac=True,
    )
    q = found.x.reshape(3, 2)
    value = TAU * np.log(np.exp(q / TAU).sum(1))  # [state]
    policy = np.exp((q - value[:, None]) / TAU)
    reward = q - np.array([[value[1], value[2]], [0, 0], [0, 0]])
    arrivals = COUNTS[0].sum() * np.array([1, *policy[0]])  # at each state, in as many episodes
    expected = 2 * ALPHA * (1 - arrivals[:, None] * policy / COUNTS)
    np.testing.assert_allclose(reward, expected, atol=2e-3)
    assert policy[0, 0] > 0.6 and np.ptp(expected) > 0.1  # the expert's choice; not all is 0

    soft = np.zeros((3, 2))
    for _ in range(2):  # steps of an episode
        v = TAU * np.log(np.exp(soft / TAU).sum(1))
        soft = expected + np.array([[v[1], v[2]], [0, 0], [0, 0]])
    np.testing.assert_allclose(soft, q, atol=4e-3)


def test_the_offline_loss_is_cloning_with_a_condition_on_the_reward():
    q = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)
    expert = steps_of(COUNTS)
    batch = as_batch(expert)
    loss, _ = TABULAR.loss(lambda s: q[s], batch)
    chosen = q[expert.observation, expert.action]
    log_prob = jax.nn.log_softmax(q / TAU)[expert.observation, expert.action]
    reward = chosen - TABULAR.next_value(lambda s: q[s], batch)
    expected = -TAU * log_prob.mean() + (reward**2).mean() / (4 * ALPHA)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_what_follows_the_end_is_worth_nothing_and_a_truncated_step_goes_on():
    steps = replace(
        jax.tree.map(lambda x: x[:2], steps_of(COUNTS)),
        terminated=jnp.array([True, False]),
        truncated=jnp.array([False, True]),
    )
    q = jnp.ones((3, 2))
    expected = [0, 1 + TAU * np.log(2)]
    np.testing.assert_allclose(
        TABULAR.next_value(lambda s: q[s], as_batch(steps)), expected, rtol=1e-5
    )


def test_the_loss_of_sequences_is_that_of_single_steps_with_their_memories():
    """Read row by row from the start of each sequence; rows past the end of the data count not."""
    rng = np.random.default_rng(0)
    method = replace(TABULAR, recurrent=GRU(3), hidden=(4,), sequence_length=4, burn_in=1)
    spec = EnvironmentSpec(Box((2,)), Discrete(2))
    q = filled(
        lambda: init_state(method, KEY, spec, Outside(dataset_shapes(spec, 9, 1))).q, scale=0.5
    )
    seen, ends = jnp.float32(rng.normal(size=(10, 2))), jnp.arange(9) % 5 == 3
    action, never = jnp.int32(rng.integers(0, 2, 9)), jnp.zeros(9, bool)
    steps = Transition(seen[:-1], action, jnp.full(9, jnp.nan), seen[1:], ends, never)
    start = np.array([1, 6])

    @jax.jit
    def computed(q, steps):
        indices = Indices(jnp.asarray(start), jnp.zeros(2, jnp.int32))
        buffer = buffer_of(steps)
        batch = sequence_batch(buffer, indices, jnp.ones(2), 1, 1.0, length=4, burn_in=1)
        return method.loss(q, batch)[0]

    loss, cell = computed(q, steps), q.network.encoder.cell
    value = lambda h: TAU * np.log(np.exp(q_of(h) / TAU).sum())
    q_of = lambda h: np.asarray(call(q.network.head, h[0][0]))
    rewards, differences = [], []
    for first in start + 1:
        h = (jnp.zeros((1, 3)),)
        for row in range(first, min(first + 4, 9)):
            if row and ends[row - 1]:
                h = (jnp.zeros((1, 3)),)
            h = call(Step(), cell, seen[row][None], h)
            if row == first:
                continue  # the burn-in
            after = 0 if ends[row] else value(call(Step(), cell, seen[row + 1][None], h))
            rewards.append(q_of(h)[action[row]] - after)
            differences.append(value(h) - after)
    rewards = np.array(rewards)
    expected = np.mean(differences) - np.mean(rewards - rewards**2 / (4 * ALPHA))
    assert len(rewards) == 4  # three of the first sequence, one of the second
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@struct
class Step:
    """One step of a cell."""

    def __call__(self, cell, x, carry):
        return step_cell(cell, x, carry)


@pytest.mark.system
def test_what_the_expert_remembers_is_learned(tmp_path):
    """In a T-maze, where the cue is at the first step alone; by chance without a memory."""
    etude.record("etude/TMaze-v0", expert="heuristic", episodes=200, out=tmp_path / "maze.npz")
    for recurrent in (GRU(32), None):
        method = IQLearn(
            recurrent=recurrent, sequence_length=32, batch_size=256, learning_rate=1e-3
        )
        run = etude.train(
            method,
            "etude/TMaze-v0",
            dataset=tmp_path / "maze.npz",
            steps=3_000,
            evaluation_episodes=200,
            out=tmp_path / str(bool(recurrent)),
            progress=False,
        )
        found = run.summary["evaluation"]["iqm"]
        assert found > 0.95 if recurrent else abs(found - 0.5) < 0.2
