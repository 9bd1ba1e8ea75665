"""Microseconds of the boundary's checks and of a step of LunarLander-v3, each timed apart.

    python tools/boundary_cost.py

The checks are what `Boundary` does beyond the writing of a step into its row: the kinds of values,
flags, numbers that are not finite, and bounds, with a batch of 1 and of 8 environments.
"""

import time
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np

from etude.environments.backends.boundary import Boundary
from etude.environments.backends.gymnasium_envs import make_layout, spec_from_env

ROUNDS, STEPS = 30, 2_000


def seconds_of(function: Callable[[], None]) -> float:
    """The least seconds of CPU that the function takes in `ROUNDS` calls."""
    best = np.inf
    for _ in range(ROUNDS):
        start = time.thread_time()
        function()
        best = min(best, time.thread_time() - start)
    return best


def play(env: gymnasium.Env, actions: list[int]) -> list[tuple]:
    """What the steps of an environment return."""
    env.reset(seed=0)
    results = []
    for action in actions:
        results.append(env.step(action))
        if results[-1][2] or results[-1][3]:
            env.reset()
    return results


def check(boundary: Boundary, results: list[tuple], count: int) -> None:
    """Take results into the rows of `count` environments as they are taken in training."""
    for t in range(0, STEPS, count):
        for i in range(count):
            boundary.read_step(i, results[t + i])
        boundary.read_batch([])


def write(rows: np.ndarray, results: list[tuple], count: int) -> None:
    """Write results into the rows of `count` environments, whatever they are."""
    names = ("observation0", "next_observation0", "reward", "terminated", "truncated")
    now, following, reward, terminated, truncated = (rows[name] for name in names)
    for t in range(0, STEPS, count):
        for i in range(count):
            following[i], reward[i], terminated[i], truncated[i], _ = results[t + i]
            now[i] = following[i]


def main() -> None:
    env = gymnasium.make("LunarLander-v3", disable_env_checker=True)
    layout = make_layout(spec_from_env(env, lambda: env))
    actions = np.random.default_rng(0).integers(4, size=STEPS).tolist()
    results = play(env, actions)
    step = seconds_of(lambda: play(env, actions)) / STEPS
    print(f"a step of LunarLander-v3 in Gymnasium: {step * 1e6:.2f} µs")
    for count in (1, 8):
        rows = np.zeros(count, layout.dtype)
        boundary = Boundary(layout, rows)
        checking = seconds_of(partial(check, boundary, results, count))
        cost = (checking - seconds_of(partial(write, rows, results, count))) / STEPS
        print(
            f"the checks of a step, in batches of {count}: {cost * 1e6:.2f} µs, "
            f"{100 * cost / step:.1f} % of it"
        )


if __name__ == "__main__":
    main()
