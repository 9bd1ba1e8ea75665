"""Monte Carlo tree search in plain Python, for any Gymnasium environment that can be copied.

Every function does what the one of the same name does in `etude.planning.tree`; rules and
evaluations are arguments here too. The nodes hold copies of the simulator. Search on a JAX model of
the same system is dozens of times as fast.

Each copy gets a new random generator (`np_random`), so the search cannot foresee the environment's
next random numbers. A time limit (truncation) ends a rollout as the horizon does.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.utils import EzPickle

from etude.errors import InvalidInput
from etude.planning.tree.rules import MIN_RANGE, PUCT, UCT
from etude.planning.tree.tree import SearchSettings
from etude.struct import validate


class Simulator(Protocol):
    """A `gymnasium.Env`, or any other object with its `step`."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]: ...


# a simulator, a generator and the steps to the horizon to prior logits [action] and a value
Evaluate = Callable[[Any, np.random.Generator, int], tuple[Sequence[float], float]]
Legal = Callable[[Any], Sequence[bool]]  # a simulator to its mask of legal actions


@dataclass
class Node:
    """A node of the search tree: a copy of the simulator and its statistics."""

    simulator: Any
    legal: list[int]  # legal actions; none where the episode is over
    untried: list[int]  # of these, those without a child
    children: list["Node | None"]  # [action]
    reward: float = 0.0  # r of the action into the node, to the player who chose it
    is_over: bool = False  # the episode is over, or no action is legal
    is_truncated: bool = False  # a time limit cut it off
    prior_logits: Sequence[float] = ()  # of the evaluation, [action]
    raw_value: float = 0.0  # of the evaluation, to the player to move at the node
    visits: int = 0  # N
    # sum of the returns from the action into the node on, to the player who chose it; of the root
    # to the player to move there
    return_sum: float = 0.0


Rule = UCT | PUCT | Callable[[Node, float], int]  # a function takes a node and a number in [0, 1)


class _SearchParts(NamedTuple):
    """What a search is made of."""

    legal: Legal
    evaluate: Evaluate
    root_rule: Rule
    interior_rule: Rule
    settings: SearchSettings


def search_simulator(
    simulator: Simulator,
    legal: Legal,
    evaluate: Evaluate,
    root_rule: Rule,
    interior_rule: Rule,
    rng: np.random.Generator,
    settings: SearchSettings,
) -> Node:
    """Search from the simulator's current state and return the root; the simulator stays unchanged.

    Args:
        simulator: a Gymnasium environment, or any object with its `step`.
        legal: a simulator to its mask of legal actions, [action]; see `every_action`.
        evaluate: (simulator, rng, steps_left) -> prior logits [action] and a value; a
            `SimulatorRollout`, or a function.
        root_rule: `UCT`, `PUCT`, or a function (node, uniform) -> action.
        interior_rule: the same below the root.
        rng: of random numbers.
        settings: simulations, horizon, players and discount.

    Raises:
        InvalidInput: for settings out of bounds, and for a simulator that cannot be copied.
    """
    for part in (settings, root_rule, interior_rule):
        if isinstance(part, SearchSettings | UCT | PUCT):
            validate(part)
    parts = _SearchParts(legal, evaluate, root_rule, interior_rule, settings)
    root = _new_node(parts, _copy_simulator(simulator, rng))
    _evaluate_leaf(parts, root, 0, _draw(settings, rng), rng)
    for _ in range(settings.simulations):
        _simulate(parts, root, rng)
    return root


def best_action(root: Node) -> int:
    """Return the most visited action of the root; 0 where none is legal."""
    return int(np.argmax([child.visits if child else 0 for child in root.children]))


def every_action(num_actions: int) -> Legal:
    """Return the mask of legal actions where all are."""
    return lambda simulator: [True] * num_actions


