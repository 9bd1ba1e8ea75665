"""Open loop against closed loop where chance has a say.

A pole is to be kept upright on its cart while something shakes it. One plan is made, by multiple
shooting, for a pole left alone; then it is

    open loop           done as it is, uₜ = ûₜ
    feedback            corrected by what is seen, uₜ = ûₜ + Kₜ (xₜ - x̂ₜ), with the gains that the
                        search leaves behind
    receding horizon    made anew at every step, by iLQR from what is left of the last

Without a shake all are alike; with it, only those who look keep the pole.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.plans import receding_horizon_control
from etude.planning.problems import CartPoleSwingUp
from etude.planning.protocol import ModelStep, model_step_of
from etude.planning.trajectory.ilqr import ILQRResult, ilqr
from etude.planning.trajectory.multiple_shooting import multiple_shooting
from etude.reporting import figures
from etude.storage import files
from etude.struct import struct
from etude.types import Array

# standard deviation of what is added to the rate of the pole at each step, rad/s
DISTURBANCES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
START = (0.0, 0.0, 0.1, 0.0)  # leaning a little, at rest
# of the episode; of a plan made anew, and of the search for it
STEPS, HORIZON, ITERATIONS = 60, 16, 10


@struct
class DisturbedProblem:
    """The cart and pole as a model in which chance changes the pole's rate, by `shake` rad/s in a
    step."""

    problem: Any
    shake: Array

    def step(self, state: Array, control: Array, key: Array) -> ModelStep:
        problem = self.problem
        after = model_step_of(
            problem, state, jnp.clip(control, jnp.asarray(problem.low), jnp.asarray(problem.high))
        )
        return ModelStep(
            after.state.at[3].add(self.shake * jax.random.normal(key)),
            after.reward,
            after.terminated,
        )


def measure_open_loop(
    runs: int = 32, seed: int = 0, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure what each way costs at each strength of the shake, and draw it.

    Writes open_loop.png and .json into the directory `out` and returns it and what the latter says:
    shakes (rad/s), and for each way its costs [shake][run].

    Raises InvalidInput for fewer than 2 runs, and for a directory that holds a measurement already.
    """
    if runs < 2:
        raise InvalidInput(f"runs is {runs}; give at least 2")
    directory = Path(out) if out is not None else Path("runs") / "open_loop"
    if (directory / "open_loop.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    problem: Any = CartPoleSwingUp(horizon=STEPS)
    # with a guess of its fall, it would turn right round
    upright = jnp.zeros((STEPS + 1, 4)).at[0].set(jnp.float32(START))
    plan = multiple_shooting(problem, upright, jnp.zeros((STEPS, 1)))
    keys = jax.random.split(jax.random.key(seed), (len(DISTURBANCES), runs))
    over_runs = jax.vmap(compare_controllers, (None, None, None, 0))
    found = jax.jit(jax.vmap(over_runs, (None, None, 0, 0)))(
        problem, plan, jnp.float32(DISTURBANCES), keys
    )
    costs = {name: np.asarray(values).tolist() for name, values in found.items()}
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
        "shake (rad/s in each step)",
        title="To look, or not to look",
        subtitle=f"a pole that is shaken; means of {runs} runs, with 95 % intervals",
    )
    return directory, {"shakes": list(DISTURBANCES), "costs": costs}


def compare_controllers(
    problem: Any, plan: ILQRResult, shake: Array, key: Array
) -> dict[str, Array]:
    """What an episode costs each way, the final cost aside."""
    shaken, start = DisturbedProblem(problem, shake), plan.states[0]
    key_search, key_luck = jax.random.split(key)

    def follow(gain):
        def step(state, at):
            control, expected, K, key = at
            after = shaken.step(state, control + gain * K @ (state - expected), key)
            return after.state, after.reward

        luck = jax.random.split(key_luck, STEPS)
        return -jax.lax.scan(step, start, (plan.controls, plan.states[:-1], plan.K, luck))[1].sum()

    def search(state, guess, key):
        return ilqr(problem, state, guess, iterations=ITERATIONS).controls

    rewards = receding_horizon_control(
        shaken, search, start, plan.controls[:HORIZON], key_search, STEPS
    )
    return {"open loop": follow(0.0), "feedback": follow(1.0), "receding horizon": -rewards.sum()}
