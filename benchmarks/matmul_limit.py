"""The large matrix products of an update and nothing else, on the work given as JSON; says what
ours.py says."""

import json
import sys
import time

import etude  # noqa: F401  for the settings of XLA that are its own


def main() -> None:
    import jax
    import jax.numpy as jnp

    from etude.runs.settings import package_versions

    work = json.loads(sys.argv[1])
    hyper, steps = work["hyperparameters"], work["steps"] - work["skip"]
    batch, width = hyper["batch_size"], hyper["hidden"][0]
    key = jax.random.key(work["seed"])
    weight = jax.random.orthogonal(key, width)  # so that the numbers stay as large as they are

    def product(_, x):
        return jax.lax.optimization_barrier(x @ weight)

    x = jax.random.normal(key, (batch, width))
    run = jax.jit(lambda x, times: jax.lax.fori_loop(0, times, product, x))
    jax.block_until_ready(run(x, 100))
    clock = time.perf_counter()
    assert jnp.isfinite(run(x, int(work["products"] * steps))).all()
    print(
        json.dumps(
            {"steps": steps, "seconds": time.perf_counter() - clock, "versions": package_versions()}
        )
    )


if __name__ == "__main__":
    main()
