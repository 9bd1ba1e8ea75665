"""Rainbow: DQN with six extensions at once (Hessel et al., 2018).

It is the gradient step of DQN with other values. The paper's sizes and rates, made for Atari, are
not in it: see the presets. Its categorical head needs the range of the returns (±10 there, where
rewards are clipped): without one, the head has quantiles, which need none (Dabney et al., 2018).
"""

from functools import partial

from etude.algorithms.value.distributional_heads import QuantileHead
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.data.replay.prioritized import Prioritized
from etude.nn.noisy import NoisyLayers

Rainbow = partial(
    DQN,
    double=True,
    dueling=True,
    noisy=NoisyLayers(),
    replay=Prioritized(),
    n_step=3,
    head=QuantileHead(),
    exploration=EpsilonGreedy(initial_epsilon=0.0, final_epsilon=0.0),
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "rainbow": (
        Rainbow,
        "DQN with double, dueling, n-step, prioritized, noisy and distributional learning "
        "(Hessel et al., 2018)",
    )
}
