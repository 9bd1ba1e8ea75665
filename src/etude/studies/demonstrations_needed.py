"""How many labels of an expert cloning and DAgger need: returns by the number of labels.

A label is a state with what the expert does there. Cloning gets those of the expert's own episodes,
from the first to as many as are given; DAgger those of the states that it comes to in its rounds,
the first of which is the expert's. Networks and gradient steps are the same.

Where a policy can be all that the expert is, the expert's own states show enough. One that cannot
errs in some states whatever it is shown. Which they are is what DAgger learns to choose by the
states of the policy itself, and cloning by states that the policy does not stay in. So the policy
here is linear by default.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.dagger import DAgger
from etude.data.dataset import Dataset, episode_returns
from etude.errors import InvalidInput
from etude.reporting import imitation_figures
from etude.reporting.statistics import summarize_returns
from etude.runs.config_values import plain_fields
from etude.runs.interrupt import Interrupted
from etude.runs.record import record
from etude.runs.train import train
from etude.struct import replace
from etude.studies.measurement import begin_or_go_on, save

LABELS = (500, 1_000, 2_000, 4_000, 8_000)
ROUNDS = 20  # of DAgger; each asks for an equal part of the labels, and fits for one of the steps
LEARNING_RATE = 0.01


def measure_demonstrations_needed(
    environment: str = "LunarLander-v3",
    expert: str = "heuristic",
    labels: Sequence[int] = LABELS,
    hidden: Sequence[int] = (),
    gradient_steps: int = 10_000,
    seeds: int = 20,
    episodes: int = 100,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Clone an expert, and let DAgger ask it, with growing numbers of labels; draw the returns.

    Writes demonstrations_needed.json into the directory `out` after every run, and at the end
    demonstrations_needed.png. Where `out` has a measurement, it adds what is missing of it, or of
    more labels or seeds, and draws it again.

    Args:
        environment: a Gymnasium id.
        expert: as in `etude.record`.
        labels: numbers of labels, each a multiple of ROUNDS.
        hidden: units of each hidden layer; () for a linear policy.
        gradient_steps: of a run, in all; a multiple of ROUNDS.
        seeds: number of seeds, from 0 on, of each method with each number of labels.
        episodes: number of episodes of Gymnasium's environment in which the expert and each run
            are evaluated.
        out: the directory; by default runs/demonstrations_needed-ENVIRONMENT.

    Returns:
        The directory and a dict: what demonstrations_needed.json holds (arguments, versions,
        machine, `date`, and all returns), and beside it `expert_mean`, the mean return of the
        expert, and under "cloning" and "dagger" what `summarize_returns` says of each number of
        labels.

    Raises:
        InvalidInput: for arguments that do not fit, and for a directory with a measurement of other
            settings.
        Interrupted: after Ctrl-C.
    """
    check_numbers(labels, gradient_steps, seeds, episodes)
    stem = f"demonstrations_needed-{environment.split(':')[-1].replace('/', '-')}"
    directory = Path(out) if out is not None else Path("runs") / stem
    path = directory / "demonstrations_needed.json"
    hidden = tuple(hidden)
    settings: dict[str, Any] = {
        "environment": environment,
        "expert": expert,
        "gradient_steps": gradient_steps,
        "rounds": ROUNDS,
        "episodes": episodes,
        "hyperparameters": {
            "cloning": plain_fields(cloning(hidden, gradient_steps)),
            "dagger": {
                name: value
                for name, value in plain_fields(dagger(hidden, gradient_steps, ROUNDS)).items()
                if name not in ("rollout_length", "capacity")  # which follow from the labels
            },
        },
    }
    measured = begin_or_go_on(path, settings, {"returns": {"cloning": {}, "dagger": {}}})
    measured["labels"] = sorted({*measured.get("labels", ()), *labels})
    measured["seeds"] = max(measured.get("seeds", 0), seeds)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        measure_missing(path, measured, hidden)
    except Interrupted as stopped:
        raise Interrupted(
            f"stopped; {path} has what is measured, and the same command goes on", stopped.signal
        ) from None
    summary = summarize_measured(measured)
    imitation_figures.draw_returns_by_labels(
        directory / "demonstrations_needed.png",
        summary,
        title=f"Return by the number of labels, {environment}",
        subtitle=f"{network_name(hidden)}, {expert} as the expert; IQM of {summary['seeds']} "
        f"seeds with 95 % intervals, {episodes} episodes each",
    )
    return directory, summary


def network_name(hidden: tuple[int, ...]) -> str:
    """What the policy is, in the words of a figure."""
    return f"hidden layers of {' and '.join(map(str, hidden))}" if hidden else "linear policies"


