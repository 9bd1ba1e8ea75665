"""The loop, written once: generate samples, then fit or estimate, then improve. It knows the
protocol, no algorithm."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.protocol import Environment
from etude.errors import Diverged, InvalidInput
from etude.rollout import (
    EpisodeSums,
    PolicyFn,
    RolloutState,
    init_rollout_state,
    initial_memory,
    rollout,
)
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct, validate
from etude.types import Array, Metrics


class Algorithm(Protocol):
    """Hyperparameters and three verbs; observations, actions and memories are [env, ...],
    experience [time, env, ...].

    `act` returns what the policy notes of the step, which it is given back at the next and finds in
    the experience. At the start of an episode that is zeros, in the shape of what it notes when it
    is given ().

    `update` reports the means of its metrics over its gradient steps, and under "updates" how many
    it took; a metric of an update that took none is not counted.
    """

    rollout_length: int

    def init(self, key: Array, spec: EnvironmentSpec) -> Any: ...

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]: ...

    def update(self, state: Any, experience: Any, key: Array) -> tuple[Any, Metrics]: ...


@struct
class MetricSums:
    """Sums since the last row of metrics."""

    episodes: EpisodeSums
    updates: Array  # gradient steps
    metrics: Metrics  # each weighted by the gradient steps it is a mean of


@struct
class TrainState:
    """The whole of training but its key; with many seeds every leaf has a leading [seed]."""

    state: Any  # the algorithm's
    rollout_state: RolloutState
    metric_sums: MetricSums


def init_train_state(algorithm: Algorithm, environment: Environment, key: Array) -> TrainState:
    """Before the first iteration."""
    key_init, key_reset, _, _ = jax.random.split(key, 4)
    # two programs, because one with a callback in it, as a reset may be, is not kept in JAX's cache
    state = jax.jit(partial(algorithm.init, spec=environment.spec))(key_init)
    stage = jax.jit(partial(init_rollout, algorithm, environment))(state, key_reset)
    return TrainState(state, stage, zero_metrics(algorithm, environment, state, stage))


def behavior_policy(algorithm: Algorithm, state: Any) -> PolicyFn:
    """The policy that an algorithm trains by."""
    return lambda observation, memory, key: algorithm.act(
        state, observation, memory, key, explore=True
    )


def init_rollout(
    algorithm: Algorithm, environment: Environment, state: Any, key: Array
) -> RolloutState:
    """The start of play, with nothing remembered."""
    return init_rollout_state(
        environment, key, initial_memory(environment, behavior_policy(algorithm, state))
    )


def train_iteration(
    algorithm: Algorithm,
    environment: Environment,
    training: TrainState,
    key: Array,
    index: Array,
    restart_every: int = 0,
) -> TrainState:
    """The anatomy of every algorithm: generate samples, then fit a model or estimate the return,
    and improve the policy.

    With `restart_every`, all copies start afresh after that many iterations, and what was cut off
    counts as truncated: for environments whose state cannot be saved, so that a run resumed there
    is the run that never stopped.
    """
    key_iterations = jax.random.split(key, 4)[2]
    key_rollout, key_update = jax.random.split(jax.random.fold_in(key_iterations, index))
    policy = behavior_policy(algorithm, training.state)
    stage, experience, episodes = rollout(
        environment, policy, training.rollout_state, key_rollout, algorithm.rollout_length
    )
    if restart_every:
        last = (index + 1) % restart_every == 0
        experience = replace(
            experience, truncated=experience.truncated.at[-1].set(experience.truncated[-1] | last)
        )
        stage = jax.lax.cond(
            last,
            lambda: restart_rollout(algorithm, environment, training.state, key, index),
            lambda: stage,
        )
    state, metrics = algorithm.update(training.state, experience, key_update)
    return TrainState(state, stage, accumulate(training.metric_sums, episodes, metrics))


def restart_rollout(
    algorithm: Algorithm, environment: Environment, state: Any, key: Array, index: Array
) -> RolloutState:
    """The fresh start that follows iteration `index`."""
    return init_rollout(
        algorithm, environment, state, jax.random.fold_in(jax.random.split(key, 4)[3], index)
    )


def pure_train(
    algorithm: Algorithm, environment: Environment, key: Array, iterations: int
) -> tuple[TrainState, Any]:
    """The whole of training as one program, and the tally of each iteration, [iteration]."""

    def step(training, index):
        training = train_iteration(algorithm, environment, training, key, index)
        return replace(
            training, metric_sums=jax.tree.map(jnp.zeros_like, training.metric_sums)
        ), training.metric_sums

    return jax.lax.scan(step, init_train_state(algorithm, environment, key), jnp.arange(iterations))


class ProgressReport(NamedTuple):
    """Where a run stands after a chunk of compiled work."""

    train_state: TrainState  # its buffers are handed on to the next chunk: copy what you keep
    iterations: int  # done since the beginning of the run
    steps: int  # environment steps taken by each seed since the beginning of the run
    # since the last row; [seed] with many seeds; NaN where nothing was measured
    metrics: dict[str, np.ndarray]
    end_of_row: bool  # a row of metrics ends here
    seconds: float  # that the chunk took
    compile_seconds: float  # that compiling took before the first chunk, else 0


def progress(
    algorithm: Algorithm,
    environment: Environment,
    key: Array,
    steps: int,
    *,
    resumed: tuple[TrainState, int] | None = None,
    row_every: int | None = None,
    restart_every: int = 0,
    chunk_seconds: float = 1.0,
) -> Iterator[ProgressReport]:
    """Train for at most `steps` environment steps, in compiled chunks of about `chunk_seconds`; a
    Report after each.

    `key` is one key, or [seed] of them for many seeds in one program (JAX environments). The budget
    is never overshot: the steps taken are the whole iterations that fit. Where chunks fall makes no
    difference to the result. `row_every` is the number of iterations a row of metrics sums up
    (default: the budget in 100 rows); `resumed` is the training and the number of iterations it has
    done, when it goes on from a checkpoint.

    Raises InvalidInput for hyperparameters out of bounds or a budget below one iteration,
    EnvironmentFault for an environment that fails, Diverged when a metric stops being finite.
    """
    validate(algorithm)
    per_iteration = algorithm.rollout_length * environment.spec.num_envs
    total = steps // per_iteration
    if total < 1:
        raise InvalidInput(
            f"a budget of {steps} steps is less than one iteration of {per_iteration} "
            f"(rollout_length {algorithm.rollout_length} × num_envs {environment.spec.num_envs}); "
            "give at least that"
        )
    if key.ndim and not environment.functional:
        raise InvalidInput(
            "only environments written in JAX train many seeds in one program; give this one a "
            "single key"
        )
    row_every = row_every or max(1, total // 100)
    clock = time.perf_counter()
    training, done = resumed or (
        vmap_over_seeds(partial(init_train_state, algorithm, environment), key)(key),
        0,
    )
    # no two leaves may share a buffer that is handed on
    training = jax.tree.map(jnp.copy, training)
    run = compile_chunk(algorithm, environment, training, key, row_every, restart_every)
    compiling, chunk = time.perf_counter() - clock, 1
    while done < total:
        stop = min(done + chunk, total, done - done % row_every + row_every)
        clock = time.perf_counter()
        training = run_compiled(environment, run, training, key, done, stop)
        metrics = average_metrics(jax.device_get(training.metric_sums))
        seconds = time.perf_counter() - clock
        chunk = max(1, min(int(chunk_seconds * (stop - done) / seconds), 4 * chunk))
        done = stop
        yield ProgressReport(
            training,
            done,
            done * per_iteration,
            metrics,
            done % row_every == 0 or done == total,
            seconds,
            compiling,
        )
        compiling = 0.0


def compile_chunk(
    algorithm: Algorithm,
    environment: Environment,
    training: TrainState,
    key: Array,
    row_every: int,
    restart_every: int,
):
    """The program of one chunk, `run(training, key, start, stop)`: the iterations from `start` up
    to `stop`."""

    def step(index, training, key):
        return train_iteration(algorithm, environment, training, key, index, restart_every)

    def run(training, key, start, stop):
        fresh = start % row_every == 0
        tally = jax.tree.map(lambda x: jnp.where(fresh, jnp.zeros_like(x), x), training.metric_sums)
        many = jax.vmap(step, (None, 0, 0)) if key.ndim else step
        return jax.lax.fori_loop(
            start,
            stop,
            lambda i, training: many(i, training, key),
            replace(training, metric_sums=tally),
        )

    return jax.jit(run, donate_argnums=0).lower(training, key, 0, 1).compile()


def run_compiled(environment: Environment, function, *arguments) -> Any:
    """The result of a compiled function; what an environment raised inside it comes out as it was
    raised."""
    try:
        return jax.block_until_ready(function(*arguments))
    except jax.errors.JaxRuntimeError:
        if failure := getattr(environment, "failure", None):
            raise failure from failure.__cause__
        raise


def vmap_over_seeds(function, key: Array):
    """`function(key)`, or its `vmap` when `key` holds one key a seed."""
    return jax.vmap(function) if key.ndim else function


def zero_metrics(
    algorithm: Algorithm, environment: Environment, state: Any, stage: RolloutState
) -> MetricSums:
    """A tally of zeros with a place for every metric that `update` reports."""

    def metrics_of(state, stage, key):
        _, experience, _ = rollout(
            environment, behavior_policy(algorithm, state), stage, key, algorithm.rollout_length
        )
        return algorithm.update(state, experience, key)[1]

    shapes = jax.eval_shape(metrics_of, state, stage, jax.random.key(0))
    metrics = {name: jnp.zeros(()) for name in shapes if name != "updates"}
    return MetricSums(EpisodeSums(jnp.int32(0), jnp.zeros(()), jnp.int32(0)), jnp.int32(0), metrics)


def accumulate(tally: MetricSums, episodes: EpisodeSums, metrics: Metrics) -> MetricSums:
    """The tally with one more iteration in it."""
    updates = metrics["updates"]
    sums = {name: total + metrics[name] * updates for name, total in tally.metrics.items()}
    return MetricSums(
        jax.tree.map(jnp.add, tally.episodes, episodes), tally.updates + updates, sums
    )


def average_metrics(tally: MetricSums) -> dict[str, Any]:
    """The means that a tally holds, NaN where there was nothing to average.

    Raises Diverged, naming the metrics (and the seeds), when some are not finite.
    """
    lost = {
        name: np.flatnonzero(~np.isfinite(total))
        for name, total in tally.metrics.items()
        if not np.isfinite(total).all()
    }
    if lost:
        seeds = sorted({int(seed) for which in lost.values() for seed in which})
        where = f" in the seeds numbered {seeds}" if np.ndim(tally.updates) else ""
        raise Diverged(
            f"{', '.join(sorted(lost))} stopped being finite{where}; the last good checkpoint is "
            "kept. "
            "A smaller learning rate, or normalized rewards, may help"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        episodes = tally.episodes
        return {
            "episodes": episodes.count,
            "episode_return": np.where(
                episodes.count, episodes.total_return / episodes.count, np.nan
            ),
            "episode_length": np.where(
                episodes.count, episodes.total_length / episodes.count, np.nan
            ),
            "updates": tally.updates,
            **{
                name: np.where(tally.updates, total / tally.updates, np.nan)
                for name, total in tally.metrics.items()
            },
        }
