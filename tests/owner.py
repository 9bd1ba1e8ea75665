"""An algorithm that owns another one, for tests of settings that nest."""

from typing import Any

from etude.algorithms.protocol import algorithm
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.struct import nested, traced


@algorithm
class Owner:
    """An algorithm that holds another one in a field."""

    agent: DQN | PPO = nested(DQN())
    """The algorithm that acts."""
    weight: float = traced(1.0, above=0)
    """The owner's own."""
    rollout_length = 1

    def init(self, key: Any, spec: Any) -> Any: ...
    def act(self, state: Any, observation: Any, memory: Any, key: Any, explore: bool) -> Any: ...
    def update(self, state: Any, experience: Any, key: Any) -> Any: ...
