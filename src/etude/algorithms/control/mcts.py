"""Monte Carlo tree search, MCTS, as a policy: search at each step, take the most visited action."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.tree_policy import visits_of_tree
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition
from etude.models.true_models import model_for
from etude.nn.action_masks import action_mask
from etude.planning.protocol import Model
from etude.planning.tree.rules import PUCT, UCT
from etude.planning.tree.tree import SearchSettings
from etude.spaces import Discrete, EnvironmentSpec, Space
from etude.struct import nested, static, struct, traced
from etude.types import Array


@struct
class MCTSState:
    """What MCTS knows; it learns nothing."""

    visits: Array  # int32 [action]: those of each action at a new root, zeros
    model: Model  # that it plans on
    observation_space: Space = static()


@algorithm
class MCTS:
    """Monte Carlo tree search on the environment's true model: Discrete actions, no learning."""

    model: str = static("")
    """Id of the environment whose model it plans on; by default the one that it acts in."""
    rule: UCT | PUCT = nested(UCT())
    """How a simulation chooses actions; with puct the prior is uniform."""
    simulations: int = static(200, at_least=1)
    """Simulations for each tree."""
    horizon: int = static(50, at_least=1)
    """Depth of the search in environment steps; rewards beyond it count as zero."""
    trees: int = static(1, at_least=1)
    """Trees for each step, each with random outcomes of its own; their visits are summed."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = Assumptions(("Discrete",), known_model=True, action_masks=True)

    def is_deterministic(self, action_space: Space) -> bool:
        """Return False: a search breaks ties and plays out at random."""
        return False

    def init(self, key: Array, spec: EnvironmentSpec) -> MCTSState:
        """The model to plan on.

        Raises InvalidInput if the model is that of another environment, or does not say which
        actions are legal where observations do.
        """
        visits = jnp.zeros(spec.action.n, jnp.int32)
        return MCTSState(visits, model_for(self.model or spec.id, spec), spec.observation)

    def act(
        self, state: MCTSState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The action most visited at the root, for each copy, exploring or not, [env]."""
        num_envs = len(jax.tree.leaves(observation)[0])
        keys = jax.random.split(key, num_envs)
        return jax.vmap(self.plan, (None, 0, 0, 0))(state, observation, memory, keys), memory

    def plan(self, state: MCTSState, observation: Any, memory: Any, key: Array) -> Array:
        """The action of one copy, int32 []."""
        model = state.model
        settings = SearchSettings(self.simulations, self.horizon, discount=self.discount)
        seen_legal = action_mask(state.observation_space, Discrete(len(state.visits)), observation)
        tree = partial(visits_of_tree, model, observation, memory, seen_legal, self.rule, settings)
        keys = jax.random.split(key, (2, self.trees))
        return (state.visits + jax.vmap(tree)(*keys).sum(0)).argmax()

    def update(
        self, state: MCTSState, experience: Transition, key: Array
    ) -> tuple[MCTSState, dict[str, Any]]:
        """The unchanged state: MCTS does not learn."""
        return state, {"updates": 0}


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "mcts": (MCTS, "Monte Carlo tree search with the environment's true model: discrete actions")
}
