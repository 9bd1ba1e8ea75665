"""Presets of imitation methods."""

from etude.algorithms.imitation.gail import GAIL
from etude.algorithms.imitation.gcsl import GCSL
from etude.algorithms.trust_region.ppo import PPO
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # The entropy bonus keeps the policy from certainty before the discriminator tells good from
    # bad; the budget is twice what five of five seeds needed to balance for 500 steps.
    ("gail", "CartPole-v1"): Preset(GAIL(agent=PPO(entropy_coefficient=0.01)), 8, 300_000),
    # The room, the 200 episodes of 50 steps, the hidden layers and the remaining steps as input are
    # those of GCSLDemo.ipynb in github.com/dibyaghosh/gcsl (at 1179c3c). Learning rate, batch, one
    # gradient step for each step of play and a start at random are those of the code beside it (at
    # f5e9f0d), where a hundredth of the steps is random; here it is a twentieth. The notebook plays
    # none at random (--random-steps 0), and that code is not told what remains (--horizon 0).
    **{
        ("gcsl", environment): Preset(
            GCSL(random_steps=500, hidden=(100, 100), horizon=50), 1, 10_000
        )
        for environment in ("etude/PointRoom-v0", "etude/PointRoomContinuous-v0")
    },
}
