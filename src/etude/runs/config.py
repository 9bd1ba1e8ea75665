"""config.json: its format, writing it, and reading it into the settings of a run.

A file names no code: what the run has of a person's own, an algorithm, an environment or a torso,
is given again where it is read.
"""

import contextlib
import dataclasses
import difflib
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

import jax.numpy as jnp

from etude.algorithms import ALGORITHMS, algorithm_class
from etude.algorithms.protocol import NOTHING, Expert, Outside
from etude.data.dataset import dataset_shapes
from etude.data.transition import zeros_like_spec
from etude.environments.sources import EnvironmentLike, EnvironmentSource, environment_source
from etude.errors import InvalidInput
from etude.importing import split_name
from etude.kinds import qualified_name
from etude.runs.config_values import plain_fields, typed_struct, typed_value
from etude.runs.options import AT_LEAST, AT_MOST, check_whole
from etude.runs.person import person_expert
from etude.runs.settings import DatasetRecord, ExpertRecord, InitialRecord, Settings, spaces_text
from etude.runs.threads import start_with
from etude.runs.torsos import TorsoLike, find_torso, torso_of
from etude.runs.versions import machine_info, package_versions
from etude.spaces import EnvironmentSpec
from etude.storage import files
from etude.storage.files import CorruptFile
from etude.struct import LARGEST

CONFIG, FORMAT = "config.json", 5
# fields of Settings that config.json holds in another form, or not at all
NOT_PLAIN = (
    "name",
    "algorithm",
    "source",
    "dataset",
    "dataset_notes",
    "expert",
    "outside",
    "initial",
    "initial_components",
)


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
        hyperparameters = typed_struct(cls, config["hyperparameters"], torso=torso)
        if torso is not None and torso_of(hyperparameters) is None:
            raise InvalidInput(
                f"torso is {qualified_name(find_torso(torso))}, and this run of "
                f"{config['algorithm']} has none; leave it out"
            )
        fields = {
            name: typed_value(name, config[name], hint)
            for name, hint in get_type_hints(Settings).items()
            if name not in NOT_PLAIN
        }
        for name in ("num_envs", "seeds"):  # before anything is made of them
            check_whole(name, fields[name], AT_LEAST[name], AT_MOST[name])
        record = config["dataset"]
        dataset = None if record is None else typed_struct(DatasetRecord, record, "dataset.")
        record = config["expert"]
        expert = None if record is None else typed_struct(ExpertRecord, record, "expert.")
        initial = {
            name: typed_struct(InitialRecord, record, f"initial.{name}.")
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
