"""Presets of imitation. The budget of behavior cloning is in gradient steps.

The settings are those of the classes but for what is said: 2 hidden layers of 256, Adam at 1e-3 and
batches of 256, with observations normalized by what was shown.
"""

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.dagger import DAgger
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # the step size falls to zero over the budget; what they reach is in
    # benchmarks/results/learning.md, where two episodes of the expert do on MuJoCo's environments
    **{
        ("bc", environment): Preset(BC(learning_rate_decay=10_000.0), 1, 10_000)
        for environment in (
            "LunarLander-v3",
            "LunarLanderContinuous-v3",
            "HalfCheetah-v5",
            "Hopper-v5",
        )
    },
    # ten rounds of 2,000 labels; the learner acts from the second round on, as in the paper's
    # experiments
    **{
        ("dagger", environment): Preset(
            DAgger(beta=0.0, learning_rate_decay=10_000.0, rollout_length=2_000), 1, 20_000
        )
        for environment in ("LunarLander-v3", "LunarLanderContinuous-v3")
    },
    # ten rounds of 1,000 labels and 1,000 gradient steps, as in the homework of the course (CS 285,
    # 2023), with the network of the others
    ("dagger", "Hopper-v5"): Preset(DAgger(beta=0.0, learning_rate_decay=10_000.0), 1, 10_000),
}
