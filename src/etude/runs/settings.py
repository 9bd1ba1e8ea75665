"""The settings of a run, and their form in config.json."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import jax

import etude
from etude.algorithms import ALGORITHMS, algorithm_class
from etude.algorithms.protocol import check_algorithm
from etude.environments.sources import (
    EnvironmentLike,
    EnvironmentSource,
    SourceKind,
    environment_source,
)
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.storage.files import CorruptFile

FORMAT = 1
# fields of Settings that config.json holds in another form, or not at all
NOT_PLAIN = ("name", "algorithm", "source")
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy", "envpool", "box2d")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that determines a run on one machine with one set of versions."""

    name: str  # registered name of the algorithm, or the name of the user's class
    algorithm: Any
    source: EnvironmentSource
    environment: str  # id, or a name for an environment given as an object
    environment_kind: SourceKind  # id, factory or jax
    backend: str  # jax, envpool or gymnasium
    steps: int  # budget of environment steps of each seed
    num_envs: int  # environments that each seed steps at once
    seed: int = 0  # the first seed; the others follow it
    seeds: int = 1  # number of seeds
    workers: int = 0  # processes in which slow Gymnasium environments step
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # for gymnasium.make
    frame_stack: int = 1  # number of latest observations that are stacked
    action_masks: bool = False  # whether info["action_mask"] is part of the observation
    row_every: int = 1  # iterations per row of metrics
    checkpoint_every: int = 1  # iterations between checkpoints: a multiple of row_every
    evaluation_episodes: int = 100  # episodes of each seed in the final evaluation
    # of observation and action, by which an environment given as an object is known again
    spaces: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def steps_per_iteration(self) -> int:
        return self.algorithm.rollout_length * self.num_envs

    @property
    def iterations(self) -> int:
        return self.steps // self.steps_per_iteration

    @property
    def trained_steps(self) -> int:
        """Environment steps of each seed: those of the budget's complete iterations."""
        return self.iterations * self.steps_per_iteration

    def resume_command(self, directory: Path) -> str:
        """What resumes the run in `directory`: a shell's command, or Python's for an object."""
        if self.environment_kind == "id":
            return f"etude resume {directory}"
        return f"etude.resume({str(directory)!r}, environment=...)"

    def validate_fields(self) -> None:
        """Raise InvalidInput, naming setting, value and remedy, for an invalid setting."""
        for name, minimum in {
            "steps": 1,
            "num_envs": 1,
            "seeds": 1,
            "seed": 0,
            "workers": 0,
            "frame_stack": 1,
            "evaluation_episodes": 1,
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                raise InvalidInput(
                    f"{name} is {value}; it must be a whole number of at least {minimum}"
                )
        if self.seed + self.seeds > 2**32:  # JAX's keys repeat beyond
            raise InvalidInput(
                f"seed is {self.seed}; with {self.seeds} seeds it must stay below "
                f"{2**32 - self.seeds + 1}"
            )
        check_algorithm(self.algorithm)
        if self.iterations < 1:
            raise InvalidInput(
                f"steps is {self.steps}, less than one iteration of {self.steps_per_iteration} "
                f"(rollout_length {self.algorithm.rollout_length} × num_envs {self.num_envs}); "
                "give at least that"
            )


def to_json(settings: Settings) -> dict[str, Any]:
    """Return the content of config.json: settings, versions and machine."""
    run_settings = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in NOT_PLAIN
    }
    hyperparameters = {
        field.name: _plain(getattr(settings.algorithm, field.name))
        for field in dataclasses.fields(settings.algorithm)
    }
    return {
        "format": FORMAT,
        "algorithm": settings.name,
        **run_settings,
        "hyperparameters": hyperparameters,
        "versions": package_versions(),
        "machine": machine_info(),
    }


def from_json(
    config: dict[str, Any], algorithm: Any = None, environment: EnvironmentLike | None = None
) -> Settings:
    """Return the settings in config.json.

    `algorithm` is an instance of the run's algorithm if that is not etude's, and `environment` the
    run's if a file cannot stand for it. Raises CorruptFile for content that `to_json` does not
    write, and InvalidInput for an environment that is not the run's.
    """
    try:
        if config["format"] != FORMAT:
            raise CorruptFile(
                f"config.json has format {config['format']}, and this etude reads {FORMAT}; "
                "use the version that wrote it"
            )
        if algorithm is None and config["algorithm"] not in ALGORITHMS:
            raise InvalidInput(
                f"this run's algorithm {config['algorithm']!r} is not one of etude's; "
                "load it in Python with etude.load(path, algorithm=...)"
            )
        cls = type(algorithm) if algorithm is not None else algorithm_class(config["algorithm"])
        hints = get_type_hints(cls)
        names = {field.name for field in dataclasses.fields(cls)}
        if set(config["hyperparameters"]) != names:
            mismatched = sorted(set(config["hyperparameters"]) ^ names)
            raise CorruptFile(
                "config.json names other hyperparameters than "
                f"{config['algorithm']} has: {', '.join(mismatched)}"
            )
        values = {
            name: _typed(name, value, hints[name])
            for name, value in config["hyperparameters"].items()
        }
        fields = {
            field.name: _typed(field.name, config[field.name], field.type)
            for field in dataclasses.fields(Settings)
            if field.name not in NOT_PLAIN
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(
            f"config.json is not that of a run: {type(error).__name__} {error}"
        ) from error
    source = restore_source(fields, environment)
    settings = Settings(config["algorithm"], cls(**values), source, **fields)
    settings.validate_fields()
    return settings


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
    if ":" in name and environment is None and name.split(":")[0] not in sys.modules:
        raise InvalidInput(
            f"this run was trained on {name}, whose module etude does not import because a file "
            f"says so; add --environment {name} (in Python environment={name!r})"
        )
    source = environment_source(
        name if environment is None else environment,
        fields["options"],
        fields["frame_stack"],
        fields["action_masks"],
    )
    if is_id:
        return source
    if source.kind != fields["environment_kind"]:
        raise InvalidInput(
            f"this run was trained on a {fields['environment_kind']} environment, {name}, and "
            f"{source.name} is a {source.kind} one"
        )
    spaces = spaces_text(source.outline(fields["num_envs"], fields["backend"]).spec)
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
    """The machine of a run; results on a CPU differ between one visible core and two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "processor": platform.machine(),
    }


def environment_changes(config: dict[str, Any]) -> list[str]:
    """List the changes of versions, cores and device since a run began, which may change bits."""
    recorded, current = (
        {
            **source.get("versions", {}),
            **{name: source.get("machine", {}).get(name) for name in ("cores", "device")},
        }
        for source in (config, {"versions": package_versions(), "machine": machine_info()})
    )
    return [
        f"{name} {recorded.get(name)} is now {current.get(name)}"
        for name in current
        if recorded.get(name) != current.get(name)
    ]


def _plain(value):
    """A hyperparameter in strict JSON: infinities become strings, arrays numbers."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _typed(name, value, hint):
    """Convert a value read from JSON to the type of its field."""
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
