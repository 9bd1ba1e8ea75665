"""Trust region policy optimization (TRPO; Schulman et al., 2015) and the natural policy gradient.

    maximize E[π(a|s) / π_old(a|s) A]   such that   E[KL(π_old ‖ π)] ≤ ε

Each update takes one step of the policy along the natural gradient, found by conjugate gradients
and shortened by a backtracking line search, then fits the value function.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.algorithms.protocol import Component, algorithm
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.estimators import losses
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.policies import PolicyNetwork, ValueNetwork
from etude.nn.recurrent import GRU, LSTM
from etude.optim.natural_gradient import (
    backtracking_line_search,
    fisher_product,
    natural_gradient_step,
)
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, traced
from etude.types import Array, Metrics


@algorithm
class TRPO:
    """Trust region policy optimization (TRPO) for every kind of action space."""

    kl_limit: float = traced(0.01, above=0)
    """Trust region ε: largest divergence of a policy step, in nats, on average over states."""
    damping: float = traced(0.1, at_least=0)
    """Multiple of the identity added to the Fisher matrix; larger values turn the step toward the
    gradient."""
    line_search_shrink: float = traced(0.8, above=0, at_most=1)
    """Factor by which the line search shortens a rejected step."""
    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for the value function."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of generalized advantage estimation (Schulman et al., 2016): 0 gives one-step TD errors, 1
    the Monte Carlo return minus the value, bootstrapped at the rollout's end."""
    initial_std: float = traced(1.0, above=0)
    """Initial standard deviation of Box actions; a bounded Box is scaled to [-1, 1]; no effect with
    other action spaces."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer, of policy and value alike."""
    activation: Activation = static("tanh")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, one each for policy and value."""
    sequence_length: int = static(16, at_least=1)
    """Environment steps of backpropagation through time, a divisor of rollout_length and
    batch_size; no effect with recurrent "none"."""
    state_noise: bool = static(False)
    """Whether the exploration noise of Box actions depends on the state (gSDE: Raffin et al.,
    2021)."""
    noise_interval: int = static(0, at_least=0)
    """Environment steps between new samples of the state-dependent noise, 0: once per episode; no
    effect without state_noise."""
    normalize_advantage: bool = static(True)
    """Whether advantages are normalized to mean 0 and std 1 over the rollout."""
    normalize_observation: Normalization | None = nested(None)
    """Whether observations are normalized to mean 0 and std 1 by running statistics."""
    normalize_reward: Normalization | None = nested(None)
    """Whether rewards are divided by the running std of the discounted return (Engstrom et al.,
    2020)."""
    conjugate_steps: int = static(15, at_least=1)
    """Iterations of conjugate gradients, one Fisher-vector product each; 15 in SB3."""
    line_search_steps: int = static(10, at_least=0)
    """Steps that the line search tries; 0: the full natural gradient step, unchecked."""
    fisher_interval: int = static(1, at_least=1)
    """Stride of the samples that estimate the Fisher matrix; 1: all samples."""
    rollout_length: int = static(1024, at_least=1)
    """Environment steps of each environment copy per update."""
    batch_size: int = static(128, at_least=1)
    """Samples, one environment step each, per minibatch; each minibatch is one gradient step of the
    value function."""
    value_epochs: int = static(10, at_least=1)
    """Passes of the value function over each rollout per update."""

    default_num_envs: ClassVar[int] = 2
    assumes = property(on_policy.observation_assumptions)
    shared: ClassVar[bool] = False  # policy and value are optimized separately
    discount_from: ClassVar[str] = "now"

    components: ClassVar[dict[str, Component]] = {"policy": on_policy.POLICY}

    def validate_fields(self) -> None:
        if self.fisher_interval > 1 and self.recurrent:
            raise InvalidInput(
                f"fisher_interval is {self.fisher_interval}; a policy with a memory needs every "
                "step: leave it 1"
            )

    def init(self, key: Array, spec: EnvironmentSpec) -> LearnerState:
        """Return the initial networks, the value's optimizer state and statistics."""
        on_policy.check_batch_sizes(self, spec)
        learner = on_policy.init_learner(self, key, spec)
        return replace(learner, opt_state=self.optimizer().init(learner.networks.value))

    def initial_memory(self, state: LearnerState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return the memory of a policy at the start of an episode: zeros, or () without memory."""
        return on_policy.initial_memory(self, state, spec)

    def act(
        self, state: LearnerState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        return on_policy.act(self, state, observation, memory, key, explore)

    def truncate_episodes(self, state: LearnerState, is_cut: Array) -> LearnerState:
        """Begin the discounted returns anew of the episodes that were cut off."""
        return on_policy.truncate_episodes(state, is_cut)

    def update(
        self, state: LearnerState, experience: Transition, key: Array
    ) -> tuple[LearnerState, Metrics]:
        """Take one natural gradient step of the policy, then fit the value, on one rollout."""
        learner, scaled_experience = on_policy.scale_reward(self, state, experience)
        batch = on_policy.to_samples(
            self, scaled_experience, on_policy.compute_advantages(self, learner, scaled_experience)
        )
        policy, policy_metrics = self.update_policy(learner.networks.policy, batch)
        value, opt_state, value_loss = self.fit_value(
            learner.networks.value, learner.opt_state, batch, key
        )
        learner = replace(
            learner,
            networks=replace(learner.networks, policy=policy, value=value),
            opt_state=opt_state,
        )
        return on_policy.finish_update(self, learner, experience), {
            **policy_metrics,
            "value_loss": value_loss,
            "updates": jnp.int32(1),
        }

    def update_policy(
        self, policy: PolicyNetwork, batch: RolloutBatch
    ) -> tuple[PolicyNetwork, Metrics]:
        """Take the largest step that the line search accepts, or none; return metrics too.

            θ ← θ + shrinkᵏ α F⁻¹ g,   α = √(2 ε / gᵀ F⁻¹ g),   k = 0, 1, ...

        g is the gradient of the surrogate and F the Fisher matrix. A step is accepted if the
        surrogate grows and the divergence is at most ε (Schulman et al., 2015, appendix C).
        """
        fisher_batch = (
            batch
            if self.fisher_interval == 1
            else jax.tree.map(lambda x: x[:: self.fisher_interval], batch)
        )
        old_surrogate, gradient = jax.value_and_grad(self.surrogate)(policy, batch)
        fisher_vector_product = fisher_product(
            partial(self.divergence, fisher_batch), policy, self.damping
        )
        direction, step_size = natural_gradient_step(
            gradient, fisher_vector_product, self.kl_limit, self.conjugate_steps
        )
        step = jax.tree.map(lambda x: step_size * x, direction)

        def accept(policy):
            return (self.surrogate(policy, batch) > old_surrogate) & (
                self.divergence(batch, policy) <= self.kl_limit
            )

        if self.line_search_steps:
            new_policy, tries, accepted = backtracking_line_search(
                accept, policy, step, self.line_search_shrink, self.line_search_steps
            )
        else:
            new_policy, tries, accepted = (
                optax.apply_updates(policy, step),
                jnp.int32(1),
                jnp.bool_(True),
            )
        return new_policy, {
            "surrogate": self.surrogate(new_policy, batch) - old_surrogate,
            "kl": self.divergence(batch, new_policy),
            "entropy": batch.distribution_of(new_policy).entropy().mean(),
            "accepted": accepted.astype(jnp.float32),
            "tries": tries.astype(jnp.float32),
        }

    def surrogate(self, policy: PolicyNetwork, batch: RolloutBatch) -> Array:
        """E[π(a|s) / π_old(a|s) A], the policy's improvement on the states of π_old."""
        advantage = batch.advantage
        if self.normalize_advantage:
            advantage = losses.normalize_advantage(advantage)
        log_prob = batch.distribution_of(policy).log_prob(batch.action)
        losses.check_target("compute_advantages", advantage, log_prob)
        return (jnp.exp(log_prob - batch.old_log_prob) * advantage).mean()

    def divergence(self, batch: RolloutBatch, policy: PolicyNetwork) -> Array:
        """E[KL(π_old ‖ π)], in nats."""
        return batch.old_distribution.kl(batch.distribution_of(policy)).mean()

    def fit_value(
        self, value: ValueNetwork, opt_state: optax.OptState, batch: RolloutBatch, key: Array
    ) -> tuple[ValueNetwork, optax.OptState, Array]:
        """Minimize E[(target - V(s))²] for `value_epochs` passes; return the mean loss too."""
        batch = replace(batch, old_distribution=())

        def value_loss(value, minibatch):
            output = minibatch.values_of(value)
            losses.check_target("compute_advantages", minibatch.value_target, output)
            return ((minibatch.value_target - output) ** 2).mean()

        def update_minibatch(carry, minibatch):
            value, opt_state = carry
            loss, gradient = jax.value_and_grad(value_loss)(value, minibatch)
            updates, opt_state = self.optimizer().update(gradient, opt_state)
            return (optax.apply_updates(value, updates), opt_state), loss

        def update_epoch(carry, key):
            minibatches = on_policy.shuffle_minibatches(self, key, batch)
            return jax.lax.scan(update_minibatch, carry, minibatches)

        (value, opt_state), value_losses = jax.lax.scan(
            update_epoch, (value, opt_state), jax.random.split(key, self.value_epochs)
        )
        return value, opt_state, value_losses.mean()

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the value function."""
        return optax.adam(self.learning_rate)


# The natural policy gradient (Kakade, 2001): the closed-form step without a line search.
NaturalGradient = partial(TRPO, line_search_steps=0)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "natural-gradient": (
        NaturalGradient,
        "natural policy gradient: one closed-form step for each rollout; every kind of action",
    ),
    "trpo": (
        TRPO,
        "trust region policy optimization: the natural gradient with a line "
        "search on the divergence",
    ),
}
