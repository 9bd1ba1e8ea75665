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
from etude.estimators.running_statistics import Normalization
from etude.nn.recurrent import GRU
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
    # a memory, of a cue that is seen at the first step alone, or in place of velocities
    ("bc", "etude/TMaze-v0"): Preset(BC(recurrent=GRU(), hidden=(64, 64)), 1, 1_000),
    ("bc", "etude/CartPoleWithoutVelocity-v1"): Preset(
        BC(recurrent=GRU(), hidden=(64, 64), learning_rate_decay=3_000.0), 1, 3_000
    ),
    ("dagger", "etude/CartPoleWithoutVelocity-v1"): Preset(
        DAgger(beta=0.0, recurrent=GRU(), hidden=(64, 64), learning_rate_decay=10_000.0), 1, 10_000
    ),
    # The entropy bonus keeps the policy from certainty before the discriminator tells good from
    # bad; the budget is twice what five of five seeds needed to balance for 500 steps.
    ("gail", "CartPole-v1"): Preset(GAIL(agent=PPO(entropy_coefficient=0.01)), 8, 300_000),
    # Not measured yet. From the settings that github.com/HumanCompatibleAI/imitation (at e5ef188)
    # has tuned for seals/HalfCheetah-v1 and ten times this budget: rollouts of 4,096 steps in all,
    # 8 gradient steps of the discriminator, normalized rewards, and of PPO discount, clip, epochs
    # and batch size. Step size and its decay are those of `ppo` on this task.
    ("gail", "HalfCheetah-v5"): Preset(
        GAIL(
            agent=PPO(
                learning_rate=3e-4,
                learning_rate_decay=1_000_000.0,
                normalize_observation=Normalization(),
                normalize_reward=Normalization(),
                rollout_length=512,
                batch_size=64,
                epochs=5,
                discount=0.95,
                clip=0.1,
            ),
            batch_size=1_024,
            gradient_steps=8,
        ),
        8,
        1_000_000,
    ),
    # AIRL is paid -log π too, which keeps its policy from certainty: 300,000 steps, without the
    # decay, come to 394 to 500.
    ("airl", "CartPole-v1"): Preset(AIRL(agent=PPO(learning_rate_decay=1_000_000.0)), 8, 1_000_000),
    # Offline, with the settings of github.com/Div99/IQ-Learn for this task: 2 hidden layers of 64
    # with ELU, Adam at 1e-4, batches of 32, α = 0.5, observations as they are. Its command for one
    # thinned episode has a temperature of 0.001, its default is 0.01. Here 16 of 16 seeds balance
    # for 500 steps with 0.01, 12 with 0.001, and 2 with 0.001 and normalized observations.
    ("iq-learn", "CartPole-v1"): Preset(IQLearn(), 1, 3_000),
    # Found here: with a discount of 0.99 all states near the expert's are worth almost as much as
    # those, and one of five seeds balances for 450 steps after 100,000; with 0.9 five of five do
    # for 500 after 20,000, and four of five after 30,000.
    ("sqil", "CartPole-v1"): Preset(SQIL(agent=DQN(discount=0.9)), 1, 30_000),
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
