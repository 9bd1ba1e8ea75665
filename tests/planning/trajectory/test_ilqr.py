"""iLQR and DDP against LQR, dense programs, Newton's method, scipy and published figures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from etude.environments.classic import Acrobot, CartPole
from etude.errors import InvalidInput
from etude.planning.protocol import ControlProblem
from etude.planning.trajectory.ddp import backward_pass, box_gains, expand_problem
from etude.planning.trajectory.ilqr import (
    StopReason,
    ilqr,
    newton_step,
    optimal_controls,
    simulate_controls,
)
from etude.planning.trajectory.lqr import LinearQuadratic, Quadratic, lqr
from etude.struct import replace, struct

T = 8


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


@struct
class Spring:
    """A mass on a spring that pushes away, the harder the farther (cubic), with two motors; linear
    when `cubic` is 0.

    The cost has cross and linear terms, and grows with time.
    """

    cubic: float = 1.0
    effort: float = 1.0
    low: float = -np.inf
    high: float = np.inf

    def dynamics(self, state, control):
        position, velocity = state
        push = control[0] + self.cubic * (position**3 + control[1] * position)
        return jnp.stack([position + 0.2 * velocity, velocity + 0.2 * push + 0.1 * control[1]])

    def cost(self, state, control, time):
        quadratic = (
            (1 + 0.1 * time) * state @ state
            + self.effort * control @ control
            + 0.3 * state @ control
        )
        return quadratic / 2 + control.sum() / 5

    def final_cost(self, state):
        return 4 * state @ state + state[0]


def by_numpy(problem, state, flat):
    """The cost of controls [T m] from `state`, written out again."""
    total, (position, velocity) = 0.0, state
    for t, (a, b) in enumerate(flat.reshape(T, 2)):
        total += (
            (1 + 0.1 * t) * (position**2 + velocity**2)
            + problem.effort * (a**2 + b**2)
            + 0.3 * (position * a + velocity * b)
        ) / 2 + (a + b) / 5
        push = a + problem.cubic * (position**3 + b * position)
        position, velocity = position + 0.2 * velocity, velocity + 0.2 * push + 0.1 * b
    return total + 4 * (position**2 + velocity**2) + position


LINEAR, FREE, BOXED, HEAVY, CONCAVE, ENDLESS, AWAY = range(7)
STATE = np.float64([1, 0.5])
PROBLEMS = [
    Spring(cubic=0.0),
    Spring(),
    Spring(low=-0.8, high=0.5),
    Spring(effort=3.0, low=-2.0),
    Spring(effort=-4.0, low=-1.0, high=1.0),
    Spring(effort=-4.0),
    Spring(),
]
STATES = np.float64([STATE, STATE, STATE, [0.5, -1], STATE, STATE, [1e60, 0]])
solve = jax.jit(jax.vmap(partial(ilqr, tolerance=1e-7), (0, 0, None)))


def stack(problems):
    return jax.tree.map(lambda *x: np.float64(x), *problems)


@pytest.fixture(scope="module")
def plans(double):
    """A plan for each of the problems, all found at once."""
    together = solve(stack(PROBLEMS), STATES, np.zeros((T, 2)))
    return [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(PROBLEMS))]


@pytest.mark.slow
def test_a_linear_quadratic_problem_takes_one_iteration_and_is_lqr(plans):
    plan = plans[LINEAR]
    assert plan.iterations == 1 and plan.reason == StopReason.GRADIENT and plan.converged
    C = np.zeros((T, 4, 4))
    for t in range(T):
        C[t] = np.diag([1 + 0.1 * t] * 2 + [1.0] * 2)
        C[t, :2, 2:] = C[t, 2:, :2] = 0.15 * np.eye(2)
    regulator = lqr(
        LinearQuadratic(
            F=np.tile(np.float64([[1, 0.2, 0, 0], [0, 1, 0.2, 0.1]]), (T, 1, 1)),
            C=C,
            c=np.tile([0, 0, 0.2, 0.2], (T, 1)),
            V=8 * np.eye(2),
            v=np.float64([1, 0]),
        )
    )
    np.testing.assert_allclose(plan.K, regulator.K, rtol=1e-9)
    np.testing.assert_allclose(
        plan.controls,
        jnp.einsum("tmn,tn->tm", regulator.K, plan.states[:-1]) + regulator.k,
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        plan.cost, jax.tree.map(lambda x: x[0], regulator.value)(STATE), rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", [FREE, BOXED, HEAVY])
def test_the_plan_is_the_minimum_of_scipy(plans, which):
    plan, problem = plans[which], PROBLEMS[which]
    found = scipy.optimize.minimize(
        partial(by_numpy, problem, STATES[which]),
        np.zeros(2 * T),
        method="L-BFGS-B",
        bounds=[(problem.low, problem.high)] * (2 * T),
        options={"ftol": 1e-14, "gtol": 1e-7},
    )
    assert plan.reason == StopReason.GRADIENT and plan.gradient_norm <= 1e-7 and plan.gap == 0
    np.testing.assert_allclose(
        by_numpy(problem, STATES[which], np.asarray(plan.controls).ravel()), plan.cost, rtol=1e-12
    )
    assert plan.cost <= found.fun + 1e-12
    np.testing.assert_allclose(plan.controls.ravel(), found.x, atol=1e-4)
    held = np.isin(plan.controls, [problem.low, problem.high])
    assert held.any() == held[found.x.reshape(T, 2) != 0].any() == (which == BOXED)
    assert (np.asarray(plan.K)[held] == 0).all() and (np.asarray(plan.K)[~held] != 0).any(-1).all()


def test_the_cost_never_rises_and_ends_as_it_stays(plans):
    for plan in plans[:AWAY]:
        costs = np.asarray(plan.costs)
        assert (np.diff(costs) <= 0).all() and costs[-1] == plan.cost == costs[
            int(plan.iterations)
        ] < costs[0]


def test_a_cost_without_curvature_is_regularized_into_a_corner(plans):
    """Effort is a gain: no step has a minimum but for the box, and its local minima are extreme."""
    plan, problem = plans[CONCAVE], PROBLEMS[CONCAVE]
    assert plan.reason == StopReason.GRADIENT and (np.abs(plan.controls) == 1).all()
    for i, control in enumerate(np.asarray(plan.controls).ravel()):
        nearer = np.asarray(plan.controls).ravel() - 1e-3 * np.eye(2 * T)[i] * control
        assert by_numpy(problem, STATE, nearer) > plan.cost


def test_a_cost_without_a_minimum_ends_without_a_claim_to_one(plans):
    plan = plans[ENDLESS]
    assert plan.reason == StopReason.ITERATIONS and not plan.converged and plan.iterations == 100
    assert np.isfinite(plan.cost) and plan.cost < -1e4


@pytest.mark.slow
def test_a_step_to_infinity_is_not_taken():
    """A full step from 0 would be to 5, where the cost is -inf for float64."""
    problem = ControlProblem(
        lambda x, u: x + u,
        lambda x, u, time: (u[0] - 5) ** 2 - 1e-300 * jnp.exp(200 * u[0]),
        lambda x: 0 * x @ x,
    )
    plan = ilqr(problem, np.zeros(1), np.zeros((2, 1)))
    assert not plan.converged and np.isfinite(plan.cost) and plan.cost < plan.costs[0]


@pytest.mark.slow
def test_a_cost_without_a_derivative_leaves_the_search_stuck():
    problem = ControlProblem(
        lambda x, u: x + u, lambda x, u, time: u @ u, lambda x: jnp.sqrt(x @ x)
    )
    plan = ilqr(problem, np.zeros(1), np.zeros((2, 1)))
    assert plan.reason == StopReason.STUCK and not plan.converged and np.isnan(plan.gradient_norm)
    assert plan.cost == 0 and (plan.controls == 0).all() and (plan.K == 0).all()


def test_a_guess_that_is_not_finite_is_marked_inside_vmap(plans):
    plan = plans[AWAY]
    assert plan.reason == StopReason.NOT_FINITE and not plan.converged and plan.iterations == 0
    assert (plan.controls == 0).all() and (plan.K == 0).all() and not np.isfinite(plan.cost)


@partial(jax.jit, static_argnames="second_order")
def linear_step(problem, controls, second_order):
    """The step [T, m] of the controls when the policy is followed through the linearized dynamics;
    the gradient; the change."""
    states = simulate_controls(problem, STATE, controls)[0]
    model = expand_problem(problem, states, controls, second_order)
    policy = backward_pass(model, jnp.zeros((T, 2)), 0.0, None)

    def forward(x, at):
        F, K, k = at
        u = K @ x + k
        return F @ jnp.concatenate([x, u]), u

    steps = jax.lax.scan(forward, jnp.zeros(2), (model.F, policy.K, policy.k))[1]
    return steps, policy.gradient, policy.cost_change


@jax.jit
def dense(problem, controls):
    """Gradient, Hessian and Gauss-Newton's Hessian of the cost as a function of all controls, [T m]
    and [T m, T m]."""

    def path(flat):
        states, costs = simulate_controls(problem, STATE, flat.reshape(T, 2))
        return costs.sum(), states

    flat = controls.ravel()
    (_, states), (gradient, _) = path(flat), jax.jacrev(path)(flat)
    # [T + 1, n, T m]
    model, moves = expand_problem(problem, states, controls, False), jax.jacfwd(path)(flat)[1]
    z = jnp.concatenate([moves[:-1], jnp.eye(2 * T).reshape(T, 2, 2 * T)], 1)  # [T, n + m, T m]
    gauss_newton = jnp.einsum("tzi,tzw,twj->ij", z, model.C, z) + moves[-1].T @ model.V @ moves[-1]
    return gradient, jax.hessian(lambda flat: path(flat)[0])(flat), gauss_newton


def test_a_step_of_ilqr_is_that_of_gauss_newton():
    """The regulator against a dense solve, with the cost that its model promises, far from the
    solution."""
    controls = np.random.default_rng(0).normal(size=(T, 2)) / 3
    gradient, hessian, gauss_newton = dense(Spring(), controls)
    step, ours, change = linear_step(Spring(), controls, second_order=False)
    wanted = -np.linalg.solve(gauss_newton, gradient)
    np.testing.assert_allclose(ours.ravel(), gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step.ravel(), wanted, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(change, gradient @ wanted / 2, rtol=1e-9)
    assert np.abs(hessian - gauss_newton).max() > 0.1
    for i in range(0, 2 * T, 5):
        nudge = 1e-5 * np.eye(2 * T)[i]
        slope = (
            by_numpy(Spring(), STATE, controls.ravel() + nudge)
            - by_numpy(Spring(), STATE, controls.ravel() - nudge)
        ) / 2e-5
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_newtons_step_is_exact_and_ddp_differs_from_it_by_the_square_of_the_error(plans):
    """Ten times nearer the solution, a hundred times nearer Newton; iLQR only ten."""
    newton = jax.jit(newton_step)
    away = np.random.default_rng(1).normal(size=(T, 2))
    apart = {False: [], True: []}
    for distance in (1e-2, 1e-3):
        controls = plans[FREE].controls + distance * away
        gradient, hessian, _ = dense(Spring(), controls)
        exact = newton(Spring(), STATE, controls)
        np.testing.assert_allclose(
            exact.ravel(), -np.linalg.solve(hessian, gradient), rtol=1e-7, atol=1e-12
        )
        for second_order, differences in apart.items():
            differences.append(
                np.linalg.norm(linear_step(Spring(), controls, second_order)[0] - exact)
            )
    assert 60 < apart[True][0] / apart[True][1] < 150 and 7 < apart[False][0] / apart[False][1] < 15


@pytest.mark.slow
def test_ddp_converges_quadratically_and_gauss_newton_linearly(plans):
    """DDP by one iteration of the whole search after another; the error is that of all controls."""
    solution = plans[FREE].controls + jax.jit(newton_step)(Spring(), STATE, plans[FREE].controls)
    ddp = jax.jit(partial(ilqr, iterations=1, tolerance=0.0, second_order=True))

    def errors(iterate):
        controls = solution + 0.05
        for _ in range(4):
            yield np.linalg.norm(controls - solution)
            controls = iterate(controls)

    newton = np.array(list(errors(lambda controls: ddp(Spring(), STATE, controls).controls)))
    gauss_newton = np.array(
        list(errors(lambda controls: controls + linear_step(Spring(), controls, False)[0]))
    )
    assert (newton[1:] < 2 * newton[:-1] ** 2).all() and newton[-1] < 1e-6
    assert (gauss_newton[1:] > 0.05 * gauss_newton[:-1]).all() and (
        gauss_newton[1:] < 0.3 * gauss_newton[:-1]
    ).all()


@jax.jit
@jax.vmap
def box(Q, q, low, high):
    return box_gains(Quadratic(Q, q, 0.0), 2, low, high)


def test_the_step_in_a_box_is_the_minimum_of_the_quadratic_there():
    """Against scipy, with three controls of which some are held; feedback is of the free ones by
    themselves."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(40, 5, 5))
    Q, q = half @ half.mT + 0.1 * np.eye(5), 3 * rng.normal(size=(40, 5))
    low, high = -rng.uniform(0, 1, (40, 3)), rng.uniform(0, 1, (40, 3))
    low[:, 2], high[::2, 1], low[::5, 0] = -np.inf, np.inf, 0
    K, k, definite = box(Q, q, low, high)
    assert definite.all()
    number_held = 0
    for i in range(40):
        H, g = Q[i, 2:, 2:], q[i, 2:]
        root = np.linalg.cholesky(H).T  # ½ |root k + root⁻ᵀ g|²
        wanted = scipy.optimize.lsq_linear(
            root,
            -np.linalg.solve(root.T, g),
            (low[i], np.maximum(high[i], low[i] + 1e-9)),
            method="bvls",
            tol=1e-15,
        ).x
        np.testing.assert_allclose(k[i], wanted, atol=1e-8)
        held = (k[i] == low[i]) | (k[i] == high[i])
        free = np.flatnonzero(~held)
        feedback = np.zeros((3, 2))
        feedback[free] = -np.linalg.solve(H[np.ix_(free, free)], Q[i, 2:, :2][free])
        np.testing.assert_allclose(K[i], feedback, atol=1e-8)
        number_held += held.sum()
    assert 20 < number_held < 100
    assert not box(-Q, q, low, high)[2].any() and np.isnan(box(-Q, q, low, high)[0]).all()


