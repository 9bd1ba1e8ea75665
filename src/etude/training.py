"""The training loop of every algorithm: roll out, update, repeat, in chunks compiled by XLA.

The loop knows the protocol `Algorithm` and the protocol `Environment`, and no implementation of
either.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.protocol import (
    NOTHING,
    Algorithm,
    Outside,
    check_algorithm,
    init_state,
    outside_arguments,
    put_components,
)
from etude.counters import MAX_COUNT, MAX_ROW_LENGTH, count_up
from etude.environments.backends.host_callback import raise_host_errors
from etude.environments.protocol import Environment
from etude.errors import Diverged, InvalidInput
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.struct import replace, struct
from etude.types import Array, Metrics


@struct
class MetricSums:
    """Sums since the last row of metrics."""

    episodes: Any  # EpisodeSums, () for an algorithm that does not play
    updates: Array  # gradient steps
    metrics: Metrics  # each mean times the number of gradient steps it is taken over


@struct
class TrainState:
    """The whole state of training but for its key; with many seeds every leaf is [seed, ...]."""

    algorithm_state: Any
    rollout_state: Any  # RolloutState, () for an algorithm that does not play
    metric_sums: MetricSums


class RunKeys(NamedTuple):
    """The keys of a run, by their roles."""

    init: Array  # of the algorithm's initial state
    reset: Array  # of the first reset of the environments
    iterations: Array  # of rollouts and updates: fold in the iteration
    restarts: Array  # of episodes that a resume begins anew: fold in the iteration


def split_run_key(key: Array) -> RunKeys:
    """The keys of a run, from its one key."""
    return RunKeys(*jax.random.split(key, 4))


def init_train_state(
    algorithm: Algorithm,
    environment: Environment,
    key: Array,
    outside: Outside = NOTHING,
    initial: Mapping[str, Any] = MappingProxyType({}),
) -> TrainState:
    """The state of training before the first iteration; `initial` has components of another run."""
    keys = split_run_key(key)
    # two programs: the first is the same in every process, and JAX's cache keeps it, while host
    # calls, which a reset may have, are numbered as they come
    algorithm_state = jax.jit(partial(init_state, algorithm, spec=environment.spec))(
        keys.init, outside=outside
    )
    algorithm_state = put_components(algorithm, algorithm_state, initial)
    start = jax.jit(partial(init_rollout, algorithm, environment))
    rollout_state = run_compiled(start, algorithm_state, keys.reset, outside)
    metric_sums = zero_metrics(algorithm, environment, algorithm_state, rollout_state, outside)
    return TrainState(algorithm_state, rollout_state, metric_sums)


def init_rollout(
    algorithm: Algorithm,
    environment: Environment,
    algorithm_state: Any,
    key: Array,
    outside: Outside = NOTHING,
) -> Any:
    """The state after a reset of every environment, with the behavior policy's initial memory.

    It is () for an algorithm that does not play.
    """
    if not algorithm.plays:
        return ()
    policy = bind_policy(algorithm, algorithm_state, environment, explore=True, outside=outside)
    return init_rollout_state(environment, policy, key)


def train_iteration(
    algorithm: Algorithm,
    environment: Environment,
    train_state: TrainState,
    key: Array,
    index: Array,
    outside: Outside = NOTHING,
) -> TrainState:
    """One iteration of training: a rollout by the behavior policy, then the algorithm's update.

    An algorithm that does not play has no rollout, and its experience is ().
    """
    keys = split_run_key(key)
    key_rollout, key_update = jax.random.split(jax.random.fold_in(keys.iterations, index))
    rollout_state, experience, episodes = collect(
        algorithm,
        environment,
        train_state.algorithm_state,
        train_state.rollout_state,
        key_rollout,
        outside,
    )
    algorithm_state, metrics = algorithm.update(
        train_state.algorithm_state, experience, key_update, *outside_arguments(algorithm, outside)
    )
    metric_sums = accumulate(train_state.metric_sums, episodes, metrics)
    return TrainState(algorithm_state, rollout_state, metric_sums)


def collect(
    algorithm: Algorithm,
    environment: Environment,
    algorithm_state: Any,
    rollout_state: Any,
    key: Array,
    outside: Outside,
) -> tuple[Any, Any, Any]:
    """A rollout by the behavior policy; nothing for an algorithm that does not play."""
    if not algorithm.plays:
        return (), (), ()
    policy = bind_policy(algorithm, algorithm_state, environment, explore=True, outside=outside)
    return rollout(environment, policy, rollout_state, key, algorithm.rollout_length)


def pure_train(
    algorithm: Algorithm,
    environment: Environment,
    key: Array,
    iterations: int,
    outside: Outside = NOTHING,
) -> tuple[TrainState, MetricSums]:
    """Training as one pure function: the last state, and the metric sums [iteration] of each."""

    def step(train_state, index):
        train_state = train_iteration(
            algorithm, environment, train_state, key, index, outside=outside
        )
        zero_sums = jax.tree.map(jnp.zeros_like, train_state.metric_sums)
        return replace(train_state, metric_sums=zero_sums), train_state.metric_sums

    train_state = init_train_state(algorithm, environment, key, outside)
    return jax.lax.scan(step, train_state, jnp.arange(iterations))


class ProgressReport(NamedTuple):
    """The state of a run after a chunk of compiled iterations."""

    train_state: TrainState  # the next chunk reuses its buffers: copy what you keep
    iterations: int  # since the start of the run
    steps: int  # steps of the budget of each seed since the start of the run
    # means since the last row, [seed] with many seeds; NaN without a measurement
    metrics: dict[str, np.ndarray]
    end_of_row: bool  # whether a row of metrics ends here
    seconds: float  # duration of the chunk
    compile_seconds: float  # duration of compilation, in the first report; else 0


def progress(
    algorithm: Algorithm,
    environment: Environment,
    key: Array,
    steps: int,
    *,
    outside: Outside = NOTHING,
    initial: dict[str, Any] | None = None,
    resumed: tuple[TrainState, int] | None = None,
    row_every: int | None = None,
    chunk_seconds: float = 1.0,
    make_chunk: Callable[..., Any] | None = None,
) -> Iterator[ProgressReport]:
    """Train for at most `steps` steps, and yield a ProgressReport after each chunk.

    Steps are environment steps, or gradient steps of an algorithm that does not play. `key` is one
    key, or [seed] keys for many seeds in one program (JAX environments). `outside` is the dataset
    or the expert that the algorithm needs, one for all seeds. `initial` has components of the
    algorithm's state to start with, [seed, ...] with many seeds. Training takes all whole
    iterations that fit into `steps`. A chunk is a compiled program that runs about `chunk_seconds`;
    the results do not depend on where chunks end. A row of metrics covers `row_every` iterations
    (default: a hundredth of all, at most 2¹⁶). To continue from a checkpoint, pass `resumed`, its
    state and its number of iterations. `make_chunk` takes the place of `compile_chunk`, as
    where a person plays the rollouts.

    Raises InvalidInput for hyperparameters out of bounds or a budget below one iteration,
    EnvironmentFault for an environment that fails, Diverged when a metric stops being finite.
    """
    check_algorithm(algorithm)
    num_iterations = iterations_of(algorithm, environment.spec.num_envs, steps)
    if key.ndim and not environment.functional:
        raise InvalidInput(
            "only environments written in JAX train many seeds in one program; give this one a "
            "single key"
        )
    row_every = row_every or min(max(1, num_iterations // 100), MAX_ROW_LENGTH)
    start_time = time.perf_counter()
    train_state, iteration = resumed or (
        vmap_over_seeds(
            lambda key, initial: init_train_state(algorithm, environment, key, outside, initial),
            key,
        )(key, initial or {}),
        0,
    )
    # two leaves may not share a buffer that is donated
    train_state = jax.jit(partial(jax.tree.map, jnp.copy))(train_state)
    run = (make_chunk or compile_chunk)(
        algorithm, environment, train_state, key, row_every, outside
    )
    compile_seconds, chunk_length = time.perf_counter() - start_time, 1
    while iteration < num_iterations:
        end_of_row = iteration - iteration % row_every + row_every
        stop = min(iteration + chunk_length, num_iterations, end_of_row)
        start_time = time.perf_counter()
        train_state = run_compiled(run, train_state, key, iteration, stop, outside)
        metrics = average_metrics(jax.device_get(train_state.metric_sums))
        seconds = time.perf_counter() - start_time
        fitting = int(chunk_seconds * (stop - iteration) / seconds)
        chunk_length = max(1, min(fitting, 4 * chunk_length))
        iteration = stop
        yield ProgressReport(
            train_state,
            iteration,
            iteration * algorithm.steps_per_update(environment.spec.num_envs),
            metrics,
            iteration % row_every == 0 or iteration == num_iterations,
            seconds,
            compile_seconds,
        )
        compile_seconds = 0.0


def iterations_of(algorithm: Algorithm, num_envs: int, steps: int) -> int:
    """The whole iterations in a budget of `steps`; raises InvalidInput for none or too many."""
    per_iteration = algorithm.steps_per_update(num_envs)
    if not 1 <= steps // per_iteration <= MAX_COUNT:
        factors = (
            f"rollout_length {algorithm.rollout_length} × num_envs {num_envs}"
            if algorithm.plays
            else "gradient steps of an update"
        )
        raise InvalidInput(
            f"steps is {steps}, less than one iteration of {per_iteration} ({factors}); "
            "give at least that"
            if steps < per_iteration
            else f"steps is {steps}, more than {MAX_COUNT:,} iterations of {per_iteration} "
            f"({factors}), which cannot be counted; give fewer"
        )
    return steps // per_iteration


def compile_chunk(
    algorithm: Algorithm,
    environment: Environment,
    train_state: TrainState,
    key: Array,
    row_every: int,
    outside: Outside = NOTHING,
):
    """The compiled program `run(train_state, key, start, stop, outside)`: a chunk of iterations.

    It reuses the buffers of `train_state`; iteration `stop` is not part of it.
    """

    def run(train_state, key, start, stop, outside):
        def step(index, train_state, key):
            return train_iteration(algorithm, environment, train_state, key, index, outside)

        is_row_start = start % row_every == 0
        metric_sums = jax.tree.map(
            lambda x: jnp.where(is_row_start, jnp.zeros_like(x), x), train_state.metric_sums
        )
        step_all_seeds = jax.vmap(step, (None, 0, 0)) if key.ndim else step
        return jax.lax.fori_loop(
            start,
            stop,
            lambda i, train_state: step_all_seeds(i, train_state, key),
            replace(train_state, metric_sums=metric_sums),
        )

    return jax.jit(run, donate_argnums=0).lower(train_state, key, 0, 1, outside).compile()


def run_compiled(function, *arguments) -> Any:
    """The result of a compiled function; an error of an environment or expert inside is raised."""
    with raise_host_errors():
        return jax.block_until_ready(function(*arguments))


def vmap_over_seeds(function, key: Array):
    """`function`, under `vmap` where `key` holds one key for each seed."""
    return jax.vmap(function) if key.ndim else function


def zero_metrics(
    algorithm: Algorithm,
    environment: Environment,
    algorithm_state: Any,
    rollout_state: Any,
    outside: Outside,
) -> MetricSums:
    """Metric sums of zero, with an entry for every metric that `update` returns."""

    def sums_of(algorithm_state, rollout_state, key):
        _, experience, episodes = collect(
            algorithm, environment, algorithm_state, rollout_state, key, outside
        )
        needed = outside_arguments(algorithm, outside)
        return episodes, algorithm.update(algorithm_state, experience, key, *needed)[1]

    episodes, metrics = jax.eval_shape(sums_of, algorithm_state, rollout_state, jax.random.key(0))
    return MetricSums(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), episodes),
        jnp.int32(0),
        {name: jnp.zeros(()) for name in metrics if name != "updates"},
    )


def accumulate(metric_sums: MetricSums, episodes: Any, metrics: Metrics) -> MetricSums:
    """The metric sums with one more iteration added."""
    updates = metrics["updates"]
    sums = {name: total + metrics[name] * updates for name, total in metric_sums.metrics.items()}
    return MetricSums(
        jax.tree.map(jnp.add, metric_sums.episodes, episodes),
        count_up(metric_sums.updates, updates),
        sums,
    )


def average_metrics(metric_sums: MetricSums) -> dict[str, Any]:
    """The means of the metric sums, NaN where there is nothing to average.

    Raises Diverged, naming the metrics (and the seeds), when some are not finite.
    """
    diverged = {
        name: np.flatnonzero(~np.isfinite(total))
        for name, total in metric_sums.metrics.items()
        if not np.isfinite(total).all()
    }
    if diverged:
        seeds = sorted({int(seed) for indices in diverged.values() for seed in indices})
        which = f" in the seeds numbered {seeds}" if np.ndim(metric_sums.updates) else ""
        raise Diverged(
            f"{', '.join(sorted(diverged))} stopped being finite{which} (a smaller learning rate, "
            "or normalized rewards, may help)"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **average_episodes(metric_sums.episodes),
            "updates": metric_sums.updates,
            **{
                name: np.where(metric_sums.updates, total / metric_sums.updates, np.nan)
                for name, total in metric_sums.metrics.items()
            },
        }


def average_episodes(episodes: Any) -> dict[str, Any]:
    """The number of episodes and the means over them; {} without any play."""
    if not episodes:
        return {}
    return {
        "episodes": episodes.count,
        "episode_return": np.where(episodes.count, episodes.total_return / episodes.count, np.nan),
        "episode_length": np.where(episodes.count, episodes.total_length / episodes.count, np.nan),
    }
