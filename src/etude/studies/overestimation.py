"""How far the values that Q-learning learns are above the truth, with single and with double
targets.

The maximum over noisy estimates is too large on average (Thrun & Schwartz, 1993), and bootstrapping
from it hands that on; double targets were made against it (van Hasselt et al., 2016, figure 3,
whose measurement this is).
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.value.dqn import DQN
from etude.environments import make
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.presets import preset
from etude.reporting import figures
from etude.rollout import init_rollout_state, rollout
from etude.storage import files
from etude.struct import replace
from etude.training import Algorithm, progress, run_compiled, vmap_over_seeds
from etude.types import Array

POINTS = 20  # of a curve
COPIES = 16  # environments in which the greedy policy is judged
NEGLIGIBLE = 0.01  # what is left of a reward once it is discounted beyond the horizon


class Curve(NamedTuple):
    """What values are said to be, and what they are, along training."""

    steps: np.ndarray  # [point], environment steps
    estimates: np.ndarray  # [seed, point]: mean Q(s, a) along the greedy policy's way
    returns: np.ndarray  # [seed, point]: mean discounted return from there


def measure_overestimation(
    environment: str,
    steps: int | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    algorithm: DQN | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train single and double deep Q-learning and compare their values with the returns that
    followed.

    Settings are `algorithm`'s, or the preset's, or the defaults. Writes overestimation.png and
    overestimation.json into the directory `out` and returns it and what the latter says: for
    "single" and "double", steps [point], estimates and returns [seed][point], and bias, the mean
    over seeds of estimate minus return in the last quarter of training.

    Raises InvalidInput for what cannot be trained as asked and for a directory that holds a
    measurement already.
    """
    if seeds < 1:
        raise InvalidInput(f"seeds is {seeds}; it must be at least 1")
    known = preset("dqn", environment)
    base = algorithm or (cast(DQN, known.algorithm) if known else DQN())
    budget = steps or (known.steps if known else 50_000)
    directory = (
        Path(out)
        if out is not None
        else Path("runs") / f"overestimation-{environment.split(':')[-1].replace('/', '-')}"
    )
    if (directory / "overestimation.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    curves = {
        name: train_and_measure(replace(base, double=name == "double"), environment, budget, seeds)
        for name in ("single", "double")
    }
    found = {
        name: {
            "steps": curve.steps.tolist(),
            "estimates": curve.estimates.tolist(),
            "returns": curve.returns.tolist(),
            "bias": mean_bias(curve),
        }
        for name, curve in curves.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(
        directory / "overestimation.json",
        {"environment": environment, "budget": budget, "seeds": seeds, **found},
    )
    figures.draw_overestimation(
        directory / "overestimation.png",
        curves["single"].steps,
        {name: (curve.estimates, curve.returns) for name, curve in curves.items()},
        title=f"What dqn says and what is true, {environment}",
        subtitle=f"{seeds} seed{'s' * (seeds > 1)}",
    )
    return directory, found


def mean_bias(curve: Curve) -> float:
    late = len(curve.steps) * 3 // 4
    return float(np.nanmean(curve.estimates[:, late:] - curve.returns[:, late:]))


def train_and_measure(algorithm: DQN, name: str, steps: int, seeds: int) -> Curve:
    """The curve of one setting, its seeds in one program where the environment is written in JAX,
    else one after another."""
    copies = algorithm.default_num_envs
    training, judging = make(name, copies), make(name, COPIES, seed=seeds)
    every = max(1, steps // (algorithm.rollout_length * copies) // POINTS)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    parts: list[Curve] = []
    for key in [keys] if training.functional else keys:
        judge = jax.jit(vmap_over_seeds(partial(values_and_returns, algorithm, judging), key))
        points = []
        for report in progress(cast(Algorithm, algorithm), training, key, steps, row_every=every):
            if report.end_of_row:
                key_judge = vmap_over_seeds(partial(jax.random.fold_in, data=report.steps), key)(
                    key
                )
                told = run_compiled(judging, judge, report.train_state.algorithm_state, key_judge)
                points.append((report.steps, *map(np.atleast_1d, told)))
        taken, estimates, returns = (np.array(column) for column in zip(*points, strict=True))
        parts.append(Curve(taken, estimates.T, returns.T))
    training.close()
    judging.close()
    return Curve(parts[0].steps, *(np.concatenate([part[i] for part in parts]) for i in (1, 2)))


def values_and_returns(
    algorithm: DQN, environment: Environment, state: Any, key: Array
) -> tuple[Array, Array]:
    """(mean Q(s, a), mean discounted return) over the steps of greedy play whose whole return was
    seen; NaN if none was."""
    horizon = (
        int(np.ceil(np.log(NEGLIGIBLE) / np.log(min(float(algorithm.discount), 0.995))))
        if algorithm.discount > 0
        else 1
    )
    key_reset, key_play = jax.random.split(key)

    def policy(observation, memory, key):
        return algorithm.act(state, observation, memory, key, explore=False)

    _, experience, _ = rollout(
        environment, policy, init_rollout_state(environment, key_reset), key_play, 3 * horizon
    )
    q = state.q
    estimates = q.head.mean(q.outputs_for(experience.observation, experience.action))

    def backward(later, step):
        reward, terminated, done = step
        total, left = later
        total = reward + algorithm.discount * jnp.where(done, 0, total)
        left = jnp.where(terminated, horizon, jnp.where(done, 1, jnp.minimum(left + 1, horizon)))
        return (total, left), (total, left)

    nothing = jnp.zeros(environment.spec.num_envs), jnp.zeros(environment.spec.num_envs, jnp.int32)
    way = experience.reward, experience.terminated, experience.done
    _, (returns, left) = jax.lax.scan(backward, nothing, way, reverse=True)
    seen = left >= horizon  # to the end, or for as long as rewards count
    return jnp.where(seen, estimates, 0).sum() / seen.sum(), jnp.where(
        seen, returns, 0
    ).sum() / seen.sum()
