"""Monte Carlo tree search in plain Python, for any Gymnasium environment that can be copied.

Every function does what the one of the same name does in `etude.planning.tree.mcts`. The nodes hold
copies of the simulator. Search on a JAX model of the same system is dozens of times as fast.

Each copy gets a new random generator (`np_random`), so the search cannot foresee the environment's
next random numbers. A time limit (truncation) ends a rollout as the horizon does.
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
    """A `gymnasium.Env`, or any other object with its `step`."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]: ...


@dataclass
class Node:
    """A node of the search tree: a copy of the simulator and its statistics."""

    simulator: Any
    reward: float  # r of the action into the node, to the player who chose it
    terminated: bool
    untried: list[int]  # legal actions without a child; empty at the end of an episode
    children: list["Node | None"]  # [action]
    visits: int = 0  # N
    return_sum: float = 0.0  # Q: sum of the returns from the node on, to the player to move there


def search_simulator(uct: UCT, simulator: Simulator, rng: np.random.Generator) -> Node:
    """Search from the simulator's current state and return the root; the simulator stays unchanged.

    `uct.legal`, `uct.policy` and `uct.value` are functions of a simulator; the policy's second
    argument is `rng` in place of a key.

    Raises InvalidInput for settings out of bounds or in conflict, and for a simulator that cannot
    be copied.
    """
    validate(uct)
    root = Node(
        _copy_simulator(simulator, rng),
        0.0,
        False,
        _legal_actions(uct, simulator),
        [None] * uct.num_actions,
    )
    for _ in range(uct.simulations):
        _simulate(uct, root, rng)
    return root


def best_action(root: Node) -> int:
    """Return the most visited action of the root; 0 where none is legal."""
    return int(np.argmax([child.visits if child else 0 for child in root.children]))


def _simulate(uct: UCT, root: Node, rng: np.random.Generator) -> None:
    """Run one simulation, whose actions are sampled by uniform numbers of `rng`."""
    uniforms = rng.random(uct.horizon + 1).tolist()
    path = _tree_policy(uct, root)
    _expand(uct, path, uniforms[0], rng)
    _backup(uct, path, _default_policy(uct, path, uniforms[1:], rng))


def _tree_policy(uct: UCT, root: Node) -> list[Node]:
    """Select the path of the best scores from the root to a leaf.

    A leaf has an untried action, is terminal or is at the horizon.
    """
    path = [root]
    while not path[-1].untried and any(path[-1].children) and len(path) <= uct.horizon:
        path.append(_best_child(uct, path[-1]))
    return path


def _best_child(uct: UCT, node: Node) -> Node:
    """Return the child of the best UCB1 score."""

    def score(child):
        return _q_value(uct, child) + 2 * uct.exploration * math.sqrt(
            2 * math.log(node.visits) / child.visits
        )

    return max((child for child in node.children if child), key=score)


def _q_value(uct: UCT, child: Node) -> float:
    """Return r + γ Q/N of the action into `child`, to the player who chose it."""
    return child.reward + uct.bootstrap_discount * child.return_sum / child.visits


def _expand(uct: UCT, path: list[Node], uniform: float, rng: np.random.Generator) -> None:
    """Try an untried action of the leaf, unless it has none or is at the horizon."""
    parent = path[-1]
    if not parent.untried or len(path) > uct.horizon:
        return
    action = _sample_legal(parent.untried, uniform)
    simulator = _copy_simulator(parent.simulator, rng)
    _, reward, terminated, truncated, _ = simulator.step(action)
    untried = [] if terminated or truncated else _legal_actions(uct, simulator)
    child = Node(simulator, float(reward), bool(terminated), untried, [None] * uct.num_actions)
    parent.untried.remove(action)
    parent.children[action] = child
    path.append(child)


def _default_policy(
    uct: UCT, path: list[Node], uniforms: list[float], rng: np.random.Generator
) -> float:
    """Evaluate the leaf: the return of a rollout to the end or the horizon, or `uct.value`."""
    leaf = path[-1]
    if uct.value is not None:
        return 0.0 if leaf.terminated else float(uct.value(leaf.simulator))
    discounted_return, discount, depth = 0.0, 1.0, len(path) - 1
    # a leaf without untried actions is terminal or at the horizon
    done = not leaf.untried
    simulator = leaf.simulator if done else copy.deepcopy(leaf.simulator)
    while not done and depth < uct.horizon:
        action = (
            _sample_legal(_legal_actions(uct, simulator), uniforms[depth])
            if uct.policy is None
            else uct.policy(simulator, rng)
        )
        _, reward, terminated, truncated, _ = simulator.step(action)
        discounted_return, discount, depth = (
            discounted_return + discount * float(reward),
            discount * uct.bootstrap_discount,
            depth + 1,
        )
        done = terminated or truncated
    return discounted_return


def _backup(uct: UCT, path: list[Node], value: float) -> None:
    """Add Gₖ = rₖ₊₁ + γ Gₖ₊₁, from the leaf's `value` up to the root, to every node of the path."""
    for node in reversed(path):
        node.visits += 1
        node.return_sum += value
        value = node.reward + uct.bootstrap_discount * value


def _legal_actions(uct: UCT, simulator: Simulator) -> list[int]:
    """Return the legal actions."""
    return (
        list(range(uct.num_actions))
        if uct.legal is None
        else [a for a, legal in enumerate(uct.legal(simulator)) if legal]
    )


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
