"""The command line: its entry point and its commands.

etude train ALGORITHM ENVIRONMENT [--steps N] [--seeds N] [every hyperparameter]
etude resume RUN [--steps N]      etude evaluate RUN [--episodes N]      etude watch RUN
etude record ENVIRONMENT --expert EXPERT --episodes N --out PATH      etude dataset PATH
etude environments [FILTER]       etude algorithms      etude plan PROBLEM      etude figure NAME
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from etude import errors
from etude.cli import flags
from etude.cli.console import enable_cache, fail, parse_options
from etude.cli.datasets import _dataset
from etude.cli.figures import _figure, _plan
from etude.runs.options import PERSON, EnvironmentOptions, PersonOptions, RunOptions, is_person

HELP = """usage: etude COMMAND [...]

Deep reinforcement learning: train agents, evaluate them and watch them.

  train ALGORITHM ENVIRONMENT   train an agent and write a run directory
  resume RUN                    resume a run, or extend its budget with --steps
  evaluate RUN                  evaluate a run's agents on the Gymnasium environment
  watch RUN                     show a run's agent in a window
  record ENVIRONMENT            record episodes of an expert, for agents to learn from
  dataset PATH                  say what a dataset holds; check, replay or convert it
  environments [FILTER]         list environments, with their backends and presets
  algorithms                    list algorithms
  plan PROBLEM                  plan on a control problem or a game, and draw the result
  figure NAME                   measure and draw a result of the course, such as overestimation

`etude train ppo LunarLander-v3` trains PPO with its preset.
`etude train ppo LunarLander-v3 --help` lists every hyperparameter with its default.
`etude COMMAND --help` describes a command.
"""
# flags of `etude record` that a person does not have, and that a person alone has
OF_POLICIES = ("stochastic", "noise", "side_cameras", "torso", "frame_stack", "action_masks")
OF_A_PERSON = ("keys", "speed", "wait", "mouse")


@dataclasses.dataclass(frozen=True)
class Train(RunOptions):
    """Train an agent; write metrics, checkpoints, curve and evaluation to a run directory."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ALGORITHM")]
    """name of the algorithm: see `etude algorithms`; or module:Class for one of your own"""
    environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")]
    """a Gymnasium id, or module:Name to import the module that registers it"""
    options: tyro.conf.UseAppendAction[list[str]] = dataclasses.field(  # type: ignore[assignment]
        default_factory=list, kw_only=True
    )
    """keyword argument of gymnasium.make as NAME=VALUE, with the value in JSON; may be repeated"""
    initial: tyro.conf.UseAppendAction[list[str]] = dataclasses.field(  # type: ignore[assignment]
        default_factory=list, kw_only=True
    )
    """a run to start from, as COMPONENT=RUN: policy=RUN takes its policy over"""
    expert: str | None = dataclasses.field(default=None, kw_only=True)
    """who says what to do, for an algorithm that learns from an expert: an algorithm that learns
    nothing (random, heuristic, mpc, mcts), the directory of a run, module:function, or person: you
    take over from the learner, and give back, with Tab in a window"""
    torso: str | None = dataclasses.field(default=None, kw_only=True)
    """module:function that makes a network of one's own, in place of the hidden layers"""
    until: str | None = dataclasses.field(  # type: ignore[assignment]
        default=None, kw_only=True
    )
    """end the training of a seed at the first evaluation with this mean return, a number; or
    solved, for the reward threshold that Gymnasium has for the environment"""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: run a command and exit with its status, 2 for invalid input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("-V", "--version"):
        import etude

        print(f"etude {etude.__version__}")
        sys.exit(0)
    commands = {
        "train": _train,
        "resume": _resume,
        "evaluate": _evaluate,
        "watch": _watch,
        "record": _record,
        "dataset": _dataset,
        "environments": _environments,
        "algorithms": _algorithms,
        "plan": _plan,
        "figure": _figure,
    }
    if arguments[0] not in commands:
        fail(f"no command is called {arguments[0]!r}; there are {', '.join(commands)}")
    if any(":" in argument for argument in arguments):
        sys.path.append("")  # find a module:Name in the working directory, after installed ones
    sys.exit(run_command(commands[arguments[0]], arguments[1:]))


