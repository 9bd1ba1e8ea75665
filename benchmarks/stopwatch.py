"""Time, for what is short enough to be repeated."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(run: Callable[[], Any], budget: float) -> float:
    """The median of as many runs as take `budget` seconds, three at least, after a first one; `run`
    waits for its answer."""
    run()
    took, begun = [], time.perf_counter()
    while len(took) < 3 or time.perf_counter() - begun < budget:
        clock = time.perf_counter()
        run()
        took.append(time.perf_counter() - clock)
    return statistics.median(took)


def of_program(
    function: Callable[..., Any], arguments: tuple[Any, ...], budget: float
) -> tuple[Any, dict[str, float]]:
    """What a function in JAX answers, and what it takes to compile and to run."""
    import jax

    clock = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - clock
    took = seconds(lambda: jax.block_until_ready(program(*arguments)), budget)
    return program(*arguments), {"seconds": took, "compile_seconds": compiling}
