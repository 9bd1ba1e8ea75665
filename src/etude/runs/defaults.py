"""The settings with which an algorithm begins where a person gives its name alone."""

from typing import Any

from etude.algorithms import algorithm_factory
from etude.algorithms.protocol import reads_outside
from etude.environments.sources import EnvironmentLike
from etude.presets import preset


def defaults_for(
    name: str, environment: EnvironmentLike, has_dataset: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The algorithm called `name` and the options that differ from the defaults of any run.

    They are those of its preset for the environment, where there is one. With a dataset, what would
    play without one has none, for the copies and the budget of its preset are those of play. Raises
    InvalidInput for an unknown name.
    """
    known = preset(name, environment) if isinstance(environment, str) else None
    if known is None:
        return algorithm_factory(name)(), {}
    options = {"num_envs": known.num_envs, "steps": known.steps}
    plays_elsewhere = has_dataset and not reads_outside(known.algorithm, "dataset")
    return known.algorithm, {} if plays_elsewhere else options
