"""The physics of the problems against mechanics, the ports of Gymnasium's environments and scipy;
what they cost and ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from etude.environments.classic import acrobot, cart_pole, pendulum
from etude.planning.problems import (
    AcrobotSwingUp,
    Car,
    CartPoleSwingUp,
    DoubleIntegrator,
    PendulumSwingUp,
    Quadrotor,
)
from etude.planning.problems.obstacles import distance_to_nearest, obstacle_penalty
from etude.planning.protocol import model_step_of
from etude.planning.trajectory.ilqr import ilqr
from etude.struct import replace

PROBLEMS = {
    "double-integrator": DoubleIntegrator(),
    "pendulum": PendulumSwingUp(),
    "cart-pole": CartPoleSwingUp(),
    "balance": CartPoleSwingUp(start_angle=0.0, start_range=0.05, horizon=40),
    "quadrotor": Quadrotor(),
    "car": Car(),
    "acrobot": AcrobotSwingUp(),
}
WIDTHS = {
    "double-integrator": 2,
    "pendulum": 2,
    "cart-pole": 4,
    "balance": 4,
    "quadrotor": 6,
    "car": 4,
    "acrobot": 4,
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)
RANDOM = np.random.default_rng(0)


def rest(problem):
    """The control that costs nothing."""
    return problem.hover() if isinstance(problem, Quadrotor) else jnp.zeros(len(problem.low))


def drawn(name, count=50):
    """Random states and controls, [count, n] and [count, m]."""
    problem = PROBLEMS[name]
    return (
        np.float32(RANDOM.normal(0, 1.5, (count, WIDTHS[name]))),
        np.float32(RANDOM.uniform(problem.low, problem.high, (count, len(problem.low)))),
    )


def energies(state):
    """What each is worth in J, of its states and constants."""
    double, swing, cart, drone = (
        DoubleIntegrator(),
        PendulumSwingUp(),
        CartPoleSwingUp(),
        Quadrotor(),
    )

    def rod(state):  # uniform, about its end
        angle, rate = state
        return swing.mass * (
            swing.length**2 / 3 * rate**2 / 2 + swing.gravity * swing.length / 2 * jnp.cos(angle)
        )

    def pole(state):  # its center of mass moves with the cart and around it
        _, v, angle, rate = state
        across, up = (
            v + cart.half_length * rate * jnp.cos(angle),
            -cart.half_length * rate * jnp.sin(angle),
        )
        turning = cart.pole_mass * (2 * cart.half_length) ** 2 / 12 * rate**2 / 2
        return (
            cart.cart_mass * v**2 / 2
            + cart.pole_mass * (across**2 + up**2) / 2
            + turning
            + cart.pole_mass * cart.gravity * cart.half_length * jnp.cos(angle)
        )

    def body(state):
        velocity = state[3:5]
        return (
            drone.mass * (velocity @ velocity / 2 + drone.gravity * state[1])
            + drone.inertia * state[5] ** 2 / 2
        )

    return {
        "double-integrator": lambda state: double.mass * state[1] ** 2 / 2,
        "pendulum": rod,
        "cart-pole": pole,
        "quadrotor": body,
    }[state]


def power(name, x, u):
    """What the control does, W: force times the velocity of the point that it acts on, along it."""
    if name == "quadrotor":
        axis = jnp.stack([-jnp.sin(x[2]), jnp.cos(x[2])])
        # from the middle to the rotor on the right
        out = Quadrotor().arm * jnp.stack([jnp.cos(x[2]), jnp.sin(x[2])])
        turning = x[5] * jnp.stack([-out[1], out[0]])
        return u[0] * axis @ (x[3:5] + turning) + u[1] * axis @ (x[3:5] - turning)
    return u[0] * x[1]  # of the block, the cart, and the pendulum's torque


@pytest.mark.parametrize("name", ["double-integrator", "pendulum", "cart-pole", "quadrotor"])
def test_energy_changes_by_what_the_control_does_and_no_more(name):
    """dE/dt = ∇E · dx/dt, so that without control it is conserved."""
    energy = energies(name)
    states, controls = drawn(name)
    change, work = jax.jit(
        jax.vmap(
            lambda x, u: (jax.grad(energy)(x) @ PROBLEMS[name].derivative(x, u), power(name, x, u))
        )
    )(states, controls)
    np.testing.assert_allclose(change, work, rtol=1e-3, atol=2e-4)
    assert abs(work).max() > 1


def test_energy_is_conserved_by_small_steps():
    """Of a cart-pole that swings freely for a second, by steps of a hundredth."""
    problem, energy = replace(CartPoleSwingUp(), time_step=0.01), energies("cart-pole")
    states = jax.jit(
        lambda x: jax.lax.scan(
            lambda x, _: 2 * (problem.dynamics(x, jnp.zeros(1)),), x, length=100
        )[1]
    )(np.float32([0, 0.5, 2, 3]))
    energies_at = jax.jit(jax.vmap(energy))
    np.testing.assert_allclose(
        energies_at(states), energies_at(np.float32([[0, 0.5, 2, 3]] * 100)), rtol=1e-4
    )
    assert np.ptp(states[:, 2]) > 2


@pytest.mark.parametrize(
    "problem, port, constants",
    [
        (
            PendulumSwingUp(),
            pendulum.Pendulum(),
            ["gravity", "mass", "length", "time_step", "max_rate"],
        ),
        (
            CartPoleSwingUp(),
            cart_pole.CartPole(),
            ["gravity", "cart_mass", "pole_mass", "half_length"],
        ),
    ],
)
def test_constants_are_gymnasiums(problem, port, constants):
    assert [getattr(problem, name) for name in constants] == [
        getattr(port, name) for name in constants
    ]


def test_the_acrobots_mechanics_are_gymnasiums_from_upright():
    states, controls = drawn("acrobot")
    port = jax.jit(jax.vmap(acrobot.Acrobot().derivative))(
        states + np.float32([np.pi, 0, 0, 0]), controls
    )
    np.testing.assert_allclose(
        jax.jit(jax.vmap(AcrobotSwingUp().derivative))(states, controls), port, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@every_problem
def test_dynamics_follow_the_derivative_for_a_step(name):
    """As scipy integrates it. The pendulum's semi-implicit Euler has an error of dt²."""
    problem = PROBLEMS[name]
    states, controls = drawn(name, 5)
    derivative, dynamics = jax.jit(problem.derivative), jax.jit(problem.dynamics)
    for x, u in zip(states, controls, strict=True):
        true = solve_ivp(
            lambda _, x, u=u: np.asarray(derivative(jnp.float32(x), u)),
            (0, problem.time_step),
            x,
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            dynamics(x, u), true.y[:, -1], atol=0.05 if name == "pendulum" else 2e-3
        )


