"""Monte Carlo tree search as one compiled program, with rules and evaluations as arguments.

A simulation has three steps:

    1. select and expand a leaf s_l from the root s₁      `tree_policy`, `expand`
    2. evaluate it: prior logits and a value              `evaluate_leaf`
    3. update all nodes between s₁ and s_l                `backup`

After all simulations the answer is the most visited action of the root. Which action a simulation
takes at a node is the rule's to say (`rules.py`: UCT, PUCT), what a leaf is worth the evaluation's
(`evaluation.py`: rollouts, or a function such as a network).

In a zero-sum game of two players the discount is −γ, because the value of the next state is the
opponent's. Where a model says that the episode goes on with probability c, it is γc.

A stochastic model is sampled once for each edge of the tree, so one tree plans for one sample of
the transitions. To plan for their average, sum the root visits of several trees (`vmap` over keys).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Model
from etude.planning.tree.evaluation import Evaluate, NeedsUniforms
from etude.planning.tree.tree import (
    ROOT,
    Rule,
    SearchSettings,
    Tree,
    action_visits,
    q_values,
    to_bits,
)
from etude.struct import replace, struct, validate
from etude.types import Array


@struct
class SearchResult:
    """The most visited action of the root, and the statistics of its actions."""

    action: Array  # int32, []; 0 where none is legal
    visits: Array  # int32, [action]
    values: Array  # mean returns, [action]; -inf where untried
    tree: Tree


class SearchParts(NamedTuple):
    """What a search is made of."""

    model: Model
    evaluate: Evaluate
    root_rule: Rule
    interior_rule: Rule
    settings: SearchSettings


class Draws(NamedTuple):
    """The random numbers of one simulation; of all [simulation, ...].

    They are drawn at once, since to draw a few in each simulation takes longer than the rest of it.
    """

    uniforms: Array  # in [0, 1), [horizon + 1]: of the rules, and of the steps of a rollout
    key: Array


def search(
    model: Model,
    state: Any,
    legal: Array,
    evaluate: Evaluate,
    root_rule: Rule,
    interior_rule: Rule,
    key: Array,
    settings: SearchSettings,
) -> SearchResult:
    """Search from the root `state`; `vmap` over states or keys for several trees.

    Model, evaluation and rules are arguments like the others: under `jax.jit`, pass the weights of
    a network or the constants of a rule as arguments and nothing is compiled again as they change.

    Args:
        model: steps states, and tells the legal actions of those below the root.
        state: the root's, leaves [1, 1, ...].
        legal: the root's mask of legal actions, bool [action].
        evaluate: (state, key, steps_left) -> prior logits [action] and value [] to the player to
            move; steps_left is the number of steps to the horizon.
        root_rule: (tree, node, uniform) -> the action [] that a simulation takes at the root.
        interior_rule: the same below the root; it must be legal.
        key: of random numbers.
        settings: simulations, horizon, players and discount.

    Returns:
        The most visited action of the root, the statistics of its actions and the tree.

    Raises:
        InvalidInput: for settings out of bounds, for a mask, prior logits or a value of another
            shape, and for a model whose step changes the shapes or types of its state.
    """
    for part in (settings, root_rule, interior_rule):
        if dataclasses.is_dataclass(part):
            validate(part)
    parts = SearchParts(model, evaluate, root_rule, interior_rule, settings)
    draws_of_root, draws = draw(settings, key)
    tree, _ = jax.lax.scan(
        lambda tree, simulation: (simulate(parts, tree, *simulation), None),
        init_tree(parts, state, legal, draws_of_root),
        (jnp.arange(1, settings.simulations + 1), draws),
    )
    visits = action_visits(tree, ROOT)
    return SearchResult(visits.argmax(), visits, q_values(tree, ROOT), tree)


def draw(settings: SearchSettings, key: Array) -> tuple[Draws, Draws]:
    """Draw the random numbers of the root's evaluation, and those of all simulations."""
    key_uniforms, key_model, key_root = jax.random.split(key, 3)
    key_root_uniforms, key_root_model = jax.random.split(key_root)
    count, size = settings.simulations, settings.horizon + 1
    # drawn flat, because XLA takes seconds to compile the draw of a matrix
    uniforms = jax.random.uniform(key_uniforms, (count * size,)).reshape(count, size)
    of_root = Draws(jax.random.uniform(key_root_uniforms, (size,)), key_root_model)
    return of_root, Draws(uniforms, jax.random.split(key_model, count))


