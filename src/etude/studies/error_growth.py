"""How the errors of cloning and of DAgger grow with the horizon, on the tightrope.

A policy that errs with probability ε in each state of the expert costs about ε T² / 2 in T steps
where its demonstrations do not say how to come back, and ε T where it was told
(`etude.tabular.compounding_error`). On the tightrope a clone has soon learned its one state, and
errs no more. So errors are added here: in every place that it was trained on, a policy takes the
action that it learned with probability 1 - ε, and else one of the others. For a clone that is the
rope. Off it, it does whatever its network makes of a place that it was never trained on. DAgger
errs in its rounds too, so the expert labels the other places, and it is trained on all.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.control.heuristic import Heuristic
from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.dagger import DAgger
from etude.algorithms.protocol import Expert, Outside, init_state
from etude.data.dataset import Dataset
from etude.environments import make
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import Environment
from etude.environments.tasks.tightrope import Tightrope
from etude.environments.tasks.tightrope_env import MAX_STEPS, NUM_PLACES, ROPE
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.reporting import imitation_figures
from etude.rollout import BoundPolicy, bind_policy, init_rollout_state, rollout
from etude.runs.record import record
from etude.storage import files
from etude.tabular.compounding_error import dagger_cost, mistake_probability
from etude.types import Array

NAME = "etude/Tightrope-v0"
HORIZONS = (10, 14, 20, 28, 40, 57, 80, 100)  # in steps
NETWORKS = 10  # networks of each method, each with an equal share of the episodes
BATCHES = 10  # of the episodes of a network, simulated one after another
ENVS, UPDATES = 100, 10  # copies in which DAgger plays; updates of either method
EVERYWHERE = (True,) * NUM_PLACES
ON_THE_ROPE = tuple(place == ROPE for place in range(NUM_PLACES))
CLONING: Any = BC(learning_rate=1e-2, hidden=(32,), gradient_steps=100)
DAGGER: Any = DAgger(learning_rate=1e-2, hidden=(32,), gradient_steps=100, rollout_length=MAX_STEPS)


def measure_error_growth(
    error_rate: float = 0.001, episodes: int = 200_000, seed: int = 0, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Simulate cloning and DAgger on the tightrope over growing horizons, and draw their costs.

    Writes error_growth.png and error_growth.json into the directory `out`.

    Args:
        error_rate: ε, the probability of an error in a step where a policy was trained.
        episodes: number of episodes of each method, shared by its networks.
        seed: of the networks and the episodes.
        out: the directory; by default runs/error_growth.

    Returns:
        The directory and what error_growth.json holds: the arguments, horizons in steps, bound,
        which is ε T² at each horizon, and under "cloning" and "dagger"

            cost, standard_error [horizon]    simulated, in errors per episode
            exact [horizon]                   by the formula
            slope, slope_error, exact_slope   of log cost over log T
            learned_actions [network, place]  to the left of the rope, on it, to its right

    Raises:
        InvalidInput: for an error rate outside (0, 1), too few episodes, and a directory with a
            measurement in it.
    """
    if not 0 < error_rate < 1:
        raise InvalidInput(f"error_rate is {error_rate}; it must lie between 0 and 1")
    if episodes < 2 * NETWORKS * BATCHES:
        raise InvalidInput(f"episodes is {episodes}; give at least {2 * NETWORKS * BATCHES}")
    directory = Path(out) if out is not None else Path("runs") / "error_growth"
    if (directory / "error_growth.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    key_expert, key_train, key_cloning, key_dagger = jax.random.split(jax.random.key(seed), 4)
    keys = jax.random.split(key_train, NETWORKS)
    learned = {
        "cloning": clone(keys, record(NAME, "heuristic", episodes=10, seed=seed, progress=False)),
        "dagger": aggregate(keys, make(NAME, ENVS, "jax"), key_expert, error_rate),
    }
    horizons, times = jnp.array(HORIZONS), jnp.arange(1, max(HORIZONS) + 1)
    exact = {  # `cloning_cost` at each horizon is the sum until then
        "cloning": jnp.cumsum(mistake_probability(error_rate, times))[horizons - 1].tolist(),
        "dagger": dagger_cost(error_rate, horizons).tolist(),
    }
    size = episodes // (NETWORKS * BATCHES)
    rates = {  # in each place
        "cloning": error_rate * jnp.array(ON_THE_ROPE),
        "dagger": error_rate * jnp.array(EVERYWHERE),
    }
    found: dict[str, Any] = {
        "error_rate": error_rate,
        "episodes": size * NETWORKS * BATCHES,
        "seed": seed,
        "horizons": list(HORIZONS),
        "bound": [error_rate * horizon**2 for horizon in HORIZONS],
    }
    for name, key in (("cloning", key_cloning), ("dagger", key_dagger)):
        costs = simulate_walks(learned[name], key, rates[name], size)
        found[name] = summarize_growth(costs, exact[name])
        found[name]["learned_actions"] = learned[name].tolist()
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "error_growth.json", found)
    imitation_figures.draw_error_growth(
        directory / "error_growth.png",
        found,
        title="Errors of cloning and of DAgger by horizon",
        subtitle=f"a tightrope, an error in a step with probability {error_rate:g}; "
        f"{found['episodes']:,} episodes each",
    )
    return directory, found


