"""Processes of the textbook, as arrays (Sutton & Barto, 2018)."""

import numpy as np

from etude.errors import InvalidInput
from etude.tabular.mdp import MDP, make_mdp


def gambler(goal: int = 100, heads: float = 0.4) -> MDP:
    """The gambler's problem (example 4.3): stake capital on a coin until it is `goal` or gone;
    reward 1 at the goal.

    The state is the capital, from 0 to `goal`; action a stakes a + 1, or what there is to lose or
    is missing to the goal if that is less, so that every play comes to an end. V(s) is the
    probability of reaching the goal. Play starts with 1 to `goal` - 1, all alike.

    Raises InvalidInput for a goal below 2 or for heads that are no probability.
    """
    if goal < 2 or not 0 <= heads <= 1:
        raise InvalidInput(
            f"goal is {goal} and heads {heads}; a goal is at least 2, a probability between 0 and 1"
        )
    capital, action = np.ogrid[: goal + 1, : goal // 2]
    stake = np.minimum(action + 1, np.minimum(capital, goal - capital))  # 0 where play is over
    transition = np.zeros((goal + 1, goal // 2, goal + 1))
    capital, action = np.broadcast_arrays(capital, action)
    np.add.at(transition, (capital, action, capital + stake), heads)
    np.add.at(transition, (capital, action, capital - stake), 1 - heads)
    over = np.isin(np.arange(goal + 1), (0, goal)).astype(float)
    reward = np.zeros_like(transition)
    reward[1:goal, :, goal] = 1
    return make_mdp(transition, reward, over, (1 - over) / (goal - 1))


def random_walk(length: int = 5, left: float = 0.0, right: float = 1.0) -> MDP:
    """The random walk (example 6.2, with a `length` of 19 and `left` -1 example 7.1): judged under
    the uniform policy.

    States 0 to `length` - 1 lie in a row, and play starts in the middle; action 0 goes left, 1
    right. A step out of the row is the last, pays `left` or `right`, and is seen as staying. V(s)
    is on the line from left at -1 to right at `length`, with discount 1.

    Raises InvalidInput for a row that has no middle.
    """
    if length < 1 or length % 2 == 0:
        raise InvalidInput(
            f"length is {length}; it must be odd, so that there is a state in the middle"
        )
    state, action = np.indices((length, 2))
    after = state + 2 * action - 1
    reached = np.clip(after, 0, length - 1)
    transition, reward, terminates = np.zeros((3, length, 2, length))
    transition[state, action, reached] = 1
    terminates[state, action, reached] = after != reached
    reward[0, 0, 0], reward[-1, 1, -1] = left, right
    return make_mdp(transition, reward, terminates, np.arange(length) == length // 2)


def stay_or_quit() -> MDP:
    """Stay or quit (Berkeley's CS 285, 2023, homework 2): in the one state, action 0 quits, and 1
    stays and pays 1.

    Staying with probability θ, J = θ / (1 - θ) and dJ/dθ = 1 / (1 - θ)², with discount 1.
    """
    return make_mdp(np.ones((1, 2, 1)), [[[0], [1]]], [[[1], [0]]])


def short_corridor() -> MDP:
    """The short corridor (example 13.1): in the second of three states, which all look alike, left
    and right are swapped.

    Action 0 goes left, 1 right; each step pays -1, and the one that leaves the third state to the
    right is the last, seen as staying. Play starts in the first state. Going right with probability
    p, whatever the state, J = (2p - 4) / p(1 - p), at most -11.657 for p = 2 - √2.
    """
    transition, terminates = np.zeros((2, 3, 2, 3))
    for state, (left, right) in enumerate([(0, 1), (2, 0), (1, 2)]):
        transition[state, 0, left] = transition[state, 1, right] = 1
    terminates[2, 1, 2] = 1
    return make_mdp(transition, -1, terminates, [1, 0, 0])