def run_command(command, arguments: list[str]) -> int:
    """Run a command and return its status: 2 for invalid input, 1 for a failure in training."""
    from etude.runs.interrupt import Interrupted

    try:
        command(arguments)
    except errors.InvalidInput as error:
        fail(str(error))
    except (errors.EnvironmentFault, errors.ExpertFault, errors.Diverged) as error:
        if cause := error.__cause__:
            import traceback

            traceback.print_exception(cause)
        print(f"etude: {error}", file=sys.stderr)
        return 1
    except Interrupted as stopped:
        print(f"\netude: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of the pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _train(arguments: list[str]) -> None:
    """`etude train`: flags of the run and of the algorithm, with the defaults of the preset."""
    from etude import algorithms

    name, environment = find_names(arguments)
    if name is None:
        if flags.HELP & set(arguments):
            flags.parse(Train, "etude train", arguments)
        flags.check_train_words(arguments, Train)
        fail(
            "name an algorithm and an environment: etude train ALGORITHM ENVIRONMENT; "
            f"there are {', '.join(algorithms.ALGORITHMS)}"
        )
    if ":" in name:
        cls = algorithms.import_algorithm(name)
        if missing := flags.required_fields(cls):
            fail(f"algorithm {name!r} has no default of {', '.join(missing)}; give it one")
        algorithm, defaults = cls(), {}
    else:
        cls = algorithms.algorithm_class(name)
        algorithm, defaults = algorithms.algorithm_factory(name)(), {}
    if environment is None and not flags.HELP & set(arguments):
        algorithm = flags.choose_kinds(algorithm, arguments)
        flags.prepare_train(arguments, Train, algorithm, name)
        fail(
            f"name the environment after the algorithm: etude train {name} ENVIRONMENT; `etude "
            "environments` lists them"
        )
    enable_cache()
    from etude.runs.defaults import defaults_for
    from etude.runs.train import train_new

    has_dataset = flags.is_typed(arguments, "dataset")
    if environment and ":" not in name:
        algorithm, defaults = defaults_for(name, environment, has_dataset)
    origin = f"\n\nDefaults are the preset for {environment}." if defaults else ""
    num_envs = flags.choose_kinds(algorithm, arguments).default_num_envs
    train, algorithm = flags.parse_train(
        Train(name, environment or "", **{"num_envs": num_envs} | defaults),
        algorithm,
        name,
        "etude train",
        arguments,
        description=f"{Train.__doc__}\n\n{name}: {cls.__doc__}{origin}",
    )
    if has_dataset and flags.is_typed(arguments, "plays") and algorithm.plays:
        fail(f"{name} plays or learns from a dataset; leave out --plays, or --dataset")
    chosen = {field.name: getattr(train, field.name) for field in dataclasses.fields(RunOptions)}
    words = {
        "options": parse_options(train.options),
        "initial": parse_initial(train.initial),
        "until": parse_until(train.until),
    }
    options = RunOptions(**chosen | words)
    train_new(algorithm, train.environment, options, name)


def _resume(arguments: list[str]) -> None:
    """`etude resume`"""

    @dataclasses.dataclass
    class Resume:
        """Resume a run from its newest checkpoint."""

        run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
        """the run directory"""
        steps: int | None = None
        """a larger budget of environment steps of each seed, to train further"""
        dataset: Path | None = None
        """the dataset of the run, if its file is no longer where it was"""
        expert: str | None = None
        """the expert of the run, if it is module:function, or a run that is no longer where it
        was"""
        environment: str | None = None
        """the environment of the run if its name is module:Name, since a file never makes etude
        import a module"""
        algorithm: str | None = None
        """the algorithm of the run if its name is module:Class"""
        torso: str | None = None
        """the torso of the run, as module:function, if it has one of one's own"""
        video: bool = False
        """record a video of an episode at the end"""

    options = flags.parse(Resume, "etude resume", arguments)
    enable_cache()
    from etude.runs.train import resume

    resume(
        options.run,
        options.steps,
        algorithm=imported(options.algorithm),
        environment=options.environment,
        torso=options.torso,
        dataset=options.dataset,
        expert=options.expert,
        video=options.video,
    )


def _evaluate(arguments: list[str]) -> None:
    """`etude evaluate`"""

    @dataclasses.dataclass
    class Evaluate:
        """Evaluate a run's agents on the Gymnasium environment, or its fitted models on a dataset;
        writes RUN/evaluation.json."""

        run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
        """the run directory"""
        episodes: int | None = None
        """episodes of each seed; default the number of the run's final evaluation"""
        which: Literal["last", "best"] = "last"
        """the last checkpoints, or the best by the evaluations during training"""
        stochastic: bool = False
        """act as in training, in place of the deterministic policy"""
        seed: int | None = None
        """seed of the episodes"""
        dataset: Path | None = None
        """the dataset to evaluate a fitted model on; default the one that it learned from"""
        environment: str | None = None
        """the environment of the run if its name is module:Name"""
        algorithm: str | None = None
        """the algorithm of the run if its name is module:Class"""
        torso: str | None = None
        """the torso of the run, as module:function, if it has one of one's own"""
        video: bool = False
        """record a video of an episode"""

    options = flags.parse(Evaluate, "etude evaluate", arguments)
    enable_cache()
    from rich.console import Console
    from rich.table import Table

    from etude.runs.display import NullDisplay, evaluation_rows
    from etude.runs.run import load
    from etude.runs.train import check_video
    from etude.storage import files

    run, display = (
        load(options.run, imported(options.algorithm), options.environment, options.torso),
        NullDisplay(),
    )
    if options.video:
        check_video(run.settings)
    evaluation = run.evaluate(
        options.episodes,
        explore=options.stochastic,
        seed=options.seed,
        dataset=options.dataset,
        which=options.which,
        warn=display.warn,
    )
    files.write_json(run.directory / "evaluation.json", evaluation)
    table = Table(title=run.name, title_justify="left", show_header=False)
    for row in evaluation_rows(evaluation):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written {run.shown_directory / 'evaluation.json'}", soft_wrap=True)
    if options.video:
        from etude.runs.video import record_video

        for path in record_video(
            run, run.directory / "video", explore=options.stochastic, which=options.which
        ):
            shown_path = run.shown_directory / path.relative_to(run.directory)
            console.print(f"video   {shown_path}", soft_wrap=True)


def _watch(arguments: list[str]) -> None:
    """`etude watch`"""

    @dataclasses.dataclass
    class Watch:
        """Show a run's agent in a window."""

        run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
        """the run directory"""
        episodes: int = 5
        """number of episodes"""
        stochastic: bool = False
        """act as in training, in place of the deterministic policy"""
        seed: int = 0
        """seed of the episodes"""
        environment: str | None = None
        """the environment of the run if its name is module:Name"""
        algorithm: str | None = None
        """the algorithm of the run if its name is module:Class"""
        torso: str | None = None
        """the torso of the run, as module:function, if it has one of one's own"""

    options = flags.parse(Watch, "etude watch", arguments)
    enable_cache()
    from etude.reporting.statistics import three_digits
    from etude.runs.run import load
    from etude.runs.video import watch

    run = load(options.run, imported(options.algorithm), options.environment, options.torso)
    for i, total in enumerate(watch(run, options.episodes, options.seed, options.stochastic), 1):
        print(f"episode {i}: return {three_digits(total)}", flush=True)


def _record(arguments: list[str]) -> None:
    """`etude record`"""

    @dataclasses.dataclass(frozen=True)
    class Record(PersonOptions, EnvironmentOptions):
        """Record whole episodes of an expert as a dataset, which `etude train --dataset` reads."""

        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT")]
        """a Gymnasium id, or module:Name to import the module that registers it"""
        expert: str
        """an algorithm that learns nothing (random, heuristic, mpc, mcts), the directory of a run,
        or module:function, a function of one observation that returns one action; or person: you
        play in a window, where Enter keeps an episode and begins the next, Backspace discards it
        and tries it again with the same seed, Space pauses, . takes one step, and Esc stops and
        keeps whole episodes"""
        out: Path
        """what to write: an .npz, or with any other name a directory in Minari's layout; for a
        person the latter, which has each kept episode before the next one begins"""
        episodes: int | None = None
        """number of episodes; a person may leave it out, and stop at any time"""
        seed: int = 0
        """seed of the episodes and of the expert"""
        torso: str | None = None
        """the torso of the expert's run, as module:function, if it has one of one's own"""
        stochastic: bool = False
        """act as in training, in place of the deterministic policy"""
        noise: float = 0.0
        """how much the executed actions differ from the expert's, which are recorded: standard
        deviation of real ones in [-1, 1], probability of a random choice"""
        side_cameras: bool = False
        """record three episodes for each one played: what the middle, the left and the right
        camera see, with the action corrected for the sides"""
        wait: bool = False
        """take a step for each key that a person presses, and none without one"""
        mouse: bool = False
        """the place of a person's mouse in the picture is the action, a Box of two numbers; the
        sticks of a gamepad move a Box too, without a flag"""
        options: tyro.conf.UseAppendAction[list[str]] = dataclasses.field(  # type: ignore[assignment]
            default_factory=list, kw_only=True
        )
        """keyword argument of gymnasium.make as NAME=VALUE, with the value in JSON; may be
        repeated"""

    asked = flags.parse(Record, "etude record", arguments)
    enable_cache()
    options = vars(asked) | {"options": parse_options(asked.options)}
    unset = {field.name: field.default for field in dataclasses.fields(Record)}
    if is_person(asked.expert):
        from etude.runs.record_person import record_person

        del options["expert"]
        for name in OF_POLICIES:
            if (value := options.pop(name)) != unset[name]:
                fail(f"{name} is {value}, and the expert is a person, who has none; leave it out")
        record_person(**options)
    else:
        from etude.runs.record import record

        for name in OF_A_PERSON:
            if (value := options.pop(name)) != unset[name]:
                fail(
                    f"{name} is {value}, which is for a person who plays; leave it out, or give "
                    f"the expert {PERSON}"
                )
        if asked.episodes is None:
            fail("episodes is missing; a person alone stops without a number of them")
        record(**options)


def _environments(arguments: list[str]) -> None:
    """`etude environments`"""

    @dataclasses.dataclass
    class Environments:
        """List the environments, with their backends and the algorithms that have a preset."""

        filter: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[FILTER]")] = ""
        """part of the id; at most ten matches show their spaces too"""

    options = flags.parse(Environments, "etude environments", arguments)
    from rich.console import Console
    from rich.table import Table

    from etude.environments.registry import list_environments
    from etude.presets import PRESETS

    rows = list_environments(options.filter)
    if not rows:
        fail(f"no environment's id contains {options.filter!r}; `etude environments` lists all")
    table = Table("environment", "backends", "presets", "observation", "action")
    for name, backends, observation, action in rows:
        presets = " ".join(
            algorithm for algorithm, preset_environment in PRESETS if preset_environment == name
        )
        table.add_row(name, " ".join(backends), presets, observation, action)
    Console().print(table)


def _algorithms(arguments: list[str]) -> None:
    """`etude algorithms`"""

    @dataclasses.dataclass
    class Algorithms:
        """List the algorithms."""

    flags.parse(Algorithms, "etude algorithms", arguments)
    from etude.algorithms import ALGORITHMS

    for name, (_, _, summary) in ALGORITHMS.items():
        print(f"{name:{max(map(len, ALGORITHMS))}} {summary}")


def imported(algorithm: str | None) -> Any:
    """The class called module:Class, None for no name."""
    from etude.algorithms import import_algorithm

    return None if algorithm is None else import_algorithm(algorithm)


def find_names(arguments: list[str]) -> tuple[str | None, str | None]:
    """Find the algorithm and the environment in the arguments, None where missing.

    They are the first known algorithm, or module:Class, and the word after it, or the first two
    words. They are
    needed before the flags can be parsed, since the algorithm determines the flags, and both
    determine their defaults.
    """
    from etude.algorithms import ALGORITHMS

    words = [i for i, word in enumerate(arguments) if not word.startswith("-")]
    start = next(
        (i for i in words if arguments[i] in ALGORITHMS),
        words[0] if words and words[0] == 0 else None,
    )
    if start is None:
        return None, None
    environment = arguments[start + 1] if start + 1 in words else None
    return arguments[start], environment


def parse_until(text: str | None) -> Any:
    """Parse a number; any other text is left to the check of the options."""
    parsed = None if text is None else flags.number(text)
    return text if parsed is None else float(parsed)


def parse_initial(words: list[str]) -> dict[str, str]:
    """Parse COMPONENT=RUN pairs to directories by component."""
    runs = {}
    for word in words:
        component, separator, directory = word.partition("=")
        if not separator or not component.isidentifier() or not directory:
            raise errors.InvalidInput(
                f"--initial {word!r} is not COMPONENT=RUN, such as policy=runs/before"
            )
        runs[component] = directory
    return runs
