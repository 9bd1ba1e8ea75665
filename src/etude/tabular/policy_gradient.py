"""The policy gradient and its trust region, exactly.

Policies are [state, action] of probabilities; those that are differentiated are the softmax of
`logits` [state, action].
"""

import jax
import jax.numpy as jnp

from etude.tabular import evaluation
from etude.tabular.mdp import MDP
from etude.types import Array


def softmax_objective(mdp: MDP, logits: Array, discount: float | Array) -> Array:
    """J(θ) = E[Σ γᵗ rₜ]."""
    return evaluation.expected_return(mdp, jax.nn.softmax(logits), discount)


def exact_gradient(mdp: MDP, logits: Array, discount: float | Array) -> Array:
    """∇J(θ), [state, action], by differentiating through the linear system that J solves."""
    return jax.grad(softmax_objective, 1)(mdp, logits, discount)


def score(logits: Array) -> Array:
    """∂ log π(a | s) / ∂ θ(s, b) = 1(a = b) - π(b | s), [state, action a, action b]; other states'
    logits have no part in it."""
    return jnp.eye(logits.shape[-1]) - jax.nn.softmax(logits)[:, None]


def policy_gradient_theorem(
    mdp: MDP, logits: Array, discount: float | Array, state_discount: float | Array | None = None
) -> Array:
    """The policy gradient theorem, [state, action] (Sutton et al., 2000, theorem 1).

        Σₛ d(s) Σₐ π(a | s) Q(s, a) ∇log π(a | s),   d(s) = Σₜ γᵗ p(sₜ = s)

    `state_discount` is the γ in d. As the discount itself, when it is None, it makes this ∇J: later
    choices matter less for a sum that counts later rewards less. With 1 it leaves out the γᵗ, as
    practice does: every visit counts alike, and the discount in Q is but a means against variance,
    in place of the undiscounted Q. That is the gradient of no function at all (Nota & Thomas,
    2020), and takes a process that ends.
    """
    policy = jax.nn.softmax(logits)
    visits = evaluation.occupancy(
        mdp, policy, discount if state_discount is None else state_discount
    )
    q = evaluation.action_value(mdp, evaluation.policy_value(mdp, policy, discount), discount)
    return jnp.einsum("s,sa,sa,sab->sb", visits, policy, q, score(logits))


def performance_difference(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """J(new) - J(old) = E_new[Σ γᵗ A_old(sₜ, aₜ)] (Kakade & Langford, 2002, lemma 6.1)."""
    return evaluation.occupancy(mdp, new, discount) @ expected_advantage(mdp, new, old, discount)


def surrogate(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """The same with the states of the old policy, which are at hand: E_old[Σ γᵗ new(aₜ | sₜ) /
    old(aₜ | sₜ) A_old(sₜ, aₜ)].

    At new = old it has the value and the slope of J(new) - J(old).
    """
    return evaluation.occupancy(mdp, old, discount) @ expected_advantage(mdp, new, old, discount)


def surrogate_gap(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """J(new) - J(old) less its surrogate: what comes of visiting other states."""
    return performance_difference(mdp, new, old, discount) - surrogate(mdp, new, old, discount)


def expected_advantage(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """E[A_old(s, a)], a ~ new, [state]; importance ratios come to the same wherever old takes every
    action that new does."""
    return (new * evaluation.advantage(mdp, old, discount)).sum(-1)


def total_variation(p: Array, q: Array) -> Array:
    """½ Σₐ |p - q|, [state]: the least probability with which draws from the two must differ."""
    return jnp.abs(p - q).sum(-1) / 2


def kl_divergence(p: Array, q: Array) -> Array:
    """Σₐ p log (p / q), [state], in nats."""
    return jax.scipy.special.rel_entr(p, q).sum(-1)


def drift_bound(new: Array, old: Array, horizon: int) -> Array:
    """2 ε t, [time]: Σₛ |p_new(sₜ) - p_old(sₜ)| is no more, for ε the largest total variation of
    any state.

    Up to t the two act alike with probability (1 - ε)ᵗ ≥ 1 - ε t, and two distributions are never
    farther apart than 2.
    """
    return 2 * total_variation(new, old).max() * jnp.arange(horizon)


def variation_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """Σₜ γᵗ 2 ε t C = 2 ε C γ / (1 - γ)², which |surrogate_gap| never exceeds.

    ε is as in `drift_bound`, and C = maxₛ |E_new[A_old(s, a)]|. The discount is below 1, here and
    in the bounds that follow.
    """
    largest = jnp.abs(expected_advantage(mdp, new, old, discount)).max()
    return 2 * total_variation(new, old).max() * largest * discount / (1 - discount) ** 2


def reward_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """The same, knowing of the process only its largest reward, and of the policies max KL(new ||
    old).

    ε ≤ √(KL / 2) (Pinsker) and C ≤ 2 max |r| / (1 - γ).
    """
    epsilon = jnp.sqrt(kl_divergence(new, old).max() / 2)
    largest = 2 * jnp.abs(mdp.expected_reward).max() / (1 - discount)
    return 2 * epsilon * largest * discount / (1 - discount) ** 2


def trust_region_bound(mdp: MDP, new: Array, old: Array, discount: float | Array) -> Array:
    """4 γ / (1 - γ)² max |A_old| max KL(old || new) (Schulman et al., 2015, eq. 9): of second order
    in the change of policy.

    As `variation_bound`, with C ≤ 2 ε max |A_old| and ε² ≤ KL.
    """
    largest = jnp.abs(evaluation.advantage(mdp, old, discount)).max()
    return 4 * largest * kl_divergence(old, new).max() * discount / (1 - discount) ** 2