def measure_missing(path: Path, measured: dict[str, Any], hidden: tuple[int, ...]) -> None:
    """Add the returns that are missing, and write all to `path` after each run."""
    environment, expert, steps = (
        measured[name] for name in ("environment", "expert", "gradient_steps")
    )
    if "expert_returns" not in measured:
        episodes = record(environment, expert, episodes=measured["episodes"], progress=False)
        measured["expert_returns"] = episode_returns(episodes).tolist()
    for seed in range(measured["seeds"]):
        recorded: Dataset | None = None  # the longest, of which fewer labels are the first
        for count in measured["labels"]:
            for name in ("cloning", "dagger"):
                returns = measured["returns"][name].setdefault(str(count), [])
                if len(returns) > seed:
                    continue
                algorithm: BC | DAgger
                if name == "cloning":
                    recorded = recorded or record_steps(
                        environment, expert, max(measured["labels"]), seed
                    )
                    algorithm = cloning(hidden, steps)
                    options = {"steps": steps, "dataset": first_steps(recorded, count)}
                else:
                    algorithm = dagger(hidden, steps, count)
                    options = {"steps": count, "expert": expert, "num_envs": 1}
                    options["backend"] = "gymnasium"
                returns.append(train_and_evaluate(algorithm, measured, seed, **options))
                save(path, measured)


def check_numbers(labels: Sequence[int], gradient_steps: int, seeds: int, episodes: int) -> None:
    """Raise InvalidInput for numbers with which nothing can be measured."""
    for name, value in (("seeds", seeds), ("episodes", episodes)):
        if value < 2:
            raise InvalidInput(f"{name} is {value}; give at least 2")
    if not labels:
        raise InvalidInput("labels is empty; give at least one number of labels")
    for name, values in (("labels", labels), ("gradient_steps", [gradient_steps])):
        for value in values:
            if value < ROUNDS or value % ROUNDS:
                raise InvalidInput(
                    f"{name} is {value}; give a multiple of {ROUNDS}, the rounds of DAgger"
                )


def cloning(hidden: tuple[int, ...], gradient_steps: int) -> BC:
    """Behavior cloning with so many gradient steps in all, in ROUNDS updates."""
    return BC(
        learning_rate=LEARNING_RATE,
        hidden=hidden,
        gradient_steps=gradient_steps // ROUNDS,
        learning_rate_decay=float(gradient_steps),
    )


def dagger(hidden: tuple[int, ...], gradient_steps: int, labels: int) -> DAgger:
    """DAgger with so many gradient steps and labels in all, in ROUNDS rounds."""
    return DAgger(
        learning_rate=LEARNING_RATE,
        hidden=hidden,
        gradient_steps=gradient_steps // ROUNDS,
        learning_rate_decay=float(gradient_steps),
        beta=0.0,
        rollout_length=labels // ROUNDS,
        capacity=labels,
    )


def record_steps(
    environment: str, expert: str | Path, steps: int, seed: int, noise: float = 0.0
) -> Dataset:
    """Whole episodes of the expert with at least `steps` steps; `noise` as in `etude.record`."""
    episodes = 10
    while True:
        dataset = record(
            environment, expert, episodes=episodes, seed=seed, noise=noise, progress=False
        )
        if dataset.num_steps >= steps:
            return dataset
        episodes *= 2


def first_steps(dataset: Dataset, count: int) -> Dataset:
    """The first `count` steps of a dataset; an episode that goes on is truncated there."""
    transitions = jax.tree.map(lambda x: x[:count], dataset.transitions)
    ends = np.minimum(np.cumsum(dataset.episode_lengths), count)
    lengths = np.diff(ends, prepend=0)
    truncated = transitions.truncated.at[-1].set(~transitions.terminated[-1])
    return replace(
        dataset,
        transitions=replace(transitions, truncated=truncated),
        episode_lengths=jax.numpy.asarray(lengths[lengths > 0], np.int32),
    )


def train_and_evaluate(
    algorithm: BC | DAgger, settings: dict[str, Any], seed: int, **options: Any
) -> list[float]:
    """Train with the options of `etude.train`; return the returns of the evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            algorithm,
            settings["environment"],
            seed=seed,
            evaluation_episodes=settings["episodes"],
            out=Path(folder) / "run",
            progress=False,
            **options,
        )
        return run.summary["evaluation"]["returns"][0]


def summarize_measured(measured: dict[str, Any]) -> dict[str, Any]:
    """What is measured, with the statistics of each method by number of labels."""
    statistics = {
        name: {
            str(count): summarize_returns(by_labels[str(count)][: measured["seeds"]])
            for count in measured["labels"]
        }
        for name, by_labels in measured["returns"].items()
    }
    return {**measured, **statistics, "expert_mean": float(np.mean(measured["expert_returns"]))}
