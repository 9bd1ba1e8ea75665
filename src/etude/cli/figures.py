"""The commands that draw: `etude plan`, and `etude figure` with a function for each claim of the
notes."""

import dataclasses
import sys
from typing import Annotated

import tyro

from etude.cli import flags
from etude.cli.console import enable_cache, fail


def _plan(arguments: list[str]) -> None:
    """`etude plan`"""
    from etude.studies.plan import PlannerName, plan

    @dataclasses.dataclass
    class Plan:
        """Plan on a small problem from a random start, and draw the path, the cost by iteration and
        the motion."""

        problem: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROBLEM")]
        """double-integrator, pendulum, cart-pole, acrobot, quadrotor, car; tic-tac-toe or
        connect-four for tree search"""
        planner: PlannerName | None = None
        """default ilqr, and mcts for games"""
        iterations: int | None = None
        """of the planner, or simulations of mcts; default its own"""
        samples: int = 500
        """plans drawn in each iteration of the sampling planners"""
        elites: int = 50
        """of these, how many cem and icem refit to"""
        seed: int = 0
        """of the start and the search"""
        video: bool = True
        """film the motion"""
        out: str | None = None
        """the directory to write to; default runs/plan-PROBLEM-PLANNER"""

    asked = flags.parse(Plan, "etude plan", arguments)
    enable_cache()
    directory, found = plan(**vars(asked))
    if "cost" in found:
        print(
            f"cost    {found['cost']:.4g}; the goal is {'' if found['solved'] else 'not '}reached"
        )
    else:
        print(f"action  {found['action']}, of {found['visits']} visits")
    for path in sorted(directory.iterdir()):
        print(f"{path.suffix[1:]:8}{path}")


def _figure(arguments: list[str]) -> None:
    """`etude figure`: a claim of the notes, measured and drawn."""
    figures = {
        "overestimation": _overestimation,
        "policy-gradient-variance": _policy_gradient_variance,
        "open-loop": _open_loop,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: etude figure NAME [...]\n\nMeasure a claim of the notes and draw it:\n")
        for name, command in figures.items():
            print(f"  {name:26}{(command.__doc__ or '').split(': ', 1)[1]}")
        sys.exit(0 if arguments else 2)
    if arguments[0] not in figures:
        fail(f"no figure is called {arguments[0]!r}; there are {', '.join(figures)}")
    figures[arguments[0]](arguments[1:])


def _overestimation(arguments: list[str]) -> None:
    """`etude figure overestimation`: how far Q-learning's values are above the truth, with single
    and with double targets"""

    @dataclasses.dataclass
    class Overestimation:
        """Train deep Q-learning with single and with double targets, and draw its values beside the
        returns that followed."""

        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")]
        """a Gymnasium id with discrete actions"""
        steps: int | None = None
        """environment steps of each seed; default the preset's"""
        seeds: int = 3
        """agents of each kind"""
        out: str | None = None
        """the directory to write to; default runs/overestimation-ENVIRONMENT"""

    asked = flags.parse(Overestimation, "etude figure overestimation", arguments)
    enable_cache()
    from etude.studies.overestimation import measure_overestimation

    directory, found = measure_overestimation(
        asked.environment, asked.steps, asked.seeds, asked.out
    )
    for name in ("single", "double"):
        print(
            f"{name}: estimates exceed returns by {found[name]['bias']:.2f} in the last quarter "
            "of training"
        )
    print(f"curve   {directory / 'overestimation.png'}")


def _policy_gradient_variance(arguments: list[str]) -> None:
    """`etude figure policy-gradient-variance`: how far the gradient's estimates spread, by what an
    action is weighed with"""

    @dataclasses.dataclass
    class Variance:
        """Measure how far estimates of the policy gradient spread, from the whole return to the
        value baseline, and draw it."""

        episodes: int = 20_000
        """to measure it with"""
        seed: int = 0
        """of the decision process and of the episodes"""
        out: str | None = None
        """the directory to write to; default runs/policy_gradient_variance"""

    asked = flags.parse(Variance, "etude figure policy-gradient-variance", arguments)
    enable_cache()
    from etude.studies.gradient_variance import measure_gradient_variance

    directory, found = measure_gradient_variance(asked.episodes, asked.seed, asked.out)
    for name, one in found.items():
        print(
            f"{name:18} variance {one['variance']:10.2f}, error of the mean {one['error']:.2f} of "
            "what chance makes"
        )
    print(f"drawn   {directory / 'policy_gradient_variance.png'}")


def _open_loop(arguments: list[str]) -> None:
    """`etude figure open-loop`: what a plan costs that is done as it is, with feedback, or made
    anew at every step"""

    @dataclasses.dataclass
    class OpenLoop:
        """Balance a pole that is shaken, by a plan without looking and in two ways that look, and
        draw what it costs."""

        runs: int = 32
        """of each way at each strength of the shake"""
        seed: int = 0
        """of the shakes and the searches"""
        out: str | None = None
        """the directory to write to; default runs/open_loop"""

    asked = flags.parse(OpenLoop, "etude figure open-loop", arguments)
    enable_cache()
    from etude.studies.open_loop import measure_open_loop

    directory, found = measure_open_loop(asked.runs, asked.seed, asked.out)
    for name, costs in found["costs"].items():
        print(f"{name:18}", *(f"{sum(of_shake) / len(of_shake):8.1f}" for of_shake in costs))
    print(f"{'shake (rad/s)':18}", *(f"{shake:8g}" for shake in found["shakes"]))
    print(f"drawn   {directory / 'open_loop.png'}")
