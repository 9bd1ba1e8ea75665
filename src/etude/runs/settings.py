"""The settings of a run, and their form in config.json."""

import dataclasses
import importlib.metadata
import math
import os
import platform
from typing import Any, get_args, get_origin, get_type_hints

import jax

import etude
from etude.algorithms import ALGORITHMS, algorithm_class
from etude.algorithms.protocol import check_algorithm
from etude.errors import InvalidInput
from etude.storage.files import CorruptFile
from etude.struct import kinds_of, tag_of

FORMAT = 2
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy", "envpool", "box2d")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that determines a run on one machine with one set of versions."""

    name: str  # registered name of the algorithm, or the name of the user's class
    algorithm: Any
    environment: str
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

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `environments.make`."""
        return {
            "options": self.options,
            "frame_stack": self.frame_stack,
            "action_masks": self.action_masks,
        }

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
        if field.name not in ("name", "algorithm")
    }
    return {
        "format": FORMAT,
        "algorithm": settings.name,
        **run_settings,
        "hyperparameters": _plain_fields(settings.algorithm),
        "versions": package_versions(),
        "machine": machine_info(),
    }


def from_json(config: dict[str, Any], algorithm: Any = None) -> Settings:
    """Return the settings in config.json.

    `algorithm` is an instance of the run's algorithm if that is not etude's. Raises CorruptFile for
    content that `to_json` does not write.
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
        algorithm = _typed_struct(cls, config["hyperparameters"])
        fields = {
            field.name: _typed(field.name, config[field.name], field.type)
            for field in dataclasses.fields(Settings)
            if field.name not in ("name", "algorithm")
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptFile(
            f"config.json is not that of a run: {type(error).__name__} {error}"
        ) from error
    settings = Settings(config["algorithm"], algorithm, **fields)
    settings.validate_fields()
    return settings


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


def _plain_fields(struct: Any) -> dict[str, Any]:
    """The fields of a struct of hyperparameters in strict JSON."""
    return {field.name: _plain(getattr(struct, field.name)) for field in dataclasses.fields(struct)}


def _plain(value):
    """A hyperparameter in strict JSON: infinities become strings, arrays numbers.

    A nested struct is an object with its tag as "kind".
    """
    if dataclasses.is_dataclass(value):
        return {"kind": tag_of(type(value)), **_plain_fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _typed_struct(cls: Any, values: dict[str, Any], path: str = "") -> Any:
    """A struct of hyperparameters from its fields in JSON; `path` is that of the struct."""
    hints = get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if set(values) != names:
        mismatched = sorted(path + name for name in set(values) ^ names)
        raise CorruptFile(
            f"config.json names other hyperparameters than {cls.__name__} has: "
            f"{', '.join(mismatched)}"
        )
    return cls(**{name: _typed(path + name, value, hints[name]) for name, value in values.items()})


def _typed(name, value, hint):
    """Convert a value read from JSON to the type of its field."""
    if kinds := kinds_of(hint):
        if value is None and "none" in kinds:
            return None
        if isinstance(value, dict) and value.get("kind") in [*kinds] and value["kind"] != "none":
            fields = {key: item for key, item in value.items() if key != "kind"}
            return _typed_struct(kinds[value["kind"]], fields, name + ".")
        raise CorruptFile(
            f"config.json gives {name} as {value!r}; its kind must be one of {', '.join(kinds)}"
        )
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
