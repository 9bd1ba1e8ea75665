"""The settings of a run, and their form in config.json."""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import math
import platform
import re
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp

import etude
from etude.algorithms import ALGORITHMS, algorithm_class
from etude.algorithms.protocol import NOTHING, Expert, Outside, acts, check_algorithm
from etude.cores import num_cores
from etude.data.dataset import dataset_shapes
from etude.data.transition import zeros_like_spec
from etude.environments.backends.zero_envs import ZeroEnvs
from etude.environments.factories import is_picklable
from etude.environments.protocol import Environment
from etude.environments.sources import (
    EnvironmentLike,
    EnvironmentSource,
    SourceKind,
    environment_source,
)
from etude.errors import InvalidInput
from etude.importing import is_importable, split_name
from etude.kinds import code_fields, kinds_of, qualified_name, tag_of
from etude.runs.options import AT_LEAST, AT_MOST, PERSON, RecordedOptions, check_whole
from etude.runs.person import person_expert
from etude.runs.threads import start_with, threads_in_use
from etude.runs.torsos import TorsoLike, find_torso, restore_torso, torso_of
from etude.spaces import EnvironmentSpec
from etude.storage import files
from etude.storage.files import CorruptFile
from etude.struct import LARGEST
from etude.training import iterations_of

CONFIG, FORMAT = "config.json", 5
# fields of Settings that config.json holds in another form, or not at all
NOT_PLAIN = (
    "name",
    "algorithm",
    "source",
    "dataset",
    "expert",
    "outside",
    "initial",
    "initial_components",
)
IN_ONE_PROGRAM = ("jax", "none")  # backends of which all seeds train in one program
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy", "envpool", "box2d")


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


@dataclasses.dataclass(frozen=True)
class ExpertOutline:
    """A policy that stands for an expert where none is queried, with the shapes of its memory."""

    memory: tuple[tuple[str, tuple[int, ...]], ...]  # (dtype, shape) of each array
    spec: EnvironmentSpec
    needs: tuple[str, ...] = ()

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Any) -> Any:
        return tuple(jnp.zeros(shape, dtype) for dtype, shape in self.memory)

    def act(
        self, state: Any, observation: Any, memory: Any, key: Any, explore: bool
    ) -> tuple[Any, Any]:
        action = zeros_like_spec(self.spec).action
        return jnp.zeros((self.spec.num_envs, *action.shape), action.dtype), memory


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


def to_json(settings: Settings) -> dict[str, Any]:
    """Return the content of config.json: settings, versions and machine."""
    run_settings = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in NOT_PLAIN
    }
    return {
        "format": FORMAT,
        "algorithm": settings.name,
        **run_settings,
        "dataset": None if settings.dataset is None else dataclasses.asdict(settings.dataset),
        "expert": None if settings.expert is None else dataclasses.asdict(settings.expert),
        "initial": {name: dataclasses.asdict(record) for name, record in settings.initial.items()},
        "hyperparameters": plain_fields(settings.algorithm),
        "versions": package_versions(),
        "machine": machine_info(),
    }


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of config.json in a run directory.

    Raises InvalidInput for a directory that is no run, and CorruptFile for a file that is not, byte
    for byte, as etude wrote it.
    """
    if not (directory / CONFIG).is_file():
        raise InvalidInput(
            f"{directory} is not a run: it has no {CONFIG}; name a directory that "
            "`etude train` wrote"
        )
    return files.read_sealed(directory / CONFIG, FORMAT)


def start_as_before(config: dict[str, Any]) -> None:
    """Start JAX with the threads of the run with this config.json, where it has not started.

    Raises CorruptFile where the run has none.
    """
    threads = config.get("threads")
    if not isinstance(threads, int) or not AT_LEAST["threads"] <= threads <= AT_MOST["threads"]:
        raise CorruptFile(
            f"config.json gives threads as {threads!r:.80}, which is no number of them"
        )
    start_with(threads)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write config.json."""
    files.write_sealed(directory / CONFIG, config)


