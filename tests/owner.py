"""An owner of an agent that is a user's own, for tests of settings that nest.

Those of etude, GAIL and SQIL, are found by their names; this one must be given as a class.
"""

from typing import Any

from etude.algorithms.common.agent_in_field import AgentInField
from etude.algorithms.protocol import algorithm
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.struct import nested, traced


@algorithm
class Owner(AgentInField):
    """An algorithm that holds another one in a field."""

    agent: DQN | PPO = nested(DQN())
    """The algorithm that acts."""
    weight: float = traced(1.0, above=0)
    """The owner's own."""

    def init(self, key: Any, spec: Any) -> Any: ...
    def update(self, state: Any, experience: Any, key: Any) -> Any: ...
