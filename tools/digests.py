"""Digests of etude's results, to show that a change of the code changes no number.

    python tools/digests.py before.json            # in the old tree; after.json in the new one
    python tools/digests.py --compare before.json after.json

A digest is the SHA-256 of the bytes of an array. Short runs cover every algorithm, with two seeds,
on each backend that it takes; every planner on every problem of `etude plan`; and every study of
`etude figure`. The digests of a run are those of the leaves of the algorithm's state in tree order,
the columns of metrics.csv and the returns of the evaluation; those of a plan and a study are of the
entries of its JSON file. Digests are equal only on one machine with one set of versions.
"""

import argparse
import contextlib
import fnmatch
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import etude
from etude.cli.main import main as command_line

CARTPOLE, PENDULUM, LAKE = "CartPole-v1", "Pendulum-v1", "FrozenLake-v1"
ALL_BACKENDS = ("jax", "gymnasium", "envpool")
ROOM, BLIND_CARTPOLE, BLIND_PENDULUM = (
    f"etude/{name}"
    for name in ("PointRoom-v0", "CartPoleWithoutVelocity-v1", "PendulumWithoutVelocity-v1")
)
REPLAY = "--steps 1200 --warmup-steps 200 --capacity 2000 --hidden 32 32 --batch-size 32"
RECURRENT = "--recurrent gru --recurrent.units 8 --sequence-length 8 --burn-in 2"
SMALL = "--hidden 16 16"