@pytest.mark.slow
def test_derivatives_of_the_optimal_controls_are_those_of_finite_differences():
    """By parameters, by a bound that holds some controls, and by the state; forward, and backward
    against forward."""
    problem, weights = (
        jax.tree.map(np.float64, PROBLEMS[BOXED]),
        np.random.default_rng(0).normal(size=(T, 2)),
    )
    optimal = partial(optimal_controls, controls=np.zeros((T, 2)), tolerance=1e-7)

    @jax.jit
    def derivatives(problem, state):
        forward = jax.jacfwd(optimal, (0, 1))(problem, state)
        return forward, jax.grad(lambda *at: (weights * optimal(*at)).sum(), (0, 1))(problem, state)

    forward, reverse = derivatives(problem, STATE)

    def difference(moved):
        """Between the controls of every other (problem, state) and the next, 2 h apart."""
        problems, states = zip(*moved, *moved[:1], strict=True)  # as many as above: compiled once
        controls = solve(stack(problems), np.stack(states), np.zeros((T, 2))).controls
        return (controls[:-1:2] - controls[1::2]) / (2 * h)

    h = 1e-4
    names = ("cubic", "effort", "low")
    by_name = difference(
        [
            (replace(problem, **{name: getattr(problem, name) + step}), STATE)
            for name in names
            for step in (h, -h)
        ]
    )
    by_state = difference(
        [
            (problem, STATE + step * axis)
            for axis in np.float64([[1, 0], [0, 1], [1, 1]])
            for step in (h, -h)
        ]
    )
    for name, wanted in zip(names, by_name, strict=True):
        np.testing.assert_allclose(getattr(forward[0], name), wanted, atol=1e-4)
        np.testing.assert_allclose(
            getattr(reverse[0], name), (weights * getattr(forward[0], name)).sum(), rtol=1e-9
        )
        assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(forward[1], by_state[:2].transpose(1, 2, 0), atol=1e-4)
    np.testing.assert_allclose(reverse[1], np.einsum("tm,tmn->n", weights, forward[1]), rtol=1e-9)
    assert (forward[0].low == 1).any() and (forward[0].high == 0).all()


