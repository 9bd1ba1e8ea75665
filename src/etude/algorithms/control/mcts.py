"""Tree search as a policy: at every step a tree of what may come, and the action tried most
often."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.data.transition import Transition
from etude.models.true_models import model_for, true_model
from etude.planning.tree.mcts import UCT, num_discrete_actions, search
from etude.spaces import EnvironmentSpec
from etude.struct import static, struct, traced
from etude.types import Array


@struct
class MCTS:
    """Monte Carlo tree search on the true model of an environment as a policy; it learns nothing.
    Actions are Discrete."""

    model: str = static("")
    """Id of the environment it plans on; in a run, the one it acts in."""
    simulations: int = static(200, at_least=1)
    """Of a tree."""
    horizon: int = static(50, at_least=1)
    """Environment steps from the root; what comes later counts for nothing."""
    trees: int = static(1, at_least=1)
    """Grown for a step, each for one course of luck; their visits add up."""
    exploration: float = traced(1 / math.sqrt(2), above=0)
    """C, in units of the return (1/√2 in [0, 1]: Browne et al., 2012)."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """γ, per environment step."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps between updates, which do nothing."""

    default_num_envs: ClassVar[int] = 1

    def init(self, key: Array, spec: EnvironmentSpec) -> Array:
        """Nothing is learned: the state is the visits of each action at a new root, [action],
        zeros.

        Raises InvalidInput for actions that are not Discrete, and for an environment other than the
        model's.
        """
        visits = jnp.zeros(num_discrete_actions(spec.action), jnp.int32)
        model_for(self.model, spec)
        return visits

    def act(
        self, state: Array, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The action most visited at the root of the trees, of each copy, exploring or not; nothing
        is remembered."""
        keys = jax.random.split(key, len(jax.tree.leaves(observation)[0]))
        return jax.vmap(self.choose, (None, 0, 0))(state, observation, keys), memory

    def choose(self, visits: Array, observation: Any, key: Array) -> Array:
        """One copy's action, int32 []."""
        model = true_model(self.model)
        uct = UCT(
            len(visits),
            self.simulations,
            self.horizon,
            exploration=self.exploration,
            discount=self.discount,
        )
        grow = lambda key: search(uct, model, model.state_from_observation(observation), key).visits
        return (visits + jax.vmap(grow)(jax.random.split(key, self.trees)).sum(0)).argmax()

    def update(
        self, state: Array, experience: Transition, key: Array
    ) -> tuple[Array, dict[str, Any]]:
        """There is nothing to learn."""
        return state, {"updates": 0}


ALGORITHMS = {
    "mcts": (MCTS, "Monte Carlo tree search with the environment's true model: discrete actions")
}
