"""What `learning.py` trains: presets, their variants, and the goals for their returns."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import report

sys.path.append(str(report.HERE.parent / "examples"))
from simba import SimBa

from etude.algorithms.actor_critic.sac import SAC
from etude.data.replay.prioritized import Prioritized
from etude.planning.sampling.icem import ICEM
from etude.presets import PRESETS

# a summary of the seeds of a row, as `learning_results.summarize` returns it
Summary = dict[str, Any]


class Goal(NamedTuple):
    """A goal for the seeds of a row together; `met` is None where it cannot be judged yet."""

    text: str
    # from the summary of the row, and those of all rows by name
    met: Callable[[Summary, dict[str, Summary]], bool | None]


class Shown(NamedTuple):
    """Who shows what is cloned: a heuristic, or one run of a preset, with the seed 0.

    With `labels`, as many steps of its episodes are recorded to learn from, the last episode cut
    off there; without, it is asked while the row learns. With `noise`, as of `etude record`, the
    actions that are executed differ from what is recorded. With `every`, only the first and then
    each step that is `every` later is shown, an episode of one step each.
    """

    expert: str
    steps: int | None = None  # of the run of the expert; None for the preset's
    labels: int | None = None
    noise: float = 0.0
    every: int = 1


class Row(NamedTuple):
    """A preset with a goal, and optionally another budget or a named setting with other fields.

    With `library`, another library trains with the settings of the preset: what it reaches is the
    goal of another row. `shown` is for algorithms that imitate.
    """

    algorithm: str
    environment: str
    goal: Goal | None = None
    steps: int | None = None
    setting: str | None = None
    fields: tuple[tuple[str, Any], ...] = ()
    library: str | None = None
    shown: Shown | None = None

    @property
    def name(self) -> str:
        parts = (
            self.algorithm,
            self.setting,
            self.library,
            self.environment.split("/")[-1],
            self.steps,
        )
        return "-".join(str(part) for part in parts if part)


def iqm_at_least(minimum: float) -> Goal:
    """A lower bound on the IQM."""
    return Goal(f"IQM ≥ {minimum:g}", lambda row, rows: row["iqm"] >= minimum)


def iqm_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM, for settings that must fail."""
    return Goal(f"IQM ≤ {maximum:g}", lambda row, rows: row["iqm"] <= maximum)


def success_at_least(minimum: float) -> Goal:
    """A lower bound on the IQM of the success rates."""
    return Goal(f"success ≥ {minimum:g}", lambda row, rows: row["success"]["iqm"] >= minimum)


def success_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM of the success rates, for settings that must fail."""
    return Goal(f"success ≤ {maximum:g}", lambda row, rows: row["success"]["iqm"] <= maximum)


def distance_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM of the seeds' median distances to the goal."""
    return Goal(
        f"median distance ≤ {maximum:g}", lambda row, rows: row["distance"]["iqm"] <= maximum
    )


def share_of_expert_at_least(minimum: float) -> Goal:
    """A lower bound on the IQM as a share of the expert's mean return."""
    return Goal(
        f"≥ {minimum:.0%} of the expert", lambda row, rows: row["iqm"] >= minimum * row["expert"]
    )


def share_of_expert_at_most(maximum: float) -> Goal:
    """An upper bound on the IQM as a share of the expert's mean return."""
    return Goal(
        f"≤ {maximum:.0%} of the expert", lambda row, rows: row["iqm"] <= maximum * row["expert"]
    )


def four_of_five_seeds(minimum: float) -> Goal:
    """A lower bound on the scores of four of five seeds."""
    return Goal(
        f"4 of 5 ≥ {minimum:g}",
        lambda row, rows: (
            sum(score >= minimum for score in row["per_seed"]) >= 0.8 * len(row["per_seed"])
        ),
    )


def interval_above(name: str) -> Goal:
    """An interval above that of another row."""
    return Goal(
        f"above {name}, intervals apart",
        lambda row, rows: compare(rows.get(name), lambda other: row["ci95"][0] > other["ci95"][1]),
    )


def interval_reaches(name: str) -> Goal:
    """An interval that overlaps that of another row, or is above it."""
    return Goal(
        f"interval reaches that of {name}",
        lambda row, rows: compare(rows.get(name), lambda other: row["ci95"][1] >= other["ci95"][0]),
    )


def compare(other: Summary | None, is_met: Callable[[Summary], bool]) -> bool | None:
    """Whether a goal is met beside another row; None before each of its seeds is measured."""
    return is_met(other) if other is not None and other["complete"] else None


