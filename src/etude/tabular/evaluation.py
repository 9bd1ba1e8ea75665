"""What a policy is worth, exactly.

A policy is [state, action] of probabilities. V is [state], Q and A are [state, action]. With
discount 1 the policy must come to an end from every state, else the linear system has no solution.
"""

import jax
import jax.numpy as jnp

from etude.tabular import chains
from etude.tabular.mdp import MDP, make_continuing
from etude.types import Array


def uniform_policy(mdp: MDP) -> Array:
    """The policy that takes every action alike."""
    return jnp.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)


def state_chain(mdp: MDP, policy: Array) -> tuple[Array, Array]:
    """P_π [state, next state], of going on, and r_π [state]: the process with its choices made."""
    return jnp.einsum("sa,sat->st", policy, mdp.continues), (policy * mdp.expected_reward).sum(-1)


def state_action_chain(mdp: MDP, policy: Array) -> Array:
    """p(s', a' | s, a) = p(s' | s, a) π(a' | s'), [state, action, next state, next action]: choices
    make a chain with states."""
    return mdp.continues[..., None] * policy


def policy_value(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """V = r_π + γ P_π V, by linear solve."""
    transition, reward = state_chain(mdp, policy)
    return jnp.linalg.solve(jnp.eye(mdp.num_states) - discount * transition, reward)


def expectation_backup(mdp: MDP, policy: Array, value: Array, discount: float | Array) -> Array:
    """B_π V = r_π + γ P_π V, [state]: a contraction by γ, to the value of the policy."""
    return (policy * action_value(mdp, value, discount)).sum(-1)


def expectation_q_backup(mdp: MDP, policy: Array, q: Array, discount: float | Array) -> Array:
    """B_π Q = r(s, a) + γ Σ p(s' | s, a) Σ π(a' | s') Q(s', a'), [state, action]."""
    return action_value(mdp, (policy * q).sum(-1), discount)


def value_by_iteration(mdp: MDP, policy: Array, discount: float | Array, iterations: int) -> Array:
    """V by so many backups from zero: also the value of that many steps, and no more."""
    transition, reward = state_chain(mdp, policy)
    return jax.lax.fori_loop(
        0, iterations, lambda _, v: reward + discount * transition @ v, jnp.zeros(mdp.num_states)
    )


def action_value(mdp: MDP, value: Array, discount: float | Array) -> Array:
    """Q(s, a) = r(s, a) + γ Σ p(s' | s, a) V(s')."""
    return mdp.expected_reward + discount * mdp.continues @ value


def advantage(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """A(s, a) = Q(s, a) - V(s): how much better an action is than the policy's average."""
    v = policy_value(mdp, policy, discount)
    return action_value(mdp, v, discount) - v[:, None]


def expected_return(
    mdp: MDP, policy: Array, discount: float | Array = 1.0, horizon: int | None = None
) -> Array:
    """J(π) = E[Σ γᵗ rₜ] from the initial states, over `horizon` steps, or to the end when that is
    None."""
    values = (
        policy_value(mdp, policy, discount)
        if horizon is None
        else value_by_iteration(mdp, policy, discount, horizon)
    )
    return mdp.initial @ values


def average_reward(mdp: MDP, policy: Array) -> Array:
    """E[r(s, a)] where s is drawn from the policy's stationary distribution, a from the policy: J
    of a horizon without end.

    Where an episode ends the next one starts. It does not depend on the first state where there is
    one such distribution.
    """
    transition, reward = state_chain(make_continuing(mdp), policy)
    return chains.stationary(transition) @ reward


def state_marginals(mdp: MDP, policy: Array, horizon: int) -> Array:
    """p(sₜ) for t below `horizon`, [time, state]; a row's sum is the probability that play has not
    ended by then."""
    transition, _ = state_chain(mdp, policy)
    return jax.lax.scan(lambda p, _: (p @ transition, p), mdp.initial, length=horizon)[1]


def occupancy(mdp: MDP, policy: Array, discount: float | Array) -> Array:
    """Σₜ γᵗ p(sₜ), [state]: how often states are visited, later visits counting less; r_π weighted
    with it sums to J."""
    transition, _ = state_chain(mdp, policy)
    return jnp.linalg.solve(jnp.eye(mdp.num_states) - discount * transition.T, mdp.initial)


def trajectory_probability(mdp: MDP, policy: Array, states: Array, actions: Array) -> Array:
    """p(s₁, a₁, s₂, ...) = p(s₁) Π π(aₜ | sₜ) p(sₜ₊₁ | sₜ, aₜ) of `states` [time + 1] and `actions`
    [time].

    Every step but the last is one after which play went on.
    """
    before, after = states[:-1], states[1:]
    steps = mdp.transition[before, actions, after]
    goes_on = 1 - mdp.termination[before, actions, after]
    return mdp.initial[states[0]] * (policy[before, actions] * steps).prod() * goes_on[:-1].prod()
