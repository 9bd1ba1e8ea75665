"""Targets and losses of value functions against their definitions, rlax and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etude.algorithms.value.fitted_q import FittedQ
from etude.algorithms.value.heads import ScalarHead
from etude.errors import InvalidInput
from etude.estimators import losses

# which XLA takes for zero on a CPU, and NumPy does not
numbers = st.floats(-100, 100, width=32, allow_subnormal=False)
q_values = arrays.arrays(np.float32, (3, 2, 4), elements=numbers)  # [time, env, action]
quick = settings(deadline=None, max_examples=50)
greedy_value, one_step_target, squared, huber = map(
    jax.jit, (losses.max_q, losses.td_target, losses.l2_loss, losses.huber_loss)
)
libraries = jax.jit(
    lambda error, delta: (
        optax.l2_loss(error),
        rlax.l2_loss(error),
        optax.huber_loss(error, delta=delta),
        rlax.huber_loss(error, delta),
    )
)


@quick
@given(q_values)
def test_the_greedy_value_is_the_largest(q):
    np.testing.assert_array_equal(greedy_value(q), q.max(-1))


@pytest.mark.slow
@quick
@given(q_values, q_values, arrays.arrays(bool, (3, 2)), st.floats(0, 1, width=32))
def test_rlax_agrees_on_the_errors_of_q_learning(q, target_q, terminated, discount):
    rng = np.random.default_rng(0)
    reward, action = rng.normal(size=(3, 2)).astype(np.float32), rng.integers(4, size=(3, 2))
    value = np.take_along_axis(q, action[..., None], -1)[..., 0]
    target = one_step_target(reward, greedy_value(target_q), terminated, discount)
    error = oracle(q, action, reward, (discount * ~terminated).astype(np.float32), target_q)
    np.testing.assert_allclose(target - value, error, rtol=1e-4, atol=1e-4)


oracle = jax.jit(jax.vmap(jax.vmap(rlax.q_learning)))


def test_a_target_by_hand():
    target = losses.td_target(
        np.float32([1, 1]), np.float32([10, 10]), jnp.array([False, True]), 0.9
    )
    np.testing.assert_allclose(target, [10, 1])


@quick
@given(arrays.arrays(np.float32, (5,), elements=numbers), st.floats(0.125, 10, width=32))
def test_losses_are_those_of_optax_and_rlax(error, delta):
    *halves, optaxs, rlaxs = libraries(error, delta)
    for half, library in zip(halves, (optaxs, rlaxs), strict=True):
        # a square below the least normal number may be flushed to zero or not
        np.testing.assert_allclose(squared(error), half, rtol=1e-5, atol=1.2e-38)
        np.testing.assert_allclose(huber(error, delta), library, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_the_slope_of_huber_is_the_error_clipped(delta):
    error = np.linspace(-5, 5, 41, dtype=np.float32)  # ±delta and 0 among them
    slope, of_squared = jax.jit(
        jax.vmap(lambda e: (jax.grad(losses.huber_loss)(e, delta), jax.grad(losses.l2_loss)(e)))
    )(error)
    np.testing.assert_allclose(slope, np.clip(error, -delta, delta), atol=1e-6)
    np.testing.assert_allclose(of_squared, error, atol=1e-6)


def test_huber_without_end_is_the_squared_loss():
    error = jnp.linspace(-5, 5, 11)
    np.testing.assert_allclose(losses.huber_loss(error, 1e9), losses.l2_loss(error), rtol=1e-6)


projection = jax.jit(losses.categorical_projection)
library_projection = jax.jit(jax.vmap(rlax.categorical_l2_project, (0, 0, None)))


def probabilities(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


@quick
@given(
    arrays.arrays(np.float32, (3, 5), elements=st.floats(-20, 20, width=32, allow_subnormal=False)),
    st.integers(0, 99),
)
def test_a_projection_shares_each_atom_between_its_neighbors(atoms, seed):
    """Against the loop of the paper's algorithm 1, and rlax, inside the support, at its ends and
    beyond."""
    support, p = np.linspace(-10, 10, 11, dtype=np.float32), probabilities(seed, 3, 5)
    expected = np.zeros((3, 11))
    for row in range(3):
        for z, weight in zip(atoms[row], p[row], strict=True):
            place = (min(max(float(z), -10), 10) + 10) / 2
            low, high = int(np.floor(place)), int(np.ceil(place))
            expected[row, low] += weight * (high - place if high > low else 1)
            expected[row, high] += weight * (place - low)
    projected = projection(atoms, p, support)
    np.testing.assert_allclose(projected, expected, atol=1e-5)
    order = np.argsort(atoms, -1)
    sorted_atoms, sorted_p = (np.take_along_axis(x, order, -1) for x in (atoms, p))
    if (np.diff(sorted_atoms) > 1e-3).all():  # rlax asks for atoms in order, each once
        np.testing.assert_allclose(
            library_projection(sorted_atoms, sorted_p, support), expected, atol=1e-4
        )


def test_a_projection_keeps_the_mean_inside_the_support_and_the_support_itself():
    support, p = jnp.linspace(-2, 3, 21), jnp.asarray(probabilities(0, 4, 21))
    np.testing.assert_allclose(losses.categorical_projection(support, p, support), p, atol=1e-6)
    moved = 0.3 + 0.5 * support
    np.testing.assert_allclose(
        losses.categorical_projection(moved, p, support) @ support, p @ moved, atol=1e-5
    )


quantile_huber_loss = jax.jit(losses.quantile_huber_loss)


@quick
@given(
    arrays.arrays(np.float32, (2, 4), elements=numbers),
    arrays.arrays(np.float32, (2, 3), elements=numbers),
    st.floats(0.125, 5, width=32),
)
def test_the_quantile_loss_is_that_of_the_paper_and_of_rlax(quantiles, targets, delta):
    expected = np.zeros(2)
    for row in range(2):
        for i, quantile in enumerate(quantiles[row]):
            for target in targets[row]:
                u = float(target) - float(quantile)
                huber = u**2 / 2 if abs(u) <= delta else delta * (abs(u) - delta / 2)
                expected[row] += abs((2 * i + 1) / 8 - (u < 0)) * huber / delta / 3
    found = quantile_huber_loss(quantiles, targets, delta)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    level = (np.arange(4, dtype=np.float32) + 0.5) / 4
    library = [
        rlax.quantile_regression_loss(q, level, t, delta)
        for q, t in zip(quantiles, targets, strict=True)
    ]
    # rlax leaves out the division by δ
    np.testing.assert_allclose(found * delta, library, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_quantile_regression_finds_the_quantiles():
    """Of 0, 1, ..., 99, by gradient steps on the loss: of four, those at 1/8, 3/8, 5/8 and 7/8."""
    samples = jnp.arange(100.0)

    def step(quantiles, _):
        return quantiles - 5.0 * jax.grad(lambda q: losses.quantile_huber_loss(q, samples, 0.1))(
            quantiles
        ), None

    found, _ = jax.lax.scan(step, np.zeros(4, np.float32), length=2000)
    np.testing.assert_allclose(found, np.quantile(samples, [0.125, 0.375, 0.625, 0.875]), atol=1.0)


def test_advantages_have_mean_0_and_std_1_but_for_one_alone():
    for n in (2, 7):
        advantage = np.random.default_rng(n).normal(3, 5, n).astype(np.float32)
        told = np.asarray(losses.normalize_advantage(jnp.asarray(advantage)))
        np.testing.assert_allclose(
            told, (advantage - advantage.mean()) / advantage.std(), rtol=1e-4
        )
    for one in (np.float32([-3.0]), np.float32([[-3.0]])):
        np.testing.assert_array_equal(losses.normalize_advantage(one), one)


def test_targets_of_the_shape_of_their_outputs_pass_and_others_do_not():
    losses.check_target("estimate", np.zeros((3, 2)), np.ones((3, 2)))
    for target, output in (((3,), (3, 1)), ((3, 1), (3,)), ((1, 3), (3, 3))):
        with pytest.raises(InvalidInput, match="^estimate gives targets of shape"):
            losses.check_target("estimate", np.zeros(target), np.zeros(output))


def test_the_squared_loss_is_least_at_the_mean_and_hubers_is_not():
    """Of targets of which 30 % are 0, for an episode that ended there, and the others 10."""
    targets, values = np.float32([0] * 3 + [10] * 7), np.linspace(0, 10, 1001, dtype=np.float32)
    error = targets - values[:, None]
    assert values[losses.l2_loss(error).mean(-1).argmin()] == pytest.approx(7)
    assert values[losses.huber_loss(error).mean(-1).argmin()] > 9
    assert FittedQ().head == ScalarHead("squared")
