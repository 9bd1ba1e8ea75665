"""Presets: tuned hyperparameters of an algorithm on an environment, with their source.

"zoo" is rl-baselines3-zoo at 22e3ff2, whose settings are relative to the defaults of
Stable-Baselines3 (e05d2db).
"""

from etude.presets import (
    actor_critic,
    control,
    imitation,
    model_based,
    policy_gradient,
    trust_region,
    value,
)
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    **value.PRESETS,
    **policy_gradient.PRESETS,
    **actor_critic.PRESETS,
    **trust_region.PRESETS,
    **imitation.PRESETS,
    **control.PRESETS,
    **model_based.PRESETS,
}


def preset(algorithm: str, environment: str) -> Preset | None:
    """Return the preset of an algorithm on an environment, None if there is none."""
    return PRESETS.get((algorithm, environment.split(":")[-1]))
