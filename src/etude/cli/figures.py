"""The commands `etude plan` and `etude figure`, which measure and draw."""

import dataclasses
import sys
from typing import Annotated, Any

import tyro

from etude.cli import flags
from etude.cli.console import enable_cache, fail
from etude.cli.planning_figures import PLANNING_FIGURES


def _plan(arguments: list[str]) -> None:
    """`etude plan`"""
    from etude.studies.plan import default_settings, plan_with

    @dataclasses.dataclass
    class Plan:
        """Plan on a control problem or a game from a random start, and draw the result."""

        problem: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROBLEM")]
        """double-integrator, pendulum, cart-pole, acrobot, quadrotor or car; tic-tac-toe or
        connect-four for tree search"""
        seed: int = 0
        """seed of the start and of the planner"""
        video: bool = True
        """record a video of the motion"""
        out: str | None = None
        """the output directory; default runs/plan-PROBLEM-PLANNER"""

    problem = next((word for word in arguments if not word.startswith("-")), "")
    options, settings = flags.parse_settings(
        Plan(tyro.MISSING), default_settings(problem), "etude plan", arguments, Plan.__doc__ or ""
    )
    enable_cache()
    directory, results = plan_with(settings, **vars(options))
    if "cost" in results:
        print(
            f"cost    {results['cost']:.4g}; "
            f"the goal is {'' if results['solved'] else 'not '}reached"
        )
    else:
        print(f"action  {results['action']}, of {results['visits']} visits")
    for path in sorted(directory.iterdir()):
        print(f"{path.suffix[1:]:8}{path}")


