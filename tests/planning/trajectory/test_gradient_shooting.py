"""Gradient shooting against dense linear algebra, the costates written out, and scipy's bounded
minimizer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from etude.errors import InvalidInput
from etude.planning.protocol import ControlProblem
from etude.planning.trajectory.gradient_shooting import gradient_shooting
from etude.struct import replace

T = 12
A, B = np.array([[1, 0.3], [-0.2, 0.9]]), np.array([[0.1], [0.4]])
GOAL = np.array([1.0, -0.5])
STARTS = np.array([[2.0, 0.0], [-1.0, 1.5], [0.3, -2.0]])
LINEAR = ControlProblem(
    lambda x, u: jnp.float32(A) @ x + jnp.float32(B) @ u,
    lambda x, u, time: (
        (1 + time / T) * (x - jnp.float32(GOAL)) @ (x - jnp.float32(GOAL)) + 0.5 * u @ u
    ),
    lambda x: 5 * x @ x,
)
ADAM, LBFGS = optax.adam(optax.cosine_decay_schedule(0.3, 400)), optax.lbfgs()


def quadratic(start):
    """H, g and c of the cost ½ uᵀ H u + gᵀ u + c of all controls u [T], from x = S x₀ + M u."""
    powers = [np.linalg.matrix_power(A, t) for t in range(T + 1)]
    M = np.zeros((T + 1, 2, T))
    for t in range(T + 1):
        for s in range(t):
            M[t, :, s] = (powers[t - 1 - s] @ B)[:, 0]
    H, g, c = 0.5 * 2 * np.eye(T), np.zeros(T), 0.0
    for t in range(T + 1):
        weight, goal = (1 + t / T, GOAL) if t < T else (5, 0)
        miss = powers[t] @ start - goal
        H, g, c = (
            H + 2 * weight * M[t].T @ M[t],
            g + 2 * weight * M[t].T @ miss,
            c + weight * miss @ miss,
        )
    return H, g, c


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, iterations", [(ADAM, 400), (LBFGS, 30)], ids=["adam", "l-bfgs"]
)
def test_a_linear_quadratic_problem_is_solved_as_densely(optimizer, iterations):
    """Many starts at once."""
    solve = jax.vmap(
        lambda start: gradient_shooting(
            LINEAR, start, jnp.zeros((T, 1)), optimizer, iterations=iterations
        )
    )
    found = solve(jnp.float32(STARTS))
    assert (
        found.states.shape == (3, T + 1, 2)
        and found.controls.shape == (3, T, 1)
        and found.costs.shape == (3, iterations + 1)
    )
    for i, start in enumerate(STARTS):
        H, g, c = quadratic(start)
        u = -np.linalg.solve(H, g)
        np.testing.assert_allclose(found.controls[i, :, 0], u, atol=2e-3)
        np.testing.assert_allclose(found.cost[i], c + g @ u / 2, rtol=1e-5)
        np.testing.assert_allclose(found.costs[i, 0], c, rtol=1e-5)
        assert found.cost[i] <= found.costs[i].min()
        states = [start]
        for t in range(T):
            states.append(A @ states[-1] + B @ np.asarray(found.controls[i, t], float))
        np.testing.assert_allclose(found.states[i], states, atol=1e-4)


@pytest.mark.slow
def test_controls_keep_to_their_box_and_are_the_best_in_it():
    found = gradient_shooting(
        replace(LINEAR, low=(0.2,), high=(0.7,)),
        STARTS[0].astype(np.float32),
        jnp.ones((T, 1)),
        ADAM,
        iterations=400,
    )
    H, g, c = quadratic(STARTS[0])
    best = minimize(
        lambda u: (u @ H @ u / 2 + g @ u + c, H @ u + g),
        np.zeros(T),
        jac=True,
        bounds=[(0.2, 0.7)] * T,
    )
    u, low, high = np.asarray(found.controls[:, 0]), np.float32(0.2), np.float32(0.7)
    assert u.min() == low and u.max() == high and ((u > low) & (u < high)).any()
    np.testing.assert_allclose(u, best.x, atol=2e-3)
    np.testing.assert_allclose(found.cost, best.fun, rtol=1e-5)
    guess = np.full(T, 0.7)  # clipped, too
    np.testing.assert_allclose(found.costs[0], guess @ H @ guess / 2 + g @ guess + c, rtol=1e-5)


def test_the_gradient_is_the_notes_backpropagation():
    """One step of plain descent on x' = x + .1 sin x u², each costate found from the next."""
    bent = ControlProblem(
        lambda x, u: x + 0.1 * jnp.sin(x) * u**2,
        lambda x, u, time: (x[0] - time) ** 2 * u[0],
        lambda x: x[0] ** 3,
    )
    u = np.array([0.7, -1.2, 0.4, 2.0])
    found = gradient_shooting(
        bent, jnp.float32([1.1]), jnp.float32(u)[:, None], optax.sgd(1e-2), iterations=1
    )
    x = [1.1]
    for t in range(4):
        x.append(x[t] + 0.1 * math.sin(x[t]) * u[t] ** 2)
    costate, gradient = 3 * x[4] ** 2, np.zeros(4)
    for t in reversed(range(4)):
        gradient[t] = (x[t] - t) ** 2 + 0.2 * math.sin(x[t]) * u[t] * costate
        costate = 2 * (x[t] - t) * u[t] + (1 + 0.1 * math.cos(x[t]) * u[t] ** 2) * costate
    np.testing.assert_allclose(found.controls[:, 0], u - 1e-2 * gradient, rtol=1e-5)
    assert found.costs[1] < found.costs[0]


@pytest.mark.slow
def test_the_best_is_kept_when_descent_runs_away():
    """Steps too long by far: the costs grow, at last beyond numbers, and the first guess is still
    the best."""
    guess = jnp.full((T, 1), 0.1)
    found = gradient_shooting(LINEAR, jnp.float32([2, 0]), guess, optax.sgd(10.0), iterations=60)
    assert not np.isfinite(found.costs[-1])
    np.testing.assert_array_equal(found.controls, guess)
    assert found.cost == found.costs[0]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="they must be \\[n\\] and \\[T, m\\]"):
        gradient_shooting(LINEAR, jnp.zeros(2), jnp.zeros(T), ADAM, iterations=1)
