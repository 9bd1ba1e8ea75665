"""Presets of imitation methods."""

from etude.algorithms.imitation.gcsl import GCSL
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
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
    }
}