def simulate(parts: SearchParts, tree: Tree, node: Array, draws: Draws) -> Tree:
    """Run one simulation, which adds `node` to the tree unless the selected leaf cannot expand."""
    key_expand, key_evaluate = jax.random.split(draws.key)
    selection = tree_policy(parts, tree, draws.uniforms[0])
    tree, path, leaf = expand(parts, tree, selection, node, key_expand)
    depth = (path < len(tree.visits)).sum() - 1
    logits, value = evaluate_leaf(parts, leaf, depth, draws._replace(key=key_evaluate))
    # of no effect where the leaf is not new, for the node is not in use then
    tree = replace(
        tree,
        prior_logits=tree.prior_logits.at[node].set(logits),
        raw_value=tree.raw_value.at[node].set(value),
    )
    return backup(tree, path, depth, value)


def init_tree(parts: SearchParts, state: Any, legal: Array, draws: Draws) -> Tree:
    """Create a tree of the root alone, evaluated, with space for one node per simulation."""
    state = jax.tree.map(jnp.asarray, state)
    check_legal(parts.model, state, jnp.shape(legal))
    is_over = ~jnp.any(legal)
    logits, value = evaluate_leaf(parts, Leaf(state, is_over), 0, draws)
    if (logits.shape, value.shape) != (jnp.shape(legal), ()):
        raise InvalidInput(
            f"evaluate gives prior logits of shape {logits.shape} and a value of shape "
            f"{value.shape}; make them {jnp.shape(legal)} and ()"
        )
    num_nodes = parts.settings.simulations + 1
    zeros = jnp.zeros(num_nodes)
    root_alone = lambda x: jnp.pad(x[None], [(0, num_nodes - 1), *[(0, 0)] * x.ndim])
    return Tree(
        jax.tree.map(lambda x: jnp.broadcast_to(x, (num_nodes, *x.shape)), state),
        children=jnp.broadcast_to(
            -1 - jnp.arange(len(legal), dtype=jnp.int32), (num_nodes, len(legal))
        ),
        legal=root_alone(jnp.asarray(legal, bool)),
        untried=root_alone(to_bits(jnp.asarray(legal, bool))),
        prior_logits=root_alone(logits),
        raw_value=root_alone(value),
        reward=zeros,
        continues=root_alone(1.0 - is_over),
        discount=jnp.asarray(parts.settings.bootstrap_discount, float),
        visits=jnp.zeros(num_nodes, jnp.int32),
        return_sum=zeros,
    )


class Selection(NamedTuple):
    """Where a simulation stands in the tree, and what it takes there; carry of its descent."""

    # int32, [horizon + 1]: the last node first, the root last; then the number of nodes, an index
    # out of bounds
    path: Array
    # int32, []: of the action at the last node, as in `Tree.children`; beyond all actions, that of
    # `stops` where the path ends
    child: Array


def tree_policy(parts: SearchParts, tree: Tree, uniform: Array) -> Selection:
    """Select the path from the root to a leaf by the rules, and the action at the leaf.

    The action has no child, or the leaf is terminal or at the horizon.
    """
    at_horizon, terminal = stops(tree)

    def select(rule, node, path):
        action = rule(tree, node, uniform)
        # a full path has the root in the last place
        child = jnp.where(path[-1] == ROOT, at_horizon, tree.children[node][action])
        return Selection(path, jnp.where(tree.continues[node] > 0, child, terminal))

    def descend(selection):
        path, node = selection
        return select(parts.interior_rule, node, push(node, path))

    root = jnp.int32(ROOT)
    path = push(root, jnp.full(parts.settings.horizon + 1, len(tree.visits), jnp.int32))
    selection = select(parts.root_rule, root, path)
    return jax.lax.while_loop(lambda selection: selection.child > ROOT, descend, selection)


def push(node: Array, path: Array) -> Array:
    """Return the path with one more node, which comes first."""
    return jnp.concatenate([node[None], path[:-1]])


def stops(tree: Tree) -> tuple[int, int]:
    """The children of a leaf at the horizon and of a terminal one: as of actions out of bounds."""
    num_actions = tree.children.shape[1]
    return -1 - num_actions, -2 - num_actions


class Leaf(NamedTuple):
    """The last node of a simulation's path."""

    state: Any  # leaves [1, 1, ...]
    is_over: Array  # bool, []: the episode is over, or no action is legal