@dataclass(frozen=True)
class SimulatorRollout:
    """The return of a rollout to the end of the episode or the horizon; prior logits are 0."""

    legal: Legal
    settings: SearchSettings
    # a simulator and a generator to the action; None takes legal actions uniformly at random
    policy: Callable[[Any, np.random.Generator], int] | None = None
    uniforms: Sequence[float] | None = None  # in [0, 1), [horizon]; drawn if None

    def with_uniforms(self, uniforms: Sequence[float]) -> "SimulatorRollout":
        return replace(self, uniforms=uniforms)

    def __call__(
        self, simulator: Any, rng: np.random.Generator, steps_left: int
    ) -> tuple[Sequence[float], float]:
        legal, horizon, uniforms = self.legal(simulator), self.settings.horizon, self.uniforms
        if uniforms is None:
            uniforms = rng.random(horizon).tolist()
        if steps_left:
            simulator = copy.deepcopy(simulator)
        discounted_return, discount, depth = 0.0, 1.0, horizon - steps_left
        while depth < horizon:
            action = (
                _sample_legal(_legal_actions(self.legal, simulator), uniforms[depth])
                if self.policy is None
                else self.policy(simulator, rng)
            )
            _, reward, terminated, truncated, _ = simulator.step(action)
            discounted_return += discount * float(reward)
            discount *= self.settings.bootstrap_discount
            depth = horizon if terminated or truncated else depth + 1
        return [0.0] * len(legal), discounted_return


def _draw(settings: SearchSettings, rng: np.random.Generator) -> list[float]:
    """Draw the uniform numbers of one simulation: of the rules, and of the steps of a rollout."""
    return rng.random(settings.horizon + 1).tolist()


def _simulate(parts: _SearchParts, root: Node, rng: np.random.Generator) -> None:
    """Run one simulation, which adds a node to the tree unless its leaf cannot expand."""
    uniforms = _draw(parts.settings, rng)
    path, action = _tree_policy(parts, root, uniforms[0])
    _expand(parts, path, action, rng)
    _backup(parts, path, _evaluate_leaf(parts, path[-1], len(path) - 1, uniforms, rng))


def _tree_policy(parts: _SearchParts, root: Node, uniform: float) -> tuple[list[Node], int | None]:
    """Select the path from the root to a leaf by the rules, and the action at the leaf.

    The action has no child; it is None where the leaf is terminal or at the horizon.
    """
    path, rule = [root], parts.root_rule
    while not (path[-1].is_over or path[-1].is_truncated) and len(path) <= parts.settings.horizon:
        action = _choose(rule, path[-1], uniform)
        child = path[-1].children[action]
        if child is None:
            return path, action
        path.append(child)
        rule = parts.interior_rule
    return path, None


def _choose(rule: Rule, node: Node, uniform: float) -> int:
    """Return the action that a rule takes at a node."""
    if isinstance(rule, UCT):
        return _uct(rule, node, uniform)
    return _puct(rule, node) if isinstance(rule, PUCT) else rule(node, uniform)


def _uct(rule: UCT, node: Node, uniform: float) -> int:
    """Return an untried action at random, else that of the best UCB1 score."""
    if node.untried:
        return _sample_legal(node.untried, uniform)
    log_visits = 2 * math.log(node.visits)

    def score(action):
        child = node.children[action]
        return _q_value(child) + 2 * rule.exploration * math.sqrt(log_visits / child.visits)

    return max(node.legal, key=score)


def _puct(rule: PUCT, node: Node) -> int:
    """Return the action of the best score with the prior of the evaluation."""
    tried = [child for child in node.children if child]
    node_visits = 1 + sum(child.visits for child in tried)
    value = (node.raw_value + sum(child.return_sum for child in tried)) / node_visits
    values = [value, *map(_q_value, tried)]
    low, width = min(values), max(max(values) - min(values), MIN_RANGE)
    top = max(node.prior_logits[a] for a in node.legal)
    weights = {a: math.exp(node.prior_logits[a] - top) for a in node.legal}
    weight = rule.c_init + math.log((1 + node_visits + rule.c_base) / rule.c_base)

    def score(action):
        child, prior = node.children[action], weights[action] / sum(weights.values())
        visits, q = (child.visits, (_q_value(child) - low) / width) if child else (0, 0.0)
        return q + weight * prior * math.sqrt(node_visits) / (1 + visits)

    return max(node.legal, key=score)


