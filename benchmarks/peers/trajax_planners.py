"""Run trajax's iLQR or CEM on the acrobot, on a workload given as JSON; print steps and seconds.

trajax is in no registry and is measured where it can be imported, such as from PYTHONPATH. Its CEM
evaluates the mean plan at the end, with 2 more rollouts; etude's returns the best plan.
"""

import importlib.util
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

if importlib.util.find_spec("trajax") is None:
    print(json.dumps({"absent": "trajax cannot be imported"}))
    sys.exit()
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import problems  # noqa: E402
import stopwatch  # noqa: E402
from trajax import optimizers  # noqa: E402
from trajax.version import __version__  # noqa: E402

workload = json.loads(sys.argv[1])
jax.config.update("jax_enable_x64", workload.get("x64", False))
start, controls = jnp.zeros(4), jnp.zeros((problems.HORIZON, 1))


class Settings(dict):
    """Hashable settings, as trajax needs them."""

    def __hash__(self):
        return id(self)


def cost(state, control, time):
    return jnp.where(
        time == problems.HORIZON, problems.final_cost(state), problems.cost(state, control)
    )


def dynamics(state, control, time):
    return problems.acrobot_step(state, control)


def run_ilqr(state):
    _, plan, total, _, _, _, iterations = optimizers.ilqr(
        cost, dynamics, state, controls, maxiter=workload["iterations"]
    )
    return iterations, total, plan


def run_cem(state):
    settings = Settings(
        sampling_smoothing=0.0,
        evolution_smoothing=workload["smoothing"],
        max_iter=workload["iterations"],
        elite_portion=workload["elites"] / workload["samples"],
        num_samples=workload["samples"],
    )
    bound = jnp.array([problems.MAX_TORQUE])
    # without its own jit, which does not take the settings; the outer jit compiles all
    planner = partial(optimizers.cem.__wrapped__, cost, dynamics, hyperparams=settings)
    _, plan, total = planner(
        state, controls, -bound, bound, random_key=jax.random.PRNGKey(workload["seed"])
    )
    return 1, total, plan


planner = {"ilqr": run_ilqr, "cem": run_cem}[workload["planner"]]
(steps, total, _), times = stopwatch.time_compiled(planner, (start,), workload["budget"])
print(
    json.dumps(
        {"steps": int(steps), "cost": float(total)}
        | times
        | {"versions": {"trajax": __version__, "jax": version("jax")}}
    )
)
