"""Proximal policy optimisation (Schulman et al., 2017)."""
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude import distributions
from etude.distributions import Distribution
from etude.errors import InvalidInput
from etude.estimators import moments, returns
from etude.estimators.moments import Moments
from etude.experience import Transition, merge_axes, minibatches
from etude.networks import Activation, Network, network
from etude.schedules import remaining
from etude.spaces import Space, Spec
from etude.struct import replace, static, struct, traced

Array = jax.Array
Learned = tuple["Policy", Network, optax.OptState]


@struct
class Policy:
    """An observation tree [..., *shape] to a distribution over actions."""
    network: Network
    log_std: Array             # [action elements] for a Box, whatever the observation; else empty
    space: Space = static()

    def __call__(self, observation: Any) -> Distribution:
        return distributions.over(self.space, self.network(observation), self.log_std)


@struct
class PPOState:
    policy: Policy
    value: Network             # observation [..., *shape] -> [..., 1]
    optimizer: optax.OptState
    observations: Any          # Moments of each real leaf of the observation, for normalisation
    returns: Moments           # of the discounted sums of reward so far
    running_return: Array      # [env]: that sum where play stands
    steps: Array               # int32: environment steps taken


@struct
class Batch:
    """What the losses need of experience, [sample, ...]."""
    observation: Any
    action: Any
    log_prob: Array            # of the action, by the policy that chose it
    value: Array               # of the observation, before this update
    advantage: Array
    target: Array              # of the value: advantage + value


