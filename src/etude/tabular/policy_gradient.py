"""Exact policy gradients, the performance difference lemma and trust region bounds.

Policies are probabilities [state, action]; differentiable ones are the softmax of `logits` [state,
action].
"""

import jax
import jax.numpy as jnp

from etude.tabular import evaluation
from etude.tabular.mdp import MDP
from etude.types import Array


def softmax_objective(mdp: MDP, logits: Array, discount: float | Array) -> Array:
    """Return J(θ) = E[Σ γᵗ rₜ] of the softmax policy."""
    return evaluation.expected_return(mdp, jax.nn.softmax(logits), discount)


def exact_gradient(mdp: MDP, logits: Array, discount: float | Array) -> Array:
    """Return ∇J(θ), [state, action], by differentiation through the linear solve for V."""
    return jax.grad(softmax_objective, 1)(mdp, logits, discount)


def score(logits: Array) -> Array:
    """Return the score ∂ log π(a | s) / ∂ θ(s, b) = 1(a = b) - π(b | s), [state, a, b].

    Derivatives by the logits of other states are zero and left out.
    """
    return jnp.eye(logits.shape[-1]) - jax.nn.softmax(logits)[:, None]


def policy_gradient_theorem(
    mdp: MDP, logits: Array, discount: float | Array, state_discount: float | Array | None = None
) -> Array:
    """Return the policy gradient by its theorem, [state, action] (Sutton et al., 2000, theorem 1).

        Σₛ d(s) Σₐ π(a | s) Q(s, a) ∇log π(a | s),   d(s) = Σₜ γᵗ p(sₜ = s)

    `state_discount` is the γ in d. With None it is `discount`, and the result is ∇J. With 1 it
    leaves out the γᵗ, as most implementations do: the discount in Q then only reduces variance, and
    the result is not the gradient of any function (Nota & Thomas, 2020). That needs an MDP that
    terminates.
    """
    policy = jax.nn.softmax(logits)
    visits = evaluation.occupancy(
        mdp, policy, discount if state_discount is None else state_discount
    )
    q = evaluation.action_value(mdp, evaluation.policy_value(mdp, policy, discount), discount)
    return jnp.einsum("s,sa,sa,sab->sb", visits, policy, q, score(logits))


def performance_difference(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return J(new) - J(old) = E_new[Σ γᵗ A_old(sₜ, aₜ)] (Kakade & Langford, 2002, lemma 6.1)."""
    return evaluation.occupancy(mdp, new, discount) @ expected_advantage(mdp, new, old, discount)


def surrogate(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return the surrogate objective E_old[Σ γᵗ new(aₜ | sₜ) / old(aₜ | sₜ) A_old(sₜ, aₜ)].

    It replaces the states of the new policy in `performance_difference` by those of the old. At new
    = old its value and gradient are those of J(new) - J(old).
    """
    return evaluation.occupancy(mdp, old, discount) @ expected_advantage(mdp, new, old, discount)


def surrogate_gap(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return J(new) - J(old) minus its surrogate: the effect of the change of states."""
    return performance_difference(mdp, new, old, discount) - surrogate(mdp, new, old, discount)


def expected_advantage(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return E[A_old(s, a)] over a ~ new, [state].

    It equals the importance-weighted mean over a ~ old where old supports every action of new.
    """
    return (new * evaluation.advantage(mdp, old, discount)).sum(-1)


def total_variation(p: Array, q: Array) -> Array:
    """Return the total variation distance ½ Σₐ |p - q|, [state]."""
    return jnp.abs(p - q).sum(-1) / 2


def kl_divergence(p: Array, q: Array) -> Array:
    """Return the KL divergence Σₐ p log (p / q), [state], in nats."""
    return jax.scipy.special.rel_entr(p, q).sum(-1)


def drift_bound(new: Array, old: Array, horizon: int) -> Array:
    """Return the bound 2 ε t, [time], of Σₛ |p_new(sₜ) - p_old(sₜ)|.

    ε is the largest total variation of any state. Up to t the two policies can be coupled to act
    equally with probability (1 - ε)ᵗ ≥ 1 - ε t, and the sum is at most 2 where they do not.
    """
    return 2 * total_variation(new, old).max() * jnp.arange(horizon)


def variation_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return the bound Σₜ γᵗ 2 ε t C = 2 ε C γ / (1 - γ)² of |surrogate_gap|.

    ε is as in `drift_bound`, and C = maxₛ |E_new[A_old(s, a)]|. The discount must be below 1, as in
    `reward_bound` and `trust_region_bound`.
    """
    max_advantage = jnp.abs(expected_advantage(mdp, new, old, discount)).max()
    return 2 * total_variation(new, old).max() * max_advantage * discount / (1 - discount) ** 2


def reward_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return the bound of |surrogate_gap| by the largest reward and max KL(new || old) alone.

    It is `variation_bound` with ε ≤ √(KL / 2) (Pinsker) and C ≤ 2 max |r| / (1 - γ).
    """
    epsilon = jnp.sqrt(kl_divergence(new, old).max() / 2)
    max_advantage = 2 * jnp.abs(mdp.expected_reward).max() / (1 - discount)
    return 2 * epsilon * max_advantage * discount / (1 - discount) ** 2


def trust_region_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Return TRPO's bound 4 γ / (1 - γ)² max |A_old| max KL(old || new) of |surrogate_gap|.

    It is of second order in the change of policy (Schulman et al., 2015, eq. 9): `variation_bound`
    with C ≤ 2 ε max |A_old| and ε² ≤ KL.
    """
    max_advantage = jnp.abs(evaluation.advantage(mdp, old, discount)).max()
    return 4 * max_advantage * kl_divergence(old, new).max() * discount / (1 - discount) ** 2
