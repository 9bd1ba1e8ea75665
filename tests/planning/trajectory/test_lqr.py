"""The regulator against the dense quadratic program, the Riccati equation, and what noise costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from etude.environments.classic import CartPole
from etude.errors import InvalidInput
from etude.planning.trajectory.lqr import (
    LinearQuadratic,
    infinite_horizon_lqr,
    lqr,
    simulate_regulator,
)
from etude.struct import replace

T, N, M = 5, 3, 2


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


def random_problem(seed):
    """Time-varying, with cross and linear terms, the antisymmetric part of every matrix without
    meaning."""
    rng = np.random.default_rng(seed)
    half, end, spread = (
        rng.normal(size=(T, N + M, N + M)),
        rng.normal(size=(N, N)),
        rng.normal(size=(T, N, N)),
    )
    skew = rng.normal(size=(T, N + M, N + M))
    return LinearQuadratic(
        F=rng.normal(size=(T, N, N + M)),
        f=rng.normal(size=(T, N)),
        c=rng.normal(size=(T, N + M)),
        C=half @ half.mT + skew - skew.mT,
        V=end @ end.T,
        v=rng.normal(size=N),
        noise_covariance=spread @ spread.mT,
    )


def program(problem, start, state):
    """The last T - `start` steps from `state`, solved whole: states, controls, cost (Karush, Kuhn
    and Tucker).

    The unknowns are [x, u] of each step and then the last state; the first state and the dynamics
    are constraints.
    """
    steps = range(start, T)
    size, width = (T - start) * (N + M) + N, N + M
    H, g = np.zeros((size, size)), np.zeros(size)
    E, e = np.zeros(((T - start + 1) * N, size)), np.zeros((T - start + 1) * N)
    E[:N, :N], e[:N] = np.eye(N), state
    for i, t in enumerate(steps):
        here, after = slice(i * width, (i + 1) * width), slice((i + 1) * width, (i + 1) * width + N)
        H[here, here], g[here] = (problem.C[t] + problem.C[t].T) / 2, problem.c[t]
        rows = slice((i + 1) * N, (i + 2) * N)
        E[rows, here], E[rows, after], e[rows] = problem.F[t], -np.eye(N), -problem.f[t]
    H[-N:, -N:], g[-N:] = problem.V, problem.v
    system = np.block([[H, E.T], [E, np.zeros((len(e), len(e)))]])
    z = np.linalg.solve(system, np.concatenate([-g, e]))[:size]
    path = z[:-N].reshape(-1, width)
    return np.vstack([path[:, :N], z[-N:]]), path[:, N:], z @ H @ z / 2 + g @ z


@pytest.mark.parametrize("seed", range(3))
def test_it_solves_the_dense_quadratic_program_from_every_time_and_state(seed):
    """Policy, value function and path; the noise, which the program does not know, left out."""
    problem = replace(random_problem(seed), noise_covariance=None)
    regulator = lqr(problem)
    assert regulator.is_positive_definite.all() and regulator.value.matrix.shape == (T + 1, N, N)
    for start in range(T):
        state = np.random.default_rng(start).normal(size=N)
        states, controls, cost = program(problem, start, state)
        value = jax.tree.map(lambda x, start=start: x[start], regulator.value)
        np.testing.assert_allclose(value(state), cost, rtol=1e-8)
        np.testing.assert_allclose(
            regulator.K[start] @ state + regulator.k[start], controls[0], rtol=1e-8, atol=1e-8
        )
        if start == 0:
            ours = simulate_regulator(problem, regulator, state)
            np.testing.assert_allclose(ours[0], states, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(ours[1], controls, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_noise_costs_what_the_spread_of_states_and_controls_costs_and_leaves_the_policy():
    """The expected cost by propagating mean and covariance (a Lyapunov recursion), which knows
    nothing of V."""
    problem = random_problem(4)
    noisy, certain = lqr(problem), lqr(replace(problem, noise_covariance=None))
    np.testing.assert_array_equal(noisy.K, certain.K)
    np.testing.assert_array_equal(noisy.k, certain.k)
    state = np.float64([1, -2, 0.5])
    mean, covariance, total = state, np.zeros((N, N)), 0.0
    for t in range(T):
        both = np.vstack([np.eye(N), noisy.K[t]])  # x to [x; u]
        z = both @ mean + np.concatenate([np.zeros(N), noisy.k[t]])
        total += (
            z @ problem.C[t] @ z / 2
            + problem.c[t] @ z
            + np.trace(problem.C[t] @ both @ covariance @ both.T) / 2
        )
        mean = problem.F[t] @ z + problem.f[t]
        covariance = (
            problem.F[t] @ both @ covariance @ both.T @ problem.F[t].T + problem.noise_covariance[t]
        )
    total += mean @ problem.V @ mean / 2 + problem.v @ mean + np.trace(problem.V @ covariance) / 2
    first = jax.tree.map(lambda x: x[0], noisy.value)
    np.testing.assert_allclose(first(state), total, rtol=1e-10)
    assert total > jax.tree.map(lambda x: x[0], certain.value)(state)

    samples, rng = 40_000, np.random.default_rng(0)
    x, costs = np.tile(state, (samples, 1)), np.zeros(samples)
    for t in range(T):
        z = np.hstack([x, x @ noisy.K[t].T + noisy.k[t]])
        costs += np.einsum("si,ij,sj->s", z, problem.C[t], z) / 2 + z @ problem.c[t]
        x = (
            z @ problem.F[t].T
            + problem.f[t]
            + rng.multivariate_normal(np.zeros(N), problem.noise_covariance[t], samples)
        )
    costs += np.einsum("si,ij,sj->s", x, problem.V, x) / 2 + x @ problem.v
    assert abs(costs.mean() - total) < 4 * costs.std() / np.sqrt(samples)


@pytest.mark.slow
def test_many_problems_at_once_are_each_alone():
    problems = [random_problem(seed) for seed in range(3)]
    together = jax.vmap(lqr)(jax.tree.map(lambda *x: np.stack(x), *problems))
    for i, problem in enumerate(problems):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-9, atol=1e-9),
            together,
            lqr(problem),
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_infinite_horizon_solves_the_riccati_equation(seed):
    problem = random_problem(seed)
    F, C = problem.F[0], problem.C[0]
    A, B, cost = F[:, :N], F[:, N:], (C + C.T) / 2
    P = scipy.linalg.solve_discrete_are(A, B, cost[:N, :N], cost[N:, N:], s=cost[:N, N:])
    K = -np.linalg.solve(cost[N:, N:] + B.T @ P @ B, cost[N:, :N] + B.T @ P @ A)
    forever = infinite_horizon_lqr(F, C)
    np.testing.assert_allclose(forever.V, P, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(forever.K, K, rtol=1e-9, atol=1e-9)
    assert np.abs(np.linalg.eigvals(A + B @ forever.K)).max() < 1


@pytest.mark.slow
def test_the_double_integrator_is_that_of_the_books():
    F = np.float64([[1, 1, 0], [0, 1, 1]])
    forever = infinite_horizon_lqr(F, np.eye(3))
    np.testing.assert_allclose(-forever.K, [[0.42208, 1.24393]], atol=5e-6)
    np.testing.assert_allclose(forever.V, [[2.94712, 2.36921], [2.36921, 4.61313]], atol=5e-6)
    finite = lqr(LinearQuadratic(np.tile(F, (40, 1, 1)), np.tile(np.eye(3), (40, 1, 1))))
    np.testing.assert_allclose(finite.K[0], forever.K, rtol=1e-8)
    np.testing.assert_allclose(finite.value.matrix[0], forever.V, rtol=1e-8)
    single = infinite_horizon_lqr(F.astype(np.float32), np.eye(3, dtype=np.float32))
    assert single.converged and single.V.dtype == jnp.float32
    np.testing.assert_allclose(single.V, forever.V, rtol=1e-5)


@pytest.mark.slow
def test_the_linearized_regulator_balances_the_cart_pole():
    """From the environment's own starts, for a whole episode, the force continuous."""
    environment = CartPole()
    F = jnp.hstack(jax.jit(jax.jacobian(environment.dynamics, (0, 1)))(jnp.zeros(4), jnp.zeros(1)))
    K = infinite_horizon_lqr(F, jnp.eye(5)).K
    np.testing.assert_allclose(-K, [[-0.9101, -2.1325, -30.5946, -7.8415]], atol=5e-5)

    @jax.jit
    @jax.vmap
    def balance(key):
        start = environment.reset(key)[0].astype(float)
        return jax.lax.scan(lambda x, _: (environment.dynamics(x, K @ x), x), start, length=500)

    last, path = balance(jax.random.split(jax.random.key(0), 50))
    assert (jnp.abs(path[..., 0]) < environment.max_position).all() and (
        jnp.abs(path[..., 2]) < environment.max_angle
    ).all()
    assert (jnp.abs(last) < 0.01).all()


