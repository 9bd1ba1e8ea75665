"""Parallelised Q-learning (Gallici et al., 2024): many copies, λ-returns and layer norm in place of
replay and target network."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.exploration import epsilon_greedy
from etude.data.transition import Transition, flatten_time, minibatches
from etude.errors import InvalidInput
from etude.estimators import losses, returns
from etude.nn.networks import Activation, Network, make_network
from etude.optim.schedules import linear_decay, linear_schedule
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.trees import batched_index
from etude.types import Array

Learned = tuple[Network, optax.OptState]


@struct
class PQNState:
    q: Network  # observation [..., *shape] -> action values [..., action]
    optimizer: optax.OptState
    steps: Array  # int32: environment steps taken


@struct
class TargetBatch:
    """What the loss needs of experience, [sample, ...]."""

    observation: Any
    action: Array
    target: Array  # of the action's value


@struct
class PQN:
    """Q-learning for discrete actions in many copies at once: several epochs on each rollout, then
    it is forgotten."""

    learning_rate: float = traced(2.5e-4, above=0)
    """RAdam's step size (Liu et al., 2020)."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    q_lambda: float = traced(0.65, at_least=0, at_most=1)
    """λ of the targets: 0 is one-step Q-learning, 1 sums all rewards."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Of a random action, at the start."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """And from exploration_steps on."""
    exploration_steps: float = traced(250_000.0, above=0)
    """Environment steps over which epsilon falls linearly."""
    max_gradient_norm: float = traced(10.0, above=0)
    """The gradient's global norm is clipped here; inf: never."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Between layers."""
    layer_norm: bool = static(True)
    """Before each activation: what keeps Q from diverging here."""
    rollout_length: int = static(64, at_least=1)
    """Environment steps of each copy between updates."""
    batch_size: int = static(128, at_least=1)
    """Samples a gradient step."""
    epochs: int = static(4, at_least=1)
    """Passes over each rollout."""

    default_num_envs: ClassVar[int] = 32

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.radam(rate))

    def init(self, key: Array, spec: EnvironmentSpec) -> PQNState:
        if not isinstance(spec.action, spaces.Discrete):
            raise InvalidInput(
                f"pqn chooses among discrete actions, and this environment's are {spec.action}; "
                "ppo takes every kind of action"
            )
        samples = self.rollout_length * spec.num_envs
        if self.batch_size > samples:
            raise InvalidInput(
                f"batch_size {self.batch_size} is larger than a rollout of {samples} samples "
                f"(rollout_length {self.rollout_length} × num_envs {spec.num_envs}); give a "
                "smaller batch"
            )
        q = make_network(
            key,
            spec.observation,
            self.hidden,
            spec.action.n,
            self.activation,
            layer_norm=self.layer_norm,
        )
        steps = jnp.int32(0)
        return PQNState(q, self.optimizer(steps).init(q), steps)

    def act(
        self, state: PQNState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The best action by q; when exploring, with probability ε one at random."""
        values = state.q(observation)  # [env, action]
        if not explore:
            return values.argmax(-1), memory
        return epsilon_greedy(key, values, self.epsilon(state.steps)), memory

    def epsilon(self, steps: Array) -> Array:
        return linear_schedule(
            steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )

    def update(
        self, state: PQNState, experience: Transition, key: Array
    ) -> tuple[PQNState, dict[str, Array]]:
        target = self.estimate_target(state.q, experience)
        # [time * env, ...]
        batch = flatten_time(TargetBatch(experience.observation, experience.action, target))

        def epoch(learned, key):
            batches = minibatches(key, batch, self.batch_size)  # [batch, sample, ...]
            return jax.lax.scan(
                lambda learned, batch: self.fit_q(learned, batch, state.steps), learned, batches
            )

        learned = state.q, state.optimizer
        (q, optimizer), metrics = jax.lax.scan(epoch, learned, jax.random.split(key, self.epochs))
        state = replace(state, q=q, optimizer=optimizer, steps=state.steps + batch.target.size)
        return state, {
            **jax.tree.map(jnp.mean, metrics),
            "updates": jnp.int32(metrics["q_loss"].size),
        }

    def estimate_target(self, q: Network, experience: Transition) -> Array:
        """λ-returns that bootstrap from the best action, by q as it is before the update, [time,
        env] (Gallici et al., 2024)."""
        best = losses.max_q(q(experience.next_observation))
        return returns.lambda_returns(
            experience.reward,
            best,
            experience.terminated,
            experience.done,
            self.discount,
            self.q_lambda,
        )

    def fit_q(
        self, learned: Learned, batch: TargetBatch, steps: Array
    ) -> tuple[Learned, dict[str, Array]]:
        """One gradient step on E[½ (target - Q(s, a))²]; the greedy policy improves as q does."""
        q, optimizer = learned

        def loss(q):
            values = batched_index(q(batch.observation), batch.action)
            return losses.l2_loss(batch.target - values).mean(), values.mean()

        (value, mean), gradient = jax.value_and_grad(loss, has_aux=True)(q)
        step, optimizer = self.optimizer(steps).update(gradient, optimizer)
        return (optax.apply_updates(q, step), optimizer), {"q_loss": value, "q_value": mean}


ALGORITHMS = {
    "pqn": (
        PQN,
        "parallelized Q-learning: many environment copies, no replay and no target network",
    )
}
