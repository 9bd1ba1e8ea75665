"""trajax's iLQR or CEM on the acrobot, at the work given as JSON; says how many steps an answer
has, and how long it took.

No registry has trajax: it is measured where it can be imported, as from PYTHONPATH. Its CEM plays
the mean at the end, 2 rollouts beside the thousands; etude's keeps the best plan seen.
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

work = json.loads(sys.argv[1])
jax.config.update("jax_enable_x64", work.get("x64", False))
start, controls = jnp.zeros(4), jnp.zeros((problems.HORIZON, 1))


class Settings(dict):
    """trajax wants them to be hashable."""

    def __hash__(self):
        return id(self)


def cost(state, control, time):
    return jnp.where(
        time == problems.HORIZON, problems.final_cost(state), problems.cost(state, control)
    )


def dynamics(state, control, time):
    return problems.swing(state, control)


def solved(state):
    _, plan, total, _, _, _, iterations = optimizers.ilqr(
        cost, dynamics, state, controls, maxiter=work["iterations"]
    )
    return iterations, total, plan


def sampled(state):
    settings = Settings(
        sampling_smoothing=0.0,
        evolution_smoothing=work["smoothing"],
        max_iter=work["iterations"],
        elite_portion=work["elites"] / work["samples"],
        num_samples=work["samples"],
    )
    bound = jnp.array([problems.FORCE])
    # without its own jit, through which settings cannot go; all is compiled by ours
    search = partial(optimizers.cem.__wrapped__, cost, dynamics, hyperparams=settings)
    _, plan, total = search(
        state, controls, -bound, bound, random_key=jax.random.PRNGKey(work["seed"])
    )
    return 1, total, plan


search = {"ilqr": solved, "cem": sampled}[work["planner"]]
(steps, total, _), took = stopwatch.of_program(search, (start,), work["budget"])
print(
    json.dumps(
        {"steps": int(steps), "cost": float(total)}
        | took
        | {"versions": {"trajax": __version__, "jax": version("jax")}}
    )
)
