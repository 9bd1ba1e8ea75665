"""Monte Carlo tree search as one compiled program: UCT (Kocsis & Szepesvári, 2006).

A simulation has three steps:

    1. select and expand a leaf s_l from the root s₁      `tree_policy`, `expand`
    2. evaluate it by a rollout or a value function       `default_policy`
    3. update all nodes between s₁ and s_l                `backup`

After all simulations the answer is the most visited action of the root. The tree policy takes an
untried action where there is one, else the child of the best UCB1 score,

    score(sₜ) = Q(sₜ) / N(sₜ) + 2C √(2 ln N(sₜ₋₁) / N(sₜ))

Q(s) is the sum of the returns from s on. The reward of the action into s comes on top, so the code
has r + γ Q/N as the first term. In a zero-sum game of two players the discount is −γ, because the
value of the next state is the opponent's.

A stochastic model is sampled once for each edge of the tree, so one tree plans for one sample of
the transitions. To plan for their average, sum the root visits of several trees (`vmap` over keys).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Model, ModelStep
from etude.struct import replace, static, struct, traced, validate
from etude.types import Array

ROOT = 0  # index of the root node
NO_CHILD = 0  # child index of an untried action: the root is nobody's child


@struct
class UCT:
    """Settings of the search; `legal`, `policy` and `value` are functions of a model's state.

    `legal` returns the mask of legal actions, bool [action], with at least one unless the episode
    is over; None makes all actions legal. A leaf is evaluated by a rollout with uniform legal
    actions, by a rollout with the actions of `policy`, a function (state, key) -> action, or by
    `value`, which returns a state's value [] to the player to move, without a rollout.
    """

    num_actions: int = static(at_least=1)
    """Number of discrete actions."""
    simulations: int = static(1000, at_least=1)
    """Simulations of a search; each adds at most one node."""
    horizon: int = static(100, at_least=1)
    """Maximum depth in steps from the root; rewards beyond it do not count."""
    players: int = static(1, at_least=1, at_most=2)
    """Number of players; 2 move in turn, and a reward goes to the player who moved."""
    exploration: float = traced(1 / math.sqrt(2), at_least=0)
    """Exploration constant C, for returns in [0, 1] (Browne et al., 2012, §3.3)."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per step."""
    legal: Callable[[Any], Any] | None = static(None)
    policy: Callable[[Any, Any], Any] | None = static(None)
    value: Callable[[Any], Any] | None = static(None)

    def validate_fields(self) -> None:
        if self.policy is not None and self.value is not None:
            raise InvalidInput(
                "policy and value are both given; a leaf is evaluated by one of them: leave out "
                "the other"
            )

    @property
    def bootstrap_discount(self) -> Any:
        """The discount of the next state's value: γ, or −γ where it is the opponent's."""
        return self.discount if self.players == 1 else -self.discount


@struct
class Tree:
    """Search tree as arrays over nodes, [simulations + 1]: simulation i adds node i or none.

    Nodes without visits are not in use.
    """

    state: Any  # leaves are [node, ...]
    children: Array  # int32, [node, action]: the child's index, or NO_CHILD
    fully_expanded: Array  # bool: no legal action is untried, and at least one is tried
    reward: Array  # r of the action into the node, to the player who chose it
    terminated: Array  # bool: the episode is over
    visits: Array  # N, int32: number of simulations through the node
    return_sum: Array  # Q: sum of their returns from the node on, to the player to move there


@struct
class SearchResult:
    """The most visited action of the root, and the statistics of its actions."""

    action: Array  # int32, []; 0 where none is legal
    visits: Array  # int32, [action]
    values: Array  # mean returns, [action]; -inf where untried
    tree: Tree


@struct
class SearchPath:
    """The nodes of one simulation, root first."""

    # int32, [horizon + 1]; beyond `depth` the number of nodes, an index out of bounds
    nodes: Array
    depth: Array  # int32, []: of the last node


def search(uct: UCT, model: Model, state: Any, key: Array) -> SearchResult:
    """Search from the root `state` by `uct.simulations` simulations; `vmap` over states or keys.

    Raises InvalidInput for settings out of bounds or in conflict, and for a `legal` mask whose
    shape is not [num_actions].
    """
    validate(uct)
    key_uniforms, key_model = jax.random.split(key)
    # drawn flat, because XLA takes seconds to compile the draw of a matrix
    uniforms = jax.random.uniform(key_uniforms, (uct.simulations * (uct.horizon + 1),))
    keys = jax.random.split(key_model, uct.simulations)
    simulations = jnp.arange(1, uct.simulations + 1), uniforms.reshape(uct.simulations, -1), keys
    tree, _ = jax.lax.scan(
        lambda tree, simulation: (simulate(uct, model, tree, *simulation), None),
        init_tree(uct, state),
        simulations,
    )
    visits = jnp.where(tree.children[ROOT] > NO_CHILD, tree.visits[tree.children[ROOT]], 0)
    return SearchResult(visits.argmax(), visits, q_values(uct, tree, ROOT), tree)


