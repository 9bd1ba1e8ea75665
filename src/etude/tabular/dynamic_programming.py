"""Dynamic programming: value iteration, Q-iteration, policy iteration (Bellman, 1957).

The Bellman operators are functions, and the algorithms iterate them. The algorithms return a policy
as the action of each state; `jax.nn.one_hot` turns it into probabilities [state, action].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etude.tabular import evaluation
from etude.tabular.mdp import MDP
from etude.types import Array

Operator = Callable[[Array], Array]  # values -> values of the same shape


def optimality_backup(mdp: MDP, value: Array, discount: float | Array) -> Array:
    """Return B V = maxₐ r(s, a) + γ Σ p(s' | s, a) V(s'), [state].

    B is a contraction by γ in the sup norm.
    """
    return evaluation.action_value(mdp, value, discount).max(-1)


def optimality_q_backup(mdp: MDP, q: Array, discount: float | Array) -> Array:
    """Return B Q = r(s, a) + γ Σ p(s' | s, a) maxₐ' Q(s', a'), [state, action]."""
    return evaluation.action_value(mdp, q.max(-1), discount)


def sup_norm(difference: Array) -> Array:
    """Return the largest absolute value, the norm in which B contracts."""
    return jnp.abs(difference).max()


def weighted_norm(weights: Array) -> Callable[[Array], Array]:
    """Return the norm √Σ d(s) x(s)² with `weights` d [state].

    Π does not expand it, and B_π contracts it where d is stationary.
    """
    return lambda difference: jnp.sqrt((weights * difference**2).sum())


def contraction_rate(
    operator: Operator,
    key: Array,
    shape: tuple[int, ...],
    norm: Callable[[Array], Array] = sup_norm,
    pairs: int = 100,
) -> Array:
    """Estimate the contraction rate: the largest |O x - O y| / |x - y| over random pairs.

    It is a lower bound of the rate. The pairs have the shape `shape`; half of them differ by one in
    every element, where B contracts least.
    """
    key_x, key_y = jax.random.split(key)
    x, random_y = (jax.random.normal(key, (pairs, *shape)) for key in (key_x, key_y))
    is_shifted = (jnp.arange(pairs) % 2 == 0).reshape(-1, *(1,) * len(shape))
    y = jnp.where(is_shifted, x + 1, random_y)
    return jax.vmap(lambda x, y: norm(operator(x) - operator(y)) / norm(x - y))(x, y).max()


def value_iteration(
    mdp: MDP, discount: float | Array, tolerance: float = 1e-6, max_iterations: int = 100_000
) -> tuple[Array, Array]:
    """Return V* [state] and a greedy policy [state], by V ← B V from zero.

    It stops within `tolerance` of V*, by |V - V*| ≤ γ / (1 - γ) times the last change, or once the
    change is below rounding (with discount 1 only then), and after `max_iterations` backups at the
    latest.
    """
    v = fixed_point(
        lambda v: optimality_backup(mdp, v, discount),
        jnp.zeros(mdp.num_states),
        tolerance * (1 - discount),
        max_iterations,
    )
    return v, greedy_policy(evaluation.action_value(mdp, v, discount))


def q_iteration(
    mdp: MDP, discount: float | Array, tolerance: float = 1e-6, max_iterations: int = 100_000
) -> tuple[Array, Array]:
    """Return Q* [state, action] and a greedy policy [state], by Q ← B Q from zero.

    It stops as in `value_iteration`.
    """
    start = jnp.zeros((mdp.num_states, mdp.num_actions))
    q = fixed_point(
        lambda q: optimality_q_backup(mdp, q, discount),
        start,
        tolerance * (1 - discount),
        max_iterations,
    )
    return q, greedy_policy(q)


class _PolicyIterationState(NamedTuple):
    """Carry of policy iteration."""

    actions: Array  # [state]
    policy: Array  # [state, action]: probabilities
    has_changed: Array  # bool, []
    iteration: Any  # int, []


def policy_iteration(
    mdp: MDP, discount: float | Array, max_iterations: int = 1_000
) -> tuple[Array, Array]:
    """Return V* [state] and an optimal policy [state], by policy iteration (Howard, 1960).

    Each iteration evaluates the policy exactly and acts greedily, until the policy is stable. An
    action changes only where another is better by more than rounding, so that the policy cannot
    alternate between equal actions. With discount 1 the uniform policy, which is the first, and all
    that follow must terminate from every state.
    """

    def improve(state):
        actions, policy, _, i = state
        q = evaluation.action_value(mdp, evaluation.policy_value(mdp, policy, discount), discount)
        value = jnp.take_along_axis(q, actions[:, None], 1)[:, 0]
        rounding = jnp.finfo(q.dtype).eps ** 0.75 * (1 + jnp.abs(value))
        new_actions = jnp.where(
            (i == 0) | (q.max(-1) > value + rounding), greedy_policy(q), actions
        )
        return _PolicyIterationState(
            new_actions,
            jax.nn.one_hot(new_actions, mdp.num_actions),
            (i == 0) | (new_actions != actions).any(),
            i + 1,
        )

    initial_state = _PolicyIterationState(
        jnp.zeros(mdp.num_states, int), evaluation.uniform_policy(mdp), jnp.bool_(True), 0
    )
    actions, policy, _, _ = jax.lax.while_loop(
        lambda state: state.has_changed & (state.iteration < max_iterations), improve, initial_state
    )
    return evaluation.policy_value(mdp, policy, discount), actions


def finite_horizon(mdp: MDP, horizon: int, discount: float | Array = 1.0) -> tuple[Array, Array]:
    """Return the optimal values and actions of each time, both [time, state].

    Row t has `horizon` - t steps left.
    """

    def backward(v, _):
        q = evaluation.action_value(mdp, v, discount)
        return q.max(-1), (q.max(-1), greedy_policy(q))

    _, (values, actions) = jax.lax.scan(
        backward, jnp.zeros(mdp.num_states), length=horizon, reverse=True
    )
    return values, actions


def greedy_policy(q: Array) -> Array:
    """Return argmaxₐ Q(s, a), [state]; ties go to the lowest action."""
    return q.argmax(-1)


class _FixedPointState(NamedTuple):
    """Carry of `fixed_point`."""

    x: Array
    has_changed: Array  # bool, []
    iteration: Any  # int, []


def fixed_point(
    operator: Operator, start: Array, tolerance: float | Array, max_iterations: int
) -> Array:
    """Iterate the operator from `start` until no element changes by more than the tolerance.

    The tolerance is `tolerance` or rounding, whichever is larger. The iteration stops after
    `max_iterations` at the latest.
    """

    def step(state):
        x, _, i = state
        new_x = operator(x)
        rounding = jnp.finfo(x.dtype).eps * sup_norm(new_x)
        has_changed = sup_norm(new_x - x) > jnp.maximum(tolerance, rounding)
        return _FixedPointState(new_x, has_changed, i + 1)

    return jax.lax.while_loop(
        lambda state: state.has_changed & (state.iteration < max_iterations),
        step,
        _FixedPointState(start, jnp.bool_(True), 0),
    ).x
