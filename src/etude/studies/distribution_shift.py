"""What a plan promises where its model has no data, and what comes of it.

A model is fitted to a few random actions on a pendulum that hangs, which never see it upright. A
plan on that model goes where the model has been told nothing, and gets another return than it
promises:

    version 0.5    the model is fitted once, and plans are followed to their end
    version 1.0    it is fitted again with the steps that its plans led to
    version 1.5    besides, a new plan is made at every step

The gap is the predicted minus the achieved return of the actions that were played, which without
replanning are those of the plan. Its size stays with version 0.5, and shrinks with version 1.0 as
the model is fitted again. Its sign differs by seed here: that plans promise too much in the mean,
as they would if they sought out errors in their favor, is not shown.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments import make
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.models.network_dynamics import NetworkDynamics
from etude.models.true_models import true_model
from etude.planning.plans import return_of_plans
from etude.planning.protocol import PlanResult, WarmStart
from etude.planning.sampling.cem import CEM
from etude.reporting import planning_figures, statistics
from etude.struct import replace
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

NAME = "Pendulum-v1"
HORIZON = 50  # steps of a plan, and of an episode
SAMPLES, ITERATIONS = 100, 4  # of a search
RANDOM_EPISODES = 2  # at first
# (whether the model is fitted again, whether a plan is made at every step)
VERSIONS = {
    "version 0.5": (False, False),
    "version 1.0": (True, False),
    "version 1.5": (True, True),
}
PLANNER: Any = CEM()
MODEL: Any = Ensemble(
    members=1, elites=1, has_noise=False, hidden=(64, 64), gradient_steps=1_000, patience=3
)


def measure_distribution_shift(
    fits: int = 6, seeds: int = 8, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure how far plans on a learned model are from what they promise, by fit, and draw it.

    Writes distribution_shift.json and .png into the directory `out`. A measurement that is there
    and was stopped goes on, and one that is whole is drawn again.

    Args:
        fits: of the model; after each an episode is played.
        seeds: of data, networks and plans.
        out: the directory; by default runs/distribution_shift.

    Returns:
        The directory and the content of the file:

            versions    predicted minus achieved return of an episode of 50 steps, by version and
                        number of fits, as of `statistics.summarize_returns`
            returns     the same of the achieved return
            states      of the first seed after its first fit: heights of the tip and rates
                        [step, 2] of the "data", the plan as "predicted" and as "achieved"

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if fits < 2 or seeds < 2:
        raise InvalidInput(f"fits is {fits} and seeds {seeds}; give at least 2 of each")
    directory = Path(out or "runs/distribution_shift")
    path = directory / "distribution_shift.json"
    empty: dict[str, Any] = {"versions": {}, "returns": {}, "states": {}}
    measured = begin_or_go_on(path, {"fits": fits, "seeds": seeds}, empty)
    directory.mkdir(parents=True, exist_ok=True)
    for name, (refits, replans) in VERSIONS.items():
        if name in measured["versions"]:
            continue
        gaps, returns, states = play_version(jax.random.key(0), fits, seeds, refits, replans)
        for kind, values in (("versions", gaps), ("returns", returns)):
            measured[kind][name] = {
                str(fit + 1): statistics.summarize_returns(of_fit[:, None].tolist())
                for fit, of_fit in enumerate(values)
            }
        if not measured["states"]:
            measured["states"] = states
        save(path, measured)
    planning_figures.draw_distribution_shift(
        directory / "distribution_shift.png",
        measured,
        title="Where plans lead, and where there are data",
        subtitle=f"a pendulum that hangs; IQM of {seeds} seeds with 95 % intervals",
    )
    return directory, measured


def play_version(
    key: Array, fits: int, seeds: int, refits: bool, replans: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Fit and play in turn: predicted minus achieved and achieved returns [fit, seed], states."""
    key_data, key_init, key_play = jax.random.split(key, 3)
    rows = jax.vmap(partial(random_rows, fits))(jax.random.split(key_data, seeds))
    spec = make(NAME, 1, "jax").spec
    init = partial(MODEL.init, spec=spec, known=KnownFunctions())
    model = jax.vmap(init)(jax.random.split(key_init, seeds))
    gaps, returns, states = [], [], {}
    for fit in range(fits):
        keys = jax.random.split(jax.random.fold_in(key_play, fit), seeds)
        if refits or not fit:
            model = fit_models(model, rows, keys)
        predicted, achieved, episode, path = play_episodes_on(model, keys, replans)
        gaps.append(np.asarray(predicted - achieved))
        returns.append(np.asarray(achieved))
        if not fit:
            data = rows.observation[0][rows.is_valid[0]]
            states = {"data": data, "predicted": path[0], "achieved": episode.next_observation[0]}
        first = (RANDOM_EPISODES + fit) * HORIZON
        place = lambda x, new: x.at[:, first : first + HORIZON].set(new)  # noqa: B023
        rows = jax.tree.map(place, rows, replace(episode, number=first + episode.number))
    pictures = {name: np.asarray(x)[:, [0, 2]].tolist() for name, x in states.items()}
    return np.array(gaps), np.array(returns), pictures


