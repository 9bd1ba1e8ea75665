"""The options of a run: declared here alone, for the command line, `etude.train` and config.json.

This module is read without JAX. The names of its fields are flags, keyword arguments and keys.
"""

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any, Literal

from etude.errors import InvalidInput, shown

AT_LEAST = {
    "steps": 1,
    "num_envs": 1,
    "seeds": 1,
    "seed": 0,
    "workers": 0,
    "frame_stack": 1,
    "environment_timeout": 0,
    "replay_limit": 1,
    "evaluation_episodes": 1,
    "max_evaluation_steps": 1,
    "evaluate_every": 1,
    "evaluate_with": 1,
    "patience": 1,
    "checkpoint_interval": 1,
    "threads": 1,
}
AT_MOST = {  # beyond these is a mistake, or a file that is not to be believed
    "steps": 10**15,
    "num_envs": 2**20,
    "seeds": 2**16,
    "seed": 2**32 - 1,  # JAX's keys repeat beyond
    "workers": 2**12,
    "frame_stack": 2**10,
    "evaluation_episodes": 10**6,
    "checkpoint_interval": 10**15,
    "max_evaluation_steps": 10**12,
    "evaluate_every": 10**15,
    "evaluate_with": 10**6,
    "patience": 10**9,
    "environment_timeout": 10**9,
    "replay_limit": 10**9,
    "threads": 2**12,
}
MAX_EVALUATION_STEPS = 30_000
SOLVED = "solved"
PERSON = "person"  # the expert that is whoever sits at the keyboard
SLOWEST, FASTEST = 0.01, 100.0  # times the speed that an environment is meant to have


