"""Normalized advantage functions, NAF: Q-learning for continuous actions (Gu et al., 2016)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from etude import spaces
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import replay_agents
from etude.algorithms.common.exploration import add_gaussian_noise
from etude.algorithms.common.off_policy import update_from_replay
from etude.algorithms.protocol import Relabel, algorithm
from etude.counters import count_up
from etude.data.replay.hindsight import Hindsight
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import ReplayBatch, Transition
from etude.estimators import losses
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation, Network, make_network
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import linear_schedule
from etude.spaces import EnvironmentSpec, GoalRewardFunction
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array

FitState = tuple["QNetwork", "QNetwork", optax.OptState]  # q, target_q, opt_state


@struct
class QuadraticAdvantage:
    """Q as a concave quadratic of the action, at each state (Gu et al., 2016, eq. 7 and 8).

    Q(s, a) = V(s) - ½ (a - μ(s))ᵀ P(s) (a - μ(s)),   P(s) = L(s) L(s)ᵀ
    """

    value: Array  # V(s) = maxₐ Q(s, a), [...]
    action: Array  # μ(s) = argmaxₐ Q(s, a), [..., *shape of actions]
    # L(s): lower triangular with a positive diagonal, so P is positive definite, [..., n, n]
    factor: Array

    def __call__(self, action: Array) -> Array:
        """Q(s, a) of actions [..., *shape], [...]."""
        deviation = (action - self.action).reshape(*self.value.shape, -1)  # [..., n]
        scaled = jnp.einsum("...i,...ij->...j", deviation, self.factor)  # Lᵀ (a - μ)
        return self.value - (scaled**2).sum(-1) / 2


@struct
class QNetwork:
    """A network from an observation tree [..., *shape] to Q(s, ·) as a function of the action."""

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
    target_q: QNetwork  # target network, which follows q; the bootstrap value comes from it
    opt_state: optax.OptState
    replay: RingBuffer
    steps: Array  # int32: environment steps taken, summed over all environment copies
    gradient_steps_taken: Array  # int32
    goal_reward: GoalRewardFunction | None = static(None)  # of hindsight, None without


@algorithm
class NAF:
    """Q-learning for bounded Box actions: Q is quadratic in the action, so argmaxₐ Q is exact.

    Defaults without a remark are those of pytorch-ddpg-naf at 05ad358, whose exploration noise is
    an Ornstein-Uhlenbeck process instead.
    """

    learning_rate: float = traced(3e-4, above=0)
    """Step size of Adam; pytorch-ddpg-naf has 1e-3 (found by trial)."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    target_rate: float = traced(0.001, above=0, at_most=1)
    """Fraction by which each gradient step moves the target network toward q; smaller values give
    slower, steadier targets; 1 copies it."""
    initial_noise: float = traced(0.3, at_least=0)
    """Initial standard deviation of the Gaussian exploration noise; actions are scaled to [-1,
    1]."""
    final_noise: float = traced(0.1, at_least=0)
    """Standard deviation of the exploration noise after exploration_steps (found by trial)."""
    exploration_steps: float = traced(10_000.0, above=0, infinite=True)
    """Environment steps, summed over all environment copies, over which the exploration noise falls
    linearly (found by trial)."""
    max_gradient_norm: float = traced(1.0, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    hindsight: Hindsight | None = nested(None)
    """Whether goals that were achieved later take the desired goals' place in replay, where
    observations have both (HER; Andrychowicz et al., 2017)."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, a memory for partially observed environments."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer; Gu et al. (2016) have (200, 200)."""
    activation: Activation = static("tanh")
    """Activation function of the hidden layers; with relu Q often diverges (found by trial)."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    sequence_length: int = static(16, at_least=1)
    """Steps of the sequences that recurrent networks learn from, burn-in included; batch_size must
    be a multiple; no effect with recurrent "none"."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence that only bring the recurrent state up to date (Kapturowski
    et al., 2019); no effect with recurrent "none"."""
    batch_size: int = static(128, at_least=1)
    """Transitions sampled from replay per gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions in the replay buffer, summed over all environment copies."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps, summed over all environment copies, of uniformly random actions before the
    first gradient step; 100 in SB3."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each environment copy per update."""
    gradient_steps: int = static(5, at_least=1)
    """Gradient steps per update; more of them reuse each transition more often."""

    def validate_fields(self) -> None:
        replay_agents.check_replay(self)

    first_update, remarks = replay_agents.first_update, replay_agents.remarks

    @property
    def assumes(self) -> Assumptions:
        return replay_agents.replay_assumptions(self, Assumptions(("bounded Box",)))

    def optimizer(self) -> optax.GradientTransformation:
        """Return Adam on the clipped gradient."""
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate)
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> NAFState:
        """Return random networks, optimizer state and an empty replay buffer."""
        spec = spaces.with_normalized_actions(spec)
        n = math.prod(spec.action.shape)
        num_outputs = 1 + n + n * (n + 1) // 2
        network = make_network(
            key,
            spec.observation,
            self.hidden,
            num_outputs,
            self.activation,
            torso=self.torso,
            recurrent=self.recurrent,
        )
        q = QNetwork(network, spec.action.shape)
        return NAFState(
            q,
            q,
            self.optimizer().init(q),
            replay_agents.init_replay(self, q, spec),
            jnp.int32(0),
            jnp.int32(0),
            replay_agents.hindsight_reward(self, spec),
        )

    def initial_memory(self, state: NAFState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return what an episode begins with; () unless recurrent or with hindsight."""
        return replay_agents.initial_agent_memory(self, state.q, spec)

    def act(
        self, state: NAFState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the greedy action; with `explore` plus noise, or a random one in the warm-up."""
        observation, memory = replay_agents.remember(self, state.q, observation, memory)
        action = state.q(observation).action  # [env, *shape]
        if explore:
            action = add_gaussian_noise(
                action, self.noise(state.steps), state.steps < self.warmup_steps, key
            )
        return action, memory

    def noise(self, steps: Array) -> Array:
        """Return the std of the exploration noise after `steps` environment steps."""
        return linear_schedule(steps, self.initial_noise, self.final_noise, self.exploration_steps)

    def update(
        self, state: NAFState, experience: Transition, key: Array, *, relabel: Relabel | None = None
    ) -> tuple[NAFState, dict[str, Array]]:
        """Insert the experience [time, env] into replay, then take `gradient_steps` steps.

        `relabel` may change each batch before.
        """
        return update_from_replay(self, state, experience, key, relabel)

    def gradient_step(
        self, state: NAFState, batch: ReplayBatch, key: Array
    ) -> tuple[NAFState, dict[str, Array]]:
        """Take one gradient step on `batch` and update the target network."""
        fit_state = state.q, state.target_q, state.opt_state
        (q, target_q, opt_state), metrics = self.fit_q(fit_state, batch)
        state = replace(
            state,
            q=q,
            target_q=target_q,
            opt_state=opt_state,
            gradient_steps_taken=count_up(state.gradient_steps_taken, 1),
        )
        return state, metrics

    def fit_q(self, fit_state: FitState, batch: ReplayBatch) -> tuple[FitState, dict[str, Array]]:
        """Take one gradient step on E[½ (target - Q(s, a))²]; also update the target network."""
        q, target_q, opt_state = fit_state
        target = self.estimate_target(target_q, batch)

        def loss_fn(q):
            values = q(batch.transition.observation)(batch.transition.action)
            losses.check_target("estimate_target", target, values)
            return (batch.weight * losses.l2_loss(target - values)).mean(), values.mean()

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(q)
        updates, opt_state = self.optimizer().update(gradient, opt_state)
        q = optax.apply_updates(q, updates)
        target_q = optax.incremental_update(q, target_q, self.target_rate)
        return (q, target_q, opt_state), {"q_loss": loss, "q_value": q_mean}

    def estimate_target(self, target_q: QNetwork, batch: ReplayBatch) -> Array:
        """Return the TD targets r + γ (1 - terminated) V_target(s'), V = maxₐ Q, [batch]."""
        next_value = target_q(batch.transition.next_observation).value
        return batch.transition.reward + batch.discount * next_value

    def value(self, state: NAFState, observation: Any, memory: Any, key: Array) -> Array:
        """Return V(s) = maxₐ Q(s, a) of the target network, [env]."""
        return state.target_q(replay_agents.remember(self, state.q, observation, memory)[0]).value


def lower_triangle(entries: Array, n: int) -> Array:
    """The lower triangular L [..., n, n] from its entries [..., n(n+1)/2] in row-major order.

    The entries of the diagonal are given by their logarithms.
    """
    rows, columns = np.tril_indices(n)
    diagonal = rows == columns
    # the inner `where` keeps exp finite off the diagonal, else the gradient could be inf · 0
    entries = jnp.where(diagonal, jnp.exp(jnp.where(diagonal, entries, 0)), entries)
    return jnp.zeros((*entries.shape[:-1], n, n)).at[..., rows, columns].set(entries)


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "naf": (NAF, "normalized advantage functions: Q is quadratic in the action of a bounded Box")
}