GOAL = np.float64([np.pi, 0, 0, 0])
ACROBOT = ControlProblem(
    dynamics=lambda x, u: x + 0.1 * Acrobot().derivative(x, u),
    cost=lambda x, u, time: (0.1 * ((x - GOAL) ** 2).sum() + 0.01 * (u**2).sum()) / 2,
    final_cost=lambda x: 1000 * ((x - GOAL) ** 2).sum() / 2,
)


@pytest.mark.slow
def test_the_acrobot_is_swung_up_as_published():
    """In five seconds, from hanging still; figures of trajax (github.com/google/trajax,
    tests/optimizers_test.py)."""
    plan = jax.device_get(ilqr(ACROBOT, np.zeros(4), np.zeros((50, 1))))
    np.testing.assert_allclose(plan.costs[0], 4959.476212, rtol=1e-9)
    assert (
        plan.reason == StopReason.GRADIENT and plan.gradient_norm < 1e-4 and plan.iterations < 100
    )
    assert plan.cost < 51 and (np.diff(plan.costs) <= 0).all()
    np.testing.assert_allclose(plan.states[-1], GOAL, atol=0.05)
    with pytest.raises(
        InvalidInput, match="the first guess is not finite at step 1: .* guess controls"
    ):
        ilqr(ACROBOT, np.zeros(4), np.where(np.arange(50) == 1, 1e200, 0)[:, None])


