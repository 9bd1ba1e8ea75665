"""The noise that a model expects is not its doubt: what single networks, ensembles and Bayes tell.

Models are fitted to data with noise of known size and a gap. A single network tells its noise
alone, σ, which is right where there are data and as small in the gap, where it knows nothing: the
entropy of its output is not its uncertainty. The members of an ensemble, and the draws of a network
with random weights, disagree in the gap.

    sine        y = sin x + 0.1 ε, of x in [-3, -1.5] and [1.5, 3]
    pendulum    a step of Pendulum-v1 under random torque, without states within 1.5 rad of upright,
                observed with noise of a tenth of the spread of each column's change
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.estimators.calibration import (
    calibration_error,
    coverage,
    gaussian_nll,
    mixture_crps,
    mixture_nll,
    mixture_pit,
)
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.models.structures import built_in_structure
from etude.models.variational import Variational
from etude.reporting import planning_figures, statistics
from etude.spaces import Box, EnvironmentSpec
from etude.struct import struct
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

JUDGED = 4_000  # steps beside the gap, and as many in it
SINE_NOISE, PENDULUM_NOISE = 0.1, 0.1
GAP_ANGLE = 1.5  # rad from upright
SINE = EnvironmentSpec(Box((1,)), Box((1,), low=-1.0, high=1.0))
GRID = np.linspace(-3, 3, 121)  # x of the picture
NETWORKS = partial(
    Ensemble,
    hidden=(64, 64),
    activation="tanh",
    learning_rate=3e-3,
    gradient_steps=5_000,
    patience=20,
)
KINDS: dict[str, Any] = {
    "single network": NETWORKS(members=1, elites=1),
    "ensemble by rows": NETWORKS(differ_by="rows"),
    "ensemble by start": NETWORKS(differ_by="start"),
    "variational": Variational(draws=20, learning_rate=3e-3, gradient_steps=20_000, patience=100),
}


@struct
class Points:
    """Steps to learn from or to be judged on, [row, ...]."""

    observation: Array
    action: Array
    mean: Array  # of the next observation
    noise: Array  # [column]: the standard deviation around it


def measure_model_uncertainty(
    rows: int = 4_000, seeds: int = 5, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure how sure models are, beside data and in a gap, and draw it.

    Writes model_uncertainty.json and .png into the directory `out`. A measurement that is there and
    was stopped goes on, and one that is whole is drawn again.

    Args:
        rows: steps that a model is fitted to.
        seeds: of data and fits.
        out: the directory; by default runs/model_uncertainty.

    Returns:
        The directory and the content of the file:

            tasks    by task and kind of model, as of `statistics.summarize_returns`:
                     nll, the negative log likelihood of a column less that of the truth, nats;
                     coverage, the share in the interval that should hold 90 %; calibration_error;
                     crps, over that of the truth; epistemic_ratio and aleatoric_ratio, standard
                     deviations in the gap over those beside it
            curves   of the first seed on the sine, by kind: mean, aleatoric and epistemic standard
                     deviation on a grid of x

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if rows < 50 or seeds < 2:
        raise InvalidInput(
            f"rows is {rows} and seeds {seeds}; give at least 50 rows and at least 2 seeds"
        )
    directory = Path(out or "runs/model_uncertainty")
    path = directory / "model_uncertainty.json"
    empty: dict[str, Any] = {"tasks": {}, "curves": {}}
    measured = begin_or_go_on(path, {"rows": rows, "seeds": seeds}, empty)
    directory.mkdir(parents=True, exist_ok=True)
    keys = jax.random.split(jax.random.key(0), seeds)
    for task in TASKS:
        of_task = measured["tasks"].setdefault(task, {})
        for name, kind in KINDS.items():
            if name in of_task:
                continue
            found, curve = fit_and_judge(keys, kind, task, rows)
            of_task[name] = {
                measure: statistics.summarize_returns(np.asarray(values)[:, None].tolist())
                for measure, values in found.items()
            }
            if task == "sine":
                measured["curves"][name] = {k: x[0].tolist() for k, x in curve.items()}
            save(path, measured)
    shown = sine_points(jax.random.key(1), 300, in_gap=False)
    planning_figures.draw_model_uncertainty(
        directory / "model_uncertainty.png",
        measured["curves"],
        GRID,
        np.asarray(shown.observation)[:, 0],
        np.asarray(noisy(shown, jax.random.key(2)) - shown.observation)[:, 0],
        title="Noise is not doubt",
        subtitle=f"y = sin x + 0.1 ε, {rows:,} steps; bands of two standard deviations",
    )
    return directory, measured


def sine_points(key: Array, count: int, in_gap: bool) -> Points:
    """Steps from x to x + sin x, beside the gap or in its middle."""
    key_size, key_side = jax.random.split(key)
    low, high = (0.0, 0.75) if in_gap else (1.5, 3.0)
    size = jax.random.uniform(key_size, (count, 1), minval=low, maxval=high)
    x = size * jax.random.rademacher(key_side, (count, 1), jnp.float32)
    return Points(x, jnp.zeros_like(x), x + jnp.sin(x), jnp.float32([SINE_NOISE]))


def pendulum_points(key: Array, count: int, in_gap: bool) -> Points:
    """Steps of the pendulum from angles and rates drawn uniformly, up to 4 rad/s."""
    structure = built_in_structure("Pendulum-v1")
    key_angle, key_side, key_rate, key_action = jax.random.split(key, 4)
    low, high = (0.0, GAP_ANGLE / 2) if in_gap else (GAP_ANGLE, jnp.pi)
    angle = jax.random.uniform(key_angle, (count,), minval=low, maxval=high)
    angle *= jax.random.rademacher(key_side, (count,), jnp.float32)
    rate = jax.random.uniform(key_rate, (count,), minval=-4.0, maxval=4.0)
    state = jnp.stack([angle, rate], -1)
    action = jax.random.uniform(key_action, (count, 1), minval=-1.0)
    after, _ = jax.vmap(structure.step, (None, 0, 0))(structure.guess, state, action)
    before, after = jax.vmap(structure.observe)(state), jax.vmap(structure.observe)(after)
    # the spread of a change of cosine or sine, and of the rate, under these states and torques
    return Points(before, action, after, PENDULUM_NOISE * jnp.float32([0.08, 0.08, 0.55]))


TASKS: dict[str, tuple[EnvironmentSpec, Callable[[Array, int, bool], Points]]] = {
    "sine": (SINE, sine_points),
    "pendulum": (EnvironmentSpec(Box((3,)), Box((1,), low=-2.0, high=2.0)), pendulum_points),
}


def noisy(points: Points, key: Array) -> Array:
    """What is observed after each step, [row, column]."""
    return points.mean + points.noise * jax.random.normal(key, points.mean.shape)


@partial(jax.jit, static_argnums=(1, 2, 3))
@partial(jax.vmap, in_axes=(0, None, None, None))
def fit_and_judge(
    key: Array, kind: Any, task: str, count: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Fit a model to `count` steps and judge it on others: measures, and curves on the grid."""
    keys = jax.random.split(key, 8)
    spec, draw = TASKS[task]
    learned = draw(keys[0], count, False)
    rows = ModelRows(
        learned.observation,
        learned.action,
        jnp.zeros(count),
        noisy(learned, keys[1]),
        jnp.zeros(count, bool),
        jnp.arange(count, dtype=jnp.int32),
        jnp.ones(count, bool),
    )
    state, _ = kind.fit(kind.init(keys[2], spec, KnownFunctions()), rows, keys[3])
    columns = learned.mean.shape[1]  # without the reward

    def predict(points):
        return kind.predict(state, points.observation, points.action, keys[4])

    beside, gap = draw(keys[5], JUDGED, False), draw(keys[6], JUDGED, True)
    seen = noisy(beside, keys[7])
    inside, outside = predict(beside), predict(gap)
    members = inside.member_means[..., :columns], inside.member_variances[..., :columns]
    pit = mixture_pit(seen, *members)
    truth = beside.mean[None], jnp.broadcast_to(beside.noise**2, beside.mean.shape)[None]
    excess = mixture_nll(seen, *members) - gaussian_nll(seen, truth[0][0], truth[1][0])

    def ratio(part):
        of_gap, of_data = (getattr(x, part)[:, :columns] for x in (outside, inside))
        return jnp.sqrt(of_gap.mean(0) / jnp.maximum(of_data.mean(0), 1e-12)).mean()

    measures = {
        "nll": excess.mean() / columns,
        "coverage": coverage(pit, 0.9).mean(),
        "calibration_error": calibration_error(pit).mean(),
        "crps": mixture_crps(seen, *members).mean() / mixture_crps(seen, *truth).mean(),
        "epistemic_ratio": ratio("epistemic"),
        "aleatoric_ratio": ratio("aleatoric"),
    }
    grid = jnp.tile(jnp.float32(GRID)[:, None], columns)
    drawn = kind.predict(state, grid, jnp.zeros((len(grid), 1)), keys[4])
    return measures, {
        "mean": drawn.mean[:, 0] - grid[:, 0],
        "aleatoric": jnp.sqrt(drawn.aleatoric[:, 0]),
        "epistemic": jnp.sqrt(drawn.epistemic[:, 0]),
    }
