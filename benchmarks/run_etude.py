"""Train etude on a workload given as JSON; print the steps and seconds of its steady state."""

import json
import sys
import time

import etude


def main() -> None:
    import jax

    from etude.runs.settings import package_versions

    workload = json.loads(sys.argv[1])
    hyperparameters = workload["hyperparameters"]
    algorithm = getattr(etude, workload["algorithm"].upper())(
        **hyperparameters | {"hidden": tuple(hyperparameters["hidden"])}
    )
    environment = etude.make(
        workload["environment"], workload["num_envs"], workload["backend"], seed=workload["seed"]
    )
    start, compile_seconds = None, 0.0
    for report in etude.progress(
        algorithm, environment, jax.random.key(workload["seed"]), workload["steps"]
    ):
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


if __name__ == "__main__":
    main()
