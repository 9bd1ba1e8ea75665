"""The tree of Monte Carlo tree search as arrays over nodes, what is read from it, and its sizes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.struct import static, struct, traced
from etude.types import Array

ROOT = 0  # index of the root node


@struct
class SearchSettings:
    """Sizes and discount of a tree search."""

    simulations: int = static(1000, at_least=1)
    """Simulations of a search; each adds at most one node."""
    horizon: int = static(100, at_least=1)
    """Maximum depth in steps from the root; rewards beyond it do not count."""
    players: int = static(1, at_least=1, at_most=2)
    """Number of players; 2 move in turn, and a reward goes to the player who moved."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per step."""

    @property
    def bootstrap_discount(self) -> Any:
        """The discount of the next state's value: γ, or −γ where it is the opponent's."""
        return self.discount if self.players == 1 else -self.discount


@struct
class Tree:
    """Search tree as arrays over nodes, [simulations + 1]: simulation i adds node i or none.

    Nodes without visits are not in use, but for the root.
    """

    state: Any  # leaves are [node, 1, 1, ...]
    children: Array  # int32, [node, action]: the child's index, above ROOT; else −1 − action
    legal: Array  # bool, [node, action]
    untried: Array  # uint32, [node, word]: legal actions without a child, as bits; `untried_rank`
    prior_logits: Array  # of the evaluation, [node, action]
    raw_value: Array  # of the evaluation, to the player to move at the node
    reward: Array  # r of the action into the node, to the player who chose it
    # probability that the episode goes on after that action; 0 where no action is legal then
    continues: Array
    discount: Array  # []: γ, or −γ where the next state's value is the opponent's
    visits: Array  # N, int32: number of simulations through the node
    # sum of their returns from the action into the node on, to the player who chose it; of the root
    # to the player to move there
    return_sum: Array


# the action [] that a simulation takes at a node: of the tree, the node's index, int32 [], and a
# number in [0, 1) that is drawn for the simulation
Rule = Callable[[Tree, Array, Array], Array]


def children_of(tree: Tree, node: Array | int) -> tuple[Array, Array]:
    """Return which actions are tried, bool [action], and their children; ROOT where untried."""
    children = tree.children[node]
    return children > ROOT, jnp.maximum(children, ROOT)


def q_values(tree: Tree, node: Array | int) -> Array:
    """Return the mean return of each action [action], to the player to move; -inf where untried."""
    is_tried, children = children_of(tree, node)
    q = tree.return_sum[children] / jnp.maximum(tree.visits[children], 1)
    return jnp.where(is_tried, q, -jnp.inf)


def action_visits(tree: Tree, node: Array | int) -> Array:
    """Return the visits of each action, int32 [action]; 0 where untried."""
    is_tried, children = children_of(tree, node)
    return jnp.where(is_tried, tree.visits[children], 0)


def sample_legal(legal: Array, uniform: Array) -> Array:
    """Map `uniform` in [0, 1) to one of the `legal` actions, bool [action]; 0 where none is."""
    return is_sampled_or_later(legal.cumsum(), uniform).argmax()


def is_sampled_or_later(rank: Array, uniform: Array) -> Array:
    """Whether an action is the one sampled by `uniform` or a later one, bool [action].

    `rank` is the number of actions to sample from up to each one, so the first is the sample.
    """
    return rank > uniform * rank[-1]


# The mask of untried actions is kept as bits of words, so that to count those up to each action is
# elementwise; a cumulative sum at each node would take longer than the rest of its rule.


def action_bits(num_actions: int) -> np.ndarray:
    """The bit of each action, uint32 [word, action]; 0 in the other words."""
    word, action = np.indices((-(-num_actions // 32), num_actions), np.uint32)
    return np.where(action // 32 == word, np.uint32(1) << action % 32, np.uint32(0))


def to_bits(mask: Array) -> Array:
    """Return a mask bool [action] as bits of words, uint32 [word]."""
    return jnp.where(mask, action_bits(len(mask)), 0).sum(1, dtype=jnp.uint32)


def untried_rank(tree: Tree, node: Array | int) -> Array:
    """Return the number of legal actions without a child up to each action, int32 [action]."""
    up_to_action = action_bits(tree.children.shape[1]).cumsum(1, dtype=np.uint32)
    counts = jax.lax.population_count(tree.untried[node][:, None] & up_to_action)
    return counts.sum(0, dtype=jnp.int32)
