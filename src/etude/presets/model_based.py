"""Presets of algorithms that learn a model; budgets are environment steps in the real environment.

What they reach stands on the page of the learning benchmark, where it is measured.
"""

from typing import Any

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.model_based.mbmf import MBMF
from etude.algorithms.model_based.pets import PETS, SingleNetwork, Version05, Version10, Version15
from etude.models.ensemble import Ensemble
from etude.planning.sampling.icem import ICEM
from etude.presets.preset import Preset, Presets
from etude.struct import replace

SMALL = Ensemble(hidden=(64, 64, 64))  # enough for up to four observations
# a fit after every episode of the pendulum
VERSION: dict[str, Any] = dict(
    model=SingleNetwork(hidden=(64, 64)), rollout_length=200, warmup_steps=200
)

PRESETS: Presets = {
    # a fit after every episode; it swings up after the first, of 200 random steps
    ("pets", "Pendulum-v1"): Preset(
        PETS(model=SMALL, horizon=20, rollout_length=200, warmup_steps=200), 1, 2_000
    ),
    # white noise, as a pole is held by forces that change their sign; four fits in an episode, for
    # an end that was seen is one that the next plan can avoid
    ("pets", "etude/CartPoleContinuous-v0"): Preset(
        PETS(
            model=replace(SMALL, gradient_steps=500),
            planner=ICEM(follow="mean", noise_exponent=0.0),
            rollout_length=50,
            warmup_steps=100,
        ),
        1,
        800,
    ),
    # the versions differ by what their names say alone
    ("mbrl-0.5", "etude/NoisyPendulum-v0"): Preset(Version05(**VERSION), 1, 2_000),
    ("mbrl-1.0", "etude/NoisyPendulum-v0"): Preset(Version10(**VERSION), 1, 2_000),
    ("mbrl-1.5", "etude/NoisyPendulum-v0"): Preset(Version15(**VERSION), 1, 2_000),
    # the planner's settings as on Pendulum-v1; the agent has the learning rate of `sac` there, and
    # a temperature that does not outweigh what it has cloned
    ("mbmf", "Pendulum-v1"): Preset(
        MBMF(
            planning=PETS(model=Ensemble(hidden=(64, 64)), horizon=20, warmup_steps=200),
            agent=SAC(
                learning_rate=1e-3,
                initial_temperature=0.1,
                hidden=(64, 64),
                rollout_length=200,
                gradient_steps=200,
            ),
            planner_steps=600,
            imitation_steps=600,
            value_warmup_steps=400,
        ),
        1,
        4_000,
    ),
}