def simulate(uct: UCT, model: Model, tree: Tree, node: Array, uniforms: Array, key: Array) -> Tree:
    """Run one simulation, which adds `node` to the tree unless the selected leaf cannot expand.

    `uniforms` in [0, 1), [horizon + 1], sample the action to expand and those of the rollout.
    """
    key_expand, key_default = jax.random.split(key)
    path = tree_policy(uct, tree)
    tree, path, leaf = expand(uct, model, tree, path, node, uniforms[0], key_expand)
    value = default_policy(uct, model, leaf, path.depth, uniforms[1:], key_default)
    return backup(uct, tree, path, value)


def init_tree(uct: UCT, state: Any) -> Tree:
    """Create a tree of the root alone, with space for one node per simulation."""
    num_nodes = uct.simulations + 1
    broadcast_over_nodes = lambda x: jnp.broadcast_to(x, (num_nodes, *jnp.shape(x)))
    legal = legal_actions(uct, state)
    if legal.shape != (uct.num_actions,):
        raise InvalidInput(
            f"legal gives an array of shape {legal.shape} for {uct.num_actions} actions; make it "
            f"({uct.num_actions},)"
        )
    all_false = jnp.zeros(num_nodes, bool)
    return Tree(
        jax.tree.map(broadcast_over_nodes, state),
        children=jnp.zeros((num_nodes, uct.num_actions), jnp.int32),
        fully_expanded=all_false,
        reward=jnp.zeros(num_nodes),
        terminated=all_false.at[ROOT].set(~legal.any()),
        visits=jnp.zeros(num_nodes, jnp.int32),
        return_sum=jnp.zeros(num_nodes),
    )


class _SelectionState(NamedTuple):
    """Carry of the loop that descends the tree."""

    path: SearchPath
    node: Array  # int32, []: the last node of the path
    can_descend: Array  # bool, []


def tree_policy(uct: UCT, tree: Tree) -> SearchPath:
    """Select the path of the best scores from the root to a leaf.

    A leaf has an untried action, is terminal or is at the horizon.
    """
    depths = jnp.arange(uct.horizon + 1)

    def descend(state):
        path, node, _ = state
        node, depth = best_child(uct, tree, node), path.depth + 1
        return _SelectionState(
            SearchPath(jnp.where(depths == depth, node, path.nodes), depth),
            node,
            tree.fully_expanded[node] & (depth < uct.horizon),
        )

    root = jnp.int32(ROOT)
    initial_state = _SelectionState(
        SearchPath(jnp.where(depths == 0, root, len(tree.visits)), jnp.int32(0)),
        root,
        tree.fully_expanded[root],
    )
    return jax.lax.while_loop(lambda state: state.can_descend, descend, initial_state).path


def best_child(uct: UCT, tree: Tree, node: Array) -> Array:
    """Return the child of the best UCB1 score."""
    children = tree.children[node]
    bonus = 2 * uct.exploration * jnp.sqrt(2 * jnp.log(tree.visits[node]) / tree.visits[children])
    return children[(q_values(uct, tree, node) + bonus).argmax()]


def q_values(uct: UCT, tree: Tree, node: Array | int) -> Array:
    """Return r + γ Q/N of each action [action], to the player to move; -inf where untried."""
    children = tree.children[node]
    value = tree.return_sum[children] / jnp.maximum(tree.visits[children], 1)
    return jnp.where(
        children > NO_CHILD, tree.reward[children] + uct.bootstrap_discount * value, -jnp.inf
    )