@pytest.mark.slow
def test_a_step_without_a_minimum_is_refused_by_its_number_and_marked_inside_jit():
    problem = random_problem(0)
    C = problem.C.copy()
    C[2, N:, N:] -= 1e4 * np.eye(M)
    bad = replace(problem, C=C)
    with pytest.raises(InvalidInput, match="Q_uu of step 2 is not positive definite"):
        lqr(bad)
    regulator = jax.jit(lqr)(bad)
    assert regulator.is_positive_definite.tolist() == [False] * 3 + [True] * 2
    assert jnp.isnan(regulator.K[:3]).all() and jnp.isnan(regulator.value.constant[:3]).all()
    np.testing.assert_array_equal(regulator.K[3:], lqr(problem).K[3:])


@pytest.mark.parametrize(
    "F, C",
    [
        (np.float64([[2, 0, 0], [0, 0.5, 1]]), np.eye(3)),  # an unstable mode without a control
        (np.float64([[1, 1, 0], [0, 1, 1]]), np.diag([1.0, 1, 0])),
    ],
)  # a control without a cost
def test_a_value_that_does_not_settle_is_refused_and_marked_inside_jit(F, C):
    with pytest.raises(InvalidInput, match="the value has not converged after 2\\^50 steps"):
        infinite_horizon_lqr(F, C)
    assert not jax.jit(infinite_horizon_lqr)(F, C).converged


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("F", (T, N, N), "F is [5, 3, 3]; it must be [T, n, n + m]"),
        ("C", (T, N, N), "C is [5, 3, 3]; with F [5, 3, 5] it must be [5, 5, 5]"),
        ("f", (N,), "f is [3]; with F [5, 3, 5] it must be [5, 3]"),
        (
            "noise_covariance",
            (T - 1, N, N),
            "noise_covariance is [4, 3, 3]; with F [5, 3, 5] it must be [5, 3, 3]",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(InvalidInput) as refusal:
        lqr(replace(random_problem(0), **{name: np.zeros(shape)}))
    assert message in str(refusal.value)
    with pytest.raises(
        InvalidInput, match=r"the initial state is \[2\]; with F \[5, 3, 5\] it must be \[3\]"
    ):
        simulate_regulator(random_problem(0), lqr(random_problem(0)), np.zeros(2))
    with pytest.raises(
        InvalidInput, match=r"C is \[1, 4, 4\]; with F \[1, 3, 5\] it must be \[1, 5, 5\]"
    ):
        infinite_horizon_lqr(np.zeros((3, 5)), np.zeros((4, 4)))
