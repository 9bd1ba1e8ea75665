"""The loop, written once: generate samples, then fit or estimate, then improve. It knows the protocol, no algorithm."""
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.protocol import Environment
from etude.errors import Diverged, InvalidInput
from etude.rollout import Episodes, Policy, Stage, blank, reset, rollout
from etude.spaces import Spec
from etude.struct import replace, struct, validate

Array = jax.Array
Metrics = dict[str, Array]


class Algorithm(Protocol):
    """Hyperparameters and three verbs; observations, actions and memories are [env, ...], experience [time, env, ...].

    `act` returns what the policy notes of the step, which it is given back at the next and finds in the experience. At the
    start of an episode that is zeros, in the shape of what it notes when it is given ().

    `update` reports the means of its metrics over its gradient steps, and under "updates" how many it took; a metric of
    an update that took none is not counted.
    """
    rollout_length: int

    def init(self, key: Array, spec: Spec) -> Any: ...

    def act(self, state: Any, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Any, Any]: ...

    def update(self, state: Any, experience: Any, key: Array) -> tuple[Any, Metrics]: ...


@struct
class Tally:
    """Sums since the last row of metrics."""
    episodes: Episodes
    updates: Array             # gradient steps
    metrics: Metrics           # each weighted by the gradient steps it is a mean of


@struct
class Training:
    """The whole of training but its key; with many seeds every leaf has a leading [seed]."""
    state: Any                 # the algorithm's
    stage: Stage
    tally: Tally


def begin(algorithm: Algorithm, environment: Environment, key: Array) -> Training:
    """Before the first iteration."""
    key_init, key_reset, _, _ = jax.random.split(key, 4)
    # two programs, because one with a callback in it, as a reset may be, is not kept in JAX's cache
    state = jax.jit(partial(algorithm.init, spec=environment.spec))(key_init)
    stage = jax.jit(partial(start, algorithm, environment))(state, key_reset)
    return Training(state, stage, nothing(algorithm, environment, state, stage))


def exploring(algorithm: Algorithm, state: Any) -> Policy:
    """The policy that an algorithm trains by."""
    return lambda observation, memory, key: algorithm.act(state, observation, memory, key, explore=True)


def start(algorithm: Algorithm, environment: Environment, state: Any, key: Array) -> Stage:
    """The start of play, with nothing remembered."""
    return reset(environment, key, blank(environment, exploring(algorithm, state)))


def iteration(algorithm: Algorithm, environment: Environment, training: Training, key: Array, index: Array,
              restart_every: int = 0) -> Training:
    """The anatomy of every algorithm: generate samples, then fit a model or estimate the return, and improve the policy.

    With `restart_every`, all copies start afresh after that many iterations, and what was cut off counts as truncated:
    for environments whose state cannot be saved, so that a run resumed there is the run that never stopped.
    """
    key_iterations = jax.random.split(key, 4)[2]
    key_rollout, key_update = jax.random.split(jax.random.fold_in(key_iterations, index))
    policy = exploring(algorithm, training.state)
    stage, experience, episodes = rollout(environment, policy, training.stage, key_rollout, algorithm.rollout_length)
    if restart_every:
        last = (index + 1) % restart_every == 0
        experience = replace(experience, truncated=experience.truncated.at[-1].set(experience.truncated[-1] | last))
        stage = jax.lax.cond(last, lambda: restart(algorithm, environment, training.state, key, index), lambda: stage)
    state, metrics = algorithm.update(training.state, experience, key_update)
    return Training(state, stage, add(training.tally, episodes, metrics))


def restart(algorithm: Algorithm, environment: Environment, state: Any, key: Array, index: Array) -> Stage:
    """The fresh start that follows iteration `index`."""
    return start(algorithm, environment, state, jax.random.fold_in(jax.random.split(key, 4)[3], index))


def train(algorithm: Algorithm, environment: Environment, key: Array, iterations: int) -> tuple[Training, Any]:
    """The whole of training as one program, and the tally of each iteration, [iteration]."""
    def step(training, index):
        training = iteration(algorithm, environment, training, key, index)
        return replace(training, tally=jax.tree.map(jnp.zeros_like, training.tally)), training.tally
    return jax.lax.scan(step, begin(algorithm, environment, key), jnp.arange(iterations))


class Report(NamedTuple):
    """Where a run stands after a chunk of compiled work."""
    training: Training                  # its buffers are handed on to the next chunk: copy what you keep
    iterations: int                     # done since the beginning of the run
    steps: int                          # environment steps taken by each seed since the beginning of the run
    metrics: dict[str, np.ndarray]      # since the last row; [seed] with many seeds; NaN where nothing was measured
    row_complete: bool                  # a row of metrics ends here
    seconds: float                      # that the chunk took
    compile_seconds: float              # that compiling took before the first chunk, else 0


