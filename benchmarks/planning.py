"""What the planners reach, and how long they take: `make benchmark-planning`.

The pendulum's optimum is found by dynamic programming on a grid, and then played from the same starts as the planners play.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from report import RESULTS, RUNS

import etude
from etude.algorithms.control.mpc import MPC
from etude.environments import make
from etude.environments.classic.acrobot import Acrobot
from etude.environments.classic.pendulum import Pendulum
from etude.environments.models import true_model
from etude.experiment.plan import PROBLEMS, doing_nothing
from etude.planning.cross_entropy import cross_entropy
from etude.planning.ilqr import ilqr
from etude.planning.model import Control
from etude.planning.plans import plan_score
from etude.rollout import blank, evaluate

HEADINGS = ["what", "figure", "bar", "met", "measured"]
NOTES = """# Planning

What is solved is solved from random starts by iLQR, the first guess being to do nothing. Returns of Pendulum-v1 are means over
the same starts, on the JAX port that is Gymnasium's step for step, planning at every step on the true model; the optimum is
that of dynamic programming on a grid, its policy played from these starts. Times are medians, compiling apart.
"""
ANGLES, RATES, TORQUES, STEPS = 401, 401, 41, 200       # of the grid, and the steps of an episode
PLANNERS = {"cem": {}, "icem": {"planner": "icem"}, "mppi": {"planner": "mppi"},
            "random shooting, 500 × 15": {"planner": "random_shooting", "samples": 500, "iterations": 1, "horizon": 15}}
console = report.console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=100, help="of Pendulum-v1 (default 100)")
    parser.add_argument("--quick", action="store_true", help="few starts, to see that all works; kept apart")
    asked = parser.parse_args()
    starts, directory = (4, RUNS / "quick") if asked.quick else (asked.starts, RESULTS)
    facts = {"measured": report.now(), "machine": report.machine(), "load_before": report.load(), "starts": starts}
    rows = [*solved(4 if asked.quick else 20), *pendulum(starts), *timed()]
    found = facts | {"rows": rows}
    lines = [f"\nMeasured {facts['measured']} on {facts['machine']['processor']}, {facts['machine']['cores']} cores, load "
             f"beforehand {facts['load_before']}; etude {etude.__version__}, jax {jax.__version__}.\n"]
    cells = [[row["what"], row["figure"], row["bar"], {True: "yes", False: "no", None: "–"}[row["met"]], facts["measured"]]
             for row in rows]
    report.write(directory, "planning", found, NOTES + "\n" + report.markdown(HEADINGS, cells) + "".join(lines))
    report.show(console, "Planning", HEADINGS, cells)
    console.print(f"in {directory / 'planning.md'} and planning.json", soft_wrap=True)


def row(what: str, value: float, text: str, bar: str = "–", met: bool | None = None) -> dict[str, Any]:
    console.print(f"{what:60} {text:>12}  {bar}")
    return {"what": what, "value": float(value), "figure": text, "bar": bar, "met": None if met is None else bool(met)}


def solved(starts: int) -> list[dict[str, Any]]:
    """How many random starts of each problem are solved."""
    rows = []
    for name, problem in PROBLEMS.items():
        run = jax.jit(jax.vmap(lambda key, problem=problem: problem.solved(
            ilqr(problem, problem.initial(key), doing_nothing(problem), iterations=200).states)))
        count = int(run(jax.random.split(jax.random.key(0), starts)).sum())
        rows.append(row(f"{name}, solved by iLQR", count / starts, f"{count} of {starts}", "≥ 95 %", count >= 0.95 * starts))
    return rows


def pendulum(starts: int) -> list[dict[str, Any]]:
    """Mean returns of Pendulum-v1 over the same starts: the optimum, and what each planner gets."""
    environment = make("Pendulum-v1", starts, "jax")
    key = jax.random.key(0)
    first = jax.jit(environment.reset)(jax.random.split(key)[0])[1]
    states = jax.vmap(true_model("Pendulum-v1").state_of)(first)
    best = float(optimum(states).mean())
    rows = [row(f"Pendulum-v1, {starts} starts, dynamic programming", best, f"{best:.1f}")]
    for name, settings in PLANNERS.items():
        algorithm = MPC("Pendulum-v1", **settings)
        state = algorithm.init(key, environment.spec)
        policy = lambda observation, memory, key, algorithm=algorithm, state=state: algorithm.act(
            state, observation, memory, key, explore=False)
        judge = jax.jit(lambda key, policy=policy: evaluate(environment, policy, key, starts, blank(environment, policy))[0])
        mean = float(judge(key).mean())
        bar, met = ("within 5 % of the optimum", mean >= best * 1.05) if name == "cem" else ("–", None)
        if name.startswith("random"):
            bar, met = "≥ -208", mean >= -208
        rows.append(row(f"Pendulum-v1, {starts} starts, {name}", mean, f"{mean:.1f}", bar, met))
    return rows


def optimum(states: jax.Array) -> jax.Array:
    """Returns [start] of the policy that is greedy for the values of dynamic programming, played from `states` [start, 2]."""
    port = Pendulum()
    torques = jnp.linspace(-1, 1, TORQUES)[:, None] * port.max_torque

    def outcomes(state):
        """(state [2], reward) after each torque."""
        after, told = jax.vmap(lambda torque: port.step(state, torque, jax.random.key(0)))(torques)
        return after, told.reward

    def at(values, state):
        """Between the grid's points, linearly; the angle goes round."""
        place = jnp.stack([(state[0] / (2 * jnp.pi) % 1) * (ANGLES - 1), (state[1] / port.max_rate + 1) / 2 * (RATES - 1)])
        return jax.scipy.ndimage.map_coordinates(values, list(place), 1, mode="nearest")

    def best(values, state):
        after, reward = outcomes(state)
        return reward + jax.vmap(partial(at, values))(after)
    angles, rates = jnp.linspace(0, 2 * jnp.pi, ANGLES), jnp.linspace(-port.max_rate, port.max_rate, RATES)
    grid = jnp.stack(jnp.meshgrid(angles, rates, indexing="ij"), -1)

    @jax.jit
    def backwards():
        def back(values, _):
            row = lambda states: jax.vmap(lambda state: best(values, state).max())(states)
            return jax.lax.map(row, grid), values
        return jax.lax.scan(back, jnp.zeros((ANGLES, RATES)), None, length=STEPS)[1]

    @jax.jit
    def play(tables, state):
        def step(state, values):
            action = best(values, state).argmax()
            after, reward = outcomes(state)
            return after[action], reward[action]
        return jax.lax.scan(step, state, tables[::-1])[1].sum()
    tables = backwards()                                   # [steps to go after this one, angle, rate]
    return jax.jit(jax.vmap(play, (None, 0)))(tables, states)


