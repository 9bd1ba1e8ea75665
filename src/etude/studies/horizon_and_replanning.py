"""How far a plan must look ahead, by how soon it is made again.

On the true model of Pendulum-v1 a planner makes plans of H steps, follows each for some of them
(`replan_interval`), and plans again. A plan that is followed to its end acts at last with a view of
one step; one that is made anew at each step always sees H ahead. So a shorter horizon suffices to
who replans: with a new plan at every step, 15 steps reach what no horizon up to 40 reaches with
plans that are followed to their end.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etude.algorithms.control.mpc import MPC
from etude.environments import make
from etude.errors import InvalidInput
from etude.planning.sampling.icem import ICEM
from etude.reporting import planning_figures, statistics
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

NAME, STEPS = "Pendulum-v1", 200
INTERVALS = {"a plan at every step": 1, "every 5 steps": 5, "plans followed to their end": 0}


def measure_horizon_and_replanning(
    horizons: Sequence[int] = (5, 10, 15, 20, 30, 40),
    seeds: int = 10,
    episodes: int = 4,
    samples: int = 50,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Measure the return on Pendulum-v1 by planning horizon and replanning interval, and draw it.

    Writes horizon_and_replanning.json and .png into the directory `out`. Where it has a
    measurement, the horizons that are missing are added, and it is drawn again.

    Args:
        horizons: steps of a plan, each 5 or more.
        seeds: of starts and planners.
        episodes: of 200 steps, of each seed; their starts are the same for all settings.
        samples: plans in an iteration of the search, iCEM with 3 of them.
        out: the directory; by default runs/horizon_and_replanning.

    Returns:
        The directory and the content of the file, whose "intervals" has for each interval the
        result of `statistics.summarize_returns` by horizon.

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not horizons or min(horizons) < 5:
        raise InvalidInput(f"horizons is {tuple(horizons)}; give at least one, each 5 or more")
    if seeds < 2 or episodes < 1:
        raise InvalidInput(
            f"seeds is {seeds} and episodes {episodes}; give at least 2 seeds and 1 episode"
        )
    directory = Path(out or "runs/horizon_and_replanning")
    path = directory / "horizon_and_replanning.json"
    settings = {"seeds": seeds, "episodes": episodes, "samples": samples}
    measured = begin_or_go_on(path, settings, {"intervals": {name: {} for name in INTERVALS}})
    directory.mkdir(parents=True, exist_ok=True)
    for horizon in horizons:
        for name, interval in INTERVALS.items():
            if str(horizon) in measured["intervals"][name]:
                continue
            mpc: Any = MPC(
                planner=ICEM(),
                horizon=horizon,
                samples=samples,
                iterations=3,
                replan_interval=interval or horizon,
            )
            returns = np.asarray(play_mpc(mpc, jax.random.key(0), seeds * episodes))
            of_seeds = returns.reshape(seeds, episodes).tolist()
            measured["intervals"][name][str(horizon)] = statistics.summarize_returns(of_seeds)
            save(path, measured)
    planning_figures.draw_summaries(
        directory / "horizon_and_replanning.png",
        measured["intervals"],
        "return per episode",
        "horizon: steps of a plan",
        title=f"Planning horizon and replanning, {NAME}",
        subtitle=f"iCEM on the true model; IQM of {seeds} seeds with 95 % intervals, "
        f"{episodes} episodes each",
    )
    return directory, measured


@partial(jax.jit, static_argnums=(0, 2))
def play_mpc(mpc: Any, key: Array, num_envs: int) -> Array:
    """The return of an episode in each environment, [env]."""
    key_reset, key_steps = jax.random.split(key)
    environment = make(NAME, num_envs, "jax")
    state = mpc.init(key_reset, environment.spec)
    policy = bind_policy(mpc, state, environment, explore=False)
    start = init_rollout_state(environment, policy, key_reset)
    _, steps, _ = rollout(environment, policy, start, key_steps, STEPS)
    return steps.reward.sum(0)
