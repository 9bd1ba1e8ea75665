"""What a preset is."""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """An algorithm, and what it was tuned with."""

    algorithm: Any
    num_envs: int
    steps: int


Presets = dict[tuple[str, str], Preset]  # (algorithm, environment)
