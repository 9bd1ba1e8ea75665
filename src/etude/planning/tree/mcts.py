"""Monte Carlo tree search as one compiled program: UCT (Kocsis & Szepesvári, 2006).

    1. find a leaf s_l with TreePolicy(s₁)
    2. evaluate it with DefaultPolicy(s_l)
    3. update all values in the tree between s₁ and s_l

so many times over, then take the best action from s₁. TreePolicy chooses a new action where one is
left untried, else the child of the best score,

    Score(sₜ) = Q(sₜ) / N(sₜ) + 2C √(2 ln N(sₜ₋₁) / N(sₜ))

Here Q(s) is the sum of the returns from s on, so the reward on the way into it comes on top: r + γ
Q/N stands for the first term. Of two players who gain what the other loses, each looks at what
comes after their own move with a minus sign.

A model that leaves something to chance is asked once for each action of a node, and the child is
the state that it gave: a tree plans for one course of luck. Sum the visits of several trees, a
`vmap` over keys, to plan for luck on average.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Model, ModelStep
from etude.spaces import Discrete, Space
from etude.struct import replace, static, struct, traced, validate
from etude.types import Array


@struct
class UCT:
    """How to search. The last three are functions of a state, as the model has them.

    `legal` says which actions there are, bool [action]; None: all of them, everywhere. There is one
    unless play has ended. DefaultPolicy takes legal actions at random, or those of `policy`, a
    function (state, key) -> action that knows a little of the matter; or it is not to play at all,
    and `value` says what a state is worth to whoever is to move there, [].
    """

    actions: int = static(at_least=1)
    simulations: int = static(1000, at_least=1)
    horizon: int = static(100, at_least=1)
    """Steps from the root; what comes later counts for nothing."""
    players: int = static(1, at_least=1, at_most=2)
    """2: they move in turn, and rewards go to the one who moved."""
    exploration: float = traced(1 / math.sqrt(2), at_least=0)
    """C, for returns in [0, 1] (Browne et al., 2012, §3.3)."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """γ."""
    legal: Callable[[Any], Any] | None = static(None)
    policy: Callable[[Any, Any], Any] | None = static(None)
    value: Callable[[Any], Any] | None = static(None)

    def validate_fields(self) -> None:
        if self.policy is not None and self.value is not None:
            raise InvalidInput(
                "policy and value are both given; a leaf is judged by one of them: leave out the "
                "other"
            )

    @property
    def bootstrap_discount(self) -> Any:
        """What a return one step later counts now: γ, or -γ when it is the other player's."""
        return self.discount if self.players == 1 else -self.discount


@struct
class Tree:
    """What was found, [node]: the root is 0, and simulation i adds node i or none. Nodes without
    visits are not in use."""

    state: Any  # leaves are [node, ...]
    # int32, [node, action]: the node an action leads to; 0, nobody's child, where it is untried
    children: Array
    fully_expanded: Array  # bool: no legal action is untried, and at least one is tried
    reward: Array  # r of the action that led here, to the one who chose it
    terminated: Array  # bool: play has ended
    visits: Array  # N, int32: simulations that passed here or ended here
    total: Array  # Q: the sum of their returns from here on, to whoever is to move here


@struct
class SearchResult:
    """The answer at the root."""

    action: Array  # the most visited, int32 []; 0 where none is legal
    visits: Array  # int32, [action]
    values: Array  # mean returns, [action]; -inf where untried
    tree: Tree


@struct
class SearchPath:
    """The nodes that a simulation passes, root first."""

    # int32, [horizon + 1]; beyond `depth` there is the number of nodes, which is no node
    nodes: Array
    depth: Array  # int32, []: of the last one