@struct
class PPO:
    """Proximal policy optimisation for every kind of action: several epochs on each rollout, the ratio clipped."""
    learning_rate: float = traced(3e-4, above=0)          # Adam's step size
    learning_rate_decay: float = traced(math.inf, above=0)  # environment steps over which it falls linearly to zero; inf: never
    discount: float = traced(0.99, at_least=0, at_most=1)  # γ, per environment step
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)  # λ of the advantages (Schulman et al., 2016)
    clip: float = traced(0.2, above=0)                    # ε: the ratio counts only within 1 ± ε
    clip_decay: float = traced(math.inf, above=0)         # environment steps over which ε falls linearly to zero; inf: never
    value_clip: float = traced(math.inf, above=0)         # the value moves at most this far from before the update; inf: freely
    value_coefficient: float = traced(0.5, at_least=0)    # weight of the value's loss beside the policy's
    entropy_coefficient: float = traced(0.0, at_least=0)  # weight of the entropy bonus
    max_gradient_norm: float = traced(0.5, above=0)       # the gradient's global norm is clipped here; inf: never
    initial_std: float = traced(1.0, above=0)             # of continuous actions, in units of the policy's [-1, 1]
    hidden: tuple[int, ...] = static((64, 64), at_least=1)  # units of each hidden layer, of policy and value alike
    activation: Activation = static("tanh")               # between layers
    normalize_advantage: bool = static(True)              # to mean 0 and std 1 in each batch
    normalize_observation: bool = static(False)           # by running moments, to mean 0 and std 1
    normalize_reward: bool = static(False)                # by the running std of the discounted return (Engstrom et al., 2020)
    rollout_length: int = static(128, at_least=1)         # environment steps of each copy between updates
    batch_size: int = static(256, at_least=1)             # samples a gradient step
    epochs: int = static(4, at_least=1)                   # passes over each rollout

    default_num_envs: ClassVar[int] = 8

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * remaining(steps, self.learning_rate_decay)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(rate, eps=1e-5))

    def init(self, key: Array, spec: Spec) -> PPOState:
        samples = self.rollout_length * spec.num_envs
        if self.batch_size > samples:
            raise InvalidInput(f"batch_size {self.batch_size} is larger than a rollout of {samples} samples "
                               f"(rollout_length {self.rollout_length} × num_envs {spec.num_envs}); give a smaller batch")
        key_policy, key_value = jax.random.split(key)
        outputs = distributions.num_parameters(spec.action)
        continuous = outputs if hasattr(spec.action, "bounded") else 0
        policy = Policy(network(key_policy, spec.observation, self.hidden, outputs, self.activation, final_scale=0.01),
                        jnp.full(continuous, jnp.log(self.initial_std)), spec.action)
        value = network(key_value, spec.observation, self.hidden, 1, self.activation, final_scale=1.0)
        steps = jnp.int32(0)
        return PPOState(policy, value, self.optimizer(steps).init((policy, value)), moments.of_observations(spec.observation),
                        moments.init(()), jnp.zeros(spec.num_envs), steps)

    def act(self, state: PPOState, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        choice = state.policy(self.normalised(state, observation))
        return (choice.sample(key) if explore else choice.mode()), memory

    def normalised(self, state: PPOState, observation: Any) -> Any:
        return moments.normalise_observations(state.observations, observation) if self.normalize_observation else observation

    def update(self, state: PPOState, experience: Transition, key: Array) -> tuple[PPOState, dict[str, Array]]:
        state, reward = self.scale_reward(state, experience)
        batch = self.estimate(state, replace(experience, reward=reward))
        learned = state.policy, state.value, state.optimizer

        def epoch(learned, key):
            batches = minibatches(key, batch, self.batch_size)                               # [batch, sample, ...]
            return jax.lax.scan(lambda learned, batch: self.improve(learned, batch, state.steps), learned, batches)
        (policy, value, optimizer), metrics = jax.lax.scan(epoch, learned, jax.random.split(key, self.epochs))
        state = replace(state, policy=policy, value=value, optimizer=optimizer, steps=state.steps + batch.advantage.size)
        if self.normalize_observation:          # last, so that the whole update saw what the policy saw
            seen = merge_axes(experience.observation)
            state = replace(state, observations=moments.update_observations(state.observations, seen))
        return state, {**jax.tree.map(jnp.mean, metrics), "updates": jnp.int32(metrics["policy_loss"].size)}

    def scale_reward(self, state: PPOState, experience: Transition) -> tuple[PPOState, Array]:
        """The reward over the running standard deviation of the discounted return, [time, env]."""
        if not self.normalize_reward:
            return state, experience.reward
        sums, running = returns.running_returns(experience.reward, experience.done, self.discount, state.running_return)
        spread = moments.update(state.returns, sums.ravel())
        reward = jnp.clip(experience.reward * jax.lax.rsqrt(spread.variance + 1e-8), -10, 10)
        return replace(state, returns=spread, running_return=running), reward

    def estimate(self, state: PPOState, experience: Transition) -> Batch:
        """Advantages and value targets of a rollout, [time * env, ...]."""
        observation = self.normalised(state, experience.observation)
        value = state.value(observation)[..., 0]
        next_value = state.value(self.normalised(state, experience.next_observation))[..., 0]
        advantage = returns.gae(experience.reward, value, next_value, experience.terminated, experience.done, self.discount,
                                self.gae_lambda)
        log_prob = state.policy(observation).log_prob(experience.action)
        return merge_axes(Batch(observation, experience.action, log_prob, value, advantage, advantage + value))

    def improve(self, learned: Learned, batch: Batch, steps: Array) -> tuple[Learned, dict[str, Array]]:
        """One gradient step of policy and value on a batch."""
        policy, value, optimizer = learned

        def loss(learned):
            policy, value = learned
            policy_loss, metrics = self.policy_loss(policy, batch, self.clip * remaining(steps, self.clip_decay))
            value_loss = self.value_loss(value, batch)
            total = policy_loss + self.value_coefficient * value_loss - self.entropy_coefficient * metrics["entropy"]
            return total, {"policy_loss": policy_loss, "value_loss": value_loss, **metrics}
        gradient, metrics = jax.grad(loss, has_aux=True)((policy, value))
        step, optimizer = self.optimizer(steps).update(gradient, optimizer)
        policy, value = optax.apply_updates((policy, value), step)
        return (policy, value, optimizer), metrics

    def policy_loss(self, policy: Policy, batch: Batch, clip: Array) -> tuple[Array, dict[str, Array]]:
        """- E[min(ratio A, clip(ratio, 1 - ε, 1 + ε) A)]  (Schulman et al., 2017, eq. 7)"""
        advantage = batch.advantage
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        choice = policy(batch.observation)
        log_ratio = choice.log_prob(batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage).mean()
        return loss, {"entropy": choice.entropy().mean(), "kl": (ratio - 1 - log_ratio).mean(),
                      "clipped": (jnp.abs(ratio - 1) > clip).mean()}

    def value_loss(self, value: Network, batch: Batch) -> Array:
        """E[(target - V)²], or where it is larger that of V held within ±value_clip of what it was."""
        now = value(batch.observation)[..., 0]
        held = batch.value + jnp.clip(now - batch.value, -self.value_clip, self.value_clip)
        return jnp.maximum((batch.target - now) ** 2, (batch.target - held) ** 2).mean()
