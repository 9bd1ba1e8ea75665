"""Whether a model is as right as it says where its plans lead, before and after it is fitted there.

PETS plays the noisy pendulum. Its first model is fitted to random steps and judged on the next
steps, where plans on it led; later models were fitted to such steps too. Of each, the share of
outcomes within the interval that should hold p is drawn over p. A model that is too sure lies below
the diagonal.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.model_based.pets import PETS, PETSState
from etude.errors import InvalidInput
from etude.estimators.calibration import calibration_error, coverage, mixture_pit
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import rows_of_buffer
from etude.reporting import planning_figures, statistics
from etude.runs.train import train
from etude.struct import replace
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

NAME = "etude/NoisyPendulum-v0"
EPISODE = 200  # steps between two fits, the first of them random
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MODEL: Any = Ensemble(hidden=(64, 64, 64))
PLANNING: dict[str, Any] = dict(
    horizon=20, rollout_length=EPISODE, warmup_steps=EPISODE, capacity=2_000
)


def measure_calibration(
    fits: int = 5, seeds: int = 5, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the calibration of a model where plans on it led, by how much it was fitted to.

    Writes calibration.json and .png into the directory `out`. A measurement that is whole is drawn
    again.

    Args:
        fits: of the model, after each of which an episode is played.
        seeds: of PETS.
        out: the directory; by default runs/calibration.

    Returns:
        The directory and the content of the file, by steps fitted, as of
        `statistics.summarize_returns`:

            coverage    by level p: the share of outcomes within the interval that should hold p
            error       the mean distance of the share from p

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not 2 <= fits <= 9 or seeds < 2:
        raise InvalidInput(
            f"fits is {fits} and seeds {seeds}; give 2 to 9 fits and at least 2 seeds"
        )
    directory = Path(out or "runs/calibration")
    path = directory / "calibration.json"
    empty: dict[str, Any] = {"coverage": {}, "error": {}}
    measured = begin_or_go_on(path, {"fits": fits, "seeds": seeds}, empty)
    directory.mkdir(parents=True, exist_ok=True)
    if not measured["coverage"]:
        run = train(
            PETS(model=MODEL, **PLANNING),
            NAME,
            steps=EPISODE * (fits + 1),
            seeds=seeds,
            evaluation_episodes=1,
            out=directory / "run",
            progress=False,
        )
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *run.states())
        keys = jax.random.split(jax.random.key(0), seeds)
        for fit in (1, fits):
            shares, error = judge_fits(states, keys, jnp.int32(fit * EPISODE))
            name = f"fitted to {fit * EPISODE:,} steps"
            measured["coverage"][name] = {
                str(level): statistics.summarize_returns(np.asarray(of_level)[:, None].tolist())
                for level, of_level in zip(LEVELS, shares.T, strict=True)
            }
            measured["error"][name] = statistics.summarize_returns(
                np.asarray(error)[:, None].tolist()
            )
        save(path, measured)
    diagonal = {str(p): {"iqm": p, "ci95": (p, p)} for p in LEVELS}
    planning_figures.draw_summaries(
        directory / "calibration.png",
        {**measured["coverage"], "as it should be": diagonal},
        label="share of outcomes within",
        xlabel="interval that should hold this share",
        title="Is a model as right as it says?",
        subtitle=f"PETS on a noisy pendulum, where its plans led: IQM of {seeds} seeds",
    )
    return directory, measured


@jax.jit
def judge_fits(states: PETSState, keys: Array, fitted: Array) -> tuple[Array, Array]:
    """Coverage [seed, level] and calibration error [seed] of models of the first `fitted` steps.

    They are judged on the episode after these steps.
    """

    def judge(state, key):
        key_init, key_fit, key_predict = jax.random.split(key, 3)
        rows = rows_of_buffer(state.spec, state.steps)
        is_seen = rows.is_valid & (rows.number < fitted)
        model = MODEL.init(key_init, state.spec, KnownFunctions())
        model, _ = MODEL.fit(model, replace(rows, is_valid=is_seen), key_fit)
        first = jnp.argmax(rows.number == fitted)
        after = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, EPISODE), rows)
        predicted = MODEL.predict(model, after.observation, after.action, key_predict)
        target = jnp.concatenate([after.next_observation, after.reward[:, None]], -1)
        pit = mixture_pit(target, predicted.member_means, predicted.member_variances)
        shares = jnp.stack([coverage(pit, level).mean() for level in LEVELS])
        return shares, calibration_error(pit).mean()

    return jax.vmap(judge)(states, keys)