def clone(keys: Array, dataset: Dataset) -> Array:
    """What BC has learned from the expert's episodes, actions [key, place]."""
    outside = Outside(dataset=dataset)

    @jax.jit
    @jax.vmap
    def train(key):
        key_init, key_updates = jax.random.split(key)
        update = lambda state, key: CLONING.update(state, (), key, outside)
        state = init_state(CLONING, key_init, dataset.spec, outside)
        state, _ = jax.lax.scan(update, state, jax.random.split(key_updates, UPDATES))
        return learned_actions(CLONING, state)

    return train(keys)


def aggregate(keys: Array, environment: Environment, key_expert: Array, error_rate: float) -> Array:
    """What DAgger has learned in rounds in which whoever acts errs too, actions [key, place]."""
    heuristic: Any = Heuristic()
    expert = Expert(heuristic.init(key_expert, environment.spec), heuristic)
    outside = Outside(expert=expert)

    def behavior_policy(state):
        policy = bind_policy(DAGGER, state, environment, explore=True, outside=outside)
        return with_errors(policy, environment.spec.action.n, error_rate * jnp.array(EVERYWHERE))

    def play_and_update(carry, key):
        state, rollout_state = carry
        key_rollout, key_update = jax.random.split(key)
        rollout_state, experience, _ = rollout(
            environment, behavior_policy(state), rollout_state, key_rollout, DAGGER.rollout_length
        )
        state, metrics = DAGGER.update(state, experience, key_update, outside)
        return (state, rollout_state), metrics

    @jax.jit
    @jax.vmap
    def train(key):
        key_init, key_reset, key_rounds = jax.random.split(key, 3)
        state = init_state(DAGGER, key_init, environment.spec, outside)
        start = init_rollout_state(environment, behavior_policy(state), key_reset)
        rounds = jax.random.split(key_rounds, UPDATES)
        (state, _), _ = jax.lax.scan(play_and_update, (state, start), rounds)
        return learned_actions(DAGGER, state)

    return train(keys)


def learned_actions(algorithm: Any, state: Any) -> Array:
    """The action of a policy in each place, without an error, int32 [place]."""
    # one copy for each place; the most probable action needs no randomness
    environment, key = JaxEnvs(Tightrope(), NUM_PLACES), jax.random.key(0)
    policy = bind_policy(algorithm, state, environment)
    return policy.act(jnp.arange(NUM_PLACES), policy.initial_memory(key), key)[0]


def with_errors(policy: BoundPolicy, num_actions: int, error_rates: Array) -> BoundPolicy:
    """The policy, which with probability error_rates [place] takes one of the other actions."""

    def act(place, memory, key):
        key_act, key_error, key_other = jax.random.split(key, 3)
        action, memory = policy.act(place, memory, key_act)
        errs = jax.random.bernoulli(key_error, error_rates[place])
        shift = jax.random.randint(key_other, action.shape, 1, num_actions)
        return jnp.where(errs, (action + shift) % num_actions, action), memory

    return policy._replace(act=act)


def simulate_walks(learned: Array, key: Array, error_rates: Array, size: int) -> np.ndarray:
    """The mean cost of each horizon over the episodes of a batch, [network · batch, horizon].

    An episode has the longest of the horizons; the others are its beginnings.

    Args:
        learned: what each network does in each place, but for errors, [network, place].
        key: draws the errors.
        error_rates: probability of an error in a step in each place, [place].
        size: episodes in a batch.
    """
    rows = jnp.repeat(learned, BATCHES, 0)
    keys = jax.random.split(key, len(rows))
    return np.asarray(walk_costs(rows, keys, error_rates, size))


@partial(jax.jit, static_argnames="size")
def walk_costs(learned: Array, keys: Array, error_rates: Array, size: int) -> Array:
    """As `simulate_walks`, a batch for each row of actions [row, place] and key [row]:
    [row, horizon]."""
    length = max(HORIZONS)
    environment = JaxEnvs(TimeLimit(Tightrope(), length), size)

    def costs_of(inputs):
        actions, key = inputs
        key_reset, key_steps = jax.random.split(key)
        policy = BoundPolicy(lambda place, memory, key: (actions[place], memory))
        policy = with_errors(policy, environment.spec.action.n, error_rates)
        start = init_rollout_state(environment, policy, key_reset)
        _, steps, _ = rollout(environment, policy, start, key_steps, length)
        return -jnp.cumsum(steps.reward.mean(1))[jnp.array(HORIZONS) - 1]

    return jax.lax.map(costs_of, (learned, keys))


def summarize_growth(costs: np.ndarray, exact: list[float]) -> dict[str, Any]:
    """Costs [batch, horizon] beside exact ones: means, slopes, and their standard errors.

    That of the slope is a jackknife's: the spread of the slopes with one batch left out. Batches
    are taken for independent, as they are where all networks of a method do the same.
    """
    num_batches = len(costs)
    without_one = (costs.sum(0) - costs) / (num_batches - 1)
    slopes = np.array([log_slope(mean) for mean in without_one])
    return {
        "cost": costs.mean(0).tolist(),
        "standard_error": (costs.std(0, ddof=1) / np.sqrt(num_batches)).tolist(),
        "slope": log_slope(costs.mean(0)),
        "slope_error": float(np.sqrt((num_batches - 1) * slopes.var())),
        "exact": exact,
        "exact_slope": log_slope(exact),
    }


def log_slope(costs: Any) -> float:
    """The slope of log cost over log T, by least squares over the horizons; NaN at no cost."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_costs = np.log(costs)
    if not np.isfinite(log_costs).all():
        return float("nan")
    return float(np.polyfit(np.log(HORIZONS), log_costs, 1)[0])
