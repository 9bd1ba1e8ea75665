"""A plan that minds risk keeps out of what its model does not know.

A point walks to a goal, and on the straight way lies a field of which there are no data. A step in
it costs m more, and the members of the model have drawn their guesses from what it could be:

    pₜ₊₁ = pₜ + 0.08 uₜ,    m ~ N(0, 1)
    reward −|pₜ₊₁ − goal| − m · (whether pₜ₊₁ is in the field)

A plan is worth mean − c·std of its returns over the members (`risk_aversion` c). With c = 0 the
walk goes through the field, and returns differ much by what is there; with a larger c it goes
round, at the price of a longer way, whatever is there.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.plans import return_of_plans
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.sampling.icem import ICEM
from etude.reporting import planning_figures, statistics
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

STEPS, HORIZON, MEMBERS = 20, 12, 20
SAMPLES, ITERATIONS = 60, 3  # of a search
SPEED = 0.08
FIELD = (0.3, 0.7), (-0.2, 0.15)  # from x to x, from y to y
START, GOAL = (0.0, 0.0), (1.0, 0.0)
PLANNER: Any = ICEM(follow="mean")


def measure_risk(
    risk_aversion: Sequence[float] = (0.0, 0.5, 1.0, 2.0),
    seeds: int = 10,
    episodes: int = 10,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Measure walks past an unknown field by how much their plans mind risk, and draw them.

    Writes risk.json and .png into the directory `out`. Where it has a measurement, the degrees of
    risk aversion that are missing are added, and it is drawn again.

    Args:
        risk_aversion: standard deviations that are taken off the mean return of a plan.
        seeds: of members, fields and search.
        episodes: of each seed, each with a field of its own.
        out: the directory; by default runs/risk.

    Returns:
        The directory and the content of the file, whose "risk_aversion" has for each degree the
        result of `statistics.summarize_returns`, "spread", the standard deviation of the returns
        of all episodes, "inside", the mean number of steps in the field, and some "paths".

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not risk_aversion or min(risk_aversion) < 0:
        raise InvalidInput(f"risk_aversion is {tuple(risk_aversion)}; give numbers of 0 or more")
    if seeds < 2 or episodes < 1:
        raise InvalidInput(
            f"seeds is {seeds} and episodes {episodes}; give at least 2 seeds and 1 episode"
        )
    directory = Path(out or "runs/risk")
    path = directory / "risk.json"
    settings = {"seeds": seeds, "episodes": episodes}
    empty = {"risk_aversion": {}, "field": [list(side) for side in FIELD]}
    measured = begin_or_go_on(path, settings, empty)
    directory.mkdir(parents=True, exist_ok=True)
    for degree in risk_aversion:
        if str(float(degree)) in measured["risk_aversion"]:
            continue
        keys = jax.random.split(jax.random.key(0), seeds * episodes)
        returns, paths = map(np.asarray, walk(jnp.float32(degree), keys))
        measured["risk_aversion"][str(float(degree))] = {
            **statistics.summarize_returns(returns.reshape(seeds, episodes).tolist()),
            "spread": float(returns.std()),
            "inside": float(is_inside(paths).sum(1).mean()),
            "paths": paths[:20].tolist(),
        }
        save(path, measured)
    planning_figures.draw_risk(
        directory / "risk.png",
        measured,
        title="Plans that mind risk, and an unknown field",
        subtitle=f"IQM of {seeds} seeds with 95 % intervals, {episodes} episodes each",
    )
    return directory, measured


def step_past_field(state: Array, action: Array, key: Array) -> ModelStep:
    """One step from (x, y, m) by an action [2] in [-1, 1]; m is what a step in the field costs."""
    position = state[:2] + SPEED * action
    cost = jnp.linalg.norm(position - jnp.array(GOAL)) + state[2] * is_inside(position)
    return ModelStep(state.at[:2].set(position), -cost, jnp.ones(()))


def is_inside(position: Any) -> Any:
    """Whether positions [..., 2] are in the field."""
    (left, right), (bottom, top) = FIELD
    x, y = position[..., 0], position[..., 1]
    return (x > left) & (x < right) & (y > bottom) & (y < top)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def walk(risk_aversion: Array, key: Array) -> tuple[Array, Array]:
    """One episode for each key: its return, and its positions [time, 2]."""
    model = LiftedModel(step_past_field, ends=False)
    key_members, key_field, key_steps = jax.random.split(key, 3)
    guesses = jax.random.normal(key_members, (MEMBERS,))
    guesses -= guesses.mean()  # together they are right: nothing is expected of the field

    def step(carry, key):
        state, start = carry
        imagined = jnp.tile(state, (MEMBERS, 1, 1)).at[:, 0, 2].set(guesses)
        return_of = return_of_plans(
            model, imagined, key, particles=MEMBERS, risk_aversion=risk_aversion
        )
        found = PLANNER.plan(return_of, start, key, samples=SAMPLES, iterations=ITERATIONS)
        outcome = step_past_field(state, found.plan[0], key)
        return (outcome.state, PLANNER.shift(found.start)), (outcome.reward, outcome.state[:2])

    truth = jnp.array([*START, jax.random.normal(key_field)])
    carry = truth, PLANNER.init(jnp.zeros((HORIZON, 2)))
    _, (rewards, positions) = jax.lax.scan(step, carry, jax.random.split(key_steps, STEPS))
    return rewards.sum(), positions