# what learns a task with goals by hindsight, and must not without it
HINDSIGHT = [
    ("dqn", "etude/PointRoom-v0"),
    ("sac", "etude/PointRoom-v0"),
    ("sac", "etude/PointRoomContinuous-v0"),
    ("td3", "etude/PointRoomContinuous-v0"),
    ("ddpg", "etude/PointRoomContinuous-v0"),
]
# what learns with a memory where velocities are hidden, and must not without
BLIND_CART = "etude/CartPoleWithoutVelocity-v1"
MEMORY = [("dqn", BLIND_CART), ("sac", "etude/PendulumWithoutVelocity-v1")]
# presets with the torso of examples/simba.py in place of their hidden layers
SIMBA = [("sac", "Pendulum-v1"), ("ppo", "LunarLander-v3")]
# rainbow is to learn from fewer steps than plain double DQN; what decays, decays over the budget
RAINBOW_BUDGETS = (50_000, 100_000)


def double_dqn(steps: int) -> Row:
    """Plain double DQN on LunarLander with a short budget."""
    fields = (("learning_rate_decay", float(steps)),)
    return Row("dqn", "LunarLander-v3", steps=steps, setting="double", fields=fields)


def rainbow(steps: int) -> Row:
    """Rainbow on LunarLander with a short budget."""
    decays = (
        ("learning_rate_decay", float(steps)),
        ("replay", Prioritized(beta_steps=float(steps))),
    )
    goal = interval_above(double_dqn(steps).name)
    return Row("rainbow", "LunarLander-v3", goal, steps=steps, fields=decays)


def feed_forward(
    algorithm: str, environment: str, goal: Goal | None = None, shown: Shown | None = None
) -> Row:
    """A preset with a memory, without it."""
    without = (("recurrent", None),)
    return Row(algorithm, environment, goal, setting="feed-forward", fields=without, shown=shown)


