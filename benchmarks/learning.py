"""Returns of the presets over several seeds, judged on Gymnasium: `make benchmark-learning`.

It may be stopped and started again: what is finished is reused, what is not is resumed.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import families
import report
from report import RESULTS, RUNS

import etude
from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.struct import replace

HEADINGS = [
    "algorithm",
    "environment",
    "steps",
    "backend",
    "IQM",
    "95 % interval",
    "each seed",
    "bar",
    "met",
    "published",
    "wall s",
    "measured",
]
NOTES = """# Learning

Presets, trained on the backend named, then judged over 100 episodes of each seed on Gymnasium by the deterministic
policy. A seed's score is its mean return; the IQM is that of the seeds' scores, its interval a bootstrap over seeds.
The steps are those of each seed, the wall time that of all seeds together, evaluation included, and what else the machine
did meanwhile; a row that was stopped and resumed has none. reinforce on CartPole-v1 learns from its first 200 episodes
alone. Published is what rl-baselines3-zoo (benchmark.md at 0088472) says of one run with the settings
the presets are from, on LunarLander's version 2.
"""
TRIED = {  # of rows that miss their bar
    "rainbow-LunarLander-v3": "one seed of five learns to hover and never lands; at a discount of "
    ".995 two of four did",
    "trpo-LunarLanderContinuous-v3": "it still learns at the end; a KL limit of .03 gave 208, .04 "
    "with a discount of .995 and λ .98 gave 181",
}
RESUMED = "resumed.json"  # in a run that was, whose wall time is that of its last session alone
console = report.console()


class Goal(NamedTuple):
    """What the evaluation of several seeds is held to."""

    text: str
    met: Callable[[dict[str, Any]], bool]


class Row(NamedTuple):
    """A preset, what it is to reach, its budget unless `steps` says another, and a `setting` of it
    by name, with other fields."""

    algorithm: str
    environment: str
    goal: Goal | None = None
    steps: int | None = None
    setting: str | None = None
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return "-".join(
            map(
                str,
                filter(
                    None,
                    (self.algorithm, self.setting, self.environment.split("/")[-1], self.steps),
                ),
            )
        )


def iqm(least: float) -> Goal:
    return Goal(f"IQM ≥ {least:g}", lambda evaluation: evaluation["iqm"] >= least)


def at_most(greatest: float) -> Goal:
    """What is shown not to work."""
    return Goal(f"IQM ≤ {greatest:g}", lambda evaluation: evaluation["iqm"] <= greatest)


def most_seeds(least: float) -> Goal:
    """In four of five seeds."""
    return Goal(
        f"4 of 5 ≥ {least:g}",
        lambda evaluation: (
            sum(score >= least for score in evaluation["per_seed"])
            >= 0.8 * len(evaluation["per_seed"])
        ),
    )


def above(name: str) -> Goal:
    """The interval above that of a row measured before."""

    def met(evaluation):
        other = report.earlier(RESULTS, "learning").get(name)
        return other is not None and float(evaluation["ci95"][0]) > float(
            other["evaluation"]["ci95"][1]
        )

    return Goal(f"above {name}, intervals apart", met)


HELD = [
    Row("dqn", "CartPole-v1", most_seeds(475)),
    Row("dqn", "Acrobot-v1", iqm(-85)),
    Row("dqn", "MountainCar-v0", iqm(-115)),
    Row("dqn", "LunarLander-v3", iqm(200)),
    # what rainbow is held against: the same without what it adds, double targets too
    Row(
        "dqn",
        "LunarLander-v3",
        steps=150_000,
        setting="plain",
        fields=(("double", False), ("learning_rate_decay", 150_000.0)),
    ),
    Row("rainbow", "LunarLander-v3", above("dqn-plain-LunarLander-v3-150000")),
    Row("sac", "Pendulum-v1", iqm(-160)),
    Row("td3", "Pendulum-v1", iqm(-160)),
    Row("ddpg", "Pendulum-v1", iqm(-160)),
    Row("naf", "Pendulum-v1", iqm(-300)),
    Row("dqn", "Pendulum-v1", iqm(-200)),
    Row("sac", "MountainCarContinuous-v0", iqm(90)),
    Row("sac", "HalfCheetah-v5", iqm(4500), steps=100_000),
    Row("td3", "InvertedPendulum-v5", iqm(990)),
    Row("pqn", "CartPole-v1", iqm(490)),
    Row("reinforce", "CartPole-v1", iqm(475)),
    Row("reinforce", "HalfCheetah-v5", iqm(300)),
    Row("a2c", "CartPole-v1", iqm(490)),
    Row("a2c", "InvertedPendulum-v5", iqm(990)),
    Row("actor-critic", "InvertedPendulum-v5", iqm(950)),
    Row("trpo", "CartPole-v1", iqm(490)),
    Row("trpo", "LunarLanderContinuous-v3", iqm(220)),
    Row("natural-gradient", "InvertedPendulum-v5", iqm(990)),
    Row("ppo", "HalfCheetah-v5", iqm(1500)),
    Row("ppo", "Hopper-v5", iqm(2000)),
    Row("ppo", "etude/CartPoleWithoutVelocity-v1", iqm(450)),
    # the same without its memory, which cannot do it
    Row(
        "ppo",
        "etude/CartPoleWithoutVelocity-v1",
        at_most(200),
        setting="feed-forward",
        fields=(("recurrent", "none"),),
    ),
    Row("ppo", "CartPole-v1", iqm(490)),
    Row("ppo", "LunarLander-v3", iqm(200)),
    Row("ppo", "Pendulum-v1", iqm(-200)),
]
PUBLISHED = {
    ("dqn", "CartPole-v1"): 500.0,
    ("dqn", "Acrobot-v1"): -76.6,
    ("dqn", "MountainCar-v0"): -100.8,
    ("dqn", "LunarLander-v3"): 154.4,
    ("a2c", "CartPole-v1"): 500.0,
    ("trpo", "CartPole-v1"): 500.0,
    ("trpo", "LunarLanderContinuous-v3"): 262.4,
    ("ppo", "CartPole-v1"): 500.0,
    ("ppo", "Acrobot-v1"): -73.5,
    ("ppo", "MountainCar-v0"): -110.4,
    ("ppo", "MountainCarContinuous-v0"): 88.3,
    ("ppo", "Pendulum-v1"): -172.2,
    ("ppo", "LunarLander-v3"): 242.1,
    ("ppo", "LunarLanderContinuous-v3"): 270.9,
}


def rows() -> dict[str, Row]:
    """Every row by its name: those held to something, then the other presets."""
    from etude.presets import PRESETS

    known = {(row.algorithm, row.environment) for row in HELD}
    every = [*HELD, *(Row(*pair) for pair in PRESETS if pair not in known)]
    return {row.name: row for row in every}


def main() -> None:
    from etude.runs.interrupt import Interrupted
    from etude.storage import files

    names = rows()
    asked = arguments(list(names))
    chosen = asked.only or [name for name, row in names.items() if asked.all or row in HELD]
    directory = RUNS / "smoke" if asked.steps else RESULTS
    sound = True
    for name in chosen:
        console.rule(name)
        try:
            found = measure(name, names[name], asked.seeds, asked.steps)
        except (InvalidInput, EnvironmentFault, Diverged) as error:
            console.print(f"{name} failed: {error}", style="red", markup=False)
            sound = False
            continue
        except Interrupted as stopped:
            console.print(f"{name}: {stopped}; the same command goes on from there", markup=False)
            sys.exit(130)
        measured = report.earlier(directory, "learning") | {name: found}
        report.write(directory, "learning", measured, page(measured))
        files.write_bytes(directory / "families.md", families.page(measured).encode())
    measured = report.earlier(directory, "learning")
    report.show(
        console,
        "Learning",
        HEADINGS,
        [cells(measured[name]) for name in measured if name in chosen],
    )
    console.print(f"in {directory / 'learning.md'} and learning.json", soft_wrap=True)
    sys.exit(0 if sound else 1)


def arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=names, help="train this; may be repeated"
    )
    parser.add_argument("--all", action="store_true", help="the presets without a bar too")
    parser.add_argument("--seeds", type=int, default=5, help="agents of each row (default 5)")
    parser.add_argument(
        "--steps", type=int, help="of each seed, to see that all works; kept apart from the results"
    )
    return parser.parse_args()


def measure(name: str, row: Row, seeds: int, steps: int | None) -> dict[str, Any]:
    """Train what is not trained yet, and say what came of it; `steps` is another budget, for which
    there is no goal."""
    from etude.runs.run import resolve_settings
    from etude.storage import files

    known = etude.preset(row.algorithm, row.environment)
    algorithm = replace(known.algorithm, **dict(row.fields))
    settings = {
        "steps": steps or row.steps or known.steps,
        "seeds": seeds,
        "num_envs": known.num_envs,
    }
    directory = RUNS / run_name(name, resolve_settings(algorithm, row.environment, **settings))
    if (directory / "summary.json").exists():
        console.print(f"measured already, in {directory.relative_to(RUNS.parent)}")
        run = etude.load(directory)
    elif (directory / "config.json").exists():
        files.write_json(directory / RESUMED, {"resumed": report.now()})
        run = etude.resume(directory)
    else:
        run = etude.train(algorithm, row.environment, out=directory, **settings)
    return result(run, row, None if steps else row.goal)


def run_name(name: str, settings: Any) -> str:
    """Of the run directory; other settings have another, so that what is reused is what is asked
    for."""
    from etude.runs.settings import to_json
    from etude.storage import files

    plain = {
        key: value for key, value in to_json(settings).items() if key not in ("versions", "machine")
    }
    return f"{name}-{settings.steps}x{settings.seeds}-{hashlib.sha256(files.encode_json(plain)).hexdigest()[:6]}"


def result(run: Any, row: Row, goal: Goal | None) -> dict[str, Any]:
    """What a finished run says."""
    from etude.storage import files

    summary, config = run.summary, files.read_json(run.directory / "config.json")
    evaluation = {key: value for key, value in summary["evaluation"].items() if key != "returns"}
    finished = datetime.fromtimestamp((run.directory / "summary.json").stat().st_mtime)
    return {
        "algorithm": row.algorithm,
        "setting": row.setting,
        "environment": row.environment,
        "measured": finished.strftime(report.MINUTE),
        "bar": goal and goal.text,
        "met": goal and goal.met(evaluation),
        "published": PUBLISHED.get(row[:2]),
        "resumed": (run.directory / RESUMED).exists(),
        "evaluation": evaluation,
        "reached": families.reached(run, summary["train_seconds"]),
        **{
            key: summary[key]
            for key in ("backend", "steps", "wall_seconds", "train_seconds", "compile_seconds")
        },
        **{key: config[key] for key in ("num_envs", "hyperparameters", "versions", "machine")},
    }


def cells(row: dict[str, Any]) -> list[str]:
    evaluation = row["evaluation"]
    middle, low, high = map(float, (evaluation["iqm"], *evaluation["ci95"]))
    scores = ", ".join(f"{float(score):.1f}" for score in evaluation["per_seed"])
    published = "–" if row["published"] is None else f"{row['published']:.1f}"
    wall = "–" if row["resumed"] else f"{row['wall_seconds']:.0f}"
    setting = f" ({row['setting']})" if row.get("setting") else ""
    return [
        row["algorithm"] + setting,
        row["environment"],
        f"{row['steps']:,}",
        row["backend"],
        f"{middle:.1f}",
        f"{low:.1f} to {high:.1f}",
        scores,
        row["bar"] or "–",
        {True: "yes", False: "no", None: "–"}[row["met"]],
        published,
        wall,
        row["measured"],
    ]


def page(rows: dict[str, Any]) -> str:
    """learning.md"""
    table = report.markdown(HEADINGS, [cells(row) for row in rows.values()])
    made = {
        f"* {row['measured'][:10]}, {row['machine']['cores']} cores: "
        f"{report.listed(row['versions'])}\n"
        for row in rows.values()
    }
    missed = [
        f"* {name} misses its bar: {TRIED[name]}.\n"
        for name, row in rows.items()
        if row["met"] is False and name in TRIED
    ]
    return f"{NOTES}\n{table}\n{''.join([*missed, *sorted(made)])}"


if __name__ == "__main__":
    main()
