"""Settings known to work, for an algorithm on an environment, with their source.

"zoo" is rl-baselines3-zoo at 22e3ff2, whose tuned settings name the Stable-Baselines3 defaults
(e05d2db) for the rest.
"""

from etude.presets import actor_critic, control, policy_gradient, trust_region, value
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    **value.PRESETS,
    **policy_gradient.PRESETS,
    **actor_critic.PRESETS,
    **trust_region.PRESETS,
    **control.PRESETS,
}


def preset(algorithm: str, environment: str) -> Preset | None:
    """The preset for an algorithm on an environment, if there is one."""
    return PRESETS.get((algorithm, environment.split(":")[-1]))
