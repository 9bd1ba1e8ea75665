"""The quality of planners: rates of solved problems, and returns compared with the optimum."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import report

from etude.algorithms.control.mpc import MPC
from etude.environments import make
from etude.environments.classic.pendulum import Pendulum
from etude.models.true_models import true_model
from etude.planning.planners import ICEM, MPPI, RandomShooting
from etude.planning.trajectory.ilqr import ilqr
from etude.rollout import bind_policy, evaluate
from etude.studies.plan import PROBLEMS, zero_controls

TORQUES, STEPS = 41, 200  # torques of dynamic programming, and steps of an episode
# the bars of the cross-entropy methods and of random shooting
CEM_BAR, RANDOM_SHOOTING_BAR = "within 5 % of the optimum", -208
PLANNERS = {
    "cem, 100 × 25 × 4": {},
    "icem, 100 × 25 × 4": {"planner": ICEM()},
    "mppi, 100 × 25 × 4": {"planner": MPPI()},
    "icem, 400 × 60 × 10": {
        "planner": ICEM(elites=30, std=1.0, noise_exponent=3.0),
        "samples": 400,
        "horizon": 60,
        "iterations": 10,
    },
    "random shooting, 500 × 15": {
        "planner": RandomShooting(),
        "samples": 500,
        "iterations": 1,
        "horizon": 15,
    },
}
console = report.console()


def table_row(
    what: str, value: float, text: str, bar: str = "–", met: bool | None = None
) -> dict[str, Any]:
    """Print a row of results and return it."""
    console.print(f"{what:60} {text:>12}  {bar}")
    return {
        "what": what,
        "value": float(value),
        "figure": text,
        "bar": bar,
        "met": None if met is None else bool(met),
    }


def solved_rates(starts: int) -> list[dict[str, Any]]:
    """Count the random starts of each problem that iLQR solves."""
    rows = []
    for name, problem in PROBLEMS.items():
        solve = jax.jit(
            jax.vmap(
                lambda key, problem=problem: problem.is_solved(
                    ilqr(
                        problem, problem.initial_state(key), zero_controls(problem), iterations=200
                    ).states
                )
            )
        )
        count = int(solve(jax.random.split(jax.random.key(0), starts)).sum())
        rows.append(
            table_row(
                f"{name}, solved by iLQR",
                count / starts,
                f"{count} of {starts}",
                "≥ 95 %",
                count >= 0.95 * starts,
            )
        )
    return rows


def pendulum_returns(starts: int, points: int) -> list[dict[str, Any]]:
    """Mean returns of the optimum and of each planner on Pendulum-v1, over the same starts.

    The optimum is computed on a grid of points × points.
    """
    environment = make("Pendulum-v1", starts, "jax")
    key = jax.random.key(0)
    observations = jax.jit(environment.reset)(jax.random.split(key)[0])[1]
    states = true_model("Pendulum-v1").begin(observations[:, None], (), key)[:, 0]
    optimal_return = float(optimum(states, points).mean())
    rows = [
        table_row(
            f"Pendulum-v1, {starts} starts, dynamic programming",
            optimal_return,
            f"{optimal_return:.1f}",
        )
    ]
    for name, settings in PLANNERS.items():
        algorithm = MPC(model="Pendulum-v1", **settings)
        state = algorithm.init(key, environment.spec)
        policy = bind_policy(algorithm, state, environment)
        episode_returns = jax.jit(
            lambda key, policy=policy: evaluate(environment, policy, key, starts)[0]
        )
        mean_return = float(episode_returns(key).mean())
        if "cem" in name:
            bar, met = CEM_BAR, mean_return >= optimal_return * 1.05
        elif name.startswith("random"):
            bar, met = f"≥ {RANDOM_SHOOTING_BAR}", mean_return >= RANDOM_SHOOTING_BAR
        else:
            bar, met = "–", None
        rows.append(
            table_row(
                f"Pendulum-v1, {starts} starts, {name}", mean_return, f"{mean_return:.1f}", bar, met
            )
        )
    return rows


def optimum(states: jax.Array, points: int) -> jax.Array:
    """Returns [start] of the greedy policy of dynamic programming from `states` [start, 2].

    The values are computed on a grid of `points` angles by `points` rates, with linear
    interpolation in between.
    """
    environment = Pendulum()
    torques = jnp.linspace(-1, 1, TORQUES)[:, None] * environment.max_torque

    def transitions(state):
        """Return the next states [torque, 2] and the rewards [torque]."""
        next_states, result = jax.vmap(
            lambda torque: environment.step(state, torque, jax.random.key(0))
        )(torques)
        return next_states, result.reward

    def interpolate(values, state):
        """Interpolate the values linearly; the angle is periodic."""
        grid_position = jnp.stack(
            [
                (state[0] / (2 * jnp.pi) % 1) * (points - 1),
                (state[1] / environment.max_rate + 1) / 2 * (points - 1),
            ]
        )
        return jax.scipy.ndimage.map_coordinates(values, list(grid_position), 1, mode="nearest")

    def action_values(values, state):
        next_states, reward = transitions(state)
        return reward + jax.vmap(partial(interpolate, values))(next_states)

    angles, rates = (
        jnp.linspace(0, 2 * jnp.pi, points),
        jnp.linspace(-environment.max_rate, environment.max_rate, points),
    )
    grid = jnp.stack(jnp.meshgrid(angles, rates, indexing="ij"), -1)

    @jax.jit
    def dynamic_programming():
        def backup(values, _):
            row_values = lambda states: jax.vmap(lambda state: action_values(values, state).max())(
                states
            )
            return jax.lax.map(row_values, grid), values

        return jax.lax.scan(backup, jnp.zeros((points, points)), None, length=STEPS)[1]

    @jax.jit
    def greedy_return(value_tables, state):
        def step(state, values):
            action = action_values(values, state).argmax()
            next_states, reward = transitions(state)
            return next_states[action], reward[action]

        return jax.lax.scan(step, state, value_tables[::-1])[1].sum()

    value_tables = dynamic_programming()  # [steps to go after this one, angle, rate]
    return jax.jit(jax.vmap(greedy_return, (None, 0)))(value_tables, states)
