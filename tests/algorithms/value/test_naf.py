"""NAF: its quadratic against loops and a grid, its updates against NumPy, and what it learns where
that is known."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import one_step, sample
from filling import filled
from oracles import (
    Adam,
    clip_by_global_norm,
    experience,
    mlp_backward,
    mlp_forward,
    polyak,
    reals,
    weights_of,
)

from etude.algorithms.value.naf import NAF, lower_triangle
from etude.errors import InvalidInput
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((3,)), Box((2,), low=(-2.0, 0.0), high=(2.0, 10.0)), 2)
SMALL = NAF(
    hidden=(5,),
    activation="relu",
    batch_size=6,
    capacity=24,
    rollout_length=3,
    warmup_steps=12,
    gradient_steps=2,
)


def fresh(naf, seed=0, spec=SPEC):
    """The state before the first step, but with a target that differs from q."""
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(partial(naf.init, spec=spec), KEY)
    )
    return replace(
        zeros, q=filled(lambda: zeros.q, seed), target_q=filled(lambda: zeros.q, seed + 1)
    )


def transitions(seed, *leading, scale=1.0):
    return experience(seed, *leading, action=reals(2), reward=(0.0, scale))


@jax.jit
def update(naf, state, experience, key):
    return naf.update(state, experience, key)


def weights(q):
    return weights_of(q.network.head)


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def triangle(entries, n):
    """L, entry by entry."""
    entries, factor = iter(entries), np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            entry = next(entries)
            factor[i, j] = math.exp(entry) if i == j else entry
    return factor


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_factor_is_the_lower_triangle_of_its_entries(n):
    entries = np.random.default_rng(n).normal(size=(3, 2, n * (n + 1) // 2)).astype(np.float32)
    factors = np.asarray(jax.jit(lower_triangle, static_argnums=1)(entries, n))
    assert factors.shape == (3, 2, n, n)
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(factors[index], triangle(entries[index], n), rtol=1e-5)


def test_large_entries_off_the_diagonal_have_finite_gradients():
    """Their exponential, which nobody asked for, would be infinite."""
    gradient = jax.jit(jax.grad(lambda entries: lower_triangle(entries, 2).sum()))(
        np.float32([0.0, 1000.0, 1.0])
    )
    np.testing.assert_allclose(gradient, [1, 1, math.e], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (2, 2), ()], ids=str)
def test_q_is_quadratic_around_its_best_action(shape):
    """Against V - ½ Σᵢⱼ dᵢ Pᵢⱼ dⱼ, summed in loops; P = L Lᵀ is positive definite."""
    n = math.prod(shape)
    q = fresh(SMALL, spec=replace(SPEC, action=Box(shape, low=-1.0, high=1.0))).q
    rng = np.random.default_rng(1)
    observation, action = (
        rng.normal(size=(4, 3)).astype(np.float32),
        rng.uniform(-1, 1, (4, *shape)).astype(np.float32),
    )
    out, values, best = jax.device_get(
        jax.jit(lambda q: (q.network(observation), q(observation)(action), q(observation).action))(
            q
        )
    )
    assert values.shape == (4,) and best.shape == (4, *shape)
    for row in range(4):
        factor = triangle(out[row, 1 + n :], n)
        precision = factor @ factor.T
        assert np.linalg.eigvalsh(precision).min() > 0
        deviation = action[row].ravel() - np.tanh(out[row, 1 : 1 + n])
        square = sum(
            deviation[i] * precision[i, j] * deviation[j] for i in range(n) for j in range(n)
        )
        assert values[row] == pytest.approx(out[row, 0] - square / 2, rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(best[row].ravel(), np.tanh(out[row, 1 : 1 + n]), rtol=1e-5)


def test_the_maximum_over_a_grid_of_actions_is_at_its_best_action_and_has_its_value():
    side = np.linspace(-1, 1, 201, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    observation = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)

    @jax.jit
    def judge(q):
        """The values of the grid [grid, observation]; the best actions, their values by themselves,
        and the largest."""
        quadratic = q(observation)
        values = jax.vmap(quadratic)(jnp.broadcast_to(grid[:, None], (len(grid), 5, 2)))
        return values, quadratic.action, quadratic(quadratic.action), quadratic.value

    values, best, value_of_best, largest = (np.asarray(x) for x in judge(fresh(SMALL, seed=3).q))
    assert (values <= largest + 1e-6).all()
    np.testing.assert_allclose(values.max(0), largest, atol=1e-3)
    np.testing.assert_allclose(grid[values.argmax(0)], best, atol=0.015)  # the grid's step is 0.01
    np.testing.assert_array_equal(value_of_best, largest)
    assert np.ptp(values, 0).min() > 0.1


class Slow:
    """One hidden layer, its gradient through the quadratic, the clipping and Adam, written out in
    float64."""

    def __init__(self, q, target_q):
        self.q, self.target_q, self.adam = weights(q), weights(target_q), Adam()

    def fit(self, naf, batch):
        """Take a gradient step: (loss, mean value, gradient norm)."""
        size, n = batch.action.shape
        future = mlp_forward(self.target_q, batch.next_observation)[1][:, 0]
        target = batch.reward + naf.discount * np.where(batch.terminated, 0, future)
        hidden, out = mlp_forward(self.q, batch.observation)
        back, values = np.zeros_like(out), np.zeros(size)
        for row in range(size):
            best, factor = np.tanh(out[row, 1 : 1 + n]), triangle(out[row, 1 + n :], n)
            deviation = batch.action[row] - best
            along = factor.T @ deviation
            values[row] = out[row, 0] - along @ along / 2
            of_factor = -np.outer(deviation, along)  # dQ/dL, and with it dQ/d(log of the diagonal)
            of_factor[np.diag_indices(n)] *= np.diag(factor)
            slope = np.concatenate(
                [[1], factor @ along * (1 - best**2), of_factor[np.tril_indices(n)]]
            )
            back[row] = -(target[row] - values[row]) * slope / size
        gradient, _ = mlp_backward(self.q, batch.observation, hidden, back)
        gradient, norm = clip_by_global_norm(gradient, naf.max_gradient_norm)
        self.q = self.adam.step(self.q, gradient, naf.learning_rate)
        self.target_q = polyak(self.target_q, self.q, naf.target_rate)
        return ((target - values) ** 2 / 2).mean(), values.mean(), norm


def test_updates_are_those_of_numpy():
    """Four of two gradient steps each, some with clipped gradients."""
    naf = replace(SMALL, learning_rate=0.03, discount=0.9, target_rate=0.2, max_gradient_norm=2.0)
    state, norms = replace(fresh(naf), steps=np.int32(12)), []
    slow = Slow(state.q, state.target_q)
    for i in range(4):
        before, state, told = (
            state,
            *update(naf, state, transitions(i, 3, 2, scale=2.0), jax.random.key(i)),
        )
        # of the batches
        keys = [jax.random.split(key)[0] for key in jax.random.split(jax.random.key(i), 2)]
        steps = [
            slow.fit(naf, jax.tree.map(np.asarray, sample(state.replay, key, 6))) for key in keys
        ]
        loss, value, _ = np.mean(steps, 0)
        assert told["q_loss"] == pytest.approx(loss, rel=1e-3) and told["q_value"] == pytest.approx(
            value, rel=1e-3, abs=1e-5
        )
        for one, other in ((state.q, slow.q), (state.target_q, slow.target_q)):
            jax.tree.map(
                partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), weights(one), other
            )
        assert (
            told["updates"] == 2
            and state.gradient_steps_taken == before.gradient_steps_taken + 2
            and state.steps == before.steps + 6
        )
        norms += [norm for _, _, norm in steps]
    assert min(norms) < 2 < max(norms)


def test_the_target_is_the_largest_value_there_is():
    """Found by search over a grid; a cut-off future counts, a terminated one does not."""
    batch, state, naf = transitions(0, 40), fresh(SMALL), replace(SMALL, discount=0.9)
    side = np.linspace(-1, 1, 81, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 2)

    @jax.jit
    def judge(target_q):
        ahead = target_q(batch.next_observation)
        return jax.vmap(ahead)(jnp.broadcast_to(grid, (len(grid), 40, 2))).max(
            0
        ), naf.estimate_target(target_q, one_step(naf, batch))

    most, target = judge(state.target_q)
    expected = batch.reward + 0.9 * np.where(batch.terminated, 0, most)
    np.testing.assert_allclose(target, expected, atol=5e-3)
    assert batch.terminated.any() and batch.truncated[~batch.terminated].any()


def test_a_target_of_rate_one_is_a_copy():
    state = replace(fresh(SMALL), steps=np.int32(12))
    after, _ = update(replace(SMALL, target_rate=1.0), state, transitions(0, 3, 2), KEY)
    assert same(after.target_q, after.q) and not same(after.q, state.q)


def test_noise_falls_linearly_and_stays():
    naf = replace(SMALL, initial_noise=0.8, final_noise=0.2, exploration_steps=1000.0)
    told = [float(naf.noise(np.int32(steps))) for steps in (0, 250, 500, 1000, 10**9)]
    np.testing.assert_allclose(told, [0.8, 0.65, 0.5, 0.2, 0.2], rtol=1e-6)


def test_play_is_uniform_while_warming_up_and_noisy_after():
    naf = replace(SMALL, initial_noise=0.2, final_noise=0.1, exploration_steps=100.0)
    observation = np.tile(np.random.default_rng(0).normal(size=3).astype(np.float32), (20_000, 1))
    state = fresh(naf)
    act = jax.jit(NAF.act, static_argnames="explore")
    greedy, memory = jax.device_get(act(naf, state, observation, {"kept": 1}, KEY, explore=False))
    np.testing.assert_allclose(
        greedy, np.tanh(mlp_forward(weights(state.q), observation)[1][:, 1:3]), rtol=1e-4, atol=1e-6
    )
    assert memory == {"kept": 1} and (abs(greedy) < 0.4).all()
    warm, _ = jax.device_get(
        act(naf, replace(state, steps=np.int32(11)), observation, (), KEY, explore=True)
    )
    for element in warm.T:
        np.testing.assert_allclose(np.histogram(element, 10, (-1, 1))[0], 2000, atol=200)
    for steps, std in ((50, 0.15), (1000, 0.1)):
        after, _ = jax.device_get(
            act(naf, replace(state, steps=np.int32(steps)), observation, (), KEY, explore=True)
        )
        np.testing.assert_allclose((after - greedy).std(0), std, rtol=0.03)
        np.testing.assert_allclose((after - greedy).mean(0), 0, atol=0.005)
    wild, _ = act(
        replace(naf, final_noise=9.0),
        replace(state, steps=np.int32(1000)),
        observation,
        (),
        KEY,
        explore=True,
    )
    assert wild.min() == -1 and wild.max() == 1


def test_nothing_is_learned_before_the_warmup_is_over():
    """It counts environment steps, six an update here: twelve are enough."""
    state = fresh(SMALL)
    first, metrics = update(SMALL, state, transitions(0, 3, 2), KEY)
    assert metrics["updates"] == 0 and first.gradient_steps_taken == 0 and first.steps == 6
    assert same(
        (state.q, state.target_q, state.opt_state), (first.q, first.target_q, first.opt_state)
    )
    second, metrics = update(SMALL, first, transitions(1, 3, 2), KEY)
    assert (
        metrics["updates"] == 2
        and second.gradient_steps_taken == 2
        and second.steps == 12
        and not same(second.q, first.q)
    )


def test_the_target_starts_as_a_copy_and_q_has_all_its_outputs():
    state = jax.jit(lambda: SMALL.init(KEY, SPEC))()
    assert same(state.q, state.target_q) and state.q.network.head.layers[-1].weight.shape == (
        1 + 2 + 3,
        5,
    )
    assert state.replay.inserted == state.steps == state.gradient_steps_taken == 0


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="batch_size 100 is larger than capacity 50"):
        validate(NAF(batch_size=100, capacity=50))
    with pytest.raises(
        InvalidInput,
        match=r"capacity 100 cannot hold one rollout of 128 \(rollout_length 64 × num_envs 2\)",
    ):
        jax.eval_shape(
            partial(NAF(capacity=100, rollout_length=64, hidden=()).init, spec=SPEC), KEY
        )
