"""A host call gives NumPy arrays to a function, and takes arrays back, from a compiled loop."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import pjit
from jax._src.interpreters import pxla

from etude.environments.backends.host_callback import host_call, raise_host_errors

DTYPES = ["bool", "int8", "uint8", "int32", "uint32", "float32", "bfloat16"]
SHAPES = [(), (3,), (2, 0), (2, 3, 4)]


def shape_of(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def compiled_loop(function):
    """A loop of host calls whose results depend on one another, from 0, as a function of their
    number."""

    def loop(calls):
        return jax.lax.fori_loop(
            0, calls, lambda i, x: host_call(function, shape_of(x), x), jnp.int32(0)
        )

    program = jax.jit(loop).lower(jnp.int32(0)).compile()
    return lambda calls: jax.block_until_ready(program(jnp.int32(calls)))


def count_calls(function, calls=1000):
    return compiled_loop(function)(calls)


def test_arrays_of_every_type_come_and_go_as_they_are():
    rng, seen = np.random.default_rng(0), []
    arrays = [jnp.asarray(rng.integers(0, 2, shape), dtype) for dtype in DTYPES for shape in SHAPES]

    def function(tree, last):
        seen.append((tree, last))
        return {"arrays": list(reversed(tree["arrays"])), "sum": np.float64(7)}

    result = {
        "arrays": [shape_of(x) for x in reversed(arrays)],
        "sum": jax.ShapeDtypeStruct((), np.float32),
    }
    got = jax.jit(lambda tree, last: host_call(function, result, tree, last))(
        {"arrays": arrays}, jnp.int32(3)
    )
    assert seen[0][1] == 3 and got["sum"] == 7 and got["sum"].dtype == np.float32
    for x, there, back in zip(arrays, seen[0][0]["arrays"], got["arrays"][::-1], strict=True):
        assert type(there) is np.ndarray and there.dtype == x.dtype == back.dtype
        assert np.array_equal(there, x) and np.array_equal(back, x)


def test_what_a_function_keeps_of_its_arguments_stays_as_it_was():
    kept = []

    def function(x):
        kept.append(x)
        x = x.copy()
        return x + 1

    assert count_calls(function, 100) == 100
    assert [int(x) for x in kept] == list(range(100))


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
def test_an_exception_ends_the_loop_and_is_raised_as_it_is(error):
    calls = []

    def function(x):
        calls.append(x)
        if len(calls) == 5:
            raise error
        return x

    with pytest.raises(type(error)) as raised, raise_host_errors():
        count_calls(function)
    assert raised.value is error and len(calls) == 5


def test_another_shape_than_was_declared_is_an_error_and_not_spread():
    with pytest.raises(ValueError, match=r"returned shape \(1,\), not \(\)"), raise_host_errors():
        count_calls(lambda x: np.zeros(1, np.int32))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers")
def test_what_a_signal_raises_is_never_lost():
    """Wherever it comes: in the function, where a call of it begins, or where it ends."""

    class Alarm(Exception):
        pass

    def ring(number, frame):
        raise Alarm

    loop = compiled_loop(lambda x: x + 1)
    handler = signal.signal(signal.SIGALRM, ring)
    try:
        for seconds in np.linspace(2e-3, 4e-3, 50):
            with pytest.raises(Alarm), raise_host_errors():
                signal.setitimer(signal.ITIMER_REAL, seconds)
                loop(20_000)
                time.sleep(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


class Mute(Exception):
    def __repr__(self):
        raise ValueError("this exception cannot be shown")


def test_an_exception_that_cannot_be_shown_is_raised_too():
    def function(x):
        raise Mute

    with pytest.raises(Mute), raise_host_errors():
        count_calls(function)


def test_a_program_outlives_what_jax_remembers_of_its_making():
    """A program that was called twice is called past all of JAX's caches in Python."""

    class Counter:
        def add(self, x):
            return x + 1

    counter = Counter()
    program = jax.jit(lambda x: host_call(counter.add, shape_of(x), x))
    assert program(program(jnp.int32(1))) == 3
    for cache in (pjit._pjit_lower, pxla._cached_lowering_to_hlo):
        cache.cache_clear()
    gc.collect()
    assert program(jnp.int32(5)) == 6


def test_a_program_keeps_no_environment_once_it_is_forgotten():
    class Counter:
        def add(self, x):
            return x + 1

    counter = Counter()
    alive = weakref.ref(counter)
    loop = compiled_loop(counter.add)
    assert loop(3) == 3
    del counter
    gc.collect()
    assert loop(4) == 4  # the program keeps it
    del loop
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def work(x):
    """So much that JAX would run it asynchronously."""
    product = jax.lax.fori_loop(0, 30, lambda i, m: m @ m * 0.1, jnp.full((64, 64), x * 1.0))
    return x + (0 * product.sum()).astype(x.dtype)


@pytest.mark.parametrize(
    ("asynchronous", "threads"), [(False, 1), (True, 2)], ids=["synchronous", "asynchronous"]
)
def test_a_function_may_use_jax_itself(asynchronous, threads):
    """In a process of its own, with one thread of XLA, and where the user has JAX asynchronous."""
    program = f"""
import etude, jax, jax.numpy as jnp, numpy as np
from etude.environments.backends.host_callback import host_call
from test_host_callback import work

name = "jax_cpu_enable_async_dispatch"
assert jax.config.read(name) is False
jax.config.update(name, {asynchronous})
inner = jax.jit(work)
shape = jax.ShapeDtypeStruct((), np.int32)
outer = jax.jit(lambda x: work(host_call(lambda x: np.asarray(inner(x + 1)), shape, x)))
x = jnp.int32(0)
for _ in range(50):
    x = outer(x)
assert x == 50
"""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PJRT_NPROC": str(threads), "PYTHONPATH": path},
        check=True,
        timeout=120,
    )


def test_outside_of_a_program_it_is_a_call():
    assert host_call(lambda x: x + 1, jax.ShapeDtypeStruct((), np.int32), jnp.int32(1)) == 2
