"""The tree search of `etude.planning.tree.mcts` in plain Python, for whatever steps as a Gymnasium
environment and can be copied.

Every function here does what the one of that name does there. The nodes hold copies of the
simulator, and nothing else is asked of it: a model of the same thing in JAX is searched dozens of
times as fast.

A copy never has the luck of the original: each node's random generator, the simulator's
`np_random`, is a fresh one, so the search cannot know what the environment will draw next. A time
limit cuts off play as the horizon does.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.utils import EzPickle

from etude.errors import InvalidInput
from etude.planning.tree.mcts import UCT
from etude.struct import validate


class Simulator(Protocol):
    """What is searched: a `gymnasium.Env`, or anything else with its `step`."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]: ...


@dataclass
class Node:
    """A state, and what was found there."""

    simulator: Any
    reward: float  # of the action that led here, to the one who chose it
    terminated: bool
    untried: list[int]  # legal actions without a child; of none where play has ended
    children: list["Node | None"]  # [action]
    visits: int = 0  # N
    total: float = 0.0  # Q: the sum of the returns from here on, to whoever is to move here


def search_simulator(uct: UCT, simulator: Simulator, rng: np.random.Generator) -> Node:
    """The root of the tree after `uct.simulations` simulations from where the simulator stands,
    which stays there.

    `uct.legal`, `uct.policy` and `uct.value` are functions of a simulator, and what the policy gets
    for a key is `rng`. Raises InvalidInput for settings out of bounds or at odds, and for a
    simulator that cannot be copied.
    """
    validate(uct)
    root = Node(
        _copy_simulator(simulator, rng),
        0.0,
        False,
        _legal_actions(uct, simulator),
        [None] * uct.actions,
    )
    for _ in range(uct.simulations):
        _simulate(uct, root, rng)
    return root


def best_action(root: Node) -> int:
    """The most visited; 0 where none is legal."""
    return int(np.argmax([child.visits if child else 0 for child in root.children]))


def _simulate(uct: UCT, root: Node, rng: np.random.Generator) -> None:
    """One simulation more, whose choices are settled by uniform numbers of `rng`."""
    numbers = rng.random(uct.horizon + 1).tolist()
    path = _tree_policy(uct, root)
    _expand(uct, path, numbers[0], rng)
    _backup(uct, path, _default_policy(uct, path, numbers[1:], rng))


def _tree_policy(uct: UCT, root: Node) -> list[Node]:
    """From the root by the best score to a node with an action untried, to an end of play, or to
    the horizon."""
    path = [root]
    while not path[-1].untried and any(path[-1].children) and len(path) <= uct.horizon:
        path.append(_best_child(uct, path[-1]))
    return path


def _best_child(uct: UCT, node: Node) -> Node:
    """The child of the best Score."""

    def score(child):
        return _q_value(uct, child) + 2 * uct.exploration * math.sqrt(
            2 * math.log(node.visits) / child.visits
        )

    return max((child for child in node.children if child), key=score)


def _q_value(uct: UCT, child: Node) -> float:
    """r + γ Q/N: what the action that led to this child brought on average to the one who chose
    it."""
    return child.reward + uct.bootstrap_discount * child.total / child.visits


def _expand(uct: UCT, path: list[Node], number: float, rng: np.random.Generator) -> None:
    """Put a new node at the end of the path, where an untried action led, if there is one and the
    horizon is beyond."""
    parent = path[-1]
    if not parent.untried or len(path) > uct.horizon:
        return
    action = _sample_legal(parent.untried, number)
    simulator = _copy_simulator(parent.simulator, rng)
    _, reward, terminated, truncated, _ = simulator.step(action)
    untried = [] if terminated or truncated else _legal_actions(uct, simulator)
    child = Node(simulator, float(reward), bool(terminated), untried, [None] * uct.actions)
    parent.untried.remove(action)
    parent.children[action] = child
    path.append(child)


def _default_policy(
    uct: UCT, path: list[Node], numbers: list[float], rng: np.random.Generator
) -> float:
    """The return from the leaf on, as it is played to the end or the horizon, or what `uct.value`
    says."""
    leaf = path[-1]
    if uct.value is not None:
        return 0.0 if leaf.terminated else float(uct.value(leaf.simulator))
    total, weight, depth = 0.0, 1.0, len(path) - 1
    ended = not leaf.untried  # only at the horizon has a leaf that goes on nothing untried
    simulator = leaf.simulator if ended else copy.deepcopy(leaf.simulator)
    while not ended and depth < uct.horizon:
        action = (
            _sample_legal(_legal_actions(uct, simulator), numbers[depth])
            if uct.policy is None
            else uct.policy(simulator, rng)
        )
        _, reward, terminated, truncated, _ = simulator.step(action)
        total, weight, depth = (
            total + weight * float(reward),
            weight * uct.bootstrap_discount,
            depth + 1,
        )
        ended = terminated or truncated
    return total


def _backup(uct: UCT, path: list[Node], value: float) -> None:
    """Gₖ = rₖ₊₁ + γ Gₖ₊₁ from the leaf up to the root, counted and summed in every node of the
    path."""
    for node in reversed(path):
        node.visits += 1
        node.total += value
        value = node.reward + uct.bootstrap_discount * value


def _legal_actions(uct: UCT, simulator: Simulator) -> list[int]:
    """The actions there are."""
    return (
        list(range(uct.actions))
        if uct.legal is None
        else [a for a, legal in enumerate(uct.legal(simulator)) if legal]
    )


def _sample_legal(among: list[int], number: float) -> int:
    """One of the actions in `among`, all alike when `number` is uniform in [0, 1)."""
    return among[int(number * len(among))]


def _copy_simulator(simulator: Simulator, rng: np.random.Generator) -> Any:
    """The simulator again, where it stands, with luck of its own."""
    remedy = "and tree search plays on with copies; most environments of plain Python can be copied, as CartPole-v1 can"
    if isinstance(getattr(simulator, "unwrapped", simulator), EzPickle):
        raise InvalidInput(
            f"a copy of {simulator} starts from scratch, not from where it stands (it is an "
            f"EzPickle), {remedy}"
        )
    try:
        twin = copy.deepcopy(simulator)
    except Exception as error:  # whatever the simulator's own parts raise
        raise InvalidInput(f"{simulator} cannot be copied ({error!r}), {remedy}") from error
    bare = getattr(twin, "unwrapped", twin)
    if hasattr(bare, "np_random"):
        bare.np_random = np.random.default_rng(rng.integers(2**63))
    return twin
