"""The settings of a run: all that determines it, and what is recorded of what it was given."""

import dataclasses
from pathlib import Path
from typing import Any

from etude.algorithms.protocol import NOTHING, Outside, acts, check_algorithm
from etude.environments.backends.zero_envs import ZeroEnvs
from etude.environments.factories import is_picklable
from etude.environments.protocol import Environment
from etude.environments.sources import EnvironmentSource, SourceKind
from etude.errors import InvalidInput
from etude.importing import is_importable
from etude.kinds import qualified_name
from etude.runs.options import AT_MOST, PERSON, RecordedOptions, check_whole
from etude.runs.torsos import torso_of
from etude.spaces import EnvironmentSpec
from etude.training import iterations_of

IN_ONE_PROGRAM = ("jax", "none")  # backends of which all seeds train in one program


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """What config.json holds of a dataset: where it was, and what it is known by."""

    path: str  # "" for one that was given as an object
    sha256: str  # of its content
    steps: int
    episodes: int
    environment: str  # the id of the environment in which it was recorded, "" where unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertRecord:
    """What config.json holds of an expert: how it is called, and what it is known by."""

    name: str  # of an algorithm or a function, or the directory of a run
    kind: str  # algorithm, run, function, person, or object, which Python alone can give again
    sha256: str  # of its state
    memory: tuple[str, ...]  # of its policy in all environments: the arrays as "float32[8, 4]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialRecord:
    """What config.json holds of a run that a component was taken over from."""

    run: str  # its directory
    seeds: int  # that it has; where it is one, all seeds start from the same
    sha256: str  # of the component of all seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RecordedOptions):
    """All that determines a run on one machine with one set of versions."""

    name: str  # registered name of the algorithm, or module:Class of the user's
    algorithm: Any
    source: EnvironmentSource
    environment: str  # id, or a name for an environment given as an object
    environment_kind: SourceKind  # id, factory or jax
    backend: str  # jax, envpool or gymnasium; none where the algorithm does not play
    num_envs: int
    until: float | None = None  # the mean return itself, also where "solved" was asked for
    threads: int | None = None  # that training computes with; None until they are chosen
    row_every: int = 1  # iterations per row of metrics
    checkpoint_every: int = 1  # iterations between checkpoints: a multiple of row_every
    # of observation and action, by which an environment given as an object is known again
    spaces: dict[str, str] = dataclasses.field(default_factory=dict)
    dataset: DatasetRecord | None = None
    dataset_notes: tuple[str, ...] = ()  # of a new run: what was found as the dataset was read
    expert: ExpertRecord | None = None
    outside: Outside = NOTHING  # of a run that is loaded, the shapes alone
    initial: dict[str, InitialRecord] = dataclasses.field(default_factory=dict)
    # components [seed, ...] to start with; {} in a run that is loaded
    initial_components: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The run in a title: the algorithm's name, without its module, and the environment's."""
        return f"{self.name.split(':')[-1]} on {self.environment}"

    @property
    def plays(self) -> bool:
        return self.algorithm.plays

    @property
    def acts(self) -> bool:
        """Whether the algorithm has a policy; otherwise it is evaluated on its dataset."""
        return acts(self.algorithm)

    @property
    def unit(self) -> str:
        """What the budget counts."""
        return "steps" if self.plays else "gradient steps"

    @property
    def steps_per_iteration(self) -> int:
        return self.algorithm.steps_per_update(self.num_envs)

    @property
    def iterations(self) -> int:
        return self.steps // self.steps_per_iteration

    @property
    def trained_steps(self) -> int:
        """Steps of each seed: those of the budget's complete iterations."""
        return self.iterations * self.steps_per_iteration

    @property
    def iterations_per_evaluation(self) -> int:
        """Iterations between evaluations during training, whole rows; 0 where there are none."""
        if self.evaluate_every is None:
            return 0
        rows = self.evaluate_every / self.steps_per_iteration / self.row_every
        return self.row_every * max(1, round(rows))

    @property
    def in_one_program(self) -> bool:
        """Whether all seeds train in one program."""
        return self.backend in IN_ONE_PROGRAM

    @property
    def is_played(self) -> bool:
        """Whether a person plays in the run: its expert is one."""
        return self.expert is not None and self.expert.kind == PERSON

    @property
    def torso(self) -> str:
        """The name of the torso, "" where the networks are etude's own."""
        maker = torso_of(self.algorithm)
        return "" if maker is None else qualified_name(maker)

    @property
    def is_picklable(self) -> bool:
        """Whether another process can have all that the run is made of, to train a seed there."""
        expert: Any = self.outside.expert
        own = [torso_of(self.algorithm), expert and expert.policy]
        return self.source.is_picklable and all(is_picklable(x) for x in own if x is not None)

    @property
    def held_in_python(self) -> list[str]:
        """What no command line can name, and is handed in again from Python."""
        is_held = {
            "environment": self.environment_kind != "id",
            "torso": bool(self.torso) and not is_importable(self.torso),
            "dataset": self.dataset is not None and not self.dataset.path,
            "expert": self.expert is not None and self.expert.kind == "object",
        }
        return [name for name, held in is_held.items() if held]

    def outline(self) -> Environment:
        """What has the spec of the training environments; where nothing plays, it stands for them.

        Raises InvalidInput where none can be made.
        """
        if self.plays:
            return self.source.outline(self.num_envs, self.backend)
        return ZeroEnvs(
            self.source.outline(1, self.source.evaluation_backend).spec, functional=True
        )

    def resume_command(self, directory: Path) -> str:
        """What resumes the run in `directory`: a shell's command, or Python's for an object."""
        names = {"algorithm": self.name, "environment": self.environment, "torso": self.torso}
        if self.expert and self.expert.kind == "function":
            names["expert"] = self.expert.name
        named = [word for word, name in names.items() if ":" in name]
        if held := self.held_in_python:
            words = [*(word for word in named if word not in held), *held]
            return f"etude.resume({str(directory)!r}, {', '.join(f'{x}=...' for x in words)})"
        return f"etude resume {directory}{''.join(f' --{word} {names[word]}' for word in named)}"

    def validate_fields(self) -> None:
        """Raise InvalidInput, naming setting, value and remedy, for an invalid setting."""
        super().validate_fields()
        for name in ("row_every", "checkpoint_every"):
            check_whole(name, getattr(self, name), 1, AT_MOST["steps"])
        if self.checkpoint_every % self.row_every:
            raise InvalidInput(
                f"checkpoint_every is {self.checkpoint_every}; it must be a multiple of row_every, "
                f"{self.row_every}"
            )
        check_algorithm(self.algorithm)
        for name in ("until", "patience"):
            if getattr(self, name) is not None and not self.acts:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)!r}, and {self.name} has nothing to act with, "
                    "so it has no return; leave it out"
                )
        iterations_of(self.algorithm, self.num_envs, self.steps)


def spaces_text(spec: EnvironmentSpec) -> dict[str, str]:
    """The spaces of an environment in words, which are equal where the spaces are."""
    return {"observation": str(spec.observation), "action": str(spec.action)}
