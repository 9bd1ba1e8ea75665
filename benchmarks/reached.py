"""What the planners reach: problems solved, and returns beside the optimum."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import report

from etude.algorithms.control.mpc import MPC
from etude.environments import make
from etude.environments.classic.pendulum import Pendulum
from etude.models.true_models import true_model
from etude.planning.trajectory.ilqr import ilqr
from etude.rollout import evaluate, initial_memory
from etude.studies.plan import PROBLEMS, zero_controls

TORQUES, STEPS = 41, 200  # that dynamic programming tries, and of an episode
# what cross entropy is held to, and what random shooting is
NEAR, PUBLISHED = "within 5 % of the optimum", -208
PLANNERS = {
    "cem, 100 × 25 × 4": {},
    "icem, 100 × 25 × 4": {"planner": "icem"},
    "mppi, 100 × 25 × 4": {"planner": "mppi"},
    "icem, 400 × 60 × 10": {
        "planner": "icem",
        "samples": 400,
        "horizon": 60,
        "iterations": 10,
        "elites": 30,
        "std": 1.0,
        "noise_exponent": 3.0,
    },
    "random shooting, 500 × 15": {
        "planner": "random_shooting",
        "samples": 500,
        "iterations": 1,
        "horizon": 15,
    },
}
console = report.console()


def row(
    what: str, value: float, text: str, bar: str = "–", met: bool | None = None
) -> dict[str, Any]:
    console.print(f"{what:60} {text:>12}  {bar}")
    return {
        "what": what,
        "value": float(value),
        "figure": text,
        "bar": bar,
        "met": None if met is None else bool(met),
    }


def solved(starts: int) -> list[dict[str, Any]]:
    """How many random starts of each problem are solved."""
    rows = []
    for name, problem in PROBLEMS.items():
        run = jax.jit(
            jax.vmap(
                lambda key, problem=problem: problem.solved(
                    ilqr(
                        problem, problem.initial_state(key), zero_controls(problem), iterations=200
                    ).states
                )
            )
        )
        count = int(run(jax.random.split(jax.random.key(0), starts)).sum())
        rows.append(
            row(
                f"{name}, solved by iLQR",
                count / starts,
                f"{count} of {starts}",
                "≥ 95 %",
                count >= 0.95 * starts,
            )
        )
    return rows


def pendulum(starts: int, points: int) -> list[dict[str, Any]]:
    """Mean returns of Pendulum-v1 over the same starts: the optimum, from so many angles and rates,
    and each planner's."""
    environment = make("Pendulum-v1", starts, "jax")
    key = jax.random.key(0)
    first = jax.jit(environment.reset)(jax.random.split(key)[0])[1]
    states = jax.vmap(true_model("Pendulum-v1").state_from_observation)(first)
    best = float(optimum(states, points).mean())
    rows = [row(f"Pendulum-v1, {starts} starts, dynamic programming", best, f"{best:.1f}")]
    for name, settings in PLANNERS.items():
        algorithm = MPC("Pendulum-v1", **settings)
        state = algorithm.init(key, environment.spec)
        policy = lambda observation, memory, key, algorithm=algorithm, state=state: algorithm.act(
            state, observation, memory, key, explore=False
        )
        judge = jax.jit(
            lambda key, policy=policy: evaluate(
                environment, policy, key, starts, initial_memory(environment, policy)
            )[0]
        )
        mean = float(judge(key).mean())
        if "cem" in name:
            bar, met = NEAR, mean >= best * 1.05
        elif name.startswith("random"):
            bar, met = f"≥ {PUBLISHED}", mean >= PUBLISHED
        else:
            bar, met = "–", None
        rows.append(row(f"Pendulum-v1, {starts} starts, {name}", mean, f"{mean:.1f}", bar, met))
    return rows


def optimum(states: jax.Array, points: int) -> jax.Array:
    """Returns [start] of the policy that is greedy for the values of dynamic programming, played
    from `states` [start, 2].

    They are known on a grid of so many angles by as many rates, and between its points linearly.
    """
    port = Pendulum()
    torques = jnp.linspace(-1, 1, TORQUES)[:, None] * port.max_torque

    def outcomes(state):
        """(state [2], reward) after each torque."""
        after, told = jax.vmap(lambda torque: port.step(state, torque, jax.random.key(0)))(torques)
        return after, told.reward

    def at(values, state):
        """Between the grid's points, linearly; the angle goes round."""
        place = jnp.stack(
            [
                (state[0] / (2 * jnp.pi) % 1) * (points - 1),
                (state[1] / port.max_rate + 1) / 2 * (points - 1),
            ]
        )
        return jax.scipy.ndimage.map_coordinates(values, list(place), 1, mode="nearest")

    def best(values, state):
        after, reward = outcomes(state)
        return reward + jax.vmap(partial(at, values))(after)

    angles, rates = (
        jnp.linspace(0, 2 * jnp.pi, points),
        jnp.linspace(-port.max_rate, port.max_rate, points),
    )
    grid = jnp.stack(jnp.meshgrid(angles, rates, indexing="ij"), -1)

    @jax.jit
    def backwards():
        def back(values, _):
            row = lambda states: jax.vmap(lambda state: best(values, state).max())(states)
            return jax.lax.map(row, grid), values

        return jax.lax.scan(back, jnp.zeros((points, points)), None, length=STEPS)[1]

    @jax.jit
    def play(tables, state):
        def step(state, values):
            action = best(values, state).argmax()
            after, reward = outcomes(state)
            return after[action], reward[action]

        return jax.lax.scan(step, state, tables[::-1])[1].sum()

    tables = backwards()  # [steps to go after this one, angle, rate]
    return jax.jit(jax.vmap(play, (None, 0)))(tables, states)
