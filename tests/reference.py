"""A fixed amount of work, in CPU seconds of this machine today: the measure of what the tests take.

Compiling and multiplying, as in the tests, in a process of its own: no flag or cache of theirs has
a part in it.
"""

import os
import subprocess
import sys
import time

FLAGS = "--xla_cpu_multi_thread_eigen=false"
REPEATS = 3  # of which the quickest counts, so that a disturbance does not
PROGRAMS, DEPTH, PRODUCTS, SIZE = 4, 12, 14, 1024  # a repeat


def seconds() -> float:
    """The CPU seconds of the work, without those of importing JAX."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_", "SLIPCOVER_"))
    }
    done = subprocess.run(
        [sys.executable, __file__],
        env={
            **inherited,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": FLAGS,
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def work(repeat: int) -> None:
    """Some programs, each of another width, are traced, differentiated and compiled; large matrices
    are multiplied."""
    import jax
    import jax.numpy as jnp

    def loss(layers, x):
        for layer in layers:
            x = jnp.tanh(x @ layer)
        return (x**2).sum()

    first = 8 + PROGRAMS * repeat
    for width in range(first, first + PROGRAMS):
        jax.jit(jax.grad(loss)).lower(
            [jnp.ones((width, width))] * DEPTH, jnp.ones((4, width))
        ).compile()
    product = jax.jit(lambda a: a @ a / SIZE)
    a = jnp.ones((SIZE, SIZE))
    for _ in range(PRODUCTS):
        a = product(a)
    a.block_until_ready()


if __name__ == "__main__":
    import jax

    jax.numpy.zeros(1).block_until_ready()
    times = []
    for repeat in range(REPEATS):
        start = time.process_time()
        work(repeat)
        times.append(time.process_time() - start)
    print(REPEATS * min(times))
