"""Textbook MDPs: gambler's problem, random walk, short corridor (Sutton & Barto, 2018)."""

import numpy as np

from etude.errors import InvalidInput
from etude.tabular.mdp import MDP, make_mdp


def gambler(goal: int = 100, heads: float = 0.4) -> MDP:
    """Return the gambler's problem (example 4.3): bet on coin flips until the goal or ruin.

    The state is the capital, from 0 to `goal`; action a stakes a + 1, but at most the capital and
    at most what is missing to the goal, so every episode terminates. The reward is 1 at the goal
    and else 0, so V(s) is the probability of reaching the goal. The initial capital is uniform from
    1 to `goal` - 1. `heads` is the probability of winning a bet.

    Raises InvalidInput for a goal below 2 or a `heads` outside [0, 1].
    """
    if goal < 2 or not 0 <= heads <= 1:
        raise InvalidInput(
            f"goal is {goal} and heads {heads}; a goal is at least 2, a probability between 0 and 1"
        )
    capital, action = np.ogrid[: goal + 1, : goal // 2]
    # 0 in the terminal states
    stake = np.minimum(action + 1, np.minimum(capital, goal - capital))
    transition = np.zeros((goal + 1, goal // 2, goal + 1))
    capital, action = np.broadcast_arrays(capital, action)
    np.add.at(transition, (capital, action, capital + stake), heads)
    np.add.at(transition, (capital, action, capital - stake), 1 - heads)
    is_terminal = np.isin(np.arange(goal + 1), (0, goal)).astype(float)
    reward = np.zeros_like(transition)
    reward[1:goal, :, goal] = 1
    return make_mdp(transition, reward, is_terminal, (1 - is_terminal) / (goal - 1))


def random_walk(length: int = 5, left: float = 0.0, right: float = 1.0) -> MDP:
    """Return the random walk (example 6.2), to evaluate the uniform policy on.

    With `length` 19 and `left` -1 it is that of example 7.1. States 0 to `length` - 1 lie in a row,
    and the middle is the initial state; action 0 goes left, 1 right. A step out of the row
    terminates with reward `left` or `right` and leaves the state unchanged. With discount 1, V(s)
    is linear from `left` at -1 to `right` at `length`.

    Raises InvalidInput for an even length, which has no middle.
    """
    if length < 1 or length % 2 == 0:
        raise InvalidInput(
            f"length is {length}; it must be odd, so that there is a state in the middle"
        )
    state, action = np.indices((length, 2))
    target = state + 2 * action - 1
    next_state = np.clip(target, 0, length - 1)
    transition, reward, termination = np.zeros((3, length, 2, length))
    transition[state, action, next_state] = 1
    termination[state, action, next_state] = target != next_state
    reward[0, 0, 0], reward[-1, 1, -1] = left, right
    return make_mdp(transition, reward, termination, np.arange(length) == length // 2)


def stay_or_quit() -> MDP:
    """Return an MDP of one state where action 0 quits with reward 0 and 1 stays with reward 1.

    From Berkeley's CS 285, 2023, homework 2. With discount 1 and probability θ of staying, J =
    θ / (1 - θ) and dJ/dθ = 1 / (1 - θ)².
    """
    return make_mdp(np.ones((1, 2, 1)), [[[0], [1]]], [[[1], [0]]])


def short_corridor() -> MDP:
    """Return the short corridor (example 13.1): in the second of three states the actions swap.

    Action 0 goes left, 1 right; each step has reward -1. A step to the right from the third state
    terminates and leaves the state unchanged. The first state is the initial one. A policy that
    cannot tell the states apart and goes right with probability p has J = (2p - 4) / p(1 - p), at
    most -11.657 for p = 2 - √2.
    """
    transition, termination = np.zeros((2, 3, 2, 3))
    for state, (left, right) in enumerate([(0, 1), (2, 0), (1, 2)]):
        transition[state, 0, left] = transition[state, 1, right] = 1
    termination[2, 1, 2] = 1
    return make_mdp(transition, -1, termination, [1, 0, 0])
