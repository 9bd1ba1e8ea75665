"""ε-greedy exploration of a Q function, for discrete actions and for a bounded Box."""

from typing import Any

from etude.algorithms.common.exploration import mix_actions
from etude.algorithms.value.q_functions import QFunction
from etude.struct import struct, traced
from etude.types import Array


@struct
class EpsilonGreedy:
    """The greedy action, or with probability ε a uniformly random one (Mnih et al., 2015)."""

    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Initial probability ε of a random action."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """Probability ε of a random action after exploration_steps."""

    def act(
        self,
        q: QFunction,
        observation: Any,
        decay: Array,
        *,
        key_greedy: Array,
        key_mix: Array,
        key_random: Array,
    ) -> Array:
        """Actions [env, ...]; `decay` falls from 1 to 0 over exploration_steps."""
        greedy_action = q.greedy_action(observation, key_greedy)
        random_action = q.random_action(observation, key_random, greedy_action.shape[:1])
        epsilon = self.final_epsilon + decay * (self.initial_epsilon - self.final_epsilon)
        return mix_actions(key_mix, random_action, greedy_action, epsilon)
