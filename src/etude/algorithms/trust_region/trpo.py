"""Trust region policy optimization (Schulman et al., 2015) and the natural gradient it stands
on."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.nn.networks import Activation
from etude.nn.policies import Policy, ValueNetwork
from etude.nn.recurrent import CellType
from etude.optim.natural_gradient import (
    backtracking_line_search,
    fisher_product,
    natural_gradient_step,
)
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class TRPO:
    """Trust region policy optimization for every kind of action: one step a rollout, as far as the
    divergence allows."""

    kl_limit: float = traced(0.01, above=0)
    """ε: nats that a step may move the policy, on average over states."""
    damping: float = traced(0.1, at_least=0)
    """Added to the Fisher matrix."""
    line_search_shrink: float = traced(0.8, above=0, at_most=1)
    """Of the step, each time the line search refuses it."""
    learning_rate: float = traced(1e-3, above=0)
    """Adam's step size, of the value."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of the advantages (Schulman et al., 2016)."""
    initial_std: float = traced(1.0, above=0)
    """Of continuous actions, in units of the policy's [-1, 1]."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer, of policy and value alike."""
    activation: Activation = static("tanh")
    """Between layers."""
    recurrent: CellType = static("none")
    """A memory before the hidden layers, of policy and value each."""
    memory_size: int = static(64, at_least=1)
    """Its units."""
    sequence_length: int = static(16, at_least=1)
    """Environment steps through which it is trained."""
    state_noise: bool = static(False)
    """Noise of a Box that depends on the state (gSDE: Raffin et al., 2021)."""
    noise_interval: int = static(0, at_least=0)
    """Environment steps that such noise is kept for; 0: an episode."""
    normalize_advantage: bool = static(True)
    """To mean 0 and std 1 over the rollout."""
    normalize_observation: bool = static(False)
    """By running moments, to mean 0 and std 1."""
    normalize_reward: bool = static(False)
    """By the running std of the discounted return (Engstrom et al., 2020)."""
    conjugate_steps: int = static(15, at_least=1)
    """Of conjugate gradients, a product with the Fisher matrix each (SB3)."""
    line_search_steps: int = static(10, at_least=0)
    """Tries, each shorter; 0: the natural gradient's step is taken as it is."""
    fisher_interval: int = static(1, at_least=1)
    """The Fisher matrix is that of every so many samples (SB3)."""
    rollout_length: int = static(1024, at_least=1)
    """Environment steps of each copy between updates."""
    batch_size: int = static(128, at_least=1)
    """Samples a gradient step of the value."""
    value_epochs: int = static(10, at_least=1)
    """Passes of the value over each rollout."""

    default_num_envs: ClassVar[int] = 2
    shared: ClassVar[bool] = False  # the policy's step is its own

    def validate_fields(self) -> None:
        if self.fisher_interval > 1 and self.recurrent != "none":
            raise InvalidInput(
                f"fisher_interval is {self.fisher_interval}; a policy with a memory needs every "
                "step: leave it 1"
            )

    def init(self, key: Array, spec: EnvironmentSpec) -> LearnerState:
        on_policy.check_batch_sizes(self, spec)
        learner = on_policy.init_learner(self, key, spec)
        return replace(learner, optimizer=self.optimizer().init(learner.networks.value))

    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def act(
        self, state: LearnerState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        return on_policy.act(self, state, observation, memory, key, explore)

    def update(
        self, state: LearnerState, experience: Transition, key: Array
    ) -> tuple[LearnerState, Metrics]:
        learner, scaled = on_policy.scale_reward(self, state, experience)
        batch = on_policy.to_samples(
            self, scaled, on_policy.compute_advantages(self, learner, scaled)
        )
        policy, of_policy = self.improve_policy(learner.networks.policy, batch)
        value, optimizer, value_loss = self.fit_value(
            learner.networks.value, learner.optimizer, batch, key
        )
        learner = replace(
            learner,
            networks=replace(learner.networks, policy=policy, value=value),
            optimizer=optimizer,
        )
        return on_policy.finish_update(self, learner, experience), {
            **of_policy,
            "value_loss": value_loss,
            "updates": jnp.int32(1),
        }

    def improve_policy(self, policy: Policy, batch: RolloutBatch) -> tuple[Policy, Metrics]:
        """The natural gradient's step, shortened until the surrogate grows and the divergence keeps
        its limit, or none.

            θ ← θ + shrinkᵏ α F⁻¹ g,   α = √(2 ε / gᵀ F⁻¹ g)        (Schulman et al., 2015, appendix
                                       C)
        """
        fewer = (
            batch
            if self.fisher_interval == 1
            else jax.tree.map(lambda x: x[:: self.fisher_interval], batch)
        )
        before, gradient = jax.value_and_grad(self.surrogate)(policy, batch)
        product = fisher_product(partial(self.divergence, fewer), policy, self.damping)
        direction, size = natural_gradient_step(
            gradient, product, self.kl_limit, self.conjugate_steps
        )
        step = jax.tree.map(lambda x: size * x, direction)

        def accept(policy):
            return (self.surrogate(policy, batch) > before) & (
                self.divergence(batch, policy) <= self.kl_limit
            )

        if self.line_search_steps:
            improved, tries, accepted = backtracking_line_search(
                accept, policy, step, self.line_search_shrink, self.line_search_steps
            )
        else:
            improved, tries, accepted = (
                optax.apply_updates(policy, step),
                jnp.int32(1),
                jnp.bool_(True),
            )
        return improved, {
            "surrogate": self.surrogate(improved, batch) - before,
            "kl": self.divergence(batch, improved),
            "entropy": batch.distribution_of(improved).entropy().mean(),
            "accepted": accepted.astype(jnp.float32),
            "tries": tries.astype(jnp.float32),
        }

    def surrogate(self, policy: Policy, batch: RolloutBatch) -> Array:
        """E[ratio A]: what the policy gains on the one before, as far as it comes to the same
        states."""
        advantage = batch.advantage
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        return (
            jnp.exp(batch.distribution_of(policy).log_prob(batch.action) - batch.log_prob)
            * advantage
        ).mean()

    def divergence(self, batch: RolloutBatch, policy: Policy) -> Array:
        """E[KL(before || now)], nats."""
        return batch.distribution.kl(batch.distribution_of(policy)).mean()

    def fit_value(
        self, value: ValueNetwork, optimizer: optax.OptState, batch: RolloutBatch, key: Array
    ) -> tuple[ValueNetwork, optax.OptState, Array]:
        """So many passes over the rollout on E[(target - V)²], and the mean of that."""
        batch = replace(batch, distribution=())

        def step(learned, batch):
            value, optimizer = learned
            loss, gradient = jax.value_and_grad(
                lambda value: ((batch.target - batch.values_of(value)) ** 2).mean()
            )(value)
            step, optimizer = self.optimizer().update(gradient, optimizer)
            return (optax.apply_updates(value, step), optimizer), loss

        def epoch(learned, key):
            return jax.lax.scan(step, learned, on_policy.sample_minibatches(self, key, batch))

        (value, optimizer), losses = jax.lax.scan(
            epoch, (value, optimizer), jax.random.split(key, self.value_epochs)
        )
        return value, optimizer, losses.mean()


# The step of the closed form, as it is (Kakade, 2001).
NaturalGradient = partial(TRPO, line_search_steps=0)

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