def progress(algorithm: Algorithm, environment: Environment, key: Array, steps: int, *,
             resumed: tuple[Training, int] | None = None, row_every: int | None = None, restart_every: int = 0,
             chunk_seconds: float = 1.0) -> Iterator[Report]:
    """Train for at most `steps` environment steps, in compiled chunks of about `chunk_seconds`; a Report after each.

    `key` is one key, or [seed] of them for many seeds in one program (JAX environments). The budget is never overshot: the
    steps taken are the whole iterations that fit. Where chunks fall makes no difference to the result. `row_every` is
    the number of iterations a row of metrics sums up (default: the budget in 100 rows); `resumed` is the training and the
    number of iterations it has done, when it goes on from a checkpoint.

    Raises InvalidInput for hyperparameters out of bounds or a budget below one iteration, EnvironmentFault for an
    environment that fails, Diverged when a metric stops being finite.
    """
    validate(algorithm)
    per_iteration = algorithm.rollout_length * environment.spec.num_envs
    total = steps // per_iteration
    if total < 1:
        raise InvalidInput(f"a budget of {steps} steps is less than one iteration of {per_iteration} "
                           f"(rollout_length {algorithm.rollout_length} × num_envs {environment.spec.num_envs}); "
                           "give at least that")
    if key.ndim and not environment.pure:
        raise InvalidInput("only environments written in JAX train many seeds in one program; give this one a single key")
    row_every = row_every or max(1, total // 100)
    clock = time.perf_counter()
    training, done = resumed or (over_seeds(partial(begin, algorithm, environment), key)(key), 0)
    training = jax.tree.map(jnp.copy, training)          # no two leaves may share a buffer that is handed on
    run = compile_chunk(algorithm, environment, training, key, row_every, restart_every)
    compiling, chunk = time.perf_counter() - clock, 1
    while done < total:
        stop = min(done + chunk, total, done - done % row_every + row_every)
        clock = time.perf_counter()
        training = call(environment, run, training, key, done, stop)
        metrics = summarise(jax.device_get(training.tally))
        seconds = time.perf_counter() - clock
        chunk = max(1, min(int(chunk_seconds * (stop - done) / seconds), 4 * chunk))
        done = stop
        yield Report(training, done, done * per_iteration, metrics, done % row_every == 0 or done == total, seconds, compiling)
        compiling = 0.0


def compile_chunk(algorithm: Algorithm, environment: Environment, training: Training, key: Array, row_every: int,
                  restart_every: int):
    """The program of one chunk, `run(training, key, start, stop)`: the iterations from `start` up to `stop`."""
    def step(index, training, key):
        return iteration(algorithm, environment, training, key, index, restart_every)

    def run(training, key, start, stop):
        fresh = start % row_every == 0
        tally = jax.tree.map(lambda x: jnp.where(fresh, jnp.zeros_like(x), x), training.tally)
        many = jax.vmap(step, (None, 0, 0)) if key.ndim else step
        return jax.lax.fori_loop(start, stop, lambda i, training: many(i, training, key), replace(training, tally=tally))
    return jax.jit(run, donate_argnums=0).lower(training, key, 0, 1).compile()


def call(environment: Environment, function, *arguments) -> Any:
    """The result of a compiled function; what an environment raised inside it comes out as it was raised."""
    try:
        return jax.block_until_ready(function(*arguments))
    except jax.errors.JaxRuntimeError:
        if failure := getattr(environment, "failure", None):
            raise failure from failure.__cause__
        raise


def over_seeds(function, key: Array):
    """`function(key)`, or its `vmap` when `key` holds one key a seed."""
    return jax.vmap(function) if key.ndim else function


def nothing(algorithm: Algorithm, environment: Environment, state: Any, stage: Stage) -> Tally:
    """A tally of zeros with a place for every metric that `update` reports."""
    def metrics_of(state, stage, key):
        _, experience, _ = rollout(environment, exploring(algorithm, state), stage, key, algorithm.rollout_length)
        return algorithm.update(state, experience, key)[1]
    shapes = jax.eval_shape(metrics_of, state, stage, jax.random.key(0))
    metrics = {name: jnp.zeros(()) for name in shapes if name != "updates"}
    return Tally(Episodes(jnp.int32(0), jnp.zeros(()), jnp.int32(0)), jnp.int32(0), metrics)


def add(tally: Tally, episodes: Episodes, metrics: Metrics) -> Tally:
    """The tally with one more iteration in it."""
    updates = metrics["updates"]
    sums = {name: total + metrics[name] * updates for name, total in tally.metrics.items()}
    return Tally(jax.tree.map(jnp.add, tally.episodes, episodes), tally.updates + updates, sums)


def summarise(tally: Tally) -> dict[str, Any]:
    """The means that a tally holds, NaN where there was nothing to average.

    Raises Diverged, naming the metrics (and the seeds), when some are not finite.
    """
    lost = {name: np.flatnonzero(~np.isfinite(total)) for name, total in tally.metrics.items() if not np.isfinite(total).all()}
    if lost:
        seeds = sorted({int(seed) for which in lost.values() for seed in which})
        where = f" in the seeds numbered {seeds}" if np.ndim(tally.updates) else ""
        raise Diverged(f"{', '.join(sorted(lost))} stopped being finite{where}; the last good checkpoint is kept. "
                       "A smaller learning rate, or normalised rewards, may help")
    with np.errstate(divide="ignore", invalid="ignore"):
        episodes = tally.episodes
        return {"episodes": episodes.count,
                "episode_return": np.where(episodes.count, episodes.total_return / episodes.count, np.nan),
                "episode_length": np.where(episodes.count, episodes.total_length / episodes.count, np.nan),
                "updates": tally.updates,
                **{name: np.where(tally.updates, total / tally.updates, np.nan) for name, total in tally.metrics.items()}}