def _figure(arguments: list[str]) -> None:
    """`etude figure`: measure and draw a result of the course."""
    figures = {
        "overestimation": _overestimation,
        "policy-gradient-variance": _policy_gradient_variance,
        "open-loop": _open_loop,
        "error-growth": _error_growth,
        "demonstrations-needed": _demonstrations_needed,
        "modes-by-head": _modes_by_head,
        "chunk-lengths": _chunk_lengths,
        **PLANNING_FIGURES,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: etude figure NAME [...]\n\nMeasure and draw a result of the course:\n")
        for name, command in figures.items():
            print(f"  {name:26}{(command.__doc__ or '').split(': ', 1)[1]}")
        sys.exit(0 if arguments else 2)
    if arguments[0] not in figures:
        fail(f"no figure is called {arguments[0]!r}; there are {', '.join(figures)}")
    figures[arguments[0]](arguments[1:])


def _overestimation(arguments: list[str]) -> None:
    """`etude figure overestimation`: overestimation of DQN, with single and double targets"""

    @dataclasses.dataclass
    class Overestimation:
        """Train DQN with single and double targets, and draw its values beside true returns."""

        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")]
        """a Gymnasium id with discrete actions"""
        steps: int | None = None
        """environment steps of each seed; default the preset's budget"""
        seeds: int = 3
        """number of seeds of each variant"""
        out: str | None = None
        """the output directory; default runs/overestimation-ENVIRONMENT"""

    options = flags.parse(Overestimation, "etude figure overestimation", arguments)
    enable_cache()
    from etude.studies.overestimation import measure_overestimation

    directory, results = measure_overestimation(
        options.environment, options.steps, options.seeds, options.out
    )
    for name in ("single", "double"):
        print(
            f"{name}: estimates exceed returns by {results[name]['bias']:.2f} in the last quarter "
            "of training"
        )
    print(f"curve   {directory / 'overestimation.png'}")


def _policy_gradient_variance(arguments: list[str]) -> None:
    """`etude figure policy-gradient-variance`: variance of policy gradients by baseline"""

    @dataclasses.dataclass
    class Variance:
        """Measure the variance of policy gradient estimates, from returns to a value baseline."""

        episodes: int = 20_000
        """number of sampled episodes"""
        seed: int = 0
        """seed of the MDP and of the episodes"""
        out: str | None = None
        """the output directory; default runs/policy_gradient_variance"""

    options = flags.parse(Variance, "etude figure policy-gradient-variance", arguments)
    enable_cache()
    from etude.studies.gradient_variance import measure_gradient_variance

    directory, results = measure_gradient_variance(options.episodes, options.seed, options.out)
    for name, statistics in results.items():
        print(
            f"{name:18} variance {statistics['variance']:10.2f}, "
            f"error of the mean {statistics['error']:.2f} standard errors"
        )
    print(f"drawn   {directory / 'policy_gradient_variance.png'}")


def _open_loop(arguments: list[str]) -> None:
    """`etude figure open-loop`: costs of open-loop, feedback and receding-horizon control"""

    @dataclasses.dataclass
    class OpenLoop:
        """Balance a pole under disturbances, in open and in closed loop, and draw the costs."""

        runs: int = 32
        """episodes of each controller at each strength of disturbance"""
        seed: int = 0
        """seed of the disturbances and the planners"""
        out: str | None = None
        """the output directory; default runs/open_loop"""

    options = flags.parse(OpenLoop, "etude figure open-loop", arguments)
    enable_cache()
    from etude.studies.open_loop import measure_open_loop

    directory, results = measure_open_loop(options.runs, options.seed, options.out)
    for name, costs in results["costs"].items():
        print(
            f"{name:18}",
            *(f"{sum(episode_costs) / len(episode_costs):8.1f}" for episode_costs in costs),
        )
    print(f"{'noise (rad/s)':18}", *(f"{strength:8g}" for strength in results["shakes"]))
    print(f"drawn   {directory / 'open_loop.png'}")


def _error_growth(arguments: list[str]) -> None:
    """`etude figure error-growth`: costs of cloning and DAgger on a tightrope by horizon"""

    @dataclasses.dataclass
    class ErrorGrowth:
        """Let cloning and DAgger walk on a tightrope, and draw their costs by horizon."""

        error_rate: float = 0.001
        """probability with which a step is not the learned one"""
        episodes: int = 200_000
        """episodes of each method"""
        seed: int = 0
        """seed of training and of the episodes"""
        out: str | None = None
        """the output directory; default runs/error_growth"""

    options = flags.parse(ErrorGrowth, "etude figure error-growth", arguments)
    enable_cache()
    from etude.studies.error_growth import measure_error_growth

    directory, results = measure_error_growth(**vars(options))
    for name in ("cloning", "dagger"):
        growth = results[name]
        print(
            f"{name:8}slope {growth['slope']:.3f} ± {growth['slope_error']:.3f} (standard error), "
            f"exact {growth['exact_slope']:.3f}"
        )
    print(f"drawn   {directory / 'error_growth.png'}")


def _demonstrations_needed(arguments: list[str]) -> None:
    """`etude figure demonstrations-needed`: returns of cloning and DAgger by an expert's labels"""

    @dataclasses.dataclass
    class DemonstrationsNeeded:
        """Clone an expert, and let DAgger ask it, with growing numbers of labels, and draw the
        returns. A measurement that was stopped goes on."""

        environment: str = "LunarLander-v3"
        """a Gymnasium id"""
        expert: str = "heuristic"
        """as of etude record"""
        labels: tuple[int, ...] = (500, 1_000, 2_000, 4_000, 8_000)
        """numbers of labels, multiples of 20"""
        hidden: tuple[int, ...] = ()
        """units of each hidden layer of the policy; none for a linear one"""
        gradient_steps: int = 10_000
        """gradient steps of each run, a multiple of 20"""
        seeds: int = 20
        """number of seeds of each method with each number of labels"""
        episodes: int = 100
        """episodes in which each run is evaluated"""
        out: str | None = None
        """the output directory; default runs/demonstrations_needed-ENVIRONMENT"""

    options = flags.parse(DemonstrationsNeeded, "etude figure demonstrations-needed", arguments)
    enable_cache()
    from etude.studies.demonstrations_needed import measure_demonstrations_needed

    directory, measured = measure_demonstrations_needed(**vars(options))
    print(f"expert  {measured['expert_mean']:.1f}")
    for name in ("cloning", "dagger"):
        for labels, returns in measured[name].items():
            low, high = returns["ci95"]
            print(f"{name:8}{labels:>6} labels {returns['iqm']:8.1f} ({low:.1f} to {high:.1f})")
    print(f"drawn   {directory / 'demonstrations_needed.png'}")


def _modes_by_head(arguments: list[str]) -> None:
    """`etude figure modes-by-head`: what each head makes of an expert with several ways"""

    @dataclasses.dataclass
    class ModesByHead:
        """Clone an expert of several ways with each head, and draw success, modes and ways."""

        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")] = (
            "etude/Fork-v0"
        )
        """etude/Fork-v0, etude/Avoiding-v0 or etude/Push-v0"""
        heads: tuple[str, ...] = (
            "deterministic",
            "direct",
            "mixture",
            "latent",
            "autoregressive",
            "flow",
            "diffusion",
        )
        """names of heads"""
        gradient_steps: int = 12_000
        """gradient steps of each clone"""
        chunk: int = 1
        """actions that are predicted at once"""
        execute: int = 1
        """actions of a chunk that are executed"""
        seeds: int = 5
        """clones of each head"""
        demonstrations: int = 200
        """episodes of the expert"""
        episodes: int = 1_000
        """episodes that each clone plays"""
        out: str | None = None
        """the output directory; default runs/modes_by_head-ENVIRONMENT"""

    options = flags.parse(ModesByHead, "etude figure modes-by-head", arguments)
    enable_cache()
    from etude.studies.modes_by_head import measure_modes_by_head

    directory, measured = measure_modes_by_head(**vars(options))
    for name, of_head in measured["heads"].items():
        words = [f"success {_with_interval(of_head['success'])}"]
        words += [
            f"{column} {_with_interval(of_head[column])}"
            for column in ("left", "entropy")
            if column in of_head
        ]
        print(f"{name:16}" + ", ".join(words))
    print(f"drawn   {directory / 'modes_by_head.png'}")
    print(f"drawn   {directory / 'ways_by_head.png'}")


