"""Actor-critic on its own latest experience: batch or online, one copy or many at once (A2C).

fit_value  -->  estimate advantages with it  -->  improve the policy
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.actor_critic.control_variate import make_control_variate
from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.estimators import losses, returns
from etude.estimators.baselines import control_variate_objective
from etude.nn.networks import Activation
from etude.nn.recurrent import CellType
from etude.optim.schedules import linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class ActorCriticState:
    # its optimizer is a pair: of the policy's step, and of the value's own steps
    learner: LearnerState
    control_variate: Any  # the action-dependent baseline, or ()


@struct
class ActorCritic:
    """Actor-critic for every kind of action: a policy gradient whose advantages come from a value
    that is learned beside it."""

    learning_rate: float = traced(1e-3, above=0)
    """Of the step of the policy, and of the value beside it."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    value_learning_rate: float = traced(1e-3, above=0)
    """Adam's, of value_steps and of the control variate."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of advantages and targets: 0 is bootstrapped, 1 Monte Carlo."""
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
    """A memory before the hidden layers, trained through a whole rollout."""
    memory_size: int = static(64, at_least=1)
    """Its units."""
    state_noise: bool = static(False)
    """Noise of a Box that depends on the state (gSDE: Raffin et al., 2021)."""
    noise_interval: int = static(0, at_least=0)
    """Environment steps that such noise is kept for; 0: an episode."""
    optimizer_name: Literal["adam", "rmsprop"] = static("adam")
    """Of the policy's step; RMSprop is A3C's (Mnih et al., 2016)."""
    advantage: Literal["gae", "n_step"] = static("gae")
    """Sums of errors that fade by λ, or of n_step rewards and a value."""
    n_step: int = static(5, at_least=1)
    """Rewards of the latter."""
    value_target: Literal["same", "monte_carlo", "one_step"] = static("same")
    """Of the value: advantage + value, λ = 1 or λ = 0."""
    value_steps: int = static(0, at_least=0)
    """Steps of the value alone before the policy's, each with new targets."""
    discount_from: Literal["now", "start"] = static("now")
    """Steps weigh alike, or by γᵗ from the episode's start."""
    control_variate: bool = static(False)
    """An action-dependent baseline with its correction (Gu et al., 2017)."""
    normalize_advantage: bool = static(False)
    """To mean 0 and std 1 over the rollout."""
    normalize_observation: bool = static(False)
    """By running moments, to mean 0 and std 1."""
    normalize_reward: bool = static(False)
    """By the running std of the discounted return (Engstrom et al., 2020)."""
    rollout_length: int = static(64, at_least=1)
    """Environment steps of each copy between updates; 1: online."""

    default_num_envs: ClassVar[int] = 8

    def validate_fields(self) -> None:
        if self.advantage == "n_step" and self.n_step > self.rollout_length:
            raise InvalidInput(
                f"n_step {self.n_step} is more than rollout_length {self.rollout_length}, the "
                "steps there are; "
                "give fewer, or longer rollouts"
            )
        if self.shared and self.value_steps:
            raise InvalidInput(
                f"value_steps is {self.value_steps}, and shared: steps of the value alone would "
                "move the policy "
                "too; leave out one of them"
            )

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        rule = optax.adam(rate, eps=1e-5)
        if self.optimizer_name == "rmsprop":  # with the numbers of SB3
            rule = optax.rmsprop(rate, decay=0.99, eps=1e-5, eps_in_sqrt=False)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), rule)

    def value_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.value_learning_rate)

    def init(self, key: Array, spec: EnvironmentSpec) -> ActorCriticState:
        key_agent, key_variate = jax.random.split(key)
        learner = on_policy.init_learner(self, key_agent, spec)
        own = self.value_optimizer().init(learner.networks.value) if self.value_steps else ()
        learner = replace(
            learner, optimizer=(self.optimizer(learner.steps).init(learner.networks), own)
        )
        variate = (
            make_control_variate(
                key_variate, spec, self.hidden, self.activation, self.value_optimizer()
            )
            if self.control_variate
            else ()
        )
        return ActorCriticState(learner, variate)

    def act(
        self, state: ActorCriticState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        return on_policy.act(self, state.learner, observation, memory, key, explore)

    def update(
        self, state: ActorCriticState, experience: Transition, key: Array
    ) -> tuple[ActorCriticState, Metrics]:
        learner, scaled = on_policy.scale_reward(self, state.learner, experience)
        learner = self.fit_value(learner, scaled)
        batch = on_policy.to_sequence(self, scaled, self.compute_advantages(learner, scaled))
        learner, metrics = self.improve(
            learner, batch, self.discount_weights(experience), state.control_variate, key
        )
        variate = state.control_variate
        # last, so that it does not know the actions it was subtracted from
        if self.control_variate:
            variate, metrics["variate_loss"] = variate.fit(
                batch.observation, batch.action, batch.target, self.value_optimizer()
            )
        learner = on_policy.finish_update(self, learner, experience)
        return ActorCriticState(learner, variate), {**metrics, "updates": jnp.int32(1)}

    def fit_value(self, learner: LearnerState, experience: Transition) -> LearnerState:
        """`value_steps` steps of the value alone, each on targets that its latest weights
        bootstrap."""

        def step(learner, _):
            batch = on_policy.to_sequence(
                self, experience, self.compute_advantages(learner, experience)
            )
            gradient = jax.grad(
                lambda value: losses.l2_loss(batch.target - batch.values_of(value)).mean()
            )(learner.networks.value)
            change, own = self.value_optimizer().update(gradient, learner.optimizer[1])
            value = optax.apply_updates(learner.networks.value, change)
            return replace(
                learner,
                networks=replace(learner.networks, value=value),
                optimizer=(learner.optimizer[0], own),
            ), None

        return (
            jax.lax.scan(step, learner, length=self.value_steps)[0] if self.value_steps else learner
        )

    def compute_advantages(self, learner: LearnerState, experience: Transition) -> RolloutBatch:
        """Advantages and value targets, [time, env]."""
        batch, next_value = on_policy.evaluate_rollout(self, learner, experience)
        reward, terminated, done = experience.reward, experience.terminated, experience.done
        if self.advantage == "n_step":
            sums = returns.n_step_returns(
                reward, next_value, terminated, done, self.discount, self.n_step
            )
            advantage = sums - batch.value
        else:
            advantage = returns.gae(
                reward, batch.value, next_value, terminated, done, self.discount, self.gae_lambda
            )
        match self.value_target:
            case "monte_carlo":
                target = returns.discounted_returns(
                    reward, next_value, terminated, done, self.discount
                )
            case "one_step":
                target = losses.td_target(reward, next_value, terminated, self.discount)
            case _:
                target = advantage + batch.value
        return replace(batch, advantage=advantage, target=target)

    def discount_weights(self, experience: Transition) -> Array:
        """How much each step counts in the policy's gradient, [time, env]: notes, lecture 6, on
        discount factors.

        The gradient of E[Σ γᵗ rₜ] weighs a step by γᵗ, as if what comes later mattered less. When γ
        is there to keep the variance down, and not because life is short, every step should count
        alike, and that is the custom.
        """
        if self.discount_from == "now":
            return jnp.ones_like(experience.reward)
        return self.discount ** (experience.memory.age - 1)

    def improve(
        self, learner: LearnerState, batch: RolloutBatch, weight: Array, variate: Any, key: Array
    ) -> tuple[LearnerState, Metrics]:
        """One step of the policy along E[∇log π(a|s) A], and of the value beside it."""
        advantage, scale = batch.advantage, jnp.float32(1)
        if self.normalize_advantage:
            scale = 1 / (advantage.std() + 1e-8)
            advantage = scale * (advantage - advantage.mean())

        def loss(agent):
            choice, value = batch.evaluate(agent)
            log_prob = choice.log_prob(batch.action)
            policy_loss = losses.weighted_nll(log_prob, weight * advantage)
            if self.control_variate:
                baseline = scale * variate.advantage(
                    batch.distribution, batch.observation, batch.action
                )
                expected = scale * variate.expected(choice, batch.observation, key)
                policy_loss = -(
                    weight * control_variate_objective(log_prob, advantage, baseline, expected)
                ).mean()
            value_loss, entropy = ((batch.target - value) ** 2).mean(), choice.entropy().mean()
            total = (
                policy_loss
                + self.value_coefficient * value_loss
                - self.entropy_coefficient * entropy
            )
            return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

        gradient, metrics = jax.grad(loss, has_aux=True)(learner.networks)
        step, joint = self.optimizer(learner.steps).update(gradient, learner.optimizer[0])
        agent = optax.apply_updates(learner.networks, step)
        return replace(learner, networks=agent, optimizer=(joint, learner.optimizer[1])), metrics


# Advantage actor-critic, synchronous, in many copies at once (Mnih et al., 2016), with the settings
# of Stable-Baselines3.
A2C = partial(
    ActorCritic, learning_rate=7e-4, optimizer_name="rmsprop", gae_lambda=1.0, rollout_length=5
)

ALGORITHMS = {
    "actor-critic": (
        ActorCritic,
        "policy gradient with a learned value function, batch or online: every kind of action",
    ),
    "a2c": (A2C, "advantage actor-critic: short rollouts of many environment copies"),
}