def search(uct: UCT, model: Model, state: Any, key: Array) -> SearchResult:
    """What to do in `state`, the root, by `uct.simulations` simulations; `vmap` it over states or
    keys.

    Raises InvalidInput for settings out of bounds or at odds, and for a `legal` that is not of so
    many actions.
    """
    validate(uct)
    key_numbers, key_model = jax.random.split(key)
    # as a table they compile for seconds
    numbers = jax.random.uniform(key_numbers, (uct.simulations * (uct.horizon + 1),))
    keys = jax.random.split(key_model, uct.simulations)
    simulations = jnp.arange(1, uct.simulations + 1), numbers.reshape(uct.simulations, -1), keys
    tree, _ = jax.lax.scan(
        lambda tree, new: (simulate(uct, model, tree, *new), None),
        init_tree(uct, state),
        simulations,
    )
    visits = jnp.where(tree.children[0] > 0, tree.visits[tree.children[0]], 0)
    return SearchResult(visits.argmax(), visits, q_values(uct, tree, 0), tree)


def num_discrete_actions(space: Space) -> int:
    """How many actions there are to search among.

    Raises InvalidInput, naming the space, for actions that are not Discrete.
    """
    if not isinstance(space, Discrete):
        raise InvalidInput(
            f"tree search tries each of so many actions, and this environment's are {space}; "
            "mpc plans for actions in a bounded Box"
        )
    return space.n


def simulate(uct: UCT, model: Model, tree: Tree, node: Array, numbers: Array, key: Array) -> Tree:
    """The tree after one simulation more, for which `node` is free; `numbers` in [0, 1), [horizon +
    1], settle its choices."""
    key_expand, key_default = jax.random.split(key)
    path = tree_policy(uct, tree)
    tree, path, leaf = expand(uct, model, tree, path, node, numbers[0], key_expand)
    value = default_policy(uct, model, leaf, path.depth, numbers[1:], key_default)
    return backup(uct, tree, path, value)


def init_tree(uct: UCT, state: Any) -> Tree:
    """A tree of the root alone, with room for a node a simulation."""
    nodes = uct.simulations + 1
    everywhere = lambda x: jnp.broadcast_to(x, (nodes, *jnp.shape(x)))
    legal = legal_actions(uct, state)
    if legal.shape != (uct.actions,):
        raise InvalidInput(
            f"legal gives an array of shape {legal.shape} for {uct.actions} actions; make it "
            f"({uct.actions},)"
        )
    no = jnp.zeros(nodes, bool)
    return Tree(
        jax.tree.map(everywhere, state),
        children=jnp.zeros((nodes, uct.actions), jnp.int32),
        fully_expanded=no,
        reward=jnp.zeros(nodes),
        terminated=no.at[0].set(~legal.any()),
        visits=jnp.zeros(nodes, jnp.int32),
        total=jnp.zeros(nodes),
    )


def tree_policy(uct: UCT, tree: Tree) -> SearchPath:
    """From the root by the best score to a node with an action untried, to an end of play, or to
    the horizon."""
    steps = jnp.arange(uct.horizon + 1)

    def descend(walk):
        path, node, _ = walk
        node, depth = best_child(uct, tree, node), path.depth + 1
        return (
            SearchPath(jnp.where(steps == depth, node, path.nodes), depth),
            node,
            tree.fully_expanded[node] & (depth < uct.horizon),
        )

    root = jnp.int32(0)
    start = (
        SearchPath(jnp.where(steps == 0, root, len(tree.visits)), jnp.int32(0)),
        root,
        tree.fully_expanded[root],
    )
    return jax.lax.while_loop(lambda walk: walk[-1], descend, start)[0]


def best_child(uct: UCT, tree: Tree, node: Array) -> Array:
    """The child of the best Score."""
    children = tree.children[node]
    bonus = 2 * uct.exploration * jnp.sqrt(2 * jnp.log(tree.visits[node]) / tree.visits[children])
    return children[(q_values(uct, tree, node) + bonus).argmax()]


def q_values(uct: UCT, tree: Tree, node: Array | int) -> Array:
    """r + γ Q/N of each action's child, [action]: what it brought on average to whoever is to move;
    -inf where untried."""
    children = tree.children[node]
    value = tree.total[children] / jnp.maximum(tree.visits[children], 1)
    return jnp.where(children > 0, tree.reward[children] + uct.bootstrap_discount * value, -jnp.inf)


