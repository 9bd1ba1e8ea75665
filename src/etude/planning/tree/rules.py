"""Rules of tree search: the action that a simulation takes at a node, UCT or PUCT.

    UCT     Q(sₜ) / N(sₜ) + 2C √(2 ln N(sₜ₋₁) / N(sₜ)), where all actions of sₜ₋₁ are tried
    PUCT    Q̂(a) + c P(a) √N / (1 + N(a))

Q(s) is the sum of the returns from the action into s on, to the player who took it. A rule is
called as `rule(tree, node, uniform)` -> action [], and may read the whole tree. Your own is any
function or struct with that call; `uniform` in [0, 1) is drawn once for each simulation, the same
for all nodes of its path.
"""

import math

import jax
import jax.numpy as jnp

from etude.planning.tree.tree import (
    Tree,
    action_visits,
    children_of,
    is_sampled_or_later,
    q_values,
    untried_rank,
)
from etude.struct import struct, traced
from etude.types import Array

MIN_RANGE = 1e-8  # of the values of a node, which are divided by their range


@struct
class UCT:
    """Upper confidence bounds on trees: an untried action at random, else the best UCB1 score.

        score(sₜ) = Q(sₜ) / N(sₜ) + 2C √(2 ln N(sₜ₋₁) / N(sₜ))

    Q(s) is the sum of the returns from the action into s on, its reward among them (Kocsis &
    Szepesvári, 2006; the constant as in Browne et al., 2012, §3.3). Prior logits are not read.
    """

    exploration: float = traced(1 / math.sqrt(2), at_least=0)
    """Exploration constant C, for returns in [0, 1] 1/√2 (Browne et al., 2012)."""

    def __call__(self, tree: Tree, node: Array, uniform: Array) -> Array:
        """The action at `node`, int32 []."""
        visits, rank = tree.visits[children_of(tree, node)[1]], untried_rank(tree, node)
        bonus = 2 * self.exploration * jnp.sqrt(2 * jnp.log(tree.visits[node]) / visits)
        score = q_values(tree, node) + bonus
        score = jnp.where(rank[-1] > 0, is_sampled_or_later(rank, uniform), score)
        return first_max(score)


@struct
class PUCT:
    """Predictor and upper confidence bounds: the best score with the prior of the evaluation.

        score(a) = Q̂(a) + c P(a) √N / (1 + N(a)),   c = c_init + ln((1 + N + c_base) / c_base)

    N are the visits of the node, its evaluation among them, and N(a) those of the action. Q̂ is the
    mean return of the action moved to [0, 1] by the least and greatest of the node's value and of
    its tried actions' values; 0 where untried.
    (Schrittwieser et al., 2020, appendix B, with the values of a node in place of the tree's, as
    mctx does; Silver et al., 2018.)
    """

    c_init: float = traced(1.25, at_least=0)
    """Weight of the prior (Schrittwieser et al., 2020)."""
    c_base: float = traced(19652.0, above=0)
    """Visits at which the weight of the prior has grown by ln 2 (Schrittwieser et al., 2020)."""

    def __call__(self, tree: Tree, node: Array, uniform: Array) -> Array:
        """The action at `node`, int32 []."""
        legal, visits = tree.legal[node], action_visits(tree, node)
        node_visits, value = evaluated_statistics(tree, node)
        prior = jax.nn.softmax(tree.prior_logits[node], where=legal)
        weight = self.c_init + jnp.log((1 + node_visits + self.c_base) / self.c_base)
        bonus = weight * prior * jnp.sqrt(node_visits) / (1 + visits)
        score = normalized_q_values(tree, node, value) + bonus
        return first_max(jnp.where(legal, score, -jnp.inf))


def evaluated_statistics(tree: Tree, node: Array) -> tuple[Array, Array]:
    """The visits of a node and its mean return, counting the node's own evaluation once."""
    is_tried, children = children_of(tree, node)
    visits = 1 + tree.visits[children].sum(where=is_tried)
    total = tree.raw_value[node] + tree.return_sum[children].sum(where=is_tried)
    return visits, total / visits


def normalized_q_values(tree: Tree, node: Array, value: Array) -> Array:
    """Return the mean return of each action in [0, 1], by the range of all and `value`.

    It is 0 where the action is untried.
    """
    q = q_values(tree, node)
    is_tried, _ = children_of(tree, node)
    low = jnp.minimum(value, q.min(where=is_tried, initial=jnp.inf))
    high = jnp.maximum(value, q.max(where=is_tried, initial=-jnp.inf))
    return jnp.where(is_tried, (q - low) / jnp.maximum(high - low, MIN_RANGE), 0)


def first_max(score: Array) -> Array:
    """Return the first index of the greatest score, of which none is NaN.

    It is `argmax` in two passes, which are faster.
    """
    return jnp.where(score == score.max(), jnp.arange(len(score)), len(score)).min()