def _chunk_lengths(arguments: list[str]) -> None:
    """`etude figure chunk-lengths`: success of clones by the length of their chunks"""

    @dataclasses.dataclass
    class ChunkLengths:
        """Clone the expert of a task with chunks of several lengths, and draw how often the clones
        succeed."""

        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")] = (
            "etude/Avoiding-v0"
        )
        """etude/Avoiding-v0, etude/Push-v0 or etude/Fork-v0"""
        chunks: tuple[int, ...] = (1, 4, 8, 16)
        """lengths of chunks, of which half are executed"""
        gradient_steps: int = 6_000
        """gradient steps of each clone"""
        seeds: int = 5
        """clones of each head with each length"""
        demonstrations: int = 200
        """episodes of the expert"""
        episodes: int = 1_000
        """episodes that each clone plays"""
        out: str | None = None
        """the output directory; default runs/chunk_lengths-ENVIRONMENT"""

    options = flags.parse(ChunkLengths, "etude figure chunk-lengths", arguments)
    enable_cache()
    from etude.studies.chunk_lengths import measure_chunk_lengths

    directory, measured = measure_chunk_lengths(**vars(options))
    for name, by_length in measured["heads"].items():
        for chunk, found in by_length.items():
            print(f"{name:16}chunk {chunk:>3}  success {_with_interval(found['success'])}")
    print(f"drawn   {directory / 'chunk_lengths.png'}")


def _with_interval(summary: dict[str, Any]) -> str:
    """A number over seeds with its interval; a dash where no seed has one."""
    if summary["iqm"] is None:
        return "–"
    low, high = summary["ci95"]
    return f"{summary['iqm']:.3f} ({low:.3f} to {high:.3f})"