def expand(
    uct: UCT, model: Model, tree: Tree, path: SearchPath, node: Array, number: Array, key: Array
) -> tuple[Tree, SearchPath, ModelStep]:
    """The tree and the path with `node` where an untried action led, and the step there.

    Where nothing is untried, or the horizon is reached, tree and path are as they were, and the
    step stays at the leaf.
    """
    parent = path.nodes[path.depth]
    state, terminated = jax.tree.map(lambda x: x[parent], (tree.state, tree.terminated))
    untried = legal_actions(uct, state) & (tree.children[parent] == 0)
    expands = untried.any() & ~terminated & (path.depth < uct.horizon)
    action = sample_legal(untried, number)
    step = model.step(state, action, key)

    put = lambda nodes, new: nodes.at[node].set(new)  # of no account while nothing leads there
    parent = jnp.where(expands, parent, len(tree.visits))  # no node: what is set there is dropped
    tree = replace(
        tree,
        state=jax.tree.map(put, tree.state, step.state),
        reward=put(tree.reward, step.reward),
        terminated=put(tree.terminated, step.terminated),
        children=tree.children.at[parent, action].set(node, mode="drop"),
        fully_expanded=tree.fully_expanded.at[parent].set(untried.sum() == 1, mode="drop"),
    )
    depth = path.depth + expands
    path = SearchPath(
        jnp.where(expands & (jnp.arange(uct.horizon + 1) == depth), node, path.nodes), depth
    )
    stay = ModelStep(state, jnp.zeros_like(step.reward), terminated)
    return tree, path, jax.tree.map(lambda there, here: jnp.where(expands, there, here), step, stay)


def default_policy(
    uct: UCT, model: Model, leaf: ModelStep, depth: Array, numbers: Array, key: Array
) -> Array:
    """The return from the leaf on, as it is played to the end or the horizon, or what `uct.value`
    says."""
    if uct.value is not None:
        return jnp.where(leaf.terminated, 0, uct.value(leaf.state)).astype(float)

    def go_on(play):
        state, _, depth, weight, total = play
        key_policy, key_step = jax.random.split(jax.random.fold_in(key, depth))
        action = (
            sample_legal(legal_actions(uct, state), numbers[depth])
            if uct.policy is None
            else uct.policy(state, key_policy)
        )
        step = model.step(state, action, key_step)
        return (
            step.state,
            step.terminated,
            depth + 1,
            weight * uct.bootstrap_discount,
            total + weight * step.reward,
        )

    start = leaf.state, leaf.terminated, depth, jnp.ones(()), jnp.zeros(())
    return jax.lax.while_loop(lambda play: ~play[1] & (play[2] < uct.horizon), go_on, start)[-1]


def backup(uct: UCT, tree: Tree, path: SearchPath, value: Array) -> Tree:
    """Gₖ = rₖ₊₁ + γ Gₖ₊₁ from the leaf up to the root, counted and summed in every node of the
    path."""
    steps = jnp.arange(uct.horizon + 1)
    reward = tree.reward[path.nodes]

    def rise(walk):
        k, later, returns = walk
        now = reward[k] + uct.bootstrap_discount * later
        return k - 1, now, jnp.where(steps == k - 1, now, returns)

    start = path.depth, value, jnp.where(steps == path.depth, value, 0)
    *_, returns = jax.lax.while_loop(lambda walk: walk[0] > 0, rise, start)
    return replace(
        tree,
        visits=tree.visits.at[path.nodes].add(1, mode="drop"),
        total=tree.total.at[path.nodes].add(returns, mode="drop"),
    )


def legal_actions(uct: UCT, state: Any) -> Array:
    """Which actions there are, bool [action]."""
    return jnp.ones(uct.actions, bool) if uct.legal is None else uct.legal(state)


def sample_legal(among: Array, number: Array) -> Array:
    """One of the actions in `among`, bool [action], all alike when `number` is uniform in [0, 1); 0
    of none."""
    rank = among.cumsum()
    return (rank > number * rank[-1]).argmax()