def _q_value(child: Node) -> float:
    """Return the mean return of the action into `child`, to the player who chose it."""
    return child.return_sum / child.visits


def _expand(
    parts: _SearchParts, path: list[Node], action: int | None, rng: np.random.Generator
) -> None:
    """Try the action at the end of the path, unless it is None: add its node to the path."""
    if action is None:
        return
    parent = path[-1]
    simulator = _copy_simulator(parent.simulator, rng)
    _, reward, terminated, truncated, _ = simulator.step(action)
    child = _new_node(parts, simulator, float(reward), bool(terminated), bool(truncated))
    parent.untried.remove(action)
    parent.children[action] = child
    path.append(child)


def _new_node(
    parts: _SearchParts,
    simulator: Any,
    reward: float = 0.0,
    terminated: bool = False,
    truncated: bool = False,
) -> Node:
    """Return a node without children."""
    legal = [] if terminated else _legal_actions(parts.legal, simulator)
    children: list[Node | None] = [None] * len(parts.legal(simulator))
    return Node(simulator, legal, list(legal), children, reward, not legal, truncated)


def _evaluate_leaf(
    parts: _SearchParts, leaf: Node, depth: int, uniforms: list[float], rng: np.random.Generator
) -> float:
    """Return the value of a leaf, 0 where the episode is over, and keep a new one's evaluation."""
    evaluate = parts.evaluate
    if isinstance(evaluate, SimulatorRollout):
        evaluate = evaluate.with_uniforms(uniforms[1:])
    ends = leaf.is_over or leaf.is_truncated
    logits, value = evaluate(leaf.simulator, rng, 0 if ends else parts.settings.horizon - depth)
    value = 0.0 if leaf.is_over else float(value)
    if not leaf.visits:
        leaf.prior_logits, leaf.raw_value = logits, value
    return value


def _backup(parts: _SearchParts, path: list[Node], value: float) -> None:
    """Add Gₖ₋₁ = rₖ + γ Gₖ to the nodes k of the path, from the leaf's `value` up to the root."""
    for node in reversed(path):
        if node is not path[0]:
            later = 0.0 if node.is_over else parts.settings.bootstrap_discount * value
            value = node.reward + later
        node.visits += 1
        node.return_sum += value


def _legal_actions(legal: Legal, simulator: Any) -> list[int]:
    """Return the legal actions."""
    return [action for action, is_legal in enumerate(legal(simulator)) if is_legal]


def _sample_legal(actions: list[int], uniform: float) -> int:
    """Map `uniform` in [0, 1) to one of `actions`."""
    return actions[int(uniform * len(actions))]


def _copy_simulator(simulator: Simulator, rng: np.random.Generator) -> Any:
    """Copy the simulator in its current state, with a new random generator."""
    remedy = (
        "and tree search needs copies; most environments in plain Python can be copied, "
        "as CartPole-v1 can"
    )
    if isinstance(getattr(simulator, "unwrapped", simulator), EzPickle):
        raise InvalidInput(
            f"a copy of {simulator} starts from scratch, not from its current state (it is an "
            f"EzPickle), {remedy}"
        )
    try:
        simulator_copy = copy.deepcopy(simulator)
    except Exception as error:  # a user's simulator may raise any exception
        raise InvalidInput(f"{simulator} cannot be copied ({error!r}), {remedy}") from error
    unwrapped = getattr(simulator_copy, "unwrapped", simulator_copy)
    if hasattr(unwrapped, "np_random"):
        unwrapped.np_random = np.random.default_rng(rng.integers(2**63))
    return simulator_copy
