"""Timing of functions that are short enough to repeat."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def median_seconds(run: Callable[[], Any], budget: float) -> float:
    """Return the median time of the runs within `budget` seconds, at least three, after a warm-up.

    `run` must block until its result is ready.
    """
    run()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < budget:
        clock = time.perf_counter()
        run()
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def time_compiled(
    function: Callable[..., Any], arguments: tuple[Any, ...], budget: float
) -> tuple[Any, dict[str, float]]:
    """Compile and time a JAX function; return its result and the seconds of both."""
    import jax

    clock = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - clock
    run_seconds = median_seconds(lambda: jax.block_until_ready(program(*arguments)), budget)
    return program(*arguments), {"seconds": run_seconds, "compile_seconds": compile_seconds}
