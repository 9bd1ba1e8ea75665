"""Digests of what etude computes, to show that a change of the code changed no number.

    python tools/digests.py before.json            # in the tree before, and after.json in the tree
    after python tools/digests.py --compare before.json after.json

A digest is the SHA-256 of the bytes of an array. Short runs cover every algorithm, with two seeds,
on each backend that it takes; every planner on every problem of `etude plan`; and every study of
`etude figure`. Of a run there are the leaves of the algorithm's state in tree order, the columns of
metrics.csv and the returns of the evaluation; of a plan and a study the entries of its JSON file.
Digests are equal only on one machine with one set of versions.
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
EVERYWHERE = ("jax", "gymnasium", "envpool")
REPLAY = "--steps 1200 --warmup-steps 200 --capacity 2000 --hidden 32 32 --batch-size 32"
SMALL = "--hidden 16 16"

# (algorithm, environment, backends, further flags)
RUNS = [
    ("q-learning", LAKE, ("gymnasium",), "--steps 1000"),
    ("sarsa", LAKE, ("gymnasium",), "--steps 1000"),
    ("td", LAKE, ("gymnasium",), "--steps 1000 --trace-decay 0.5"),
    ("dqn", CARTPOLE, EVERYWHERE, REPLAY),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --exploration boltzmann --n-step 3"),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --head quantile --prioritized"),
    ("dqn", CARTPOLE, ("jax",), f"{REPLAY} --head categorical --noisy --loss squared --no-double"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer cem"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer cma_es"),
    ("dqn", PENDULUM, ("jax",), f"{REPLAY} --maximizer random_shooting"),
    ("online-q", CARTPOLE, EVERYWHERE, "--steps 300 --hidden 32 32"),
    ("fitted-q", CARTPOLE, EVERYWHERE, "--steps 1000 --hidden 32 32 --warmup-steps 500"),
    ("rainbow", CARTPOLE, EVERYWHERE, REPLAY),
    ("pqn", CARTPOLE, EVERYWHERE, f"--steps 4096 {SMALL}"),
    ("naf", PENDULUM, EVERYWHERE, REPLAY),
    ("ddpg", PENDULUM, EVERYWHERE, REPLAY),
    ("td3", PENDULUM, EVERYWHERE, REPLAY),
    ("off-policy-actor-critic", PENDULUM, EVERYWHERE, REPLAY),
    ("off-policy-actor-critic", CARTPOLE, ("jax",), REPLAY),
    ("sac", PENDULUM, EVERYWHERE, REPLAY),
    ("sac", PENDULUM, ("jax",), f"{REPLAY} --noise-per-rollout --rollout-length 8"),
    ("sac", CARTPOLE, ("jax",), REPLAY),
    ("reinforce", CARTPOLE, EVERYWHERE, f"--steps 2000 {SMALL}"),
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
    ("off-policy-gradient", CARTPOLE, EVERYWHERE, f"--steps 2000 {SMALL}"),
    ("off-policy-gradient", CARTPOLE, ("jax",), f"--steps 2000 {SMALL} --correction trajectory"),
    ("actor-critic", CARTPOLE, EVERYWHERE, f"--steps 2048 {SMALL}"),
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
    ("a2c", CARTPOLE, EVERYWHERE, f"--steps 2000 {SMALL}"),
    ("natural-gradient", CARTPOLE, EVERYWHERE, f"--steps 4096 {SMALL}"),
    ("trpo", CARTPOLE, EVERYWHERE, f"--steps 4096 {SMALL}"),
    (
        "trpo",
        PENDULUM,
        ("jax",),
        f"--steps 4096 {SMALL} --normalize-observation --fisher-interval 4",
    ),
    ("dual-gradient", CARTPOLE, EVERYWHERE, f"--steps 4096 {SMALL}"),
    ("ppo", CARTPOLE, EVERYWHERE, f"--steps 4096 {SMALL}"),
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
]
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
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            digests[name] = measure(Path(folder))
        print(
            f"{time.perf_counter() - began:6.1f} s  {len(digests[name]):3} digests  {name}",
            flush=True,
        )
        arguments.out.write_text(json.dumps(digests, indent=1))


def cases() -> dict:
    """Name -> function(folder) that returns {column: digest}."""
    found = {}
    for algorithm, environment, backends, flags in RUNS:
        for backend in backends:
            words = [
                "train",
                algorithm,
                environment,
                *flags.split(),
                "--backend",
                backend,
                "--evaluation-episodes",
                "2",
            ]
            # the seeds of JAX environments train in one program; those of the others, one after the
            # other
            for seeds in (
                (["--seeds", "2"],) if backend == "jax" else (["--seed", "0"], ["--seed", "1"])
            ):
                found[" ".join(words[1:] + seeds)] = lambda folder, words=words + seeds: digest_run(
                    words, folder
                )
    for problem in PROBLEMS:
        for planner in PLANNERS:
            size = ["--samples", "40", "--elites", "8"]
            if planner != "collocation":  # which has no plan before it has converged
                size += ["--iterations", "5"]
            words = ["plan", problem, "--planner", planner, *size, "--no-video"]
            found[" ".join(words)] = lambda folder, words=words: digest_json(words, folder)
    for game in ("tic-tac-toe", "connect-four"):
        words = ["plan", game, "--iterations", "200", "--no-video"]
        found[" ".join(words)] = lambda folder, words=words: digest_json(words, folder)
    for name, words in STUDIES.items():
        found[f"figure {name}"] = lambda folder, words=words: digest_json(
            ["figure", *words], folder
        )
    return found


def digest_run(words: list[str], folder: Path) -> dict[str, str]:
    """Digests of a run's states, metrics and evaluation."""
    call([*words, "--out", str(folder / "run")])
    run = etude.load(folder / "run")
    digests = {}
    for seed, state in enumerate(run.states()):
        for i, leaf in enumerate(jax.tree.leaves(state)):
            digests[f"state {seed} leaf {i}"] = digest(leaf)
    digests |= {f"metrics {name}": digest(column) for name, column in run.metrics.items()}
    return digests | {"evaluation": digest(run.summary["evaluation"]["returns"])}


def digest_json(words: list[str], folder: Path) -> dict[str, str]:
    """Digests of the entries of the JSON file that a command leaves."""
    call([*words, "--out", str(folder / "out")])
    (path,) = (folder / "out").glob("*.json")
    return {name: digest(value) for name, value in flatten(json.loads(path.read_text())).items()}


def flatten(value, name: str = "") -> dict:
    """A tree of dicts as {"a/b": leaf}."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf
        for part, child in value.items()
        for key, leaf in flatten(child, f"{name}/{part}").items()
    }


def digest(value) -> str:
    if isinstance(value, (list, str, bool, int, float)) or value is None:
        data = json.dumps(value).encode()
    else:
        array = np.asarray(value)
        data = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    return hashlib.sha256(data).hexdigest()[:32]


def call(words: list[str]) -> None:
    """Run the command line in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            command_line(words)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(
                    f"etude {' '.join(words)}: status {end.code}\n{said.getvalue()}"
                ) from None


def compare(before: dict, after: dict) -> int:
    """Print what differs; the status is 1 when anything does."""
    differing = 0
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, {}), after.get(name, {})
        odd = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        differing += bool(odd)
        if odd:
            print(f"differs: {name}: {', '.join(odd[:6])}{' ...' if len(odd) > 6 else ''}")
    total = sum(map(len, before.values()))
    print(
        f"{len(before)} cases before, {len(after)} after, {total} digests; {differing} cases differ"
    )
    return int(differing > 0)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
