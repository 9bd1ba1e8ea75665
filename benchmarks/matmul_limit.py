"""Run only the large matrix products of a workload given as JSON; prints as run_etude.py does."""

import json
import sys
import time

import etude  # noqa: F401  sets flags of XLA


def main() -> None:
    import jax
    import jax.numpy as jnp

    from etude.runs.settings import package_versions

    workload = json.loads(sys.argv[1])
    hyperparameters, steps = workload["hyperparameters"], workload["steps"] - workload["skip"]
    batch, width = hyperparameters["batch_size"], hyperparameters["hidden"][0]
    key = jax.random.key(workload["seed"])
    weight = jax.random.orthogonal(key, width)  # keeps the norm of the rows

    def product(_, x):
        return jax.lax.optimization_barrier(x @ weight)

    x = jax.random.normal(key, (batch, width))
    multiply = jax.jit(lambda x, times: jax.lax.fori_loop(0, times, product, x))
    jax.block_until_ready(multiply(x, 100))
    clock = time.perf_counter()
    assert jnp.isfinite(multiply(x, int(workload["matmuls"] * steps))).all()
    print(
        json.dumps(
            {"steps": steps, "seconds": time.perf_counter() - clock, "versions": package_versions()}
        )
    )


if __name__ == "__main__":
    main()