def timed() -> list[dict[str, Any]]:
    """A step of receding horizon, and a swing-up of the acrobot."""
    model, state = true_model("Pendulum-v1"), jnp.float32([3.0, 0.0])

    @jax.jit
    def replan(mean, key):
        score = plan_score(model, state, key)
        return cross_entropy(score, key, mean, 0.5, samples=100, elites=10, iterations=4).mean
    milliseconds = 1e3 * seconds(lambda: replan(jnp.zeros((25, 1)), jax.random.key(0)), 500)
    rows = [row("a step of cem on Pendulum-v1, 100 samples × 25 steps × 4", milliseconds, f"{milliseconds:.2f} ms", "< 2 ms",
                milliseconds < 2)]
    with jax.enable_x64(True):
        goal, derivative = np.float64([np.pi, 0, 0, 0]), Acrobot().derivative
        acrobot = Control(lambda x, u: x + 0.1 * derivative(x, u),
                          lambda x, u, time: (0.1 * ((x - goal) ** 2).sum() + 0.01 * (u**2).sum()) / 2,
                          lambda x: 1000 * ((x - goal) ** 2).sum() / 2)
        run = lambda: ilqr(acrobot, jnp.zeros(4), jnp.zeros((50, 1))).cost
        milliseconds = 1e3 * seconds(run, 50)
        cost = float(run())
    return [*rows, row("iLQR, the 50-step acrobot of trajax", milliseconds, f"{milliseconds:.1f} ms", "< 100 ms",
                       milliseconds < 100), row("its cost", cost, f"{cost:.2f}", "< 51", cost < 51)]


def seconds(run: Callable[[], jax.Array], times: int) -> float:
    """The median of so many runs after the first."""
    run().block_until_ready()
    took = []
    for _ in range(times):
        clock = time.perf_counter()
        run().block_until_ready()
        took.append(time.perf_counter() - clock)
    return statistics.median(took)


if __name__ == "__main__":
    main()
