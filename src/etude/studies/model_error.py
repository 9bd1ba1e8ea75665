"""How the error of a model grows with the number of steps that it predicts.

In sₜ₊₁ = L sₜ, a linear system, a model that errs by ε in each step errs after k steps by

    error(k) = Σ_{i<k} Lⁱ ε = ε (1 − Lᵏ) / (1 − L)

which has a limit for L < 1, grows in a line for L = 1, and with Lᵏ beyond: the system itself
carries an error on. For a model whose error in a step is at most ε everywhere, where neither system
nor model stretches differences by more than L, it is a bound (Asadi et al., 2018). A network that
was fitted to Pendulum-v1 shows the same growth from what it errs in one step. More data lower the
first errors, and soon no longer the far ones.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.data.dataset import Dataset
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import rows_of_dataset
from etude.models.prediction_error import prediction_errors
from etude.reporting import planning_figures, statistics
from etude.runs.record import record
from etude.struct import replace
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

NAME = "Pendulum-v1"
EPISODES = 40  # of 200 random steps, from which training draws
STEPS_AHEAD = (1, 2, 4, 8, 16, 32)
STRETCHES = (0.8, 1.0, 1.1)  # L of the linear systems
STEP_ERROR = 0.01  # ε
MODEL: Any = Ensemble(members=1, elites=1, has_noise=False, hidden=(64, 64), gradient_steps=2_000)


def measure_model_error(
    steps: Sequence[int] = (400, 1_600, 6_400), seeds: int = 8, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the error of models by steps ahead, on linear systems and Pendulum-v1, and draw it.

    Writes model_error.json and .png into the directory `out`. Where it has a measurement, the
    numbers of steps that are missing are added, and it is drawn again.

    Args:
        steps: environment steps that a network is fitted to, of at most 8,000.
        seeds: of networks, each with steps of its own draw.
        out: the directory; by default runs/model_error.

    Returns:
        The directory and the content of the file:

            linear      "simulated" and "exact", by L: the error after each of the steps ahead
            pendulum    by number of steps and steps ahead, as of `statistics.summarize_returns`:
                        the root mean squared error in units of the states' spread

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not steps or min(steps) < 50 or max(steps) > 200 * EPISODES:
        raise InvalidInput(f"steps is {tuple(steps)}; give numbers from 50 to {200 * EPISODES}")
    if seeds < 2:
        raise InvalidInput(f"seeds is {seeds}; give at least 2")
    directory = Path(out or "runs/model_error")
    path = directory / "model_error.json"
    measured = begin_or_go_on(path, {"seeds": seeds}, {"pendulum": {}})
    directory.mkdir(parents=True, exist_ok=True)
    measured["linear"] = {
        "simulated": {str(L): simulate_error(L) for L in STRETCHES},
        "exact": {
            str(L): [compounded_error(STEP_ERROR, L, k) for k in STEPS_AHEAD] for L in STRETCHES
        },
    }
    missing = [count for count in steps if str(count) not in measured["pendulum"]]
    if missing:
        dataset = record(NAME, "random", episodes=EPISODES, seed=0, progress=False)
        others = record(NAME, "random", episodes=10, seed=1, progress=False)
        keys = jax.random.split(jax.random.key(0), seeds)
    for count in missing:
        errors = errors_of_fits(keys, jnp.int32(count), dataset, others)
        measured["pendulum"][str(count)] = {
            str(k): statistics.summarize_returns(np.asarray(errors[f"error_{k}"])[:, None].tolist())
            for k in STEPS_AHEAD
        }
        save(path, measured)
    planning_figures.draw_model_error(
        directory / "model_error.png",
        measured,
        STEPS_AHEAD,
        title="Error of a model by steps ahead",
        subtitle=f"linear systems, and networks on {NAME}: IQM of {seeds} seeds",
    )
    return directory, measured


def compounded_error(step_error: float, stretch: float, steps: int) -> float:
    """Σ_{i<k} Lⁱ ε, for an error ε in each step, a stretch L and k steps."""
    return step_error * sum(stretch**i for i in range(steps))


def simulate_error(stretch: float) -> list[float]:
    """The error of a model that is off by ε in each step, at each of the steps ahead."""
    state = predicted = 1.0
    errors = []
    for _ in range(max(STEPS_AHEAD)):
        state, predicted = stretch * state, stretch * predicted + STEP_ERROR
        errors.append(abs(predicted - state))
    return [errors[k - 1] for k in STEPS_AHEAD]


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None, None))
def errors_of_fits(key: Array, count: Array, dataset: Dataset, others: Dataset) -> dict[str, Any]:
    """The errors on other episodes of a network fitted to `count` steps, for each key."""
    key_rows, key_init, key_fit, key_model, key_errors = jax.random.split(key, 5)
    rows = rows_of_dataset(dataset)
    is_drawn = jax.random.permutation(key_rows, len(rows.reward)) < count
    state = MODEL.init(key_init, dataset.spec, KnownFunctions())
    state, _ = MODEL.fit(state, replace(rows, is_valid=is_drawn), key_fit)
    model = MODEL.planning_model(state, key_model, "mean", ends=False)
    return prediction_errors(model, others, key_errors, STEPS_AHEAD)
