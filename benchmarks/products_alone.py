"""Compute only the products of a workload given as JSON; prints as run_etude.py does.

The products of an iteration of training are counted in a few iterations after the warm-up, on the
JAX port of the environment, or on one of zeros with the same shapes. Then each is timed by itself,
with operands that lie in memory as the product reads them, and stay in the cache.

A gradient step of SAC has 16 large products, [256, 256] by [256, 256]. Of each of two critics: the
target 1, forward and backward 3, forward and backward at the action of the policy 2; of the policy:
for the target 1, forward and backward 3. TD3 has 9 in each step, and 5 in every second.
"""

import json
import math
import sys
from functools import partial
from typing import Any

import etude  # noqa: F401  sets flags of XLA

ITERATIONS = 8  # of which each number of steps between updates of a policy is a divisor


def main() -> None:
    from products import seconds_of
    from run_etude import make_algorithm

    from etude.runs.versions import package_versions

    workload = json.loads(sys.argv[1])
    algorithm = make_algorithm(workload["algorithm"], workload["hyperparameters"])
    counts = products_per_step(algorithm, workload)
    budget = workload["budget"] / len(counts)
    rows = [
        {
            "product": str(product),
            "per_step": count,
            "microseconds": 1e6 * seconds_of(product, budget),
        }
        for product, count in counts.items()
    ]
    seconds = 1e-6 * sum(row["per_step"] * row["microseconds"] for row in rows)
    print(
        json.dumps(
            {"steps": 1, "seconds": seconds, "products": rows, "versions": package_versions()}
        )
    )


def products_per_step(algorithm: Any, workload: dict[str, Any]) -> dict[Any, float]:
    """How often each product runs per environment step of training, on average."""
    import jax
    import jax.numpy as jnp
    from products import with_counts
    from run_etude import outside_of, start_jax

    from etude.environments.registry import JAX_ENVIRONMENTS
    from etude.environments.sources import environment_source
    from etude.training import init_train_state, train_iteration

    name, num_envs = workload["environment"], workload["num_envs"]
    backend = "jax" if name in JAX_ENVIRONMENTS else "gymnasium"
    environment = environment_source(name).outline(num_envs, backend)
    start_jax(algorithm, environment.spec, backend)
    key, outside = jax.random.key(workload["seed"]), outside_of(workload)
    init = partial(init_train_state, algorithm, environment, outside=outside)
    products, train_counting = with_counts(
        partial(train_iteration, algorithm, environment, outside=outside),
        jax.eval_shape(init, key),
        key,
        jnp.int32(0),
    )
    steps_per_iteration = algorithm.steps_per_update(num_envs)
    warmup_steps = workload["hyperparameters"].get("warmup_steps", 0)
    warmup = math.ceil(warmup_steps / steps_per_iteration)

    @jax.jit
    def count(key):
        indices = jnp.arange(warmup + ITERATIONS)
        step = lambda state, index: train_counting(state, key, index)
        return jax.lax.scan(step, init(key), indices)[1][warmup:].sum(0)

    return {
        product: total / ITERATIONS / steps_per_iteration
        for product, total in zip(products, count(key).tolist(), strict=True)
    }


if __name__ == "__main__":
    main()
