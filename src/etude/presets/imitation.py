"""Presets of imitation methods."""

from etude.algorithms.imitation.gcsl import GCSL
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # The room, the 200 episodes of 50 steps, the hidden layers and the remaining steps as input are
    # those of GCSLDemo.ipynb in github.com/dibyaghosh/gcsl (at 1179c3c); learning rate, batch and
    # one gradient step for each step of play those of the code beside it, gcsl/algo/gcsl.py and
    # experiments/gcsl_example.py (at f5e9f0d), which begins with a hundredth of its steps at
    # random. Here it is a twentieth: without any, five seeds reach distances from 0.03 to 0.43.
    **{
        ("gcsl", environment): Preset(
            GCSL(random_steps=500, hidden=(100, 100), horizon=50), 1, 10_000
        )
        for environment in ("etude/PointRoom-v0", "etude/PointRoomContinuous-v0")
    }
}