# (algorithm, environment, backends, further flags)
RUNS = [
    ("q-learning", LAKE, ("gymnasium",), "--steps 1000"),
    ("sarsa", LAKE, ("gymnasium",), "--steps 1000"),
    ("td", LAKE, ("gymnasium",), "--steps 1000 --trace-decay 0.5"),
    ("dqn", CARTPOLE, ALL_BACKENDS, REPLAY),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --exploration boltzmann --n-step 3"),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --head quantile --prioritized"),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --head categorical --noisy --loss squared --no-double"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer cem"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer cma_es"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer random_shooting"),
    ("dqn", ROOM, ("jax", "gymnasium"), f"{REPLAY} --hindsight --n-step 2"),
    ("dqn", BLIND_CARTPOLE, ("jax",), f"{REPLAY} {RECURRENT} --replay prioritized --n-step 3"),
    ("online-q", CARTPOLE, ALL_BACKENDS, "--steps 300 --hidden 32 32"),
    ("fitted-q", CARTPOLE, ALL_BACKENDS, "--steps 1000 --hidden 32 32 --warmup-steps 500"),
    ("rainbow", CARTPOLE, ALL_BACKENDS, REPLAY),
    ("pqn", CARTPOLE, ALL_BACKENDS, f"--steps 4096 {SMALL}"),
    ("naf", PENDULUM, ALL_BACKENDS, REPLAY),
    ("ddpg", PENDULUM, ALL_BACKENDS, REPLAY),
    ("td3", PENDULUM, ALL_BACKENDS, REPLAY),
    ("off-policy-actor-critic", PENDULUM, ALL_BACKENDS, REPLAY),
    ("off-policy-actor-critic", CARTPOLE, ("jax",), REPLAY),
    ("sac", PENDULUM, ALL_BACKENDS, REPLAY),
    ("sac", PENDULUM, ("jax",), f"{REPLAY} --noise-per-rollout --rollout-length 8"),
    ("sac", CARTPOLE, ("jax",), REPLAY),
    ("sac", ROOM, ("jax",), f"{REPLAY} --hindsight"),
    ("sac", BLIND_PENDULUM, ("jax",), f"{REPLAY} {RECURRENT}"),
    ("td3", BLIND_PENDULUM, ("jax",), f"{REPLAY} {RECURRENT}"),
    ("reinforce", CARTPOLE, ALL_BACKENDS, f"--steps 2000 {SMALL}"),
    ("reinforce", CARTPOLE, ("jax",), f"--steps 2000 {SMALL} --baseline optimal --capacity 256"),
    (
        "reinforce",
        PENDULUM,
        ("jax",),
        f"--steps 4000 {SMALL} --baseline average --num-envs 4 --no-causality",
    ),
    (
        "reinforce",
        CARTPOLE,
        ("jax",),
        f"--steps 2000 {SMALL} --recurrent gru --memory-size 8 --capacity 256",
    ),
    ("off-policy-gradient", CARTPOLE, ALL_BACKENDS, f"--steps 2000 {SMALL}"),
    ("off-policy-gradient", CARTPOLE, ("jax",), f"--steps 2000 {SMALL} --correction trajectory"),
    ("actor-critic", CARTPOLE, ALL_BACKENDS, f"--steps 2048 {SMALL}"),
    (
        "actor-critic",
        PENDULUM,
        ("jax",),
        f"--steps 2048 {SMALL} --control-variate --normalize-advantage",
    ),
    (
        "actor-critic",
        CARTPOLE,
        ("jax",),
        f"--steps 2048 {SMALL} --advantage n_step --value-target monte_carlo --discount-from "
        "start --value-steps 2",
    ),
    ("a2c", CARTPOLE, ALL_BACKENDS, f"--steps 2000 {SMALL}"),
    ("natural-gradient", CARTPOLE, ALL_BACKENDS, f"--steps 4096 {SMALL}"),
    ("trpo", CARTPOLE, ALL_BACKENDS, f"--steps 4096 {SMALL}"),
    (
        "trpo",
        PENDULUM,
        ("jax",),
        f"--steps 4096 {SMALL} --normalize-observation --fisher-interval 4",
    ),
    ("dual-gradient", CARTPOLE, ALL_BACKENDS, f"--steps 4096 {SMALL}"),
    ("ppo", CARTPOLE, ALL_BACKENDS, f"--steps 4096 {SMALL}"),
    (
        "ppo",
        PENDULUM,
        ("jax",),
        f"--steps 4096 {SMALL} --state-noise --normalize-observation --normalize-reward",
    ),
    ("ppo", CARTPOLE, ("jax",), f"--steps 4096 {SMALL} --recurrent lstm --memory-size 8"),
    ("ppo", CARTPOLE, ("jax",), f"--steps 4096 {SMALL} --kl-penalty adaptive --kl-stop --shared"),
    ("ppo", CARTPOLE, ("jax",), f"--steps 4096 {SMALL} --frame-stack 3 --clip-decay 5000"),
    ("ppo", "etude/CartPoleWithoutVelocity-v1", ("jax",), f"--steps 4096 {SMALL}"),
    ("ppo", "MountainCar-v0", ("jax",), f"--steps 4096 {SMALL}"),
    ("ppo", "MountainCarContinuous-v0", ("jax",), f"--steps 4096 {SMALL}"),
    ("ppo", "Acrobot-v1", ("jax",), f"--steps 4096 {SMALL}"),
    ("mpc", PENDULUM, ("jax", "gymnasium"), "--steps 100 --samples 30 --iterations 2 --horizon 10"),
    (
        "mpc",
        PENDULUM,
        ("jax",),
        "--steps 100 --samples 30 --iterations 2 --horizon 10 --planner icem",
    ),
    (
        "mpc",
        PENDULUM,
        ("jax",),
        "--steps 100 --samples 30 --iterations 2 --horizon 10 --planner mppi",
    ),
    ("mpc", PENDULUM, ("jax",), "--steps 100 --samples 30 --horizon 10 --planner random_shooting"),
    ("mcts", CARTPOLE, ("jax", "gymnasium"), "--steps 60 --simulations 30 --horizon 20"),
    ("random", CARTPOLE, ALL_BACKENDS, "--steps 500"),
    ("random", PENDULUM, ("jax",), "--steps 500"),
    ("heuristic", "LunarLander-v3", ("gymnasium", "envpool"), "--steps 500"),
    ("heuristic", "LunarLanderContinuous-v3", ("gymnasium",), "--steps 500"),
]
# The name of a case has the flags of the version that first had it; these are called so now.
FLAGS_NOW = {
    "--prioritized": "--replay prioritized",
    "--loss squared": "",  # which had no effect on the categorical head
    "--maximizer cma_es": "--maximizer cma-es",
    "--maximizer random_shooting": "--maximizer random-shooting",
    "--memory-size 8": "--recurrent.units 8",
    "--planner random_shooting": "--planner random-shooting",
    "--planner multiple_shooting": "--planner multiple-shooting",
    "--planner gradient_shooting": "--planner gradient-shooting",
}
PROBLEMS = ("double-integrator", "pendulum", "cart-pole", "acrobot", "quadrotor", "car")
PLANNERS = (
    "ilqr",
    "ddp",
    "multiple_shooting",
    "gradient_shooting",
    "collocation",
    "random_shooting",
    "cem",
    "icem",
    "mppi",
)
STUDIES = {
    "overestimation": ("overestimation", CARTPOLE, "--steps", "3000", "--seeds", "2"),
    "policy-gradient-variance": ("policy-gradient-variance", "--episodes", "300"),
    "open-loop": ("open-loop", "--runs", "2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--only", default="*", help="a pattern of case names, such as 'ppo*'")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(compare(*(json.loads(path.read_text()) for path in arguments.compare)))
    if arguments.out is None:
        parser.error("name the file to write, or --compare BEFORE AFTER")
    digests = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, measure in cases().items():
        if name in digests or not fnmatch.fnmatch(name, arguments.only):
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            digests[name] = measure(Path(folder))
        print(
            f"{time.perf_counter() - start:6.1f} s  {len(digests[name]):3} digests  {name}",
            flush=True,
        )
        arguments.out.write_text(json.dumps(digests, indent=1))


def cases() -> dict:
    """Return the cases: name -> function of a folder that returns {column: digest}."""
    cases_by_name = {}
    for algorithm, environment, backends, flags in RUNS:
        for backend in backends:
            arguments = [
                "train",
                algorithm,
                environment,
                *flags.split(),
                "--backend",
                backend,
                "--evaluation-episodes",
                "2",
            ]
            arguments_now = rename_flags(" ".join(arguments))
            # seeds on JAX environments train in one program, others one after another
            for seeds in (
                (["--seeds", "2"],) if backend == "jax" else (["--seed", "0"], ["--seed", "1"])
            ):
                cases_by_name[" ".join(arguments[1:] + seeds)] = (
                    lambda folder, arguments=arguments_now + seeds: digest_run(arguments, folder)
                )
    for problem in PROBLEMS:
        for planner in PLANNERS:
            planner_options = ["--samples", "40", "--elites", "8"]
            if planner != "collocation":  # which has no plan before it has converged
                planner_options += ["--iterations", "5"]
            arguments = ["plan", problem, "--planner", planner, *planner_options, "--no-video"]
            # only these have elites now
            elites_now = "--planner.elites 8" if planner in ("cem", "icem") else ""
            arguments_now = rename_flags(" ".join(arguments).replace("--elites 8", elites_now))
            cases_by_name[" ".join(arguments)] = lambda folder, arguments=arguments_now: (
                digest_json(arguments, folder)
            )
    for game in ("tic-tac-toe", "connect-four"):
        arguments = ["plan", game, "--iterations", "200", "--no-video"]
        cases_by_name[" ".join(arguments)] = lambda folder, arguments=arguments: digest_json(
            arguments, folder
        )
    for name, arguments in STUDIES.items():
        cases_by_name[f"figure {name}"] = lambda folder, arguments=arguments: digest_json(
            ["figure", *arguments], folder
        )
    return cases_by_name


def rename_flags(line: str) -> list[str]:
    """Return the arguments of a case with flags as they are called now."""
    for name, name_now in FLAGS_NOW.items():
        line = line.replace(name, name_now)
    return line.split()


def digest_run(arguments: list[str], folder: Path) -> dict[str, str]:
    """Return the digests of a run's states, metrics and evaluation."""
    run_command([*arguments, "--out", str(folder / "run")])
    run = etude.load(folder / "run")
    digests = {}
    for seed, state in enumerate(run.states()):
        for i, leaf in enumerate(jax.tree.leaves(state)):
            digests[f"state {seed} leaf {i}"] = digest(leaf)
    digests |= {f"metrics {name}": digest(column) for name, column in run.metrics.items()}
    return digests | {"evaluation": digest(run.summary["evaluation"]["returns"])}


def digest_json(arguments: list[str], folder: Path) -> dict[str, str]:
    """Return the digests of the entries of the JSON file that a command writes."""
    run_command([*arguments, "--out", str(folder / "out")])
    (path,) = (folder / "out").glob("*.json")
    return {name: digest(value) for name, value in flatten(json.loads(path.read_text())).items()}


def flatten(value, name: str = "") -> dict:
    """Flatten a tree of dicts to {"a/b": leaf}."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf
        for part, child in value.items()
        for key, leaf in flatten(child, f"{name}/{part}").items()
    }


def digest(value) -> str:
    """Return the digest of an array or of a JSON value."""
    if isinstance(value, (list, str, bool, int, float)) or value is None:
        data = json.dumps(value).encode()
    else:
        array = np.asarray(value)
        data = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    return hashlib.sha256(data).hexdigest()[:32]


def run_command(arguments: list[str]) -> None:
    """Run the command line in this process."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            command_line(arguments)
        except SystemExit as exit_:
            if exit_.code:
                raise RuntimeError(
                    f"etude {' '.join(arguments)}: status {exit_.code}\n{output.getvalue()}"
                ) from None


def compare(before: dict, after: dict) -> int:
    """Print the differences; return the exit status, 1 if there are any."""
    differing = 0
    for name in sorted(before.keys() | after.keys()):
        before_digests, after_digests = before.get(name, {}), after.get(name, {})
        different = sorted(
            key
            for key in before_digests.keys() | after_digests.keys()
            if before_digests.get(key) != after_digests.get(key)
        )
        differing += bool(different)
        if different:
            print(
                f"differs: {name}: {', '.join(different[:6])}{' ...' if len(different) > 6 else ''}"
            )
    total = sum(map(len, before.values()))
    print(
        f"{len(before)} cases before, {len(after)} after, {total} digests; {differing} cases differ"
    )
    return int(differing > 0)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
