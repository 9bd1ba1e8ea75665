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
from etude.nn.networks import mlp

@jax.jit
def both(keys, matrices):
    init = jax.vmap(lambda key: [layer.weight for layer in mlp(key, (64, 64, 64), final_scale=1.0).layers])
    return init(keys), jnp.linalg.solve(matrices, matrices[::-1]), jnp.linalg.solve(matrices[::-1], matrices)

keys = jax.random.split(jax.random.key(0), 8)
matrices = jax.random.normal(jax.random.key(1), (8, 64, 64)) + 8 * jnp.eye(64)
told, rounds, begun = jax.block_until_ready(both(keys, matrices)), 0, time.perf_counter()
while rounds < 300 and time.perf_counter() - begun < 20:
    told, rounds = jax.block_until_ready(both(keys, matrices)), rounds + 1
assert all(jnp.isfinite(part).all() for part in jax.tree.leaves(told))
print("done")
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


def test_importing_sets_the_flag_and_keeps_those_that_are_there():
    code = "import etude, os; print(os.environ['XLA_FLAGS'])"
    assert python(code).stdout.strip() == SCHEDULER
    assert python(code, XLA_FLAGS="--xla_a=1").stdout.strip() == f"--xla_a=1 {SCHEDULER}"


def test_a_users_own_choice_of_the_flag_stays():
    own = SCHEDULER.replace("false", "true")
    assert (
        python("import etude, os; print(os.environ['XLA_FLAGS'])", XLA_FLAGS=own).stdout.strip()
        == own
    )


@pytest.mark.parametrize(
    "before, warns",
    [
        ("import jax; jax.numpy.zeros(1)", True),
        ("import jax", False),  # imported is not started
        ("", False),
    ],
    ids=["started", "imported", "first"],
)
def test_importing_after_jax_has_started_warns(before, warns):
    process = python(f"{before}\nimport etude")
    assert process.returncode == 0
    assert (
        "RuntimeWarning: JAX was already running when etude was imported" in process.stderr
    ) == warns
    assert not warns or f"set XLA_FLAGS={SCHEDULER}" in process.stderr


def test_a_flag_that_was_set_in_time_needs_no_warning():
    process = python("import jax; jax.numpy.zeros(1)\nimport etude", XLA_FLAGS=SCHEDULER)
    assert process.returncode == 0 and "already running" not in process.stderr
