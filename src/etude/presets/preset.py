"""The type of a preset."""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """An algorithm with tuned hyperparameters, its number of environments and its budget."""

    algorithm: Any
    num_envs: int
    steps: int  # of each seed: environment steps, or gradient steps where it does not play


Presets = dict[tuple[str, str], Preset]  # (algorithm, environment)
