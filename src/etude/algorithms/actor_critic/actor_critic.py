"""On-policy actor-critic, batch or online, and A2C (Mnih et al., 2016).

    ∇J = E[∇log π(a|s) A(s, a)],   A from the learned value V: GAE or n-step returns

Each update fits the value (optional), estimates advantages with it, and takes one gradient step of
policy and value on the rollout.
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
from etude.algorithms.protocol import Component, algorithm
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.estimators import losses, returns
from etude.estimators.baselines import control_variate_objective
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class ActorCriticState:
    learner: LearnerState  # opt_state: (that of policy and value, that of value_steps or ())
    control_variate: Any  # a ControlVariate; () without the hyperparameter control_variate


@algorithm
class ActorCritic:
    """On-policy actor-critic for every kind of action space."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of the optimizer for policy and value."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    value_learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for value_steps and for the control variate; no effect without them."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)
    """λ of generalized advantage estimation (Schulman et al., 2016): 0 gives one-step TD errors, 1
    the Monte Carlo return minus the value, bootstrapped at the rollout's end; no effect unless
    advantage is "gae"."""
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
    """Recurrent cell before the hidden layers, trained through a whole rollout."""
    state_noise: bool = static(False)
    """Whether the exploration noise of Box actions depends on the state (gSDE: Raffin et al.,
    2021)."""
    noise_interval: int = static(0, at_least=0)
    """Environment steps between new samples of the state-dependent noise, 0: once per episode; no
    effect without state_noise."""
    optimizer_name: Literal["adam", "rmsprop"] = static("adam")
    """Optimizer of policy and value; RMSprop is that of A3C (Mnih et al., 2016)."""
    advantage: Literal["gae", "n_step"] = static("gae")
    """Advantage estimator: generalized advantages with gae_lambda, or n-step returns minus V."""
    n_step: int = static(5, at_least=1)
    """Rewards in an n-step return; no effect unless advantage is "n_step"."""
    value_target: Literal["same", "monte_carlo", "one_step"] = static("same")
    """Target of the value: advantage + V ("same"), the Monte Carlo return, or the TD target."""
    value_steps: int = static(0, at_least=0)
    """Gradient steps of the value alone before the policy's, each with new targets."""
    discount_from: Literal["now", "start"] = static("now")
    """Weight of step t in the policy gradient: 1 ("now"), or γᵗ from the episode's start."""
    control_variate: bool = static(False)
    """Whether to subtract an action-dependent control variate (Gu et al., 2017)."""
    normalize_advantage: bool = static(False)
    """Whether advantages are normalized to mean 0 and std 1 over the rollout."""
    normalize_observation: Normalization | None = nested(None)
    """Whether observations are normalized to mean 0 and std 1 by running statistics."""
    normalize_reward: Normalization | None = nested(None)
    """Whether rewards are divided by the running std of the discounted return (Engstrom et al.,
    2020)."""
    rollout_length: int = static(64, at_least=1)
    """Environment steps of each environment copy per update; 1: online actor-critic."""

    default_num_envs: ClassVar[int] = 8
    assumes = property(on_policy.observation_assumptions)

    components: ClassVar[dict[str, Component]] = {"policy": on_policy.POLICY}

    def validate_fields(self) -> None:
        if self.advantage == "n_step" and self.n_step > self.rollout_length:
            raise InvalidInput(
                f"n_step {self.n_step} is more than rollout_length {self.rollout_length}; give a "
                "smaller n_step, or longer rollouts"
            )
        if self.shared and self.value_steps:
            raise InvalidInput(
                f"value_steps is {self.value_steps}, and shared: steps of the value alone would "
                "change the policy too; leave out one of them"
            )

    def init(self, key: Array, spec: EnvironmentSpec) -> ActorCriticState:
        """Return the initial networks, optimizer states, statistics and control variate."""
        key_networks, key_control_variate = jax.random.split(key)
        learner = on_policy.init_learner(self, key_networks, spec)
        networks = learner.networks
        value_opt_state = self.value_optimizer().init(networks.value) if self.value_steps else ()
        opt_state = self.optimizer(learner.steps).init(networks)
        learner = replace(learner, opt_state=(opt_state, value_opt_state))
        control_variate = (
            make_control_variate(
                key_control_variate,
                spec,
                self.hidden,
                self.activation,
                self.value_optimizer(),
                self.torso,
            )
            if self.control_variate
            else ()
        )
        return ActorCriticState(learner, control_variate)

    def initial_memory(self, state: ActorCriticState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return the memory of a policy at the start of an episode: zeros, or () without memory."""
        return on_policy.initial_memory(self, state.learner, spec)

    def act(
        self, state: ActorCriticState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        return on_policy.act(self, state.learner, observation, memory, key, explore)

    def truncate_episodes(self, state: ActorCriticState, is_cut: Array) -> ActorCriticState:
        """Begin the discounted returns anew of the episodes that were cut off."""
        return replace(state, learner=on_policy.truncate_episodes(state.learner, is_cut))

    def update(
        self, state: ActorCriticState, experience: Transition, key: Array
    ) -> tuple[ActorCriticState, Metrics]:
        """Fit the value, then take one gradient step of policy and value, on one rollout."""
        learner, scaled_experience = on_policy.scale_reward(self, state.learner, experience)
        learner = self.fit_value(learner, scaled_experience)
        batch = on_policy.to_sequence(
            self, scaled_experience, self.compute_advantages(learner, scaled_experience)
        )
        learner, metrics = self.gradient_step(
            learner, batch, self.discount_weights(experience), state.control_variate, key
        )
        control_variate = state.control_variate
        # Fit it after the policy: a Q fitted to the actions it is subtracted from adds bias.
        if self.control_variate:
            control_variate, metrics["variate_loss"] = control_variate.fit(
                batch.observation, batch.action, batch.value_target, self.value_optimizer()
            )
        learner = on_policy.finish_update(self, learner, experience)
        return ActorCriticState(learner, control_variate), {**metrics, "updates": jnp.int32(1)}

    def fit_value(self, learner: LearnerState, experience: Transition) -> LearnerState:
        """Take `value_steps` steps of the value alone, each on targets of its latest weights."""

        def step(learner, _):
            batch = on_policy.to_sequence(
                self, experience, self.compute_advantages(learner, experience)
            )

            def value_loss(value):
                output = batch.values_of(value)
                losses.check_target("compute_advantages", batch.value_target, output)
                return losses.l2_loss(batch.value_target - output).mean()

            gradient = jax.grad(value_loss)(learner.networks.value)
            opt_state, value_opt_state = learner.opt_state
            updates, value_opt_state = self.value_optimizer().update(gradient, value_opt_state)
            value = optax.apply_updates(learner.networks.value, updates)
            networks = replace(learner.networks, value=value)
            return replace(learner, networks=networks, opt_state=(opt_state, value_opt_state)), None

        return (
            jax.lax.scan(step, learner, length=self.value_steps)[0] if self.value_steps else learner
        )

    def compute_advantages(self, learner: LearnerState, experience: Transition) -> RolloutBatch:
        """Return the batch [time, env] with advantages and value targets."""
        batch, next_value = on_policy.evaluate_rollout(self, learner, experience)
        reward, terminated, done = experience.reward, experience.terminated, experience.done
        if self.advantage == "n_step":
            n_step_returns = returns.n_step_returns(
                reward, next_value, terminated, done, self.discount, self.n_step
            )
            advantage = n_step_returns - batch.old_value
        else:
            advantage = returns.gae(
                reward,
                batch.old_value,
                next_value,
                terminated,
                done,
                self.discount,
                self.gae_lambda,
            )
        match self.value_target:
            case "monte_carlo":
                target = returns.discounted_returns(
                    reward, next_value, terminated, done, self.discount
                )
            case "one_step":
                target = losses.td_target(reward, next_value, terminated, self.discount)
            case _:
                target = advantage + batch.old_value
        return replace(batch, advantage=advantage, value_target=target)

    def discount_weights(self, experience: Transition) -> Array:
        """Return the weight of each step in the policy gradient, [time, env]: γᵗ, or 1.

        The gradient of E[Σ γᵗ rₜ] weights step t of an episode by γᵗ. Common practice drops this
        factor, so that late steps count as much as early ones: γ then only reduces variance.
        """
        if self.discount_from == "now":
            return jnp.ones_like(experience.reward)
        return self.discount ** (experience.memory.elapsed_steps - 1)

    def gradient_step(
        self,
        learner: LearnerState,
        batch: RolloutBatch,
        weight: Array,
        control_variate: Any,
        key: Array,
    ) -> tuple[LearnerState, Metrics]:
        """Take one step of the policy along E[weight ∇log π(a|s) A], and of the value with it."""
        advantage, scale = batch.advantage, jnp.float32(1)
        if self.normalize_advantage and advantage.size > 1:  # one alone would become 0
            scale = 1 / (advantage.std() + 1e-8)
            advantage = scale * (advantage - advantage.mean())

        def loss_fn(networks):
            pi, value = batch.evaluate(networks)
            log_prob = pi.log_prob(batch.action)
            losses.check_target("compute_advantages", batch.advantage, log_prob)
            losses.check_target("compute_advantages", batch.value_target, value)
            policy_loss = losses.weighted_nll(log_prob, weight * advantage)
            if self.control_variate:
                q_advantage = scale * control_variate.advantage(
                    batch.old_distribution, batch.observation, batch.action
                )
                expected_q = scale * control_variate.expected_q(pi, batch.observation, key)
                policy_loss = -(
                    weight * control_variate_objective(log_prob, advantage, q_advantage, expected_q)
                ).mean()
            value_loss, entropy = ((batch.value_target - value) ** 2).mean(), pi.entropy().mean()
            loss = (
                policy_loss
                + self.value_coefficient * value_loss
                - self.entropy_coefficient * entropy
            )
            return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

        gradient, metrics = jax.grad(loss_fn, has_aux=True)(learner.networks)
        opt_state, value_opt_state = learner.opt_state
        updates, opt_state = self.optimizer(learner.steps).update(gradient, opt_state)
        networks = optax.apply_updates(learner.networks, updates)
        return replace(learner, networks=networks, opt_state=(opt_state, value_opt_state)), metrics

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """The optimizer of policy and value; its rate decays with the environment steps taken."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        optimizer = optax.adam(learning_rate, eps=1e-5)
        if self.optimizer_name == "rmsprop":  # with the constants of Stable-Baselines3
            optimizer = optax.rmsprop(learning_rate, decay=0.99, eps=1e-5, eps_in_sqrt=False)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optimizer)

    def value_optimizer(self) -> optax.GradientTransformation:
        """The optimizer of `value_steps` and of the control variate."""
        return optax.adam(self.value_learning_rate)


# Synchronous advantage actor-critic (Mnih et al., 2016), with the settings of Stable-Baselines3.
A2C = partial(
    ActorCritic, learning_rate=7e-4, optimizer_name="rmsprop", gae_lambda=1.0, rollout_length=5
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "actor-critic": (
        ActorCritic,
        "policy gradient with a learned value function, batch or online: every kind of action",
    ),
    "a2c": (A2C, "advantage actor-critic: short rollouts of many environment copies"),
}