def expand(
    uct: UCT, model: Model, tree: Tree, path: SearchPath, node: Array, uniform: Array, key: Array
) -> tuple[Tree, SearchPath, ModelStep]:
    """Try an untried action of the leaf: add `node` to the tree and the path, and return the step.

    Where no action is untried, or at the horizon, tree and path do not change, and the step stays
    at the leaf with reward zero.
    """
    parent = path.nodes[path.depth]
    state, terminated = jax.tree.map(lambda x: x[parent], (tree.state, tree.terminated))
    untried = legal_actions(uct, state) & (tree.children[parent] == NO_CHILD)
    can_expand = untried.any() & ~terminated & (path.depth < uct.horizon)
    action = sample_legal(untried, uniform)
    step = model.step(state, action, key)

    # a write to a node without a parent has no effect, for the node is not in use
    set_node = lambda nodes, x: nodes.at[node].set(x)
    # an index out of bounds where the leaf cannot expand: mode="drop" ignores those writes
    parent = jnp.where(can_expand, parent, len(tree.visits))
    tree = replace(
        tree,
        state=jax.tree.map(set_node, tree.state, step.state),
        reward=set_node(tree.reward, step.reward),
        terminated=set_node(tree.terminated, step.terminated),
        children=tree.children.at[parent, action].set(node, mode="drop"),
        fully_expanded=tree.fully_expanded.at[parent].set(untried.sum() == 1, mode="drop"),
    )
    depth = path.depth + can_expand
    path = SearchPath(
        jnp.where(can_expand & (jnp.arange(uct.horizon + 1) == depth), node, path.nodes), depth
    )
    stay = ModelStep(state, jnp.zeros_like(step.reward), terminated)
    return tree, path, jax.tree.map(lambda x, y: jnp.where(can_expand, x, y), step, stay)


class _RolloutState(NamedTuple):
    """Carry of the rollout from a leaf."""

    state: Any
    terminated: Array
    depth: Array  # int32, []: steps from the root
    discount: Array  # of the next reward
    discounted_return: Array


def default_policy(
    uct: UCT, model: Model, leaf: ModelStep, depth: Array, uniforms: Array, key: Array
) -> Array:
    """Evaluate the leaf: the return of a rollout to the end or the horizon, or `uct.value`."""
    if uct.value is not None:
        return jnp.where(leaf.terminated, 0, uct.value(leaf.state)).astype(float)

    def rollout_step(rollout):
        state, _, depth, discount, discounted_return = rollout
        key_policy, key_step = jax.random.split(jax.random.fold_in(key, depth))
        action = (
            sample_legal(legal_actions(uct, state), uniforms[depth])
            if uct.policy is None
            else uct.policy(state, key_policy)
        )
        step = model.step(state, action, key_step)
        return _RolloutState(
            step.state,
            step.terminated,
            depth + 1,
            discount * uct.bootstrap_discount,
            discounted_return + discount * step.reward,
        )

    rollout = _RolloutState(leaf.state, leaf.terminated, depth, jnp.ones(()), jnp.zeros(()))
    continues = lambda rollout: ~rollout.terminated & (rollout.depth < uct.horizon)
    return jax.lax.while_loop(continues, rollout_step, rollout).discounted_return


class _BackupState(NamedTuple):
    """Carry of the backup from the leaf to the root."""

    depth: Array  # int32, []: k
    value: Array  # []: Gₖ
    returns: Array  # [horizon + 1]: Gₖ of the nodes from the leaf up to depth k, else 0


def backup(uct: UCT, tree: Tree, path: SearchPath, value: Array) -> Tree:
    """Add Gₖ = rₖ₊₁ + γ Gₖ₊₁, from the leaf's `value` up to the root, to every node of the path."""
    depths = jnp.arange(uct.horizon + 1)
    reward = tree.reward[path.nodes]

    def step_up(state):
        k, next_value, returns = state
        value = reward[k] + uct.bootstrap_discount * next_value
        return _BackupState(k - 1, value, jnp.where(depths == k - 1, value, returns))

    leaf = _BackupState(path.depth, value, jnp.where(depths == path.depth, value, 0))
    *_, returns = jax.lax.while_loop(lambda state: state.depth > 0, step_up, leaf)
    return replace(
        tree,
        visits=tree.visits.at[path.nodes].add(1, mode="drop"),
        return_sum=tree.return_sum.at[path.nodes].add(returns, mode="drop"),
    )


def legal_actions(uct: UCT, state: Any) -> Array:
    """Return the mask of legal actions, bool [action]."""
    return jnp.ones(uct.num_actions, bool) if uct.legal is None else uct.legal(state)


def sample_legal(legal: Array, uniform: Array) -> Array:
    """Map `uniform` in [0, 1) to one of the `legal` actions, bool [action]; 0 where none is."""
    rank = legal.cumsum()
    return (rank > uniform * rank[-1]).argmax()
