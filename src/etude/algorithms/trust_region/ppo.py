"""Proximal policy optimization (Schulman et al., 2017), by a clipped ratio, a penalty on the
divergence, or both."""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.data.transition import Transition
from etude.nn.networks import Activation
from etude.nn.policies import ActorCriticNetworks
from etude.nn.recurrent import CellType
from etude.optim.schedules import linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics

# times the divergence asked for (Schulman et al., 2017, section 4; SB3 for the early stop)
KL_TOLERANCE = 1.5


@struct
class PPOState:
    learner: LearnerState
    penalty: Array  # β: what a nat of divergence from the policy before costs


@struct
class PPO:
    """Proximal policy optimization for every kind of action: several epochs on each rollout, the
    policy held near what it was."""

    learning_rate: float = traced(3e-4, above=0)
    """Adam's step size."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of the advantages (Schulman et al., 2016)."""
    clip: float = traced(0.2, above=0)
    """ε: the ratio counts only within 1 ± ε; inf: all of it."""
    clip_decay: float = traced(math.inf, above=0)
    """Environment steps over which ε falls linearly to zero; inf: never."""
    kl_target: float = traced(0.01, above=0)
    """Nats from the policy before, for kl_penalty and kl_stop."""
    initial_penalty: float = traced(1.0, at_least=0)
    """β at the start: what a nat costs, in normalized advantages."""
    penalty_rate: float = traced(10.0, above=0)
    """Of dual: β grows by this much for each nat above kl_target."""
    value_clip: float = traced(math.inf, above=0)
    """The value moves at most this far from before the update; inf: freely."""
    value_coefficient: float = traced(0.5, at_least=0)
    """Weight of the value's loss beside the policy's."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus."""
    max_gradient_norm: float = traced(0.5, above=0)
    """The gradient's global norm is clipped here; inf: never."""
    initial_std: float = traced(1.0, above=0)
    """Of continuous actions, in units of the policy's [-1, 1]."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer, of policy and value alike."""
    activation: Activation = static("tanh")
    """Between layers."""
    shared: bool = static(False)
    """One body of hidden layers for policy and value."""
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
    kl_penalty: Literal["none", "adaptive", "dual"] = static("none")
    """β halved and doubled (2017), or by dual gradient ascent."""
    kl_stop: bool = static(False)
    """No more steps on a rollout from 1.5 kl_target on (SB3)."""
    normalize_advantage: bool = static(True)
    """To mean 0 and std 1 in each batch."""
    normalize_observation: bool = static(False)
    """By running moments, to mean 0 and std 1."""
    normalize_reward: bool = static(False)
    """By the running std of the discounted return (Engstrom et al., 2020)."""
    rollout_length: int = static(128, at_least=1)
    """Environment steps of each copy between updates."""
    batch_size: int = static(256, at_least=1)
    """Samples a gradient step."""
    epochs: int = static(4, at_least=1)
    """Passes over each rollout."""

    default_num_envs: ClassVar[int] = 8

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(rate, eps=1e-5)
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> PPOState:
        on_policy.check_batch_sizes(self, spec)
        learner = on_policy.init_learner(self, key, spec)
        optimizer = self.optimizer(learner.steps).init(learner.networks)
        return PPOState(replace(learner, optimizer=optimizer), jnp.float32(self.initial_penalty))

    def act(
        self, state: PPOState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        return on_policy.act(self, state.learner, observation, memory, key, explore)

    def update(
        self, state: PPOState, experience: Transition, key: Array
    ) -> tuple[PPOState, Metrics]:
        learner, scaled = on_policy.scale_reward(self, state.learner, experience)
        batch = on_policy.to_samples(
            self, scaled, on_policy.compute_advantages(self, learner, scaled)
        )

        def epoch(carry, key):
            parts = on_policy.sample_minibatches(
                self, key, batch if self.kl_penalty != "none" else replace(batch, distribution=())
            )
            return jax.lax.scan(partial(self.minibatch_step, penalty=state.penalty), carry, parts)

        go_on = jnp.bool_(True)
        (learner, _), metrics = jax.lax.scan(
            epoch, (learner, go_on), jax.random.split(key, self.epochs)
        )
        penalty = self.update_penalty(state.penalty, learner.networks, batch)
        taken = metrics.pop("taken", jnp.ones_like(metrics["kl"], bool))  # [epoch, batch]
        means = jax.tree.map(lambda x: jnp.where(taken, x, 0).sum() / taken.sum(), metrics)
        return PPOState(on_policy.finish_update(self, learner, experience), penalty), {
            **means,
            "updates": taken.sum(),
        }

    def minibatch_step(
        self, carry: tuple[LearnerState, Array], batch: RolloutBatch, penalty: Array
    ) -> tuple[tuple[LearnerState, Array], Metrics]:
        """One gradient step on a batch, unless an earlier one of this update has brought the policy
        too far."""
        learner, go_on = carry
        improved, metrics = self.improve(learner, batch, penalty)
        if not self.kl_stop:
            return (improved, go_on), metrics
        # it was measured before the step, which is not taken then
        go_on &= metrics["kl"] <= KL_TOLERANCE * self.kl_target
        learner = jax.tree.map(partial(jnp.where, go_on), improved, learner)
        return (learner, go_on), {**metrics, "taken": go_on}

    def improve(
        self, learner: LearnerState, batch: RolloutBatch, penalty: Array
    ) -> tuple[LearnerState, Metrics]:
        """One gradient step of policy and value on a batch."""

        def loss(agent):
            choice, value = batch.evaluate(agent)
            policy_loss, metrics = self.policy_loss(choice, batch, penalty, learner.steps)
            value_loss = self.value_loss(value, batch)
            total = (
                policy_loss
                + self.value_coefficient * value_loss
                - self.entropy_coefficient * metrics["entropy"]
            )
            return total, {"policy_loss": policy_loss, "value_loss": value_loss, **metrics}

        gradient, metrics = jax.grad(loss, has_aux=True)(learner.networks)
        step, optimizer = self.optimizer(learner.steps).update(gradient, learner.optimizer)
        return replace(
            learner, networks=optax.apply_updates(learner.networks, step), optimizer=optimizer
        ), metrics

    def policy_loss(
        self, choice: Any, batch: RolloutBatch, penalty: Array, steps: Array
    ) -> tuple[Array, Metrics]:
        """- E[min(ratio A, clip(ratio, 1 - ε, 1 + ε) A)] + β E[KL(before || now)]  (Schulman et
        al., 2017, eqs. 7 and 8)"""
        advantage, clip = batch.advantage, self.clip * linear_decay(steps, self.clip_decay)
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_ratio = choice.log_prob(batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        loss = -jnp.minimum(
            ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage
        ).mean()
        if self.kl_penalty != "none":
            loss += penalty * batch.distribution.kl(choice).mean()
        return loss, {
            "entropy": choice.entropy().mean(),
            "kl": (ratio - 1 - log_ratio).mean(),
            "clipped": (jnp.abs(ratio - 1) > clip).mean(),
        }

    def value_loss(self, value: Array, batch: RolloutBatch) -> Array:
        """E[(target - V)²], or where it is larger that of V held within ±value_clip of what it
        was."""
        held = batch.value + jnp.clip(value - batch.value, -self.value_clip, self.value_clip)
        return jnp.maximum((batch.target - value) ** 2, (batch.target - held) ** 2).mean()

    def update_penalty(
        self, penalty: Array, agent: ActorCriticNetworks, batch: RolloutBatch
    ) -> Array:
        """β for the next rollout, by how far this one's update went.

        Dual gradient ascent:  β ← max(β + rate (KL - target), 0).
        Adaptive: doubled where KL is above 1.5 times its target, halved where it is below the 1.5th
        part.
        """
        if self.kl_penalty == "none":
            return penalty
        kl = batch.distribution.kl(batch.evaluate(agent)[0]).mean()
        if self.kl_penalty == "dual":
            return jnp.maximum(penalty + self.penalty_rate * (kl - self.kl_target), 0)
        factor = jnp.where(
            kl > KL_TOLERANCE * self.kl_target,
            2.0,
            jnp.where(kl < self.kl_target / KL_TOLERANCE, 0.5, 1.0),
        )
        return penalty * factor


# Dual gradient descent on KL ≤ ε: the policy follows the Lagrangian, the multiplier its violation.
DualGradient = partial(PPO, clip=math.inf, kl_penalty="dual")

ALGORITHMS = {
    "dual-gradient": (
        DualGradient,
        "PPO without a clip; a penalty on the divergence is learned by dual gradient ascent",
    ),
    "ppo": (PPO, "proximal policy optimization: every kind of action"),
}
