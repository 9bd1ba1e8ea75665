"""Returns of the presets over several seeds, evaluated on Gymnasium: `make benchmark-learning`.

The command may be stopped at any time: it reuses finished runs and resumes the others.
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

sys.path.append(str(report.RUNS.parents[1] / "examples"))
from simba import SimBa

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
    "success",
    "bar",
    "met",
    "published",
    "wall s",
    "measured",
]
NOTES = """# Learning

Presets are trained on the backend shown, then evaluated on Gymnasium for 100 episodes of each seed
with the deterministic policy. The score of a seed is its mean return; the IQM is that of the seeds'
scores, with a bootstrap interval over seeds. Steps are those of each seed. The wall time is that of
all seeds together with evaluation, on a machine with other load; a resumed row has none. reinforce
on CartPole-v1 learns from its first 200 episodes only. Success, of tasks with goals, is the share
of 100 episodes at whose end the goal is reached: its IQM and interval. The published scores are
those of rl-baselines3-zoo (benchmark.md at 0088472), of one run with the settings of the presets,
on version 2 of LunarLander.
"""
REMARKS = {  # on rows that miss their bar
    "rainbow-LunarLander-v3": "one seed of five learns to hover and never lands; at a discount of "
    ".995 two of four did",
    "trpo-LunarLanderContinuous-v3": "it still learns at the end; a KL limit of .03 gave 208, .04 "
    "with a discount of .995 and λ .98 gave 181",
}
RESUMED = "resumed.json"  # marks a resumed run, whose wall time is that of its last session
console = report.console()


class Goal(NamedTuple):
    """A goal for the evaluation of several seeds."""

    text: str
    met: Callable[[dict[str, Any]], bool]


class Row(NamedTuple):
    """A preset with a goal, and optionally another budget or a named setting with other fields."""

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


def iqm_at_least(minimum: float) -> Goal:
    """A lower bound on the IQM."""
    return Goal(f"IQM ≥ {minimum:g}", lambda evaluation: evaluation["iqm"] >= minimum)


def iqm_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM, for settings that must fail."""
    return Goal(f"IQM ≤ {maximum:g}", lambda evaluation: evaluation["iqm"] <= maximum)


def success_at_least(minimum: float) -> Goal:
    """A lower bound on the IQM of the success rates."""
    return Goal(
        f"success ≥ {minimum:g}", lambda evaluation: evaluation["success"]["iqm"] >= minimum
    )