def test_a_car_with_its_wheels_turned_drives_in_a_circle():
    """Of radius wheelbase / tan(steering), at a steady speed, so that the heading is distance /
    radius."""
    car, steering, x = Car(), 0.4, np.float32([0, 0, 0, 1.5])
    dynamics = jax.jit(car.dynamics)
    for _ in range(20):
        x = dynamics(x, np.float32([0, steering]))
    radius = car.wheelbase / np.tan(steering)
    angle = 1.5 * 20 * car.time_step / radius
    np.testing.assert_allclose(
        x, [radius * np.sin(angle), radius * (1 - np.cos(angle)), angle, 1.5], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("cart-pole", "quadrotor", "car") else pytest.mark.slow
        )
        for name in PROBLEMS
    ],
)
def test_costs_are_zero_at_the_goal_and_positive_elsewhere(name):
    problem, goal = PROBLEMS[name], np.zeros(WIDTHS[name], np.float32)
    at_goal, at_the_end, after = jax.jit(
        lambda x: (
            problem.running_cost(x, rest(problem)),
            problem.final_cost(x),
            problem.dynamics(x, rest(problem)),
        )
    )(goal)
    assert at_goal == at_the_end == 0
    np.testing.assert_allclose(after, goal, atol=1e-6)  # it can stay there
    states, controls = drawn(name)
    running, cost, final, costs_of_model = jax.jit(
        jax.vmap(
            lambda x, u: (
                problem.running_cost(x, u),
                problem.cost(x, u, jnp.int32(3)),
                problem.final_cost(x),
                -model_step_of(problem, x, u).reward,
            )
        )
    )(states, controls)
    assert (running > 0).all() and (final > 0).all()
    np.testing.assert_allclose(cost, problem.time_step * running, rtol=1e-6)
    np.testing.assert_array_equal(costs_of_model, cost)
    off = 0.5 * np.eye(WIDTHS[name], dtype=np.float32)  # in one element
    assert (jax.jit(jax.vmap(problem.final_cost))(off) > 0).all()


