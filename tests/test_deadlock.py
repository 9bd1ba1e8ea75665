"""Batched LAPACK calls, two at once on few cores, wait for ever under XLA's concurrent scheduler; etude turns it off."""
import os
import subprocess
import sys

SOAK = """
import etude
from etude.networks import network
from etude.spaces import Box
import jax, jax.numpy as jnp

space = Box((4,), "float32")
many = jax.jit(jax.vmap(lambda key: network(key, space, (16, 16), 2, final_scale=0.01)))

def round(key):
    a, b = jax.random.split(key)
    left, right = (jax.vmap(lambda k: jax.random.normal(k, (8, 8)) + 8 * jnp.eye(8))(jax.random.split(k, 8)) for k in (a, b))
    return sum(jnp.linalg.solve(x, y).sum() + jnp.linalg.qr(x)[0].sum() for x, y in ((left, right), (right, left)))
loop = jax.jit(lambda key: jax.lax.fori_loop(0, 20, lambda i, total: total + round(jax.random.fold_in(key, i)), 0.0))

for i in range(100):
    keys = jax.random.split(jax.random.key(i), 8)
    pending = [many(keys), loop(keys[0]), many(keys), loop(keys[1])]      # dispatched together, waited for together
    jax.block_until_ready(pending)
print("through")
"""


def test_soak_of_batched_qr_and_solve():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    try:
        done = subprocess.run([sys.executable, "-c", SOAK], capture_output=True, text=True, timeout=150, env=environment)
    except subprocess.TimeoutExpired:
        raise AssertionError("batched QR and solve did not come through: the thread pool is in a deadlock") from None
    assert done.stdout.strip() == "through", done.stderr


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
