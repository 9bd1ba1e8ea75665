"""Direct collocation against closed forms, published figures and scipy's integrator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from etude.errors import InvalidInput
from etude.planning.problems import Quadrotor
from etude.planning.trajectory.collocation import (
    ContinuousProblem,
    NonlinearProgram,
    collocate,
    lagrange_basis,
)
from etude.struct import replace

NAN, INF = np.nan, np.inf


def push(state, control):
    return jnp.stack([state[1], control[0]])


def square(state, control):
    return control @ control


def slow_enough(state, control):
    return 1.2 - state[1:]


# from rest to rest in a second
BLOCK = ContinuousProblem(1.0, [0.0, 0.0], [1.0, 0.0], [-INF], [INF], push, square)
LIMITED = replace(BLOCK, state_high=[INF, 1.2])


def test_weights_are_those_of_the_two_rules():
    """Of trapezoid and Hermite–Simpson as they are printed: x_mid is (x₀ + x₁) / 2 + h / 8 (f₀ −
    f₁) by the latter."""
    np.testing.assert_allclose(lagrange_basis(1.0, 2)[1], [1 / 2, 1 / 2])
    middle, whole = lagrange_basis([0.5, 1.0], 3)[1]
    np.testing.assert_allclose(whole, [1 / 6, 4 / 6, 1 / 6])
    np.testing.assert_allclose(middle - whole / 2, [1 / 8, 0, -1 / 8], atol=1e-15)
    np.testing.assert_allclose(lagrange_basis([0.0, 0.5, 1.0], 3)[0], np.eye(3), atol=1e-15)


@pytest.mark.slow
def test_the_block_move_costs_what_is_published():
    """By the trapezoid rule; without discretization it is 12, and the error is of second order."""
    costs = {n: collocate(BLOCK, n, "trapezoid").cost for n in (5, 10, 20, 50)}
    np.testing.assert_allclose(
        list(costs.values()), [13.8889, 12.4611, 12.1166, 12.0189], atol=5e-5
    )
    errors = np.array([costs[10] - 12, costs[20] - 12, costs[50] - 12])
    np.testing.assert_allclose(np.log(errors[:-1] / errors[1:]) / np.log([2, 2.5]), 2, atol=0.05)


def test_hermite_simpson_is_exact_for_cubics():
    """The best force is 6 − 12 t, and the position 3 t² − 2 t³, in between the points too."""
    found = collocate(BLOCK, 2)
    assert found.cost == pytest.approx(12, abs=1e-8) and found.converged and found.violation < 1e-12
    times = np.linspace(0, 1, 23)
    states, controls = found.interpolate(times)
    np.testing.assert_allclose(
        states, np.stack([3 * times**2 - 2 * times**3, 6 * times - 6 * times**2], 1), atol=1e-8
    )
    np.testing.assert_allclose(controls[:, 0], 6 - 12 * times, atol=1e-6)
    np.testing.assert_allclose(found.interpolate(0.25)[0], [0.15625, 1.125], atol=1e-8)
    np.testing.assert_allclose(found.times, np.linspace(0, 1, 5))


@pytest.mark.slow
def test_hermite_simpson_is_of_fourth_order():
    """min ∫ x² + u² of dx/dt = u from 1 with a free end: x = cosh(T − t) / cosh T, at a cost of
    tanh T."""
    problem = ContinuousProblem(
        2.0, [1.0], [NAN], [-INF], [INF], lambda x, u: u, lambda x, u: x @ x + u @ u
    )
    found = [collocate(problem, n) for n in (4, 8)]
    errors = [one.cost - np.tanh(2) for one in found]
    assert 0 < errors[1] < 1e-5 and np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.1)
    times = np.linspace(0, 2, 41)
    np.testing.assert_allclose(
        found[1].interpolate(times)[0][:, 0], np.cosh(2 - times) / np.cosh(2), atol=2e-4
    )


@pytest.mark.slow
def test_a_bound_on_the_state_is_active_where_it_should_be():
    """The best ramp to speed V takes t = 1.5 (1 − 1 / V) with a force falling from 2 V / t, at a
    cost of 8 V² / (3 t)."""
    found = collocate(LIMITED, 20)
    t = 1.5 * (1 - 1 / 1.2)
    assert found.cost == pytest.approx(8 * 1.2**2 / (3 * t), rel=1e-4) and found.converged
    cruises = (found.times > t + 0.01) & (found.times < 1 - t - 0.01)
    np.testing.assert_allclose(found.states[cruises, 1], 1.2, atol=1e-4)
    np.testing.assert_allclose(found.controls[cruises], 0, atol=0.05)
    assert found.states[:, 1].max() <= 1.2 + 1e-6

    as_inequality = collocate(replace(BLOCK, inequality=slow_enough), 20)
    assert as_inequality.cost == pytest.approx(found.cost, rel=1e-5)


@pytest.mark.slow
def test_a_duration_that_is_free_and_a_force_that_is_bounded():
    """The fastest move from rest to rest over 1 m at no more than 1 m/s² takes 2 s, full ahead and
    then full back."""
    problem = ContinuousProblem(
        1.0,
        [0.0, 0.0, NAN],
        [1.0, 0.0, NAN],
        [-1.0],
        [1.0],
        lambda x, u: x[2] * jnp.stack([x[1], u[0], 0 * x[2]]),
        lambda x, u: x[2],
        state_low=[-INF, -INF, 0.1],
    )
    found = collocate(
        problem,
        10,
        "trapezoid",
        guess=lambda t: (np.stack([t, 0 * t + 1, 0 * t + 3], 1), 0 * t[:, None]),
    )
    np.testing.assert_allclose(found.states[:, 2], found.cost, rtol=1e-6)
    assert found.cost == pytest.approx(2, abs=0.04)
    np.testing.assert_allclose(
        found.controls[[1, 2, 3, 7, 8, 9], 0], [1, 1, 1, -1, -1, -1], atol=1e-3
    )


@pytest.mark.slow
def test_a_final_cost_is_weighed_against_the_way():
    """min ∫ u² + k (x(1) − 1)² of dx/dt = u from 0: to k / (1 + k), at a cost of that."""
    problem = ContinuousProblem(
        1.0,
        [0.0],
        [NAN],
        [-INF],
        [INF],
        lambda x, u: u,
        square,
        final_cost=lambda x: 3 * (x[0] - 1) ** 2,
    )
    found = collocate(problem, 3, "trapezoid")
    assert found.cost == pytest.approx(0.75) and found.states[-1, 0] == pytest.approx(0.75)


QUADROTOR = Quadrotor()


# which the derivatives have to know of
FLIGHT = ContinuousProblem(  # from rest to rest in two seconds, past an obstacle
    2.0,
    [-4.0, 0, 0, 0, 0, 0],
    np.zeros(6),
    QUADROTOR.low,
    QUADROTOR.high,
    QUADROTOR.derivative,
    lambda state, control: square(state, control - QUADROTOR.hover()),
    inequality=lambda state, control: QUADROTOR.clearance(state)[None],
    final_cost=lambda state: (1 + state[1]) ** 2 * jnp.cos(state[2]),
)


@pytest.fixture(scope="module")
def flown():
    return collocate(FLIGHT, 15)


@pytest.mark.slow
def test_an_obstacle_is_passed_at_no_distance_and_the_flight_is_true(flown):
    """scipy integrates the controls from the first state, and arrives."""
    clearances = np.hypot(flown.states[:, 0] + 2, flown.states[:, 1] - 0.1) - 0.6
    assert -1e-6 < clearances.min() < 1e-3 and flown.converged
    assert (flown.controls >= -1e-6).all() and (flown.controls <= 6 + 1e-6).all()
    with jax.enable_x64(True):
        derivative = jax.jit(QUADROTOR.derivative)
        true = solve_ivp(
            lambda t, x: np.asarray(derivative(x, flown.interpolate(t)[1])),
            (0, 2),
            flown.states[0],
            t_eval=flown.times,
            max_step=0.05,
            rtol=1e-8,
        )
    np.testing.assert_allclose(true.y.T, flown.states, atol=0.05)
    np.testing.assert_allclose(true.y[:, -1], 0, atol=0.05)


@pytest.mark.slow
def test_the_guess_decides_the_way_round(flown):
    """Over the obstacle, where without one it goes under; either is the best near by."""

    def above(times):
        share = times[:, None] / 2
        across, up = 4 * share - 4, 4 * share * (1 - share)
        return np.concatenate([across, up, np.zeros((len(times), 4))], 1), np.full(
            (len(times), 2), 2.4
        )

    over = collocate(FLIGHT, 15, guess=above)
    middle = len(flown.times) // 2
    assert over.states[middle, 1] > 0.6 and flown.states[middle, 1] < -0.4 and over.converged
    again = collocate(FLIGHT, 15, guess=flown.interpolate)
    np.testing.assert_allclose(again.states, flown.states, atol=1e-2)


@pytest.mark.slow
def test_derivatives_are_those_of_finite_differences_and_sparse(flown):
    """In the direction of a random vector, as matrices are too large to difference element by
    element."""
    with jax.enable_x64(True):
        program, random = NonlinearProgram(FLIGHT, 15, 3), np.random.default_rng(0)
        x = np.concatenate([flown.states, flown.controls], 1)[program.free] + 0.01 * random.normal(
            size=program.free.sum()
        )
        multipliers, direction, h = (
            random.normal(size=15 * 12 + 31),
            random.normal(size=x.size),
            1e-6,
        )

        def slope(function):
            return (function(x + h * direction) - function(x - h * direction)) / (2 * h)

        jacobian, curvature = program.jacobian(x), program.constraint_hessian(x, multipliers)
        assert program.gradient(x) @ direction == pytest.approx(slope(program.cost), rel=1e-6)
        np.testing.assert_allclose(
            jacobian @ direction, slope(program.constraints), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            program.cost_hessian(x) @ direction, slope(program.gradient), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            curvature @ direction,
            slope(lambda x: program.jacobian(x).T @ multipliers),
            rtol=1e-5,
            atol=1e-5,
        )
    assert jacobian.nnz <= 15 * 12 * 24 + 31 * 8 and jacobian.shape == (15 * 12 + 31, 31 * 8 - 12)
    assert curvature.nnz <= 15 * 24 * 24


@pytest.mark.slow
def test_what_cannot_be_reached_is_said():
    """A metre from rest to rest in a second takes 4 m/s² at least."""
    weak = replace(BLOCK, low=[-3.0], high=[3.0])
    with pytest.raises(
        InvalidInput, match=r"after \d+ iterations: the dynamics miss state 0 at time .* by 0.05"
    ):
        collocate(weak, 5, "trapezoid", iterations=60)
    with pytest.raises(
        InvalidInput, match=r"broken is inequality 0 at time 0 by 1; loosen the constraint"
    ):
        collocate(replace(BLOCK, inequality=lambda x, u: x[1:] - 1), 5, "trapezoid", iterations=60)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"low": [1.0], "high": [-1.0]}, "control 0 is bounded from 1 to -1; the lower"),
        ({"state_low": [0.0, 2.0], "state_high": 1.0}, "state 1 is bounded from 2 to 1"),
        (
            {"state_high": [0.5, INF]},
            "the end has state 0 at 1; it must be in its bounds, -inf to 0.5",
        ),
        ({"state_low": [0.5, -INF]}, "the start has state 0 at 0; it must"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        collocate(replace(BLOCK, **change), 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"end": [1.0]}, "start and end have 2 and 1 elements"),
        ({"duration": 0.0}, "the duration is 0.0; .* above 0"),
        (
            {"derivative": lambda x, u: u},
            r"derivative gives \[1\] for a state \[2\] and a control \[1\]; it must give \[2\]",
        ),
        ({"cost": lambda x, u: u}, r"^cost gives \[1\] .*; it must give \[\]"),
        ({"final_cost": lambda x: x}, r"final_cost gives \[2\]"),
        ({"inequality": lambda x, u: u[0]}, r"inequality gives a number"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        collocate(replace(BLOCK, **change), 5)


def test_other_mistakes_are_refused():
    with pytest.raises(
        InvalidInput, match="method is 'euler' and intervals 5; choose trapezoid or hermite_simpson"
    ):
        collocate(BLOCK, 5, "euler")
    with pytest.raises(InvalidInput, match="intervals 0"):
        collocate(BLOCK, 0)
    with pytest.raises(InvalidInput, match="first guess is not finite"):
        collocate(BLOCK, 5, "trapezoid", guess=lambda t: (np.full((6, 2), NAN), np.zeros((6, 1))))