def from_json(
    config: dict[str, Any],
    algorithm: Any = None,
    environment: EnvironmentLike | None = None,
    torso: TorsoLike | None = None,
) -> Settings:
    """Return the settings in config.json.

    `algorithm` is the class of the run's algorithm, or an instance with its values, if that is not
    etude's, `environment` the run's if a file cannot stand for it, and `torso` the run's if it has
    one.
    Raises CorruptFile for content that `to_json` does not write, and InvalidInput for an algorithm,
    an environment or a torso that is not the run's.
    """
    check_keys(config)
    try:
        cls = restore_class(config["algorithm"], algorithm)
        hyperparameters = _typed_struct(cls, config["hyperparameters"], torso=torso)
        if torso is not None and torso_of(hyperparameters) is None:
            raise InvalidInput(
                f"torso is {qualified_name(find_torso(torso))}, and this run of "
                f"{config['algorithm']} has none; leave it out"
            )
        fields = {
            name: _typed(name, config[name], hint)
            for name, hint in get_type_hints(Settings).items()
            if name not in NOT_PLAIN
        }
        for name in ("num_envs", "seeds"):  # before anything is made of them
            check_whole(name, fields[name], AT_LEAST[name], AT_MOST[name])
        record = config["dataset"]
        dataset = None if record is None else _typed_struct(DatasetRecord, record, "dataset.")
        record = config["expert"]
        expert = None if record is None else _typed_struct(ExpertRecord, record, "expert.")
        initial = {
            name: _typed_struct(InitialRecord, record, f"initial.{name}.")
            for name, record in config["initial"].items()
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptFile(
            f"config.json is not that of a run: {type(error).__name__} {error}"
        ) from error
    settings = Settings(
        name=config["algorithm"],
        algorithm=hyperparameters,
        source=restore_source(fields, environment),
        dataset=dataset,
        expert=expert,
        initial=initial,
        **fields,
    )
    settings.validate_fields()
    if dataset is not None:
        for name in ("steps", "episodes"):
            check_whole(f"dataset.{name}", getattr(dataset, name), 1, LARGEST)
    if algorithm is not None and not isinstance(algorithm, type):
        check_same_values(settings, algorithm)
    return dataclasses.replace(settings, outside=outline_of_outside(settings))


def outline_of_outside(settings: Settings) -> Outside:
    """The shapes of what reaches a run from outside, which say those of its checkpoints.

    Raises CorruptFile for a record of an expert's memory that is no list of arrays.
    """
    dataset, expert = settings.dataset, settings.expert
    if dataset is None and expert is None:
        return NOTHING
    spec = settings.outline().spec
    outside = NOTHING
    if dataset is not None:
        shapes = dataset_shapes(spec, dataset.steps, dataset.episodes)
        outside = dataclasses.replace(outside, dataset=shapes)
    if expert is not None:
        policy: Any = ExpertOutline(tuple(map(_array_type, expert.memory)), spec)
        outline = person_expert(spec) if settings.is_played else Expert((), policy)
        outside = dataclasses.replace(outside, expert=outline)
    return outside


def _array_type(text: str) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of an array that is written as "float32[8, 4]"."""
    found = re.fullmatch(r"([a-z]{3,8}\d{0,2})\[(\d{1,9}(?:, \d{1,9})*)?\]", text)
    if found:
        with contextlib.suppress(TypeError, ValueError):
            shape = map(int, found[2].split(", ") if found[2] else ())
            return jnp.dtype(found[1]).name, tuple(shape)
    raise CorruptFile(
        f"config.json gives an array of expert.memory as {text!r:.80}, and not as float32[8, 4]"
    )


def check_keys(config: dict[str, Any]) -> None:
    """Raise CorruptFile, with the nearest name, for a key of config.json that etude does not write,
    and for one that is missing."""
    known = [field.name for field in dataclasses.fields(Settings) if field.name not in NOT_PLAIN]
    known += ["format", "algorithm", "dataset", "expert", "initial"]
    known += ["hyperparameters", "versions", "machine"]
    for key in config:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f": did you mean {nearest[0]}?" if nearest else ""
            raise CorruptFile(f"config.json has the unknown key {key!r:.80}{hint}")
    if missing := [key for key in known if key not in config]:
        raise CorruptFile(f"config.json has no key {missing[0]!r}")
    for key in ("dataset", "expert", "hyperparameters", "initial", "versions", "machine"):
        may_be_none = key in ("dataset", "expert") and config[key] is None
        if not isinstance(config[key], dict) and not may_be_none:
            raise CorruptFile(f"config.json gives {key} as {config[key]!r:.80}, which is no object")


def check_same_values(settings: Settings, algorithm: Any) -> None:
    """Raise InvalidInput, naming fields and values, where `algorithm` has others than the run's.

    Whether it plays is said by the dataset of the run, and what it starts with by `initial`, so it
    may be as it was before they were given.
    """
    given, own = algorithm, settings.algorithm
    if settings.dataset is not None and "plays" in plain_fields(own):
        given = dataclasses.replace(given, plays=own.plays)
    for name in settings.initial:
        given = given.components[name].prepare(given, settings.num_envs)
    theirs, ours = (_flat(plain_fields(x)) for x in (given, own))
    has_torso = torso_of(given) is not None  # else it may be given by itself
    differing = [
        f"{name} is {ours.get(name)} in the run and {theirs.get(name)} here"
        for name in ours | theirs
        if ours.get(name) != theirs.get(name) and (has_torso or name.split(".")[-1] != "torso")
    ]
    if differing:
        raise InvalidInput(
            f"algorithm has other values than this run, which goes on with its own: "
            f"{'; '.join(differing)}. Give the class alone, or start a new run"
        )


def _flat(values, path=""):
    """The values of nested objects by path."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return flat


def restore_class(name: str, algorithm: Any) -> Any:
    """Return the class of the run's algorithm called `name`.

    Raises InvalidInput where `algorithm` is not the run's, and where the run needs it: a file never
    makes etude import a module.
    """
    if algorithm is None:
        if name not in ALGORITHMS:
            raise InvalidInput(
                f"this run's algorithm {name} is not one of etude's, and a file never makes etude "
                f"import a module; add --algorithm {name} (in Python algorithm=..., the class)"
            )
        return algorithm_class(name)
    cls = algorithm if isinstance(algorithm, type) else type(algorithm)
    is_same = (
        cls is algorithm_class(name)
        if name in ALGORITHMS
        else name.split(":")[-1] == cls.__qualname__
    )
    if not is_same:
        raise InvalidInput(f"this run's algorithm is {name}, not {qualified_name(cls)}")
    return cls


def restore_source(
    fields: dict[str, Any], environment: EnvironmentLike | None
) -> EnvironmentSource:
    """Return the source of the environments of the run with these fields of `Settings`.

    Raises InvalidInput where `environment` is not the run's, and where the run needs it: an object
    is in no file, and a file never makes etude import a module.
    """
    name, is_id = fields["environment"], fields["environment_kind"] == "id"
    if not is_id and (environment is None or isinstance(environment, str)):
        raise InvalidInput(
            f"this run was trained on {name}, an object of Python that no file holds; go on in "
            "Python, with etude.resume(path, environment=...) or etude.load(path, environment=...)"
        )
    if is_id and environment not in (None, name):
        raise InvalidInput(f"this run was trained on {name}, not on {environment}")
    module, _ = split_name("environment", name) if is_id else ("", name)
    if module and environment is None and module not in sys.modules:
        raise InvalidInput(
            f"this run was trained on {name}, whose module etude does not import because a file "
            f"says so; add --environment {name} (in Python environment={name!r})"
        )
    source = environment_source(
        name if environment is None else environment,
        fields["options"],
        fields["frame_stack"],
        fields["action_masks"],
        fields["environment_timeout"],
    )
    if is_id:
        return source
    if source.kind != fields["environment_kind"]:
        raise InvalidInput(
            f"this run was trained on a {fields['environment_kind']} environment, {name}, and "
            f"{source.name} is a {source.kind} one"
        )
    backend = source.evaluation_backend if fields["backend"] == "none" else fields["backend"]
    spaces = spaces_text(source.outline(fields["num_envs"], backend).spec)
    for role, space in spaces.items():
        if space != fields["spaces"].get(role):
            raise InvalidInput(
                f"the {role} space of {source.name} is {space}, and that of the run, which was "
                f"trained on {name}, is {fields['spaces'].get(role)}; give the environment of the "
                "run"
            )
    return source


def spaces_text(spec: EnvironmentSpec) -> dict[str, str]:
    """The spaces of an environment in words, which are equal where the spaces are."""
    return {"observation": str(spec.observation), "action": str(spec.action)}


def package_versions() -> dict[str, str]:
    """The versions of etude, of Python and of the packages that determine results."""
    versions = {"etude": etude.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine_info() -> dict[str, Any]:
    """The machine of a run."""
    return {
        "cores": num_cores(),
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "processor": platform.machine(),
    }


def environment_changes(config: dict[str, Any]) -> list[str]:
    """List the changes of versions, threads and device since a run began, which may change bits."""
    in_processes = config["seeds"] > 1 and config["backend"] not in IN_ONE_PROGRAM
    now: dict[str, Any] = {
        "versions": package_versions(),
        "machine": machine_info(),
        # the processes of seeds start with the threads of the run
        "threads": config["threads"] if in_processes else threads_in_use(),
    }
    recorded, current = (
        {
            **source["versions"],
            "threads": source["threads"],
            "device": source["machine"].get("device"),
        }
        for source in (config, now)
    )
    return [
        f"{name} {recorded.get(name)} is now {current.get(name)}"
        for name in current
        if recorded.get(name) != current.get(name)
    ]


def plain_fields(struct: Any) -> dict[str, Any]:
    """The fields of a struct of hyperparameters in strict JSON; of code, its name."""
    names = [field.name for field in dataclasses.fields(struct)]
    code = code_fields(type(struct))
    plain = {name: _plain(getattr(struct, name)) for name in names if name not in code}
    return {name: plain[name] if name in plain else _name(getattr(struct, name)) for name in names}


def _name(code):
    return None if code is None else qualified_name(code)


def _plain(value):
    """A hyperparameter in strict JSON: infinities become strings, arrays numbers.

    A nested struct is an object with its tag as "kind".
    """
    if dataclasses.is_dataclass(value):
        return {"kind": tag_of(type(value)), **plain_fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _typed_struct(
    cls: Any, values: dict[str, Any], path: str = "", torso: TorsoLike | None = None
) -> Any:
    """A struct of hyperparameters from its fields in JSON; `path` is that of the struct."""
    hints = get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if set(values) != names:
        mismatched = sorted(path + name for name in set(values) ^ names)
        raise CorruptFile(
            f"config.json names other hyperparameters than {cls.__name__} has: "
            f"{', '.join(mismatched)}"
        )
    code = {name: restore_torso(values[name], torso) for name in code_fields(cls)}
    plain = {
        name: _typed(path + name, value, hints[name], torso)
        for name, value in values.items()
        if name not in code
    }
    return cls(**plain | code)


def _typed(name, value, hint, torso=None):
    """Convert a value read from JSON to the type of its field."""
    if kinds := kinds_of(hint):
        if value is None and "none" in kinds:
            return None
        if isinstance(value, dict) and value.get("kind") in [*kinds] and value["kind"] != "none":
            fields = {key: item for key, item in value.items() if key != "kind"}
            return _typed_struct(kinds[value["kind"]], fields, name + ".", torso)
        raise CorruptFile(
            f"config.json gives {name} as {value!r}; its kind must be one of {', '.join(kinds)}"
        )
    if get_origin(hint) is UnionType and NoneType in get_args(hint):
        return None if value is None else _typed(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_typed(name, item, get_args(hint)[0]) for item in value)
    if hint is float and (type(value) in (int, float) or value in ("inf", "-inf")):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    if value in get_args(hint) and isinstance(value, str):
        return value
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    raise CorruptFile(
        f"config.json gives {name} as {value!r}, which is no {getattr(hint, '__name__', hint)}"
    )