LANDERS = ("LunarLander-v3", "LunarLanderContinuous-v3")
# runs that show what is cloned on MuJoCo's environments: one seed of each
CHEETAH, HOPPER = Shown("sac", 100_000), Shown("ppo")
EPISODES = 2_000  # labels: two whole episodes of HalfCheetah, and at least as many of Hopper
# a memory in an expert who needs one, and whether its clones have one
CUE, VELOCITIES = Shown("heuristic", labels=1_100), Shown("heuristic", labels=10_000)
FIRST_ROUND = ("first-round", (("gradient_steps", 100), ("learning_rate_decay", 1_000.0)))
# one run of PPO, which balances for the 500 steps of every episode
BALANCED = Shown("ppo", labels=5_000)
# whose rows say who shows them what to do
IMITATORS = ("bc", "dagger", "gail", "airl", "iq-learn", "sqil")
IMITATION = [
    *(Row("bc", lander, shown=Shown("heuristic", labels=5_000)) for lander in LANDERS),
    *(
        Row("dagger", lander, share_of_expert_at_least(0.9), shown=Shown("heuristic"))
        for lander in LANDERS
    ),
    *(
        Row(
            "bc", environment, share_of_expert_at_least(0.3), shown=expert._replace(labels=EPISODES)
        )
        for environment, expert in (("HalfCheetah-v5", CHEETAH), ("Hopper-v5", HOPPER))
    ),
    Row("dagger", "Hopper-v5", share_of_expert_at_least(0.95), shown=HOPPER),
    # what DAgger has after its first round: as many labels and gradient steps
    Row(
        "bc",
        "Hopper-v5",
        share_of_expert_at_most(0.4),
        steps=1_000,
        setting=FIRST_ROUND[0],
        fields=FIRST_ROUND[1],
        shown=HOPPER._replace(labels=1_000),
    ),
    # the same number of steps, with noise in what is executed
    Row(
        "bc",
        "Hopper-v5",
        interval_above("bc-Hopper-v5"),
        setting="noise",
        shown=HOPPER._replace(labels=EPISODES, noise=0.1),
    ),
    # every policy without a memory is right half of the time
    feed_forward("bc", "etude/TMaze-v0", iqm_at_most(0.65), CUE),
    Row("bc", "etude/TMaze-v0", iqm_at_least(1), shown=CUE),
    *(
        row
        for algorithm, shown in (("bc", VELOCITIES), ("dagger", Shown("heuristic")))
        for row in (
            feed_forward(algorithm, BLIND_CART, iqm_at_most(200), shown),
            Row(algorithm, BLIND_CART, iqm_at_least(450), shown=shown),
        )
    ),
    *(
        Row(algorithm, "CartPole-v1", iqm_at_least(475), shown=BALANCED)
        for algorithm in ("gail", "airl", "sqil")
    ),
    # a coin says what is the expert's, and nothing may tell that balancing is asked for
    Row(
        "gail",
        "CartPole-v1",
        iqm_at_most(100),
        setting="shuffled",
        fields=(("shuffle_labels", True),),
        shown=BALANCED,
    ),
    Row("gail", "HalfCheetah-v5", iqm_at_least(1500), shown=CHEETAH._replace(labels=5_000)),
    # as many gradient steps of the agent as steps; the settings of `sac` on this task
    Row(
        "gail",
        "HalfCheetah-v5",
        share_of_expert_at_least(0.7),
        steps=200_000,
        setting="sac",
        fields=(
            (
                "agent",
                SAC(learning_rate=1e-3, capacity=1_000_000, warmup_steps=10_000, gradient_steps=8),
            ),
            ("reward", "logit"),
            ("batch_size", 256),
        ),
        shown=CHEETAH._replace(labels=5_000),
    ),
    # 25 steps of one episode
    Row(
        "iq-learn", "CartPole-v1", iqm_at_least(475), shown=BALANCED._replace(labels=500, every=20)
    ),
]
SB3_TRPO = Row("trpo", "LunarLanderContinuous-v3", library="sb3-contrib")
ROWS_WITH_GOALS = [
    *IMITATION,
    *(Row(*pair, success_at_least(0.9)) for pair in HINDSIGHT),
    *(
        Row(*pair, success_at_most(0.3), setting="no-hindsight", fields=(("hindsight", None),))
        for pair in HINDSIGHT
    ),
    # the notebook of GCSL ends at 0.100, and is at 0.7 with goals from other episodes
    Row("gcsl", "etude/PointRoom-v0", distance_at_most(0.12)),
    Row("gcsl", "etude/PointRoomContinuous-v0", distance_at_most(0.12)),
    *(feed_forward(*pair) for pair in MEMORY),
    *(Row(*pair, interval_above(feed_forward(*pair).name)) for pair in MEMORY),
    *(Row(*pair, setting="simba", fields=(("torso", SimBa),)) for pair in SIMBA),
    Row("dqn", "CartPole-v1", four_of_five_seeds(475)),
    Row("dqn", "Acrobot-v1", iqm_at_least(-85)),
    Row("dqn", "MountainCar-v0", iqm_at_least(-115)),
    Row("dqn", "LunarLander-v3", iqm_at_least(200)),
    # compared with rainbow: plain deep Q-learning, without its extensions and double targets
    Row(
        "dqn",
        "LunarLander-v3",
        steps=150_000,
        setting="plain",
        fields=(("double", False), ("learning_rate_decay", 150_000.0)),
    ),
    Row("rainbow", "LunarLander-v3", interval_above("dqn-plain-LunarLander-v3-150000")),
    *(double_dqn(steps) for steps in RAINBOW_BUDGETS),
    *(rainbow(steps) for steps in RAINBOW_BUDGETS),
    Row("sac", "Pendulum-v1", iqm_at_least(-160)),
    Row("td3", "Pendulum-v1", iqm_at_least(-160)),
    Row("ddpg", "Pendulum-v1", iqm_at_least(-160)),
    Row("naf", "Pendulum-v1", iqm_at_least(-300)),
    # within a tenth of the same planner on the true model
    Row(
        "mpc",
        "Pendulum-v1",
        setting="planner-of-pets",
        fields=(("planner", ICEM(follow="mean")), ("horizon", 20)),
    ),
    Row("mpc", "Pendulum-v1"),
    Row("pets", "Pendulum-v1", iqm_at_least(-165)),
    Row("pets", "etude/CartPoleContinuous-v0", iqm_at_least(200)),
    *(Row(f"mbrl-{version}", "etude/NoisyPendulum-v0") for version in ("0.5", "1.0", "1.5")),
    Row("mbmf", "Pendulum-v1", iqm_at_least(-160)),
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
    SB3_TRPO,
    Row("trpo", "LunarLanderContinuous-v3", interval_reaches(SB3_TRPO.name)),
    Row("natural-gradient", "InvertedPendulum-v5", iqm_at_least(990)),
    Row("ppo", "HalfCheetah-v5", iqm_at_least(1500)),
    Row("ppo", "Hopper-v5", iqm_at_least(2000)),
    Row("ppo", BLIND_CART, iqm_at_least(450)),
    # the same without recurrence, which must fail
    feed_forward("ppo", BLIND_CART, iqm_at_most(200)),
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
    pairs_with_goals = {(row.algorithm, row.environment) for row in ROWS_WITH_GOALS}
    without_goals = [Row(*pair) for pair in PRESETS if pair not in pairs_with_goals]
    rows = [*ROWS_WITH_GOALS, *(row for row in without_goals if row.algorithm not in IMITATORS)]
    return {row.name: row for row in rows}
