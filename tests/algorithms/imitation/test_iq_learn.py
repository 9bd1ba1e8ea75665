"""IQ-Learn: the least loss is where the theory has it, and Q is optimal for the reward it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled
from scipy.optimize import minimize
from scipy.special import log_softmax

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
        state,
        action,
        np.full(len(state), np.nan),  # which nothing may read
        np.where(ends, 0, 1 + action),
        ends,
        np.zeros(len(state), bool),
    )


def as_batch(steps):
    """Steps as a batch, each with a weight of one."""
    return ReplayBatch(steps, TABULAR.discount * ~steps.terminated, jnp.ones(len(steps.action)))


@jax.jit
def loss_of_table(q, expert, steps):
    """(L, its metrics, its gradient)."""
    of = lambda q: TABULAR.loss(
        lambda s: q[s], as_batch(expert), None if steps is None else as_batch(steps)
    )
    (loss, metrics), gradient = jax.value_and_grad(of, has_aux=True)(q)
    return loss, metrics, gradient


@jax.jit
def next_values(q, steps):
    return TABULAR.next_value(lambda s: q[s], as_batch(steps))


def random_table(seed):
    return np.float32(np.random.default_rng(seed).normal(size=(3, 2)))


def loss_by_loop(q, expert, everywhere):
    """L(Q), step by step; `everywhere` are the steps of the second mean."""
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
    q = random_table(0)
    expert, own = steps_of(COUNTS), steps_of(np.array([[3, 4], [0, 1], [2, 0]]))
    for steps, everywhere in (
        (None, expert),
        (own, jax.tree.map(lambda *x: np.concatenate(x), expert, own)),
    ):
        loss, metrics, _ = loss_of_table(q, expert, steps)
        np.testing.assert_allclose(loss, loss_by_loop(q, expert, everywhere), rtol=1e-4)
        assert float(metrics["loss"]) == float(loss)


def test_the_least_loss_has_the_reward_of_the_theory_and_its_soft_optimal_q():
    """r = 2α (1 - ρ_π / ρ_expert), and soft value iteration of r gives Q back."""
    expert = steps_of(COUNTS)

    def loss_and_gradient(q):
        loss, _, gradient = loss_of_table(np.float32(q.reshape(3, 2)), expert, None)
        return float(loss), np.float64(gradient).ravel()

    found = minimize(loss_and_gradient, np.zeros(6), jac=True)
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
    q, expert = random_table(1), steps_of(COUNTS)
    loss, *_ = loss_of_table(q, expert, None)
    chosen = q[expert.observation, expert.action]
    log_prob = log_softmax(q / TAU, -1)[expert.observation, expert.action]
    reward = chosen - np.asarray(next_values(q, expert))
    expected = -TAU * log_prob.mean() + (reward**2).mean() / (4 * ALPHA)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_what_follows_the_end_is_worth_nothing_and_a_truncated_step_goes_on():
    steps = replace(
        jax.tree.map(lambda x: x[:2], steps_of(COUNTS)),
        terminated=np.array([True, False]),
        truncated=np.array([False, True]),
    )
    expected = [0, 1 + TAU * np.log(2)]
    q = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(next_values(q, steps), expected, rtol=1e-5)


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
