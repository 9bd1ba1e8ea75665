"""Acting by tree search: the visits of the actions at the root, of one tree or the sum of many."""

from typing import Any

import jax

from etude.planning.protocol import Model
from etude.planning.tree.evaluation import Rollout
from etude.planning.tree.mcts import search
from etude.planning.tree.rules import PUCT, UCT
from etude.planning.tree.tree import SearchSettings
from etude.struct import nested, static, struct
from etude.types import Array


@struct
class TreePlanner:
    """Monte Carlo tree search in place of a planner of sampled plans."""

    rule: UCT | PUCT = nested(UCT())
    """How a simulation chooses actions; with puct the prior is uniform."""
    simulations: int = static(200, at_least=1)
    """Simulations for each tree."""
    trees: int = static(5, at_least=1)
    """Trees for each step, each with one member of the model, in turn; their visits are summed."""


def visits_of_tree(
    model: Model,
    observation: Any,
    memory: Any,
    seen_legal: Array | None,
    rule: UCT | PUCT,
    settings: SearchSettings,
    key: Array,
    key_begin: Array,
) -> Array:
    """The visits of each action at the root of one tree, int32 [action].

    Args:
        model: steps states, and tells which actions are legal.
        observation, memory: of one environment, without axes.
        seen_legal: the actions that the observation allows, bool [action]; None: ask the model.
        rule, settings: of the search; leaves are valued by random rollouts.
        key: of the search.
        key_begin: of the model's state at the root.
    """
    observation, memory = jax.tree.map(lambda x: x[None, None], (observation, memory))
    root = model.begin(observation, memory, key_begin)
    legal = model.legal(root)[0, 0] if seen_legal is None else seen_legal
    return search(model, root, legal, Rollout(model, settings), rule, rule, key, settings).visits
