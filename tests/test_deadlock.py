"""Batched linear algebra on few cores: the flag that keeps it from hanging, set the way users get
it."""

import os
import subprocess
import sys

import pytest

SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# seconds; the rounds take two, and stop after 20 where other programs keep the cores busy
LIMIT = 300

# Two batched QR decompositions and two batched solves in one program, with nothing to wait for but
# the same threads. On two cores and without the flag it hangs within these rounds six times of
# eight.
SOAK = """
import time
import etude
import jax, jax.numpy as jnp
from etude.nn.networks import make_mlp

@jax.jit
def both(keys, matrices):
    sizes = (64, 64, 64)
    init = jax.vmap(lambda key: [x.weight for x in make_mlp(key, sizes, final_scale=1.0).layers])
    solve = jnp.linalg.solve
    return init(keys), solve(matrices, matrices[::-1]), solve(matrices[::-1], matrices)

keys = jax.random.split(jax.random.key(0), 8)
matrices = jax.random.normal(jax.random.key(1), (8, 64, 64)) + 8 * jnp.eye(64)
results, rounds, start = jax.block_until_ready(both(keys, matrices)), 0, time.perf_counter()
while rounds < 300 and time.perf_counter() - start < 20:
    results, rounds = jax.block_until_ready(both(keys, matrices)), rounds + 1
assert all(jnp.isfinite(part).all() for part in jax.tree.leaves(results))
print("done")
"""

# What importing does to the flags and what it warns of, again and again in one process, before JAX
# starts and after.
IMPORTS = """
import os, sys, warnings

def imported(flags):
    sys.modules.pop("etude", None)
    os.environ.pop("XLA_FLAGS", None)
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        import etude
    return os.environ["XLA_FLAGS"], [(warning.category, str(warning.message)) for warning in told]

print(imported(None), imported("--xla_a=1"), imported(OWN), "jax" in sys.modules, sep="\\n")
import jax
print(imported(None))
jax.devices()
print(imported(None), imported(SCHEDULER), imported(OWN), sep="\\n")
"""


def python(code, **environment):
    """The finished process of a Python that runs `code` in a fresh environment of ours, without
    XLA_FLAGS unless given."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.system
def test_batched_decompositions_and_solves_do_not_hang():
    try:
        process = python(SOAK)
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"rounds of batched QR and solve did not end within {LIMIT} s: LAPACK calls wait for "
            "the thread pool "
            f"they occupy. Does JAX {SCHEDULER.split('=')[0]} no longer keep them apart?"
        )
    assert process.returncode == 0 and process.stdout.strip() == "done", process.stderr


@pytest.mark.slow
def test_importing_sets_the_flag_keeps_those_that_are_there_and_warns_where_jax_has_started():
    own = SCHEDULER.replace("false", "true")
    process = python(f"SCHEDULER, OWN = {SCHEDULER!r}, {own!r}\n{IMPORTS}")
    assert process.returncode == 0, process.stderr
    first, others, kept, has_jax, not_started, started, in_time, users = process.stdout.splitlines()
    assert first == not_started == str((SCHEDULER, []))  # imported is not started
    assert others == str((f"--xla_a=1 {SCHEDULER}", []))
    assert kept == users == str((own, []))
    assert has_jax == "False"  # nor does importing etude import JAX
    assert in_time == str((SCHEDULER, []))
    assert (
        "RuntimeWarning" in started and "JAX was already running when etude was imported" in started
    )
    assert f"set XLA_FLAGS={SCHEDULER}" in started