def random_rows(fits: int, key: Array) -> ModelRows:
    """The rows of episodes with random actions, and empty places for those to come."""
    keys = jax.random.split(key, RANDOM_EPISODES)

    def play(key):
        key_start, key_actions = jax.random.split(key)
        actions = jax.random.uniform(key_actions, (HORIZON, 1), minval=-1)
        return episode_rows(hanging(key_start), actions)

    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(play)(keys))
    rows = replace(rows, number=jnp.arange(RANDOM_EPISODES * HORIZON, dtype=jnp.int32))
    pad = lambda x: jnp.pad(x, [(0, fits * HORIZON)] + [(0, 0)] * (x.ndim - 1))
    return jax.tree.map(pad, rows)


def hanging(key: Array) -> Array:
    """A state of the pendulum, (angle, rate), near where it hangs at rest."""
    return jnp.array([jnp.pi, 0.0]) + 0.1 * jax.random.normal(key, (2,))


def step_truly(state: Array, action: Array) -> Any:
    """One step of the true pendulum."""
    return true_model(NAME).step_one(state, action, jax.random.key(0))


def observe_pendulum(state: Array) -> Array:
    """(cosine, sine, rate) of a state."""
    return true_model(NAME).observe_one(state)


def episode_rows(start: Array, actions: Array) -> ModelRows:
    """The rows of actions [time, 1] from a state."""

    def step(state, action):
        outcome = step_truly(state, action)
        return outcome.state, make_row(state, action, outcome)

    rows = jax.lax.scan(step, start, actions)[1]
    return replace(rows, number=jnp.arange(len(actions), dtype=jnp.int32))


def make_row(state: Array, action: Array, outcome: Any) -> ModelRows:
    """The row of one step, as number 0."""
    return ModelRows(
        observe_pendulum(state),
        action,
        outcome.reward,
        observe_pendulum(outcome.state),
        jnp.bool_(False),
        jnp.int32(0),
        jnp.bool_(True),
    )


@jax.jit
@jax.vmap
def fit_models(model: NetworkDynamics, rows: ModelRows, key: Array) -> NetworkDynamics:
    """The models of all seeds, fitted to their rows; leaves [seed, ...]."""
    return MODEL.fit(model, rows, key)[0]


@partial(jax.jit, static_argnums=2)
def play_episodes_on(
    models: NetworkDynamics, keys: Array, replans: bool
) -> tuple[Array, Array, ModelRows, Array]:
    """Play an episode of each seed: predicted and achieved returns, rows, and predicted paths."""
    return jax.vmap(lambda model, key: play_episode_on(model, key, replans))(models, keys)


def play_episode_on(
    dynamics: NetworkDynamics, key: Array, replans: bool
) -> tuple[Array, Array, ModelRows, Array]:
    """As `play_episodes_on`, of one seed."""
    key_start, key_first, key_steps = jax.random.split(key, 3)
    model = MODEL.planning_model(dynamics, key, "mean", ends=False)
    state = hanging(key_start)

    def search(state: Array, start: WarmStart, key: Array) -> PlanResult:
        return_of = return_of_plans(model, observe_pendulum(state)[None, None], key)
        return PLANNER.plan(return_of, start, key, samples=SAMPLES, iterations=ITERATIONS)

    def imagine(observed, action):
        observed = model.step(observed, action[None, None], key).state
        return observed, observed[0, 0]

    def replan_and_step(carry, key):
        state, start = carry
        found = search(state, start, key)
        outcome = step_truly(state, found.plan[0])
        row = make_row(state, found.plan[0], outcome)
        return (outcome.state, PLANNER.shift(found.start)), row

    start = PLANNER.init(jnp.zeros((HORIZON, 1)))
    first = search(state, start, key_first)
    path = jax.lax.scan(imagine, observe_pendulum(state)[None, None], first.plan)[1]
    if replans:
        keys = jax.random.split(key_steps, HORIZON)
        rows = jax.lax.scan(replan_and_step, (state, start), keys)[1]
        rows = replace(rows, number=jnp.arange(HORIZON, dtype=jnp.int32))
    else:
        rows = episode_rows(state, first.plan)
    predicted = return_of_plans(model, observe_pendulum(state)[None, None], key)(rows.action[None])[
        0
    ]
    return predicted, rows.reward.sum(), rows, path