def check_whole(name: str, value: Any, at_least: int, at_most: int | None = None) -> None:
    """Raise InvalidInput, naming it, for a value that is no whole number within the bounds."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < at_least:
        raise InvalidInput(
            f"{name} is {shown(value)}; it must be a whole number of at least {at_least}"
        )
    if at_most is not None and value > at_most:
        raise InvalidInput(f"{name} is {shown(value)}; it must be at most {at_most:,}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """The options of environments, wherever some are made."""

    frame_stack: int = 1
    """number of latest observations that are stacked"""
    action_masks: bool = False
    """choose among the actions that info["action_mask"] allows"""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """keyword arguments of gymnasium.make"""
    environment_timeout: int = 600
    """seconds that one call of a gymnasium environment (to make it, reset, step or close) may take
    before the run ends with an error; 0: no limit"""
    max_evaluation_steps: int = MAX_EVALUATION_STEPS
    """environment steps after which an episode is cut off in an evaluation, a video or a
    recording"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of training and of evaluation."""

    steps: int = 100_000
    """budget of environment steps of each seed, never exceeded; of gradient steps where the
    algorithm does not play"""
    seeds: int = 1
    """number of agents to train"""
    seed: int = 0
    """seed of the first agent; the others follow it"""
    workers: int = 0
    """processes in which slow gymnasium environments step; 0 steps all in one process"""
    replay_limit: int = 100_000
    """steps of a running episode on gymnasium that are logged, so that a resumed run can play them
    again and go on bit for bit; a longer episode is begun anew"""
    evaluation_episodes: int = 100
    """episodes of each seed in the final evaluation"""
    evaluate_every: int | None = None
    """steps of the budget between evaluations during training, which keep the best checkpoint; by
    default there are none"""
    evaluate_with: int = 10
    """episodes of each seed in an evaluation during training"""
    until: float | Literal["solved"] | None = None
    """end the training of a seed at the first evaluation with this mean return (of seeds in one
    program, when each has had one); solved is the reward threshold of the environment in Gymnasium
    """
    patience: int | None = None
    """end the training of a seed after this many evaluations in a row without a better one"""
    threads: int | None = None
    """threads that XLA computes with on a CPU; by default as many as the variable PJRT_NPROC says,
    else one where the networks are small, and one for each core where they are large or EnvPool
    steps costly environments"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonOptions:
    """The options of a person who is the expert, and plays in a window."""

    keys: str | None = None
    """what a person's keys do: left=1,right=3,none=0 where actions are choices, left=-1@0,up=1@1
    for elements of an array, left+up=2 for keys that are held together; by default those that the
    window shows"""
    speed: float = 1.0
    """how fast a person plays: .3 is slow motion"""

    def check_speed(self) -> None:
        """Raise InvalidInput for a speed out of bounds."""
        is_number = isinstance(self.speed, int | float) and not isinstance(self.speed, bool)
        if not (is_number and SLOWEST <= self.speed <= FASTEST):
            raise InvalidInput(
                f"speed is {shown(self.speed)}; it must be a number from {SLOWEST:g} to {FASTEST:g}"
            )


def refuse_without_person(expert: Any, **options: Any) -> None:
    """Raise InvalidInput, naming it, for an option of a person where the expert is none."""
    for name, value in options.items():
        if value and not is_person(expert):
            raise InvalidInput(
                f"{name} is {shown(value)}, which is for a person who plays; leave it out, or give "
                f"the expert {PERSON}"
            )


def is_person(expert: Any) -> bool:
    """Whether what a user gives as the expert is a person."""
    return isinstance(expert, str) and expert == PERSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedOptions(EnvironmentOptions, PersonOptions, TrainingOptions):
    """The options that config.json holds as they were asked for."""

    def validate_fields(self) -> None:
        """Raise InvalidInput, naming option, value and remedy, for an option out of bounds."""
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise InvalidInput(f"{name} is {value!r}; it must be True or False")
            if field.default_factory is dict and not isinstance(value, dict):
                raise InvalidInput(f"{name} is {value!r}; it must be a dict")
            if name not in AT_LEAST or (value is None and field.default is None):
                continue
            check_whole(name, value, AT_LEAST[name], AT_MOST.get(name))
        self._check_stopping()
        self.check_speed()
        if self.seed + self.seeds > 2**32:  # JAX's keys repeat beyond
            raise InvalidInput(
                f"seed is {self.seed}; with {self.seeds} seeds it must stay below "
                f"{2**32 - self.seeds + 1}"
            )

    def _check_stopping(self) -> None:
        until: Any = self.until
        is_number = isinstance(until, int | float) and not isinstance(until, bool)
        if until not in (None, SOLVED) and not (is_number and math.isfinite(until)):
            raise InvalidInput(
                f"until is {self.until!r}; it must be a mean return, or {SOLVED} for the reward "
                "threshold that Gymnasium has for the environment"
            )
        for name in ("until", "patience"):
            if getattr(self, name) is not None and self.evaluate_every is None:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)!r}, and there are no evaluations during "
                    "training; give evaluate_every, the steps between them"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(RecordedOptions):
    """All options of a run, as a person asks for them."""

    backend: Literal["auto", "jax", "envpool", "gymnasium"] = "auto"
    """backend of training: auto takes jax, else envpool where installed, else gymnasium;
    evaluation is always on gymnasium, or on an environment that was given as an object"""
    num_envs: int | None = None
    """environments that each seed steps at once; by default the algorithm's own number"""
    dataset: Path | None = None
    """recorded episodes to learn from (see `etude record` and `etude dataset`); the algorithm then
    does not play, but for dagger, which begins with them"""
    expert: Any = None
    """who says what to do, for an algorithm that learns from an expert; see
    `etude.runs.experts.make_expert`. The directory of a run with a torso has this run's torso, and
    one with another torso is given as a Run"""
    initial: dict[str, Any] = dataclasses.field(default_factory=dict)
    """runs to start from, by the component that is taken over from each: policy=RUN"""
    torso: Any = None
    """what makes a network of one's own, in place of the hidden layers: module:function, or in
    Python the function (see `etude.TorsoMaker`)"""
    out: Path | None = None
    """the run directory; default runs/ALGORITHM-ENVIRONMENT-TIME"""
    checkpoint_interval: int | None = None
    """steps between checkpoints; default a tenth of the budget"""
    video: bool = False
    """record a video of an episode at the end"""

    def validate_fields(self) -> None:
        """Raise InvalidInput, naming option, value and remedy, for an option out of bounds."""
        super().validate_fields()
        slowed = self.speed != 1 and self.speed
        refuse_without_person(self.expert, keys=self.keys, speed=slowed)


def make_options(keywords: dict[str, Any]) -> RunOptions:
    """The options from keyword arguments; raises InvalidInput for a name that none has."""
    names = [field.name for field in dataclasses.fields(RunOptions)]
    for name in keywords:
        if name not in names:
            close_matches = difflib.get_close_matches(name, names, n=2)
            hint = f"did you mean {' or '.join(close_matches)}? " if close_matches else ""
            raise InvalidInput(f"a run has no option {name}; {hint}there are {', '.join(names)}")
    return RunOptions(**keywords)
