"""Overestimation of Q-learning, with single and with double targets.

The maximum over noisy estimates is too large on average (Thrun & Schwartz, "Issues in using
function approximation for reinforcement learning", 1993), and bootstrapping spreads the error.
Double targets reduce it (van Hasselt et al., "Deep reinforcement learning with double Q-learning",
2016); the measurement is that of their figure 3.
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
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.storage import files
from etude.struct import replace
from etude.training import Algorithm, progress, run_compiled, vmap_over_seeds
from etude.types import Array

POINTS = 20  # of a curve
EVALUATION_ENVS = 16  # environments that evaluate the greedy policy
NEGLIGIBLE = 0.01  # discount factor of rewards beyond the horizon, at most


class Curve(NamedTuple):
    """Estimated values and true returns over the course of training."""

    steps: np.ndarray  # [point], environment steps
    estimates: np.ndarray  # [seed, point]: mean Q(s, a) on the greedy policy's states
    returns: np.ndarray  # [seed, point]: mean discounted return from these states


def measure_overestimation(
    environment: str,
    steps: int | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    algorithm: DQN | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train DQN with single and with double targets, and compare its values with true returns.

    Settings are those of `algorithm`, or of the preset, or the defaults. Writes overestimation.png
    and overestimation.json into the directory `out`. Returns the directory and, for "single" and
    "double", steps [point], estimates and returns [seed][point], and bias, the mean over seeds of
    estimate minus return in the last quarter of training.

    Raises InvalidInput for settings that do not fit, and for a directory with a measurement in it.
    """
    if seeds < 1:
        raise InvalidInput(f"seeds is {seeds}; it must be at least 1")
    known_preset = preset("dqn", environment)
    base_algorithm = algorithm or (cast(DQN, known_preset.algorithm) if known_preset else DQN())
    budget = steps or (known_preset.steps if known_preset else 50_000)
    directory = (
        Path(out)
        if out is not None
        else Path("runs") / f"overestimation-{environment.split(':')[-1].replace('/', '-')}"
    )
    if (directory / "overestimation.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    curves = {
        name: train_and_measure(
            replace(base_algorithm, double=name == "double"), environment, budget, seeds
        )
        for name in ("single", "double")
    }
    results = {
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
        {"environment": environment, "budget": budget, "seeds": seeds, **results},
    )
    figures.draw_overestimation(
        directory / "overestimation.png",
        curves["single"].steps,
        {name: (curve.estimates, curve.returns) for name, curve in curves.items()},
        title=f"Value estimates of DQN and true returns, {environment}",
        subtitle=f"{seeds} seed{'s' * (seeds > 1)}",
    )
    return directory, results


def mean_bias(curve: Curve) -> float:
    """The mean of estimate minus return in the last quarter of training."""
    start = len(curve.steps) * 3 // 4
    return float(np.nanmean(curve.estimates[:, start:] - curve.returns[:, start:]))


def train_and_measure(algorithm: Any, name: str, steps: int, seeds: int) -> Curve:
    """Train an algorithm and measure its curve.

    Seeds train in one program on a JAX environment, else one after another.
    """
    num_envs = algorithm.default_num_envs
    training, evaluation_environment = make(name, num_envs), make(name, EVALUATION_ENVS, seed=seeds)
    row_every = max(1, steps // (algorithm.rollout_length * num_envs) // POINTS)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    curves: list[Curve] = []
    for key in [keys] if training.functional else keys:
        evaluate = jax.jit(
            vmap_over_seeds(partial(values_and_returns, algorithm, evaluation_environment), key)
        )
        points = []
        for report in progress(
            cast(Algorithm, algorithm), training, key, steps, row_every=row_every
        ):
            if report.end_of_row:
                evaluation_key = vmap_over_seeds(
                    partial(jax.random.fold_in, data=report.steps), key
                )(key)
                values = run_compiled(evaluate, report.train_state.algorithm_state, evaluation_key)
                points.append((report.steps, *map(np.atleast_1d, values)))
        point_steps, estimates, returns = (np.array(column) for column in zip(*points, strict=True))
        curves.append(Curve(point_steps, estimates.T, returns.T))
    training.close()
    evaluation_environment.close()
    return Curve(curves[0].steps, *(np.concatenate([curve[i] for curve in curves]) for i in (1, 2)))


def values_and_returns(
    algorithm: Any, environment: Environment, state: Any, key: Array
) -> tuple[Array, Array]:
    """Return the mean Q(s, a) and the mean discounted return over steps of the greedy policy.

    Only steps with a complete return count; NaN without any.
    """
    horizon = (
        int(np.ceil(np.log(NEGLIGIBLE) / np.log(min(float(algorithm.discount), 0.995))))
        if algorithm.discount > 0
        else 1
    )
    key_reset, key_rollout = jax.random.split(key)
    policy = bind_policy(algorithm, state, environment)
    start = init_rollout_state(environment, policy, key_reset)
    _, experience, _ = rollout(environment, policy, start, key_rollout, 3 * horizon)
    q = state.q
    estimates = q.head.mean(q.outputs_for(experience.observation, experience.action))

    def accumulate_return(carry, step):
        reward, terminated, done = step
        discounted_return, steps_ahead = carry
        discounted_return = reward + algorithm.discount * jnp.where(done, 0, discounted_return)
        steps_ahead = jnp.where(
            terminated, horizon, jnp.where(done, 1, jnp.minimum(steps_ahead + 1, horizon))
        )
        return (discounted_return, steps_ahead), (discounted_return, steps_ahead)

    initial_carry = (
        jnp.zeros(environment.spec.num_envs),
        jnp.zeros(environment.spec.num_envs, jnp.int32),
    )
    steps = experience.reward, experience.terminated, experience.done
    _, (returns, steps_ahead) = jax.lax.scan(accumulate_return, initial_carry, steps, reverse=True)
    is_complete = steps_ahead >= horizon  # to the end, or for as long as rewards count
    return jnp.where(is_complete, estimates, 0).sum() / is_complete.sum(), jnp.where(
        is_complete, returns, 0
    ).sum() / is_complete.sum()
