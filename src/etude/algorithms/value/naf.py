"""Q-learning with continuous actions by normalized advantage functions (Gu et al., 2016)."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from etude import spaces
from etude.algorithms.common.exploration import add_gaussian_noise
from etude.algorithms.common.off_policy import check_batch_size, update_from_replay
from etude.data.replay import uniform as replay
from etude.data.transition import Transition, zeros_like_spec
from etude.estimators import losses
from etude.nn.networks import Activation, Network, make_network
from etude.optim.schedules import linear_schedule
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array

Learned = tuple["QNetwork", "QNetwork", optax.OptState]  # q, target_q, optimizer


@struct
class QuadraticAdvantage:
    """Q(s, ·) = V(s) - ½ (a - μ(s))ᵀ P(s) (a - μ(s)) at each state, P = L Lᵀ  (Gu et al., 2016, eq.
    7 and 8)."""

    value: Array  # V: the largest there is, [...]
    action: Array  # μ: the action that has it, [..., *shape of actions]
    # L: lower triangular with a positive diagonal, so that P is positive definite, [..., n, n]
    factor: Array

    def __call__(self, action: Array) -> Array:
        """Q of actions [..., *shape], [...]."""
        deviation = (action - self.action).reshape(*self.value.shape, -1)  # [..., n]
        return (
            self.value - (jnp.einsum("...i,...ij->...j", deviation, self.factor) ** 2).sum(-1) / 2
        )


@struct
class QNetwork:
    """An observation tree [..., *shape] to Q as a function of the action."""

    network: Network
    shape: tuple[int, ...] = static()  # of actions

    def __call__(self, observation: Any) -> QuadraticAdvantage:
        n = math.prod(self.shape)
        # [..., 1], [..., n], [..., n(n+1)/2]
        value, action, entries = jnp.split(self.network(observation), (1, 1 + n), -1)
        return QuadraticAdvantage(
            value[..., 0],
            jnp.tanh(action).reshape(*action.shape[:-1], *self.shape),
            lower_triangle(entries, n),
        )


@struct
class NAFState:
    q: QNetwork
    target_q: QNetwork  # where the bootstrap comes from; it follows q slowly
    optimizer: optax.OptState
    replay: replay.ReplayBuffer
    steps: Array  # int32: environment steps taken
    updates: Array  # int32: gradient steps taken


@struct
class NAF:
    """Q-learning for bounded Box actions: Q is quadratic in the action, so its maximum is read off,
    not searched for.

    Unmarked defaults are those of pytorch-ddpg-naf at 05ad358, whose noise is Ornstein and
    Uhlenbeck's.
    """

    learning_rate: float = traced(3e-4, above=0)
    """Adam's step size; pytorch-ddpg-naf: 1e-3 (found by trial)."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    target_rate: float = traced(0.001, above=0, at_most=1)
    """The target's share of the way to q, each gradient step; 1 copies it."""
    initial_noise: float = traced(0.3, at_least=0)
    """Std of the normal noise on actions, in [-1, 1], at the start."""
    final_noise: float = traced(0.1, at_least=0)
    """And from exploration_steps on (found by trial)."""
    exploration_steps: float = traced(10_000.0, above=0)
    """Environment steps over which it falls linearly (found by trial)."""
    max_gradient_norm: float = traced(1.0, above=0)
    """The gradient's global norm is clipped here; inf: never."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer; Gu et al. (2016): (200, 200)."""
    activation: Activation = static("tanh")
    """Between layers; with relu Q is prone to diverge (found by trial)."""
    batch_size: int = static(128, at_least=1)
    """Transitions a gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions the replay buffer holds."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps of uniform play before the first gradient step (SB3)."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates."""
    gradient_steps: int = static(5, at_least=1)
    """In each update."""

    default_num_envs: ClassVar[int] = 1

    def validate_fields(self) -> None:
        check_batch_size(self)

    def optimizer(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate)
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> NAFState:
        spec = replace(spec, action=spaces.normalized_action_space(spec.action, "naf"))
        n = math.prod(spec.action.shape)
        q = QNetwork(
            make_network(
                key, spec.observation, self.hidden, 1 + n + n * (n + 1) // 2, self.activation
            ),
            spec.action.shape,
        )
        ring = replay.init(zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length)
        return NAFState(q, q, self.optimizer().init(q), ring, jnp.int32(0), jnp.int32(0))

    def act(
        self, state: NAFState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The best action by q; when exploring, with noise, and during the warm-up a uniform one
        instead."""
        action = state.q(observation).action  # [env, *shape]
        if explore:
            action = add_gaussian_noise(
                action, self.noise(state.steps), state.steps < self.warmup_steps, key
            )
        return action, memory

    def noise(self, steps: Array) -> Array:
        """The standard deviation of exploration."""
        return linear_schedule(steps, self.initial_noise, self.final_noise, self.exploration_steps)

    def update(
        self, state: NAFState, experience: Transition, key: Array
    ) -> tuple[NAFState, dict[str, Array]]:
        return update_from_replay(self, state, experience, key)

    def gradient_step(
        self, state: NAFState, batch: Transition, key: Array
    ) -> tuple[NAFState, dict[str, Array]]:
        (q, target_q, optimizer), metrics = self.fit_q(
            (state.q, state.target_q, state.optimizer), batch
        )
        return replace(
            state, q=q, target_q=target_q, optimizer=optimizer, updates=state.updates + 1
        ), metrics

    def fit_q(self, learned: Learned, batch: Transition) -> tuple[Learned, dict[str, Array]]:
        """One gradient step on the squared Bellman error of `batch`; the greedy policy improves as
        q does."""
        q, target_q, optimizer = learned
        target = self.estimate_target(target_q, batch)

        def loss(q):
            values = q(batch.observation)(batch.action)
            return losses.l2_loss(target - values).mean(), values.mean()

        (value, mean), gradient = jax.value_and_grad(loss, has_aux=True)(q)
        step, optimizer = self.optimizer().update(gradient, optimizer)
        q = optax.apply_updates(q, step)
        return (q, optax.incremental_update(q, target_q, self.target_rate), optimizer), {
            "q_loss": value,
            "q_value": mean,
        }

    def estimate_target(self, target_q: QNetwork, batch: Transition) -> Array:
        """r + γ (1 - terminated) V_target(s'), V being maxₐ Q"""
        return losses.td_target(
            batch.reward, target_q(batch.next_observation).value, batch.terminated, self.discount
        )


def lower_triangle(entries: Array, n: int) -> Array:
    """L [..., n, n] from its n(n+1)/2 entries [..., n(n+1)/2] in row-major order, the diagonal's by
    their logarithms."""
    rows, columns = np.tril_indices(n)
    diagonal = rows == columns
    # twice: a gradient never is inf · 0
    entries = jnp.where(diagonal, jnp.exp(jnp.where(diagonal, entries, 0)), entries)
    return jnp.zeros((*entries.shape[:-1], n, n)).at[..., rows, columns].set(entries)


ALGORITHMS = {
    "naf": (NAF, "normalized advantage functions: Q is quadratic in the action of a bounded Box")
}
