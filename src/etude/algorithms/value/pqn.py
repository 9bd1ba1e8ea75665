"""Parallelized Q-learning, PQN, without replay or target network (Gallici et al., 2024).

Many copies of the environment, λ-returns and layer norm take their place.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.exploration import epsilon_greedy
from etude.algorithms.protocol import algorithm
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.q_functions import DiscreteQ, make_discrete_q
from etude.counters import count_up
from etude.data.transition import Transition, flatten_time, minibatches
from etude.errors import InvalidInput
from etude.estimators import losses, returns
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.optim.schedules import linear_decay, linear_schedule
from etude.spaces import EnvironmentSpec
from etude.struct import code, replace, static, struct, traced
from etude.types import Array

FitState = tuple[DiscreteQ, optax.OptState]  # q, opt_state


@struct
class PQNState:
    q: DiscreteQ
    opt_state: optax.OptState
    steps: Array  # int32: environment steps taken, summed over all environment copies


@struct
class TargetBatch:
    """Samples for the loss, [sample, ...]."""

    observation: Any
    action: Array
    target: Array  # λ-return: the regression target of Q(s, a)


@algorithm
class PQN:
    """Q-learning for discrete actions: several epochs on each rollout of many copies, no replay."""

    learning_rate: float = traced(2.5e-4, above=0)
    """Step size of RAdam (Liu et al., 2020)."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    q_lambda: float = traced(0.65, at_least=0, at_most=1)
    """λ of the λ-returns that are the targets: 0 is one-step Q-learning, 1 sums all rewards to the
    rollout's end."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Initial probability ε of a random action."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """Probability ε of a random action after exploration_steps."""
    exploration_steps: float = traced(250_000.0, above=0, infinite=True)
    """Environment steps, summed over all environment copies, over which ε falls linearly from
    initial_epsilon to final_epsilon."""
    max_gradient_norm: float = traced(10.0, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden,
    activation and layer_norm have no effect with it; see `etude.TorsoMaker`."""
    layer_norm: bool = static(True)
    """Whether layer norm precedes each activation, which keeps Q from diverging without a target
    network."""
    rollout_length: int = static(64, at_least=1)
    """Environment steps of each environment copy per update."""
    batch_size: int = static(128, at_least=1)
    """Samples, one environment step each, per minibatch; each minibatch is one gradient step."""
    epochs: int = static(4, at_least=1)
    """Passes over each rollout per update."""

    default_num_envs: ClassVar[int] = 32
    assumes: ClassVar[Assumptions] = Assumptions(("Discrete",), action_masks=True)

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Return RAdam on the clipped gradient, with its step size after `steps` steps."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.radam(learning_rate)
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> PQNState:
        """Return a random network and its optimizer state.

        Raises InvalidInput for a batch larger than a rollout.
        """
        num_samples = self.rollout_length * spec.num_envs
        if self.batch_size > num_samples:
            raise InvalidInput(
                f"batch_size {self.batch_size} is larger than a rollout of {num_samples} samples "
                f"(rollout_length {self.rollout_length} × num_envs {spec.num_envs}); give a "
                "smaller batch"
            )
        q = make_discrete_q(
            key,
            spec.observation,
            spec.action.n,
            hidden=self.hidden,
            activation=self.activation,
            head=ScalarHead(),
            recurrent=None,
            layer_norm=self.layer_norm,
            torso=self.torso,
        )
        steps = jnp.int32(0)
        return PQNState(q, self.optimizer(steps).init(q), steps)

    def act(
        self, state: PQNState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the greedy action; with `explore` a random one with probability ε."""
        q = state.q(observation)  # [env, action]
        if not explore:
            return q.argmax(-1), memory
        legal = state.q.legal_actions(observation)
        return epsilon_greedy(key, q, self.epsilon(state.steps), legal), memory

    def epsilon(self, steps: Array) -> Array:
        """Return the probability of a random action after `steps` environment steps."""
        return linear_schedule(
            steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )

    def update(
        self, state: PQNState, experience: Transition, key: Array
    ) -> tuple[PQNState, dict[str, Array]]:
        """Take `epochs` passes of gradient steps over a rollout [time, env] with fixed targets."""
        target = self.estimate_target(state.q, experience)
        losses.check_target("estimate_target", target, experience.reward)
        # [time * env, ...]
        samples = flatten_time(TargetBatch(experience.observation, experience.action, target))

        def epoch(fit_state, key):
            batches = minibatches(key, samples, self.batch_size)  # [batch, sample, ...]
            return jax.lax.scan(
                lambda fit_state, batch: self.fit_q(fit_state, batch, state.steps),
                fit_state,
                batches,
            )

        (q, opt_state), metrics = jax.lax.scan(
            epoch, (state.q, state.opt_state), jax.random.split(key, self.epochs)
        )
        steps = count_up(state.steps, samples.target.size)
        state = replace(state, q=q, opt_state=opt_state, steps=steps)
        num_updates = jnp.int32(metrics["q_loss"].size)
        return state, {**jax.tree.map(jnp.mean, metrics), "updates": num_updates}

    def estimate_target(self, q: DiscreteQ, experience: Transition) -> Array:
        """Return λ-returns that bootstrap from maxₐ Q of q before the update, [time, env]."""
        next_value = losses.max_q(q(experience.next_observation))
        return returns.lambda_returns(
            experience.reward,
            next_value,
            experience.terminated,
            experience.done,
            self.discount,
            self.q_lambda,
        )

    def fit_q(
        self, fit_state: FitState, batch: TargetBatch, steps: Array
    ) -> tuple[FitState, dict[str, Array]]:
        """Take one gradient step on E[½ (target - Q(s, a))²]."""
        q, opt_state = fit_state

        def loss_fn(q):
            values = q.head.mean(q.outputs_for(batch.observation, batch.action))
            return losses.l2_loss(batch.target - values).mean(), values.mean()

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(q)
        updates, opt_state = self.optimizer(steps).update(gradient, opt_state)
        return (optax.apply_updates(q, updates), opt_state), {"q_loss": loss, "q_value": q_mean}


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "pqn": (
        PQN,
        "parallelized Q-learning: many environment copies, no replay and no target network",
    )
}
