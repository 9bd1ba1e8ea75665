"""etude on the work given as JSON; says how many steps its steady state took, and how long."""

import json
import sys
import time

import etude


def main() -> None:
    import jax

    from etude.runs.settings import package_versions

    work = json.loads(sys.argv[1])
    given = work["hyperparameters"]
    algorithm = getattr(etude, work["algorithm"].upper())(
        **given | {"hidden": tuple(given["hidden"])}
    )
    environment = etude.make(
        work["environment"], work["num_envs"], work["backend"], seed=work["seed"]
    )
    start, compiling = None, 0.0
    for report in etude.progress(
        algorithm, environment, jax.random.key(work["seed"]), work["steps"]
    ):
        clock = time.perf_counter()
        compiling += report.compile_seconds
        if start is None and report.steps >= work["skip"]:
            start = report.steps, clock
    environment.close()
    print(
        json.dumps(
            {
                "steps": report.steps - start[0],
                "seconds": clock - start[1],
                "compile_seconds": compiling,
                "versions": package_versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