@pytest.mark.slow
def test_the_cart_pole_is_swung_up_within_its_force():
    """From hanging to upright in two seconds, ten newtons either way, and some of the time with all
    of them."""
    environment, weights = CartPole(), np.float64([0.1, 0.1, 1, 0.1])
    problem = ControlProblem(
        environment.dynamics,
        lambda x, u, time: 0.001 * u @ u,
        lambda x: 100 * weights @ x**2,
        -10.0,
        10.0,
    )
    plan = ilqr(problem, jnp.float64([0, 0, np.pi, 0]), jnp.full((100, 1), 0.1))
    assert (
        plan.converged
        and (jnp.diff(plan.costs) <= 0).all()
        and (jnp.abs(plan.states[-1]) < 0.06).all()
    )
    assert (jnp.abs(plan.controls) <= 10).all() and (jnp.abs(plan.controls) == 10).sum() > 5
    states, _ = simulate_controls(problem, plan.states[0], plan.controls)
    np.testing.assert_allclose(states, plan.states, atol=1e-9)


@pytest.mark.parametrize(
    "problem, state, controls, message",
    [
        (
            Spring(),
            np.zeros((2, 1)),
            np.zeros((T, 2)),
            "the state is [2, 1] and the controls are [8, 2]; they must be [n] and [T, m]",
        ),
        (Spring(), np.zeros(2), np.zeros((0, 2)), "the controls are [0, 2]"),
        (
            replace(ACROBOT, dynamics=lambda x, u: x[:3]),
            np.zeros(4),
            np.zeros((5, 1)),
            "dynamics gives float64 [3] for a state float64 [4] and a control float64 [1]; it "
            "must give float64 [4]",
        ),
        (
            replace(ACROBOT, cost=lambda x, u, time: u),
            np.zeros(4),
            np.zeros((5, 1)),
            "cost gives float64 [1]",
        ),
        (
            replace(ACROBOT, low=2.0, high=1.0),
            np.zeros(4),
            np.zeros((5, 1)),
            "the lowest control 2.0 is above the highest 1.0",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(problem, state, controls, message):
    with pytest.raises(InvalidInput) as refusal:
        ilqr(problem, state, controls)
    assert message in str(refusal.value)
