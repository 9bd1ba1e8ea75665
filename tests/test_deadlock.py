"""Batched LAPACK calls, two at once on few cores, wait for ever under XLA's concurrent scheduler; etude turns it off."""
import os
import subprocess
import sys

SOAK = """
import etude
import jax, jax.numpy as jnp

def draw(key):
    return jax.random.normal(key, (16, 64, 64)) + 64 * jnp.eye(64)

def round(key):                         # four batched QRs and two batched solves that do not wait for one another
    keys = jax.random.split(key, 4)
    factors = [jnp.linalg.qr(draw(key))[0].sum() for key in keys]
    solutions = [jnp.linalg.solve(draw(key), draw(key)).sum() for key in keys[:2]]
    return sum(factors) + sum(solutions)

loop = jax.jit(lambda key: jax.lax.fori_loop(0, 200, lambda i, total: total + round(jax.random.fold_in(key, i)), 0.0))
print(jnp.isfinite(loop(jax.random.key(0))))
"""                                     # with the concurrent scheduler, two cores hang within the first fifty rounds


def test_soak_of_batched_qr_and_solve():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    try:
        done = subprocess.run([sys.executable, "-c", SOAK], capture_output=True, text=True, timeout=150, env=environment)
    except subprocess.TimeoutExpired:
        raise AssertionError("batched QR and solve did not come through: the thread pool is in a deadlock") from None
    assert done.stdout.strip() == "True", done.stderr


def test_the_flag_is_set_before_jax_starts_and_missed_with_a_warning_after():
    early = "import etude, os; print(os.environ['XLA_FLAGS'])"
    assert "--xla_cpu_enable_concurrency_optimized_scheduler=false" in run(early).stdout
    late = "import jax; jax.devices(); import etude"
    assert "JAX was already running" in run(late).stderr
    assert "JAX was already running" not in run("import jax, etude; etude.DQN()").stderr


def test_a_flag_of_the_users_own_is_kept():
    own = {"XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=true"}
    assert run("import etude, os; print(os.environ['XLA_FLAGS'])", own).stdout.strip() == own["XLA_FLAGS"]


def run(code, more=()):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment | dict(more))