def success_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM of the success rates, for settings that must fail."""
    return Goal(
        f"success ≤ {maximum:g}", lambda evaluation: evaluation["success"]["iqm"] <= maximum
    )


def four_of_five_seeds(minimum: float) -> Goal:
    """A lower bound on the scores of four of five seeds."""
    return Goal(
        f"4 of 5 ≥ {minimum:g}",
        lambda evaluation: (
            sum(score >= minimum for score in evaluation["per_seed"])
            >= 0.8 * len(evaluation["per_seed"])
        ),
    )


def interval_above(name: str) -> Goal:
    """An interval above that of another row, which is measured before."""

    def met(evaluation):
        other = report.read_results(RESULTS, "learning").get(name)
        return other is not None and float(evaluation["ci95"][0]) > float(
            other["evaluation"]["ci95"][1]
        )

    return Goal(f"above {name}, intervals apart", met)


# what learns a task with goals by hindsight, and must not without it
HINDSIGHT = [
    ("dqn", "etude/PointRoom-v0"),
    ("sac", "etude/PointRoom-v0"),
    ("sac", "etude/PointRoomContinuous-v0"),
    ("td3", "etude/PointRoomContinuous-v0"),
    ("ddpg", "etude/PointRoomContinuous-v0"),
]
# what learns with a memory where velocities are hidden, and must not without
MEMORY = [("dqn", "etude/CartPoleWithoutVelocity-v1"), ("sac", "etude/PendulumWithoutVelocity-v1")]
# presets with the torso of examples/simba.py in place of their hidden layers
SIMBA = [("sac", "Pendulum-v1"), ("ppo", "LunarLander-v3")]
ROWS_WITH_GOALS = [
    *(Row(*pair, success_at_least(0.9)) for pair in HINDSIGHT),
    *(
        Row(*pair, success_at_most(0.3), setting="no-hindsight", fields=(("hindsight", None),))
        for pair in HINDSIGHT
    ),
    *(Row(*pair, setting="feed-forward", fields=(("recurrent", None),)) for pair in MEMORY),
    *(Row(*pair, interval_above(Row(*pair, setting="feed-forward").name)) for pair in MEMORY),
    *(Row(*pair, setting="simba", fields=(("torso", SimBa),)) for pair in SIMBA),
    Row("dqn", "CartPole-v1", four_of_five_seeds(475)),
    Row("dqn", "Acrobot-v1", iqm_at_least(-85)),
    Row("dqn", "MountainCar-v0", iqm_at_least(-115)),
    Row("dqn", "LunarLander-v3", iqm_at_least(200)),
    # compared with rainbow: the same without its extensions and without double targets
    Row(
        "dqn",
        "LunarLander-v3",
        steps=150_000,
        setting="plain",
        fields=(("double", False), ("learning_rate_decay", 150_000.0)),
    ),
    Row("rainbow", "LunarLander-v3", interval_above("dqn-plain-LunarLander-v3-150000")),
    Row("sac", "Pendulum-v1", iqm_at_least(-160)),
    Row("td3", "Pendulum-v1", iqm_at_least(-160)),
    Row("ddpg", "Pendulum-v1", iqm_at_least(-160)),
    Row("naf", "Pendulum-v1", iqm_at_least(-300)),
    Row("dqn", "Pendulum-v1", iqm_at_least(-200)),
    Row("sac", "MountainCarContinuous-v0", iqm_at_least(90)),
    Row("sac", "HalfCheetah-v5", iqm_at_least(4500), steps=100_000),
    Row("td3", "InvertedPendulum-v5", iqm_at_least(990)),
    Row("pqn", "CartPole-v1", iqm_at_least(490)),
    Row("reinforce", "CartPole-v1", iqm_at_least(475)),
    Row("reinforce", "HalfCheetah-v5", iqm_at_least(300)),
    Row("a2c", "CartPole-v1", iqm_at_least(490)),
    Row("a2c", "InvertedPendulum-v5", iqm_at_least(990)),
    Row("actor-critic", "InvertedPendulum-v5", iqm_at_least(950)),
    Row("trpo", "CartPole-v1", iqm_at_least(490)),
    Row("trpo", "LunarLanderContinuous-v3", iqm_at_least(220)),
    Row("natural-gradient", "InvertedPendulum-v5", iqm_at_least(990)),
    Row("ppo", "HalfCheetah-v5", iqm_at_least(1500)),
    Row("ppo", "Hopper-v5", iqm_at_least(2000)),
    Row("ppo", "etude/CartPoleWithoutVelocity-v1", iqm_at_least(450)),
    # the same without recurrence, which must fail
    Row(
        "ppo",
        "etude/CartPoleWithoutVelocity-v1",
        iqm_at_most(200),
        setting="feed-forward",
        fields=(("recurrent", None),),
    ),
    Row("ppo", "CartPole-v1", iqm_at_least(490)),
    Row("ppo", "LunarLander-v3", iqm_at_least(200)),
    Row("ppo", "Pendulum-v1", iqm_at_least(-200)),
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


def all_rows() -> dict[str, Row]:
    """Return all rows by name: those with goals, then the other presets."""
    from etude.presets import PRESETS

    pairs_with_goals = {(row.algorithm, row.environment) for row in ROWS_WITH_GOALS}
    rows = [*ROWS_WITH_GOALS, *(Row(*pair) for pair in PRESETS if pair not in pairs_with_goals)]
    return {row.name: row for row in rows}


def main() -> None:
    from etude.runs.interrupt import Interrupted
    from etude.storage import files

    rows = all_rows()
    options = parse_arguments(list(rows))
    selected = options.only or [
        name for name, row in rows.items() if options.all or row in ROWS_WITH_GOALS
    ]
    directory = RUNS / "smoke" if options.steps else RESULTS
    succeeded = True
    for name in selected:
        console.rule(name)
        try:
            result = measure(name, rows[name], options.seeds, options.steps)
        except (InvalidInput, EnvironmentFault, Diverged) as error:
            console.print(f"{name} failed: {error}", style="red", markup=False)
            succeeded = False
            continue
        except Interrupted as stopped:
            console.print(f"{name}: {stopped}; the same command goes on from there", markup=False)
            sys.exit(130)
        results = report.read_results(directory, "learning") | {name: result}
        report.write_results(directory, "learning", results, learning_page(results))
        files.write_bytes(directory / "families.md", families.families_page(results).encode())
    results = report.read_results(directory, "learning")
    report.print_table(
        console,
        "Learning",
        HEADINGS,
        [cells(results[name]) for name in results if name in selected],
    )
    console.print(f"in {directory / 'learning.md'} and learning.json", soft_wrap=True)
    sys.exit(0 if succeeded else 1)


def parse_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=names, help="train this row; may be repeated"
    )
    parser.add_argument("--all", action="store_true", help="train the presets without a goal too")
    parser.add_argument("--seeds", type=int, default=5, help="agents of each row (default 5)")
    parser.add_argument(
        "--steps", type=int, help="steps of each seed, as a check; stored apart from the results"
    )
    return parser.parse_args()


def measure(name: str, row: Row, seeds: int, steps: int | None) -> dict[str, Any]:
    """Train a row unless a finished run exists, and return its results.

    `steps` is another budget, for which there is no goal.
    """
    from etude.runs.options import RunOptions
    from etude.runs.train import resolve_settings
    from etude.storage import files

    preset = etude.preset(row.algorithm, row.environment)
    algorithm = replace(preset.algorithm, **dict(row.fields))
    settings = {
        "steps": steps or row.steps or preset.steps,
        "seeds": seeds,
        "num_envs": preset.num_envs,
    }
    directory = RUNS / run_name(
        name, resolve_settings(algorithm, row.environment, RunOptions(**settings))
    )
    if (directory / "summary.json").exists():
        console.print(f"measured already, in {directory.relative_to(RUNS.parent)}")
        run = etude.load(directory, torso=dict(row.fields).get("torso"))
    elif (directory / "config.json").exists():
        files.write_json(directory / RESUMED, {"resumed": report.now()})
        run = etude.resume(directory, torso=dict(row.fields).get("torso"))
    else:
        run = etude.train(algorithm, row.environment, out=directory, **settings)
    return result(run, row, None if steps else row.goal)


def run_name(name: str, settings: Any) -> str:
    """The name of the run directory, which depends on the settings so that reuse is safe."""
    from etude.runs.settings import to_json
    from etude.storage import files

    config = {
        key: value for key, value in to_json(settings).items() if key not in ("versions", "machine")
    }
    digest = hashlib.sha256(files.encode_json(config)).hexdigest()[:6]
    return f"{name}-{settings.steps}x{settings.seeds}-{digest}"


def result(run: Any, row: Row, goal: Goal | None) -> dict[str, Any]:
    """Return the results of a finished run."""
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
        "reached": families.time_to_threshold(run, summary["train_seconds"]),
        **{
            key: summary[key]
            for key in ("backend", "steps", "wall_seconds", "train_seconds", "compile_seconds")
        },
        **{key: config[key] for key in ("num_envs", "hyperparameters", "versions", "machine")},
    }


def cells(row: dict[str, Any]) -> list[str]:
    evaluation = row["evaluation"]
    iqm, low, high = map(float, (evaluation["iqm"], *evaluation["ci95"]))
    scores = ", ".join(f"{float(score):.1f}" for score in evaluation["per_seed"])
    published = "–" if row["published"] is None else f"{row['published']:.1f}"
    wall_seconds = "–" if row["resumed"] else f"{row['wall_seconds']:.0f}"
    setting = f" ({row['setting']})" if row.get("setting") else ""
    return [
        row["algorithm"] + setting,
        row["environment"],
        f"{row['steps']:,}",
        row["backend"],
        f"{iqm:.1f}",
        f"{low:.1f} to {high:.1f}",
        scores,
        success_cell(evaluation.get("success")),
        row["bar"] or "–",
        {True: "yes", False: "no", None: "–"}[row["met"]],
        published,
        wall_seconds,
        row["measured"],
    ]


def success_cell(success: dict[str, Any] | None) -> str:
    if success is None:
        return "–"
    iqm, low, high = map(float, (success["iqm"], *success["ci95"]))
    return f"{iqm:.2f} ({low:.2f} to {high:.2f})"


def learning_page(rows: dict[str, Any]) -> str:
    """The content of learning.md."""
    table = report.markdown(HEADINGS, [cells(row) for row in rows.values()])
    machine_lines = {
        f"* {row['measured'][:10]}, {row['machine']['cores']} cores: "
        f"{report.format_versions(row['versions'])}\n"
        for row in rows.values()
    }
    remarks = [
        f"* {name} misses its bar: {REMARKS[name]}.\n"
        for name, row in rows.items()
        if row["met"] is False and name in REMARKS
    ]
    return f"{NOTES}\n{table}\n{''.join([*remarks, *sorted(machine_lines)])}"


if __name__ == "__main__":
    main()
