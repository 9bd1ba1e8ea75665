"""Presets of imitation. The budget of behavior cloning is in gradient steps.

The settings are those of the classes but for what is said: 2 hidden layers of 256, Adam at 1e-3 and
batches of 256, with observations normalized by what was shown.
"""

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.dagger import DAgger
from etude.algorithms.imitation.gail import AIRL, GAIL
from etude.algorithms.imitation.gcsl import GCSL
from etude.algorithms.imitation.iq_learn import IQLearn
from etude.algorithms.imitation.sqil import SQIL
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
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
    # The entropy bonus keeps the policy from certainty before the discriminator tells good from
    # bad; the budget is twice what five of five seeds needed to balance for 500 steps.
    ("gail", "CartPole-v1"): Preset(GAIL(agent=PPO(entropy_coefficient=0.01)), 8, 300_000),
    # AIRL is paid -log π too, so its agent has no entropy bonus.
    ("airl", "CartPole-v1"): Preset(AIRL(), 8, 300_000),
    # The settings of github.com/Div99/IQ-Learn for this task: a network of 2 x 64 with
    # ELU, Adam at 1e-4, batches of 32, α = 0.5, observations as they are, 3,000 gradient steps. Its
    # command for one thinned episode has a temperature of 0.001; its default of 0.01 does better
    # here.
    ("iq-learn", "CartPole-v1"): Preset(IQLearn(), 1, 3_000),
    ("sqil", "CartPole-v1"): Preset(SQIL(agent=DQN()), 1, 100_000),
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