@every_problem
def test_a_path_is_solved_when_its_end_is_at_the_goal(name):
    """A short one; off in any one element it is not."""
    problem, n = PROBLEMS[name], WIDTHS[name]
    path = np.zeros((5, n), np.float32)
    path[0, 0] = -1
    paths = np.stack([path] * (n + 2))
    paths[1:-1, -1] += np.eye(n, dtype=np.float32)
    turns = name in ("pendulum", "cart-pole", "balance")  # a whole turn changes nothing
    paths[-1, -1, n - 2] = 2 * np.pi if turns else 1
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(problem.is_solved))(paths), [True, *n * [False], turns]
    )


@pytest.mark.parametrize("name", ["quadrotor", "car"])
def test_a_path_through_an_obstacle_is_not_solved(name):
    problem = PROBLEMS[name]
    x, y, radius = problem.obstacles[0]
    paths = np.zeros((2, 5, WIDTHS[name]), np.float32)
    paths[:, 1, :2] = [x, y + radius + 0.01], [x, y + radius - 0.01]
    assert jax.jit(jax.vmap(problem.is_solved))(paths).tolist() == [True, False]


def test_the_clearance_is_to_the_nearest_obstacle_and_the_penalty_has_no_edge():
    obstacles = (0.0, 0.0, 1.0), (3.0, 4.0, 2.0)
    places = np.float32([[0, 0.25], [3, 0], [5, 4], [10, 4], [-1.5, 0], [0, 0]])
    distances = jax.jit(jax.vmap(lambda at: distance_to_nearest(at, obstacles)))(places)
    np.testing.assert_allclose(distances, [-0.75, 2, 0, 5, 0.5, -1], atol=1e-6)
    assert distance_to_nearest(places[0], ()) == np.inf
    costs, slopes = map(
        np.asarray,
        jax.jit(jax.vmap(jax.value_and_grad(lambda at: obstacle_penalty(at, obstacles, 0.5))))(
            places
        ),
    )
    np.testing.assert_allclose(
        costs, [(1 - 0.25**2 / 2.25) ** 2, 0, (1 - 4 / 6.25) ** 2, 0, 0, 1], atol=1e-6
    )
    np.testing.assert_allclose(slopes[[1, 3, 4, 5]], 0, atol=1e-6)
    assert slopes[0, 1] < 0 and slopes[2, 0] < 0  # away is cheaper


@pytest.mark.slow
@every_problem
def test_first_states_are_random_and_left_alone_do_not_end_at_the_goal(name):
    problem = PROBLEMS[name]
    states = jax.jit(jax.vmap(problem.initial_state))(jax.random.split(jax.random.key(1), 100))
    assert states.shape == (100, WIDTHS[name]) and states.dtype == jnp.float32
    assert len(np.unique(states[:, 0])) > 90

    def left_alone(state):
        return jax.lax.scan(
            lambda x, _: 2 * (problem.dynamics(x, rest(problem)),), state, length=problem.horizon
        )[1]

    assert (
        jax.jit(jax.vmap(lambda state: problem.is_solved(left_alone(state))))(states).mean() < 0.05
    )
    if hasattr(problem, "clearance"):
        assert (np.asarray(jax.jit(jax.vmap(problem.clearance))(states)) > 0).all()


def solve(problem, seeds):
    """Whether iLQR solves it from so many starts, the first guess being to do nothing."""

    def run(key):
        guess = jnp.broadcast_to(rest(problem), (problem.horizon, len(problem.low)))
        return problem.is_solved(
            ilqr(problem, problem.initial_state(key), guess, iterations=200).states
        )

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pendulum", pytest.param("car", marks=pytest.mark.system)])
def test_ilqr_solves_it(name):
    assert solve(PROBLEMS[name], 2).all()