def expand(
    parts: SearchParts, tree: Tree, selection: Selection, node: Array, key: Array
) -> tuple[Tree, Array, Leaf]:
    """Try the action at the end of the path: add `node` to the tree and the path, and return it.

    Where that is terminal, or at the horizon, neither tree nor path changes, and it is returned.
    """
    path, child = selection
    at_horizon, terminal = stops(tree)
    action, can_expand, parent = -1 - child, child > at_horizon, path[0]
    untried, state = tree.untried[parent], jax.tree.map(lambda x: x[parent], tree.state)
    # where the leaf cannot expand the action is out of bounds, and the step of no effect
    action_taken = jnp.minimum(action, tree.children.shape[1] - 1)
    step = parts.model.step(state, jnp.reshape(action_taken, (1, 1)), key)
    check_step(parts.model, state, step.state)
    legal = parts.model.legal(step.state)[0, 0]
    continues = jnp.where(legal.any(), step.continues[0, 0], 0)

    # a write to a node without a parent has no effect, for the node is not in use
    set_node = lambda nodes, x: nodes.at[node].set(x, mode="promise_in_bounds")
    # an index out of bounds where the leaf cannot expand: mode="drop" ignores that write
    parent = jnp.where(can_expand, parent, len(tree.visits))
    untried &= ~to_bits(jnp.arange(len(legal)) == action)
    tree = replace(
        tree,
        state=jax.tree.map(set_node, tree.state, step.state),
        children=tree.children.at[parent, action].set(node, mode="drop"),
        legal=set_node(tree.legal, legal),
        untried=set_node(tree.untried.at[parent].set(untried, mode="drop"), to_bits(legal)),
        reward=set_node(tree.reward, step.reward[0, 0]),
        continues=set_node(tree.continues, continues),
    )
    path = jnp.where(can_expand, push(node, path), path)
    state = jax.tree.map(lambda new, old: jnp.where(can_expand, new, old), step.state, state)
    return tree, path, Leaf(state, jnp.where(can_expand, continues == 0, child == terminal))


def evaluate_leaf(
    parts: SearchParts, leaf: Leaf, depth: Array | int, draws: Draws
) -> tuple[Array, Array]:
    """Return the prior logits [action] and the value [] of a leaf: 0 where the episode is over."""
    evaluate, steps_left = parts.evaluate, parts.settings.horizon - jnp.asarray(depth)
    if isinstance(evaluate, NeedsUniforms):
        evaluate = evaluate.with_uniforms(draws.uniforms[1:])
    logits, value = evaluate(leaf.state, draws.key, jnp.where(leaf.is_over, 0, steps_left))
    return jnp.asarray(logits, float), jnp.where(leaf.is_over, 0, value).astype(float)


class _BackupState(NamedTuple):
    """Carry of the backup from the leaf to the root."""

    k: Array  # int32, []: place in the path
    value: Array  # []: Gₖ
    returns: Array  # [horizon + 1]: of the nodes before k, and Gₖ of the root; else 0


def backup(tree: Tree, path: Array, depth: Array, value: Array) -> Tree:
    """Add rₖ + γcₖ Gₖ to the node k of the path, which is Gₖ₊₁, from the leaf's `value` G₀ on.

    The root, into which no action leads, gets the last of them; its place in the path is `depth`.
    """
    places = jnp.arange(len(path))
    steps = jnp.stack([tree.reward[path], tree.discount * tree.continues[path]])  # r and γc

    def step_up(state):
        k, value, returns = state
        reward, discount = steps[:, k]
        value = reward + discount * value
        is_current = (places == k) | (places == depth)
        return _BackupState(k + 1, value, jnp.where(is_current, value, returns))

    leaf = _BackupState(jnp.int32(0), value, jnp.zeros(len(path)))
    *_, returns = jax.lax.while_loop(lambda state: state.k < depth, step_up, leaf)
    return replace(
        tree,
        visits=tree.visits.at[path].add(1, mode="drop"),
        return_sum=tree.return_sum.at[path].add(returns, mode="drop"),
    )


def check_legal(model: Model, state: Any, shape: tuple[int, ...]) -> None:
    """Check the shape of the root's mask, and that of the model's masks against it."""
    if len(shape) != 1:
        raise InvalidInput(f"legal has shape {shape}; make it one bool for each action, [action]")
    below = jax.eval_shape(model.legal, state).shape
    if below != (1, 1, *shape):
        raise InvalidInput(
            f"the legal actions of {type(model).__name__} have shape {below}, and those of the "
            f"root {shape}; make them {(1, 1, *shape)}"
        )


def check_step(model: Model, old: Any, new: Any) -> None:
    """Check that a step of the model changes neither shapes nor types of its state."""
    told = lambda state: jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", state)
    if told(old) != told(new):
        raise InvalidInput(
            f"a step of {type(model).__name__} leads from a state of {told(old)} to one of "
            f"{told(new)}; make both the same"
        )
