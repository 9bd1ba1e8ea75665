"""Step only the environment of a workload given as JSON; prints as run_etude.py does.

Actions are random ones, drawn before the clock starts; copies are reset when their episode is over.
Gymnasium is a plain loop in Python, in `workers` processes side by side where there are any. As for
a policy, which acts on the observations of all copies, each of their steps waits for the slowest.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

BLOCK = 200  # steps of every copy between two looks at the clock, with actions drawn for each


def main() -> None:
    workload = json.loads(sys.argv[1])
    steps, seconds = {"gymnasium": step_gymnasium, "envpool": step_envpool, "jax": step_jax}[
        workload["backend"]
    ](workload)
    from etude.runs.versions import package_versions

    print(json.dumps({"steps": steps, "seconds": seconds, "versions": package_versions()}))


def step_gymnasium(workload: dict[str, Any]) -> tuple[int, float]:
    """Return the environment steps and the seconds that they take."""
    workers = workload.get("workers", 0)
    if not workers:
        step_row = row_stepper(workload, workload["num_envs"], workload["seed"])
        return count_steps(workload, step_row)
    from etude.environments.backends.wakeup_channel import make_channel, make_pipes

    context, share = multiprocessing.get_context("spawn"), workload["num_envs"] // workers
    channels = []
    for i in range(workers):
        pipes, worker_pipes = make_pipes(context)
        seed = workload["seed"] + i * share
        target, arguments = serve_steps, (worker_pipes, workload, share, seed)
        context.Process(target=target, args=arguments, daemon=True).start()
        worker_pipes.close()
        channels.append(make_channel(pipes))
        channels[-1].receive()  # its copies are made

    def step_side_by_side(row):
        for channel in channels:
            channel.wake()
        for channel in reversed(channels):
            channel.receive()

    return count_steps(workload, step_side_by_side)


def serve_steps(pipes: Any, *arguments: Any) -> None:
    """Step copies once for each wake-up, until the pipes are closed."""
    from etude.environments.backends.wakeup_channel import make_channel

    step_row, channel, row = row_stepper(*arguments), make_channel(pipes), 0
    while True:
        channel.wake()
        try:
            channel.receive()
        except EOFError:
            return
        step_row(row)
        row += 1


def row_stepper(workload: dict[str, Any], num_envs: int, seed: int) -> Callable[[int], None]:
    """A function that steps all of these copies once, one after the other."""
    import gymnasium

    copies = [
        gymnasium.make(workload["environment"], disable_env_checker=True) for _ in range(num_envs)
    ]
    for i, copy in enumerate(copies):
        copy.reset(seed=seed + i)
        copy.action_space.seed(seed + i)
    actions = [[copy.action_space.sample() for copy in copies] for _ in range(BLOCK)]

    def step_row(row):
        for copy, action in zip(copies, actions[row % BLOCK], strict=True):
            _, _, terminated, truncated, _ = copy.step(action)
            if terminated or truncated:
                copy.reset()

    return step_row


def count_steps(workload: dict[str, Any], step_row: Callable[[int], Any]) -> tuple[int, float]:
    """Step all copies until the budget of seconds is over."""
    steps, seconds, clock = 0, 0.0, time.perf_counter()
    while seconds < workload["budget"]:
        for row in range(BLOCK):
            step_row(row)
        steps, seconds = steps + BLOCK * workload["num_envs"], time.perf_counter() - clock
    return steps, seconds


def step_envpool(workload: dict[str, Any]) -> tuple[int, float]:
    """The same with a pool of EnvPool, of as many threads as etude gives it."""
    import envpool
    import numpy as np

    from etude.environments.backends.envpool_envs import threads_for

    name, num_envs = workload["environment"], workload["num_envs"]
    pool = envpool.make(
        name,
        env_type="gymnasium",
        num_envs=num_envs,
        seed=workload["seed"],
        num_threads=min(num_envs, threads_for(name)),
    )
    pool.reset()
    pool.action_space.seed(workload["seed"])
    samples = [[pool.action_space.sample() for _ in range(num_envs)] for _ in range(BLOCK)]
    dtype = np.int32 if np.issubdtype(pool.action_space.dtype, np.integer) else np.float32
    actions = np.array(samples, dtype)
    steps, seconds, clock = 0, 0.0, time.perf_counter()
    while seconds < workload["budget"]:
        for row in actions:
            _, _, terminated, truncated, _ = pool.step(row)
            done = terminated | truncated
            if done.any():
                pool.reset(np.flatnonzero(done).astype(np.int32))
        steps, seconds = steps + BLOCK * num_envs, time.perf_counter() - clock
    return steps, seconds


def step_jax(workload: dict[str, Any]) -> tuple[int, float]:
    """The same with etude's environment written in JAX, in a compiled loop."""
    import etude  # isort: skip  # sets flags of XLA
    import jax
    import jax.numpy as jnp

    from etude.algorithms.control.random_policy import Random

    num_envs = workload["num_envs"]
    environment = etude.make(workload["environment"], num_envs, "jax")
    key_reset, key_act, key_step = jax.random.split(jax.random.key(workload["seed"]), 3)
    state, observation = jax.jit(environment.reset)(key_reset)
    random, spaces = Random(), Random().init(key_act, environment.spec)
    act = lambda key: random.act(spaces, observation, (), key, True)[0]
    actions = jax.vmap(act)(jax.random.split(key_act, BLOCK))
    keys = jax.random.split(key_step, BLOCK)

    def step(carry, action_and_key):
        state, _, total_reward = carry
        state, observation, result = environment.step(state, *action_and_key)
        return (state, observation, total_reward + result.reward), None

    @jax.jit
    def run_blocks(carry, count):
        block = lambda _, carry: jax.lax.scan(step, carry, (actions, keys))[0]
        return jax.lax.fori_loop(0, count, block, carry)

    carry = jax.block_until_ready(run_blocks((state, observation, jnp.zeros(num_envs)), 1))
    count = 1
    while True:
        clock = time.perf_counter()
        carry = jax.block_until_ready(run_blocks(carry, count))
        seconds = time.perf_counter() - clock
        if seconds >= workload["budget"]:
            return BLOCK * count * num_envs, seconds
        count *= 4


if __name__ == "__main__":
    main()
