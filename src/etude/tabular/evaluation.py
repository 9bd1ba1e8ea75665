"""Exact policy evaluation: values, advantages, returns and state distributions of a policy.

A policy is an array of probabilities [state, action]. V is [state], Q and A are [state, action].
With discount 1 the policy must terminate from every state, or the linear system has no solution.
"""

import jax
import jax.numpy as jnp

from etude.tabular import chains
from etude.tabular.mdp import MDP, make_continuing
from etude.types import Array


def uniform_policy(mdp: MDP) -> Array:
    """Return the uniformly random policy."""
    return jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)


def state_chain(mdp: MDP, policy: Array) -> tuple[Array, Array]:
    """Return P_π [state, next state], without termination, and r_π [state]: the chain of states."""
    return jnp.einsum("sa,sat->st", policy, mdp.continues), (policy * mdp.expected_reward).sum(-1)


def state_action_chain(mdp: MDP, policy: Array) -> Array:
    """Return the chain of state-action pairs, p(s', a' | s, a) = p(s' | s, a) π(a' | s').

    It is [state, action, next state, next action], without termination.
    """
    return mdp.continues[..., None] * policy


def policy_value(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """Solve V = r_π + γ P_π V, [state]."""
    transition, reward = state_chain(mdp, policy)
    return jnp.linalg.solve(jnp.eye(mdp.num_states) - discount * transition, reward)


def expectation_backup(mdp: MDP, policy: Array, value: Array, discount: float | Array) -> Array:
    """Return B_π V = r_π + γ P_π V, [state], a contraction by γ to the value of the policy."""
    return (policy * action_value(mdp, value, discount)).sum(-1)


def expectation_q_backup(mdp: MDP, policy: Array, q: Array, discount: float | Array) -> Array:
    """Return B_π Q = r(s, a) + γ Σ p(s' | s, a) Σ π(a' | s') Q(s', a'), [state, action]."""
    return action_value(mdp, (policy * q).sum(-1), discount)


def value_by_iteration(mdp: MDP, policy: Array, discount: float | Array, iterations: int) -> Array:
    """Return V after `iterations` backups from zero: the value over a horizon of that length."""
    transition, reward = state_chain(mdp, policy)
    return jax.lax.fori_loop(
        0, iterations, lambda _, v: reward + discount * transition @ v, jnp.zeros(mdp.num_states)
    )


def action_value(mdp: MDP, value: Array, discount: float | Array) -> Array:
    """Return Q(s, a) = r(s, a) + γ Σ p(s' | s, a) V(s')."""
    return mdp.expected_reward + discount * mdp.continues @ value


def advantage(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """Return A(s, a) = Q(s, a) - V(s)."""
    v = policy_value(mdp, policy, discount)
    return action_value(mdp, v, discount) - v[:, None]


def expected_return(
    mdp: MDP, policy: Array, discount: float | Array = 1.0, horizon: int | None = None
) -> Array:
    """Return J(π) = E[Σ γᵗ rₜ] from the initial states, over `horizon` steps or to termination."""
    values = (
        policy_value(mdp, policy, discount)
        if horizon is None
        else value_by_iteration(mdp, policy, discount, horizon)
    )
    return mdp.initial @ values


def average_reward(mdp: MDP, policy: Array) -> Array:
    """Return the average reward E[r(s, a)] under the policy and its stationary distribution.

    Where an episode ends the next one starts. If the stationary distribution is unique, the average
    reward does not depend on the initial state.
    """
    transition, reward = state_chain(make_continuing(mdp), policy)
    return chains.stationary(transition) @ reward


def state_marginals(mdp: MDP, policy: Array, horizon: int) -> Array:
    """Return p(sₜ) for t below `horizon`, [time, state].

    A row sums to the probability that the episode has not terminated by then.
    """
    transition, _ = state_chain(mdp, policy)
    return jax.lax.scan(lambda p, _: (p @ transition, p), mdp.initial, length=horizon)[1]


def occupancy(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """Return the discounted state occupancy Σₜ γᵗ p(sₜ), [state]; its product with r_π is J."""
    transition, _ = state_chain(mdp, policy)
    return jnp.linalg.solve(jnp.eye(mdp.num_states) - discount * transition.T, mdp.initial)


def trajectory_probability(mdp: MDP, policy: Array, states: Array, actions: Array) -> Array:
    """Return p(s₁, a₁, s₂, ...) = p(s₁) Π π(aₜ | sₜ) p(sₜ₊₁ | sₜ, aₜ).

    `states` are [time + 1], `actions` [time]. No step but the last may terminate.
    """
    state, next_state = states[:-1], states[1:]
    transition = mdp.transition[state, actions, next_state]
    continues = 1 - mdp.termination[state, actions, next_state]
    return (
        mdp.initial[states[0]]
        * (policy[state, actions] * transition).prod()
        * continues[:-1].prod()
    )
