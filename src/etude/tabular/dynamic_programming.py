"""The best policy of a known process (Bellman, 1957).

The operators are functions, and the algorithms are their repetition. Policies are returned as the
action of each state; `jax.nn.one_hot` makes the [state, action] of `evaluation` of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from etude.tabular import evaluation
from etude.tabular.mdp import MDP
from etude.types import Array

Operator = Callable[[Array], Array]  # values in, values out, of one shape


def optimality_backup(mdp: MDP, value: Array, discount: float | Array) -> Array:
    """B V = maxₐ r(s, a) + γ Σ p(s' | s, a) V(s'), [state]: a contraction by γ in the largest
    difference."""
    return evaluation.action_value(mdp, value, discount).max(-1)


def optimality_q_backup(mdp: MDP, q: Array, discount: float | Array) -> Array:
    """B Q = r(s, a) + γ Σ p(s' | s, a) maxₐ' Q(s', a'), [state, action]."""
    return evaluation.action_value(mdp, q.max(-1), discount)


def sup_norm(difference: Array) -> Array:
    """The norm in which B contracts: the largest absolute value."""
    return jnp.abs(difference).max()


def weighted_norm(weights: Array) -> Callable[[Array], Array]:
    """The norm √Σ d(s) x(s)² with `weights` d [state]: Π never expands it, and B_π contracts it
    where d is stationary."""
    return lambda difference: jnp.sqrt((weights * difference**2).sum())


def contraction_rate(
    operator: Operator,
    key: Array,
    shape: tuple[int, ...],
    norm: Callable[[Array], Array] = sup_norm,
    pairs: int = 100,
) -> Array:
    """The largest of |O x - O y| / |x - y| seen over random pairs of `shape`: the rate of
    contraction is at least this.

    Half of the pairs differ by one everywhere, which is where B contracts least.
    """
    key_x, key_y = jax.random.split(key)
    x, other = (jax.random.normal(key, (pairs, *shape)) for key in (key_x, key_y))
    half = (jnp.arange(pairs) % 2 == 0).reshape(-1, *(1,) * len(shape))
    y = jnp.where(half, x + 1, other)
    return jax.vmap(lambda x, y: norm(operator(x) - operator(y)) / norm(x - y))(x, y).max()


def value_iteration(
    mdp: MDP, discount: float | Array, tolerance: float = 1e-6, limit: int = 100_000
) -> tuple[Array, Array]:
    """V* [state] and a greedy policy [state]: V ← B V from zero.

    Stops within `tolerance` of V*, |V - V*| ≤ γ / (1 - γ) times the last change, or as near as
    rounding lets it come; with discount 1 that is the only end. It stops after `limit` backups in
    any case.
    """
    v = fixed_point(
        lambda v: optimality_backup(mdp, v, discount),
        jnp.zeros(mdp.num_states),
        tolerance * (1 - discount),
        limit,
    )
    return v, greedy_policy(evaluation.action_value(mdp, v, discount))


def q_iteration(
    mdp: MDP, discount: float | Array, tolerance: float = 1e-6, limit: int = 100_000
) -> tuple[Array, Array]:
    """Q* [state, action] and a greedy policy [state]: Q ← B Q, stopped as in `value_iteration`.
    Acting on Q takes no model."""
    start = jnp.zeros((mdp.num_states, mdp.num_actions))
    q = fixed_point(
        lambda q: optimality_q_backup(mdp, q, discount), start, tolerance * (1 - discount), limit
    )
    return q, greedy_policy(q)


def policy_iteration(mdp: MDP, discount: float | Array, limit: int = 1_000) -> tuple[Array, Array]:
    """V* [state] and an optimal policy [state]: evaluate exactly, act greedily, until the policy
    stays (Howard, 1960).

    An action is kept unless another is better by more than rounding, so that equals do not take
    turns for ever. With discount 1 the uniform policy, which is the first, and all that follow must
    come to an end.
    """

    def improve(carry):
        actions, policy, _, n = carry
        q = evaluation.action_value(mdp, evaluation.policy_value(mdp, policy, discount), discount)
        kept = jnp.take_along_axis(q, actions[:, None], 1)[:, 0]
        rounding = jnp.finfo(q.dtype).eps ** 0.75 * (1 + jnp.abs(kept))
        better = jnp.where((n == 0) | (q.max(-1) > kept + rounding), greedy_policy(q), actions)
        return (
            better,
            jax.nn.one_hot(better, mdp.num_actions),
            (n == 0) | (better != actions).any(),
            n + 1,
        )

    start = jnp.zeros(mdp.num_states, int), evaluation.uniform_policy(mdp), jnp.bool_(True), 0
    actions, policy, _, _ = jax.lax.while_loop(
        lambda carry: carry[2] & (carry[3] < limit), improve, start
    )
    return evaluation.policy_value(mdp, policy, discount), actions


def finite_horizon(mdp: MDP, horizon: int, discount: float | Array = 1.0) -> tuple[Array, Array]:
    """The best values and actions with the time in view, both [time, state]: row t has horizon - t
    steps to go."""

    def backward(v, _):
        q = evaluation.action_value(mdp, v, discount)
        return q.max(-1), (q.max(-1), greedy_policy(q))

    _, (values, actions) = jax.lax.scan(
        backward, jnp.zeros(mdp.num_states), length=horizon, reverse=True
    )
    return values, actions


def greedy_policy(q: Array) -> Array:
    """argmaxₐ Q(s, a), [state]; the first of equals."""
    return q.argmax(-1)


def fixed_point(operator: Operator, start: Array, tolerance: float | Array, limit: int) -> Array:
    """`start` under the operator again and again, until no element moves by more than `tolerance`
    or than rounding does.

    It stops after `limit` times in any case.
    """

    def step(carry):
        x, _, n = carry
        after = operator(x)
        rounding = jnp.finfo(x.dtype).eps * sup_norm(after)
        return after, sup_norm(after - x) > jnp.maximum(tolerance, rounding), n + 1

    return jax.lax.while_loop(
        lambda carry: carry[1] & (carry[2] < limit), step, (start, jnp.bool_(True), 0)
    )[0]
