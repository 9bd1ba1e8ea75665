"""Open-loop against closed-loop control under random disturbances.

A cart must keep a pole upright while random disturbances change the pole's rate. Multiple shooting
plans (x̂, û) for the undisturbed system. The controllers are

    open loop           uₜ = ûₜ
    feedback            uₜ = ûₜ + Kₜ (xₜ - x̂ₜ), with the gains K of the planner
    receding horizon    iLQR replans at every step, from the rest of the last plan

All cost the same without disturbances; with them, only the two that observe the state succeed.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.plans import receding_horizon_control
from etude.planning.problems import CartPoleSwingUp
from etude.planning.protocol import LiftedModel, ModelStep, model_step_of
from etude.planning.trajectory.ilqr import ILQRResult, ilqr
from etude.planning.trajectory.multiple_shooting import multiple_shooting
from etude.reporting import figures
from etude.storage import files
from etude.struct import struct
from etude.types import Array

# standard deviations of the noise on the rate of the pole in each step, rad/s
DISTURBANCES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
START = (0.0, 0.0, 0.1, 0.0)  # slightly tilted, at rest
# steps of an episode; horizon and iterations of replanning
STEPS, HORIZON, ITERATIONS = 60, 16, 10


@struct
class DisturbedProblem:
    """The cart-pole with noise of standard deviation `noise_std` (rad/s) on the pole's rate."""

    problem: Any
    noise_std: Array

    def step(self, state: Array, control: Array, key: Array) -> ModelStep:
        problem = self.problem
        next_step = model_step_of(
            problem, state, jnp.clip(control, jnp.asarray(problem.low), jnp.asarray(problem.high))
        )
        return ModelStep(
            next_step.state.at[3].add(self.noise_std * jax.random.normal(key)),
            next_step.reward,
            next_step.continues,
        )


def measure_open_loop(
    runs: int = 32, seed: int = 0, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the cost of each controller at each strength of disturbance, and draw it.

    Writes open_loop.png and .json into the directory `out`. Returns the directory and the results:
    shakes, the strengths of disturbance (rad/s), and costs [strength][run] of each controller.

    Raises InvalidInput for fewer than 2 runs, and for a directory with a measurement in it.
    """
    if runs < 2:
        raise InvalidInput(f"runs is {runs}; give at least 2")
    directory = Path(out) if out is not None else Path("runs") / "open_loop"
    if (directory / "open_loop.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    problem: Any = CartPoleSwingUp(horizon=STEPS)
    # an upright guess; from a falling guess the plan would turn the pole all the way round
    upright = jnp.zeros((STEPS + 1, 4)).at[0].set(jnp.float32(START))
    plan = multiple_shooting(problem, upright, jnp.zeros((STEPS, 1)))
    keys = jax.random.split(jax.random.key(seed), (len(DISTURBANCES), runs))
    compare_runs = jax.vmap(compare_controllers, (None, None, None, 0))
    results = jax.jit(jax.vmap(compare_runs, (None, None, 0, 0)))(
        problem, plan, jnp.float32(DISTURBANCES), keys
    )
    costs = {name: np.asarray(values).tolist() for name, values in results.items()}
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(
        directory / "open_loop.json",
        {"runs": runs, "seed": seed, "shakes": list(DISTURBANCES), "costs": costs},
    )
    figures.draw_lines(
        directory / "open_loop.png",
        DISTURBANCES,
        costs,
        "cost of an episode",
        "disturbance (rad/s in each step)",
        title="Open-loop and closed-loop control",
        subtitle=f"a cart-pole with disturbances; means of {runs} runs, with 95 % intervals",
    )
    return directory, {"shakes": list(DISTURBANCES), "costs": costs}


def compare_controllers(
    problem: Any, plan: ILQRResult, noise_std: Array, key: Array
) -> dict[str, Array]:
    """Return the cost of an episode with each controller, without the final cost."""
    disturbed, start = DisturbedProblem(problem, noise_std), plan.states[0]
    key_search, key_noise = jax.random.split(key)

    def track_cost(gain):
        def step(state, plan_step):
            control, planned_state, K, key = plan_step
            next_step = disturbed.step(state, control + gain * K @ (state - planned_state), key)
            return next_step.state, next_step.reward

        noise_keys = jax.random.split(key_noise, STEPS)
        plan_steps = plan.controls, plan.states[:-1], plan.K, noise_keys
        return -jax.lax.scan(step, start, plan_steps)[1].sum()

    def search(state, guess, key):
        return ilqr(problem, state[0, 0], guess, iterations=ITERATIONS).controls

    rewards = receding_horizon_control(
        LiftedModel(disturbed.step),
        search,
        start[None, None],
        plan.controls[:HORIZON],
        key_search,
        STEPS,
    )
    return {
        "open loop": track_cost(0.0),
        "feedback": track_cost(1.0),
        "receding horizon": -rewards.sum(),
    }
