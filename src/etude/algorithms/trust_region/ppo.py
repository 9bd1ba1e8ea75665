"""Proximal policy optimization (Schulman et al., 2017), with a clipped ratio and a KL penalty.

    L(θ) = E[min(r A, clip(r, 1 - ε, 1 + ε) A)] - β E[KL(π_old ‖ π)],   r = π(a|s) / π_old(a|s)

Each update collects one rollout, estimates advantages A by GAE, and takes several epochs of
minibatch gradient steps on -L plus the value loss minus the entropy bonus. π_old is the policy
before the update. The clip and the KL penalty can each be left out.
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.algorithms.protocol import Component, algorithm
from etude.data.transition import Transition
from etude.estimators import losses
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.distributions import Distribution
from etude.nn.networks import Activation
from etude.nn.policies import ActorCriticNetworks
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics

# The adaptive rule doubles β if KL > KL_TOLERANCE_FACTOR · kl_target and halves it if
# KL < kl_target / KL_TOLERANCE_FACTOR (Schulman et al., 2017, section 4). The early stop triggers
# above the same upper limit, as in Stable-Baselines3 (SB3).
KL_TOLERANCE_FACTOR = 1.5


@struct
class PPOState:
    learner: LearnerState
    kl_coefficient: Array  # β, the weight of the KL divergence in the loss


@algorithm
class PPO:
    """Proximal policy optimization (PPO) for every kind of action space."""

    learning_rate: float = traced(3e-4, above=0)
    """Step size of Adam for policy and value."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of generalized advantage estimation (Schulman et al., 2016): 0 gives one-step TD errors, 1
    the Monte Carlo return minus the value, bootstrapped at the rollout's end."""
    clip: float = traced(0.2, above=0, infinite=True)
    """Clip range ε of the probability ratio π / π_old, which is clipped to [1 - ε, 1 + ε]; inf: no
    clip."""
    clip_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the clip range falls
    linearly to zero; inf: constant."""
    kl_target: float = traced(0.01, above=0)
    """Target of the mean KL(π_old ‖ π) after an update, in nats; no effect with kl_penalty "none"
    and without kl_stop."""
    initial_kl_coefficient: float = traced(1.0, at_least=0)
    """Initial weight β of the KL penalty in the loss, per nat; larger values keep the policy nearer
    to π_old; no effect with kl_penalty "none"."""
    kl_coefficient_rate: float = traced(10.0, above=0)
    """Step size of dual gradient ascent: an update changes β by this times (KL - kl_target); no
    effect unless kl_penalty is "dual"."""
    value_clip: float = traced(math.inf, above=0)
    """Largest change of the value from the value before the update, in units of the (scaled)
    return; inf: no clip."""
    value_coefficient: float = traced(0.5, at_least=0)
    """Weight of the value loss, the mean squared error without ½, in the total loss."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus, per nat, in the loss; larger values explore more."""
    max_gradient_norm: float = traced(0.5, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
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
    shared: bool = static(False)
    """Whether policy and value share their hidden layers and recurrent cell."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, one each for policy and value unless shared."""
    sequence_length: int = static(16, at_least=1)
    """Environment steps of backpropagation through time, a divisor of rollout_length and
    batch_size; no effect with recurrent "none"."""
    state_noise: bool = static(False)
    """Whether the exploration noise of Box actions depends on the state (gSDE: Raffin et al.,
    2021)."""
    noise_interval: int = static(0, at_least=0)
    """Environment steps between new samples of the state-dependent noise, 0: once per episode; no
    effect without state_noise."""
    kl_penalty: Literal["none", "adaptive", "dual"] = static("none")
    """Rule for the weight β of the KL penalty: "none" leaves the penalty out, "adaptive" doubles or
    halves β (Schulman et al., 2017), "dual" is dual gradient ascent."""
    kl_stop: bool = static(False)
    """Whether an update stops early once the KL divergence exceeds 1.5 kl_target, as in SB3."""
    normalize_advantage: bool = static(True)
    """Whether advantages are normalized to mean 0 and std 1 in each minibatch."""
    normalize_observation: Normalization | None = nested(None)
    """Whether observations are normalized to mean 0 and std 1 by running statistics."""
    normalize_reward: Normalization | None = nested(None)
    """Whether rewards are divided by the running std of the discounted return (Engstrom et al.,
    2020)."""
    rollout_length: int = static(128, at_least=1)
    """Environment steps of each environment copy per update."""
    batch_size: int = static(256, at_least=1)
    """Samples, one environment step each, per minibatch; each minibatch is one gradient step."""
    epochs: int = static(4, at_least=1)
    """Passes over each rollout per update."""

    value_warmup_steps: int = static(0, at_least=0)
    """Environment steps, summed over all environment copies, at the start in which only the value
    function learns and the policy stands still; with `initial` policy, 0 becomes those of ten
    updates."""

    default_num_envs: ClassVar[int] = 8
    assumes = property(on_policy.observation_assumptions)
    discount_from: ClassVar[str] = "now"
    components: ClassVar[dict[str, Component]] = {
        "policy": on_policy.POLICY._replace(
            put=on_policy.put_policy,
            prepare=lambda ppo, num_envs: replace(
                ppo,
                value_warmup_steps=ppo.value_warmup_steps or 10 * ppo.steps_per_update(num_envs),
            ),
        )
    }

    def init(self, key: Array, spec: EnvironmentSpec) -> PPOState:
        """Return the initial networks, optimizer state, statistics and weight of the KL penalty."""
        on_policy.check_batch_sizes(self, spec)
        learner = on_policy.init_learner(self, key, spec)
        opt_state = self.optimizer(learner.steps).init(learner.networks)
        return PPOState(
            replace(learner, opt_state=opt_state), jnp.float32(self.initial_kl_coefficient)
        )

    def initial_memory(self, state: PPOState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return the memory of a policy at the start of an episode: zeros, or () without memory."""
        return on_policy.initial_memory(self, state.learner, spec)

    def act(
        self, state: PPOState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        return on_policy.act(self, state.learner, observation, memory, key, explore)

    def truncate_episodes(self, state: PPOState, is_cut: Array) -> PPOState:
        """Begin the discounted returns anew of the episodes that were cut off."""
        return replace(state, learner=on_policy.truncate_episodes(state.learner, is_cut))

    def update(
        self, state: PPOState, experience: Transition, key: Array
    ) -> tuple[PPOState, Metrics]:
        """Take `epochs` passes of minibatch gradient steps over one rollout [time, env]."""
        learner, scaled_experience = on_policy.scale_reward(self, state.learner, experience)
        rollout_batch = on_policy.compute_advantages(self, learner, scaled_experience)
        rollout_batch = on_policy.to_samples(self, scaled_experience, rollout_batch)

        def update_epoch(carry, key):
            # Only the KL penalty uses π_old's distribution, which is large: () leaves it out.
            samples = (
                rollout_batch
                if self.kl_penalty != "none"
                else replace(rollout_batch, old_distribution=())
            )
            minibatches = on_policy.shuffle_minibatches(self, key, samples)
            update_minibatch = partial(self.update_minibatch, kl_coefficient=state.kl_coefficient)
            return jax.lax.scan(update_minibatch, carry, minibatches)

        keep_going = jnp.bool_(True)
        keys = jax.random.split(key, self.epochs)
        (learner, _), metrics = jax.lax.scan(update_epoch, (learner, keep_going), keys)
        kl_coefficient = self.update_kl_coefficient(
            state.kl_coefficient, learner.networks, rollout_batch
        )
        if self.value_warmup_steps:  # a policy that stands still says nothing of β
            kl_coefficient = self.warm_up(learner.steps, kl_coefficient, state.kl_coefficient)

        # Metrics are [epoch, minibatch]; average them over the gradient steps before an early stop.
        # The mask "applied" marks these; without kl_stop it is absent, and every step counts.
        applied = metrics.pop("applied", jnp.ones_like(metrics["kl"], bool))
        means = jax.tree.map(lambda x: jnp.where(applied, x, 0).sum() / applied.sum(), metrics)
        finished = on_policy.finish_update(self, learner, experience)
        if self.value_warmup_steps:  # the policy is that of its own statistics
            statistics = self.warm_up(
                learner.steps, finished.observation_statistics, learner.observation_statistics
            )
            finished = replace(finished, observation_statistics=statistics)
        return PPOState(finished, kl_coefficient), {**means, "updates": applied.sum()}

    def update_minibatch(
        self, carry: tuple[LearnerState, Array], minibatch: RolloutBatch, kl_coefficient: Array
    ) -> tuple[tuple[LearnerState, Array], Metrics]:
        """Take one gradient step, unless `kl_stop` has ended this update.

        The carry is (learner, keep_going); keep_going becomes false at the early stop and stays so.
        """
        learner, keep_going = carry
        new_learner, metrics = self.gradient_step(learner, minibatch, kl_coefficient)
        if not self.kl_stop:
            return (new_learner, keep_going), metrics
        # "kl" is measured before the step. If it exceeds KL_TOLERANCE_FACTOR · kl_target, this step
        # and all later ones of the update are discarded.
        keep_going &= metrics["kl"] <= KL_TOLERANCE_FACTOR * self.kl_target
        learner = jax.tree.map(partial(jnp.where, keep_going), new_learner, learner)
        return (learner, keep_going), {**metrics, "applied": keep_going}

    def gradient_step(
        self, learner: LearnerState, minibatch: RolloutBatch, kl_coefficient: Array
    ) -> tuple[LearnerState, Metrics]:
        """Take one gradient step of policy and value on a minibatch; return metrics too."""

        def loss_fn(networks):
            pi, value = minibatch.evaluate(networks)
            policy_loss, metrics = self.policy_loss(pi, minibatch, kl_coefficient, learner.steps)
            value_loss = self.value_loss(value, minibatch)
            loss = (
                policy_loss
                + self.value_coefficient * value_loss
                - self.entropy_coefficient * metrics["entropy"]
            )
            return loss, {"policy_loss": policy_loss, "value_loss": value_loss, **metrics}

        gradient, metrics = jax.grad(loss_fn, has_aux=True)(learner.networks)
        updates, opt_state = self.optimizer(learner.steps).update(gradient, learner.opt_state)
        if self.value_warmup_steps:
            stands_still = jax.tree.map(jnp.zeros_like, updates.policy)
            updates = replace(
                updates, policy=self.warm_up(learner.steps, updates.policy, stands_still)
            )
        networks = optax.apply_updates(learner.networks, updates)
        return replace(learner, networks=networks, opt_state=opt_state), metrics

    def warm_up(self, steps: Array, new: Any, old: Any) -> Any:
        """The tree `new`, or `old` while only the value function learns."""
        is_warm = steps >= self.value_warmup_steps
        return jax.tree.map(partial(jnp.where, is_warm), new, old)

    def policy_loss(
        self, pi: Distribution, minibatch: RolloutBatch, kl_coefficient: Array, steps: Array
    ) -> tuple[Array, Metrics]:
        """Return -E[min(r A, clip(r, 1 - ε, 1 + ε) A)] + β E[KL(π_old ‖ π)] and metrics.

        This is the clipped surrogate of Schulman et al. (2017), equation 7, with the KL term of
        equation 8. The metric "kl" is the estimate E[r - 1 - log r] of KL(π_old ‖ π) on this
        minibatch; `update_kl_coefficient` uses the exact divergence on the whole rollout. `steps`
        are the environment steps taken before this update.
        """
        advantage, clip = minibatch.advantage, self.clip * linear_decay(steps, self.clip_decay)
        if self.normalize_advantage:
            advantage = losses.normalize_advantage(advantage)
        log_ratio = pi.log_prob(minibatch.action) - minibatch.old_log_prob
        losses.check_target("compute_advantages", advantage, log_ratio)
        ratio = jnp.exp(log_ratio)
        clipped_ratio = jnp.clip(ratio, 1 - clip, 1 + clip)
        loss = -jnp.minimum(ratio * advantage, clipped_ratio * advantage).mean()
        if self.kl_penalty != "none":
            loss += kl_coefficient * minibatch.old_distribution.kl(pi).mean()
        return loss, {
            "entropy": pi.entropy().mean(),
            "kl": (ratio - 1 - log_ratio).mean(),
            "clipped": (clipped_ratio != ratio).mean(),
        }

    def value_loss(self, value: Array, minibatch: RolloutBatch) -> Array:
        """E[max((target - V)², (target - V_clip)²)]; V_clip is V clipped to V_old ± value_clip."""
        losses.check_target("compute_advantages", minibatch.value_target, value)
        change = jnp.clip(value - minibatch.old_value, -self.value_clip, self.value_clip)
        clipped_value = minibatch.old_value + change
        return jnp.maximum(
            (minibatch.value_target - value) ** 2, (minibatch.value_target - clipped_value) ** 2
        ).mean()

    def update_kl_coefficient(
        self, kl_coefficient: Array, networks: ActorCriticNetworks, rollout_batch: RolloutBatch
    ) -> Array:
        """Return the weight β of the KL penalty for the next update.

        KL is the mean of KL(π_old ‖ π) over the rollout after the last epoch.

        Dual:      β ← max(β + kl_coefficient_rate (KL - kl_target), 0).
        Adaptive:  β ← 2 β if KL > 1.5 kl_target,   β ← β / 2 if KL < kl_target / 1.5.
        """
        if self.kl_penalty == "none":
            return kl_coefficient
        pi, _ = rollout_batch.evaluate(networks)
        kl = rollout_batch.old_distribution.kl(pi).mean()
        if self.kl_penalty == "dual":
            return jnp.maximum(kl_coefficient + self.kl_coefficient_rate * (kl - self.kl_target), 0)
        factor = jnp.where(
            kl > KL_TOLERANCE_FACTOR * self.kl_target,
            2.0,
            jnp.where(kl < self.kl_target / KL_TOLERANCE_FACTOR, 0.5, 1.0),
        )
        return kl_coefficient * factor

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Adam with gradient clipping; the learning rate decays with the environment steps."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(learning_rate, eps=1e-5)
        )


# PPO without clipping; dual gradient ascent adjusts the weight of the KL penalty.
DualGradient = partial(PPO, clip=math.inf, kl_penalty="dual")

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "dual-gradient": (
        DualGradient,
        "PPO without clipping; dual gradient ascent adjusts the weight of the KL penalty",
    ),
    "ppo": (PPO, "proximal policy optimization: every kind of action"),
}
