"""Train etude on a workload given as JSON; print the steps and seconds of its steady state."""

import json
import sys
import time
from typing import Any, get_type_hints

import etude


def main() -> None:
    import jax

    from etude.environments.sources import environment_source
    from etude.runs.versions import package_versions

    workload = json.loads(sys.argv[1])
    algorithm = make_algorithm(workload["algorithm"], workload["hyperparameters"])
    source = environment_source(workload["environment"])
    spec = source.outline(workload["num_envs"], workload["backend"]).spec
    start_jax(algorithm, spec, workload["backend"])
    environment = etude.make(
        workload["environment"],
        workload["num_envs"],
        workload["backend"],
        seed=workload["seed"],
        workers=workload.get("workers", 0),
    )
    start, compile_seconds, outside = None, 0.0, outside_of(workload)
    key, steps = jax.random.key(workload["seed"]), workload["steps"]
    for report in etude.progress(algorithm, environment, key, steps, outside=outside):
        clock = time.perf_counter()
        compile_seconds += report.compile_seconds
        if start is None and report.steps >= workload["skip"]:
            start = report.steps, clock
    environment.close()
    print(
        json.dumps(
            {
                "steps": report.steps - start[0],
                "seconds": clock - start[1],
                "compile_seconds": compile_seconds,
                "versions": package_versions(),
            }
        )
    )


def start_jax(algorithm: Any, spec: Any, backend: str) -> None:
    """Let JAX start with the threads that `etude train` takes for this algorithm.

    Making EnvPool's environments starts it, so their spec has to come from elsewhere.
    """
    from etude.runs.threads import choose_threads, start_with

    start_with(choose_threads(None, algorithm, spec, backend, 1, True))


def outside_of(workload: dict[str, Any]) -> Any:
    """What the algorithm learns from, if that is a dataset: recorded episodes."""
    from etude.algorithms.protocol import Outside

    if "demonstrations" not in workload:
        return Outside()
    dataset = etude.record(workload["environment"], **workload["demonstrations"], progress=False)
    return Outside(dataset=dataset)


def make_algorithm(name: str, hyperparameters: dict[str, Any]) -> Any:
    """The algorithm called `name`; a nested hyperparameter is an object with its kind's tag."""
    from etude.algorithms import algorithm_class, algorithm_factory
    from etude.kinds import kinds_of

    hints, values = get_type_hints(algorithm_class(name)), {}
    for field, value in hyperparameters.items():
        if isinstance(value, dict):
            kind = kinds_of(hints[field])[value["kind"]]
            value = kind(**{key: item for key, item in value.items() if key != "kind"})
        values[field] = tuple(value) if isinstance(value, list) else value
    return algorithm_factory(name)(**values)


if __name__ == "__main__":
    main()
