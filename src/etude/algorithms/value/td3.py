"""Twin delayed deep deterministic policy gradients (Fujimoto et al., 2018); DDPG (Lillicrap et al.,
2016) is a setting of it."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.exploration import add_gaussian_noise
from etude.algorithms.common.off_policy import check_batch_size, update_from_replay
from etude.data.replay import uniform as replay
from etude.data.transition import Transition, zeros_like_spec
from etude.estimators import losses
from etude.nn import critics
from etude.nn.critics import Critics, critic_values
from etude.nn.networks import Activation, Network, make_network
from etude.optim.schedules import assume_unbatched
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class DeterministicPolicy:
    """An observation tree [..., *shape] to the action in (-1, 1), [..., *shape of actions]."""

    network: Network
    shape: tuple[int, ...] = static()

    def __call__(self, observation: Any) -> Array:
        action = jnp.tanh(self.network(observation))
        return action.reshape(*action.shape[:-1], *self.shape)


@struct
class TD3State:
    policy: DeterministicPolicy
    critics: Critics  # each ((observation, action)) -> [..., 1]
    target_policy: DeterministicPolicy  # what the bootstrap does; it follows the policy slowly
    target_critics: Critics  # what that is worth; they follow the critics slowly
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    policy_loss: Array  # of the policy's latest move, 0 before the first
    replay: Any  # Replay
    steps: Array  # int32: environment steps taken
    updates: Array  # int32: gradient steps taken by the critics


@struct
class TD3:
    """Deterministic policy gradients for bounded Box actions: twin critics, smoothed targets, a
    policy that moves seldom."""

    learning_rate: float = traced(1e-3, above=0)
    """Adam's step size, of policy and critics alike."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    target_rate: float = traced(0.005, above=0, at_most=1)
    """The targets' share of the way to what they follow; 1 copies it."""
    exploration_noise: float = traced(0.1, at_least=0)
    """Std of the normal noise on actions, in units of the policy's [-1, 1]."""
    target_noise: float = traced(0.2, at_least=0)
    """Std of the noise on the bootstrap's actions, in the same units."""
    target_noise_clip: float = traced(0.5, at_least=0)
    """That noise is held within ± this."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer; SB3 and the papers: (400, 300)."""
    activation: Activation = static("relu")
    """Between layers."""
    critics: int = static(2, at_least=1)
    """The bootstrap believes the least of them; the policy follows the first."""
    policy_interval: int = static(2, at_least=1)
    """Gradient steps of the critics between moves of policy and targets."""
    batch_size: int = static(256, at_least=1)
    """Transitions a gradient step (SB3)."""
    capacity: int = static(100_000, at_least=1)
    """Transitions the replay buffer holds; SB3: 1,000,000."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps of uniform play before the first gradient step (SB3)."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates."""
    gradient_steps: int = static(1, at_least=1)
    """Of the critics in each update."""

    default_num_envs: ClassVar[int] = 1

    def validate_fields(self) -> None:
        check_batch_size(self)

    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def init(self, key: Array, spec: EnvironmentSpec) -> TD3State:
        spec = replace(
            spec,
            action=spaces.normalized_action_space(spec.action, "td3 (and ddpg, a setting of it)"),
        )
        key_policy, key_critics = jax.random.split(key)
        outputs = spec.action.is_bounded.size
        policy = DeterministicPolicy(
            make_network(key_policy, spec.observation, self.hidden, outputs, self.activation),
            spec.action.shape,
        )
        twins = critics.make_critics(key_critics, spec, self.hidden, self.activation, self.critics)
        ring = replay.init(zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length)
        return TD3State(
            policy,
            twins,
            policy,
            twins,
            self.optimizer().init(policy),
            self.optimizer().init(twins),
            jnp.zeros(()),
            ring,
            jnp.int32(0),
            jnp.int32(0),
        )

    def act(
        self, state: TD3State, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The policy's action; when exploring, with noise, and during the warm-up a uniform one
        instead."""
        action = state.policy(observation)  # [env, *shape]
        if explore:
            action = add_gaussian_noise(
                action, self.exploration_noise, state.steps < self.warmup_steps, key
            )
        return action, memory

    def update(
        self, state: TD3State, experience: Transition, key: Array
    ) -> tuple[TD3State, Metrics]:
        return update_from_replay(self, state, experience, key)

    def gradient_step(
        self, state: TD3State, batch: Transition, key: Array
    ) -> tuple[TD3State, Metrics]:
        """One step of the critics; every `policy_interval` of them, one of the policy, and the
        targets move.

        The policy's loss counts in each step as what it was at its latest move, so that means over
        steps are of moves.
        """
        state, metrics = self.fit_critics(state, batch, key)

        def move(state):
            return self.move_targets(self.improve_policy(state, batch))

        due = assume_unbatched(state.updates) % self.policy_interval == 0
        state = (
            move(state)
            if self.policy_interval == 1
            else jax.lax.cond(due, move, lambda state: state, state)
        )
        return state, {**metrics, "policy_loss": state.policy_loss}

    def fit_critics(
        self, state: TD3State, batch: Transition, key: Array
    ) -> tuple[TD3State, Metrics]:
        """One gradient step of each critic on its own squared error from the target that all
        share."""
        target = self.estimate_target(state, batch, key)

        def loss(critics):
            values = critic_values(critics, batch.observation, batch.action)  # [critic, batch]
            return losses.l2_loss(target - values).mean(-1).sum(), values.mean()

        (value, mean), gradient = jax.value_and_grad(loss, has_aux=True)(state.critics)
        step, optimizer = self.optimizer().update(gradient, state.critic_optimizer)
        state = replace(
            state,
            critics=optax.apply_updates(state.critics, step),
            critic_optimizer=optimizer,
            updates=state.updates + 1,
        )
        return state, {"critic_loss": value, "q_value": mean}

    def estimate_target(self, state: TD3State, batch: Transition, key: Array) -> Array:
        """r + γ (1 - terminated) minᵢ Q'ᵢ(s', clip(π'(s') + ε, -1, 1)), ε normal noise held within
        ± target_noise_clip.

        Fujimoto et al., 2018, eq. 14 and algorithm 1. With one critic and no noise it is that of
        Lillicrap et al., 2016.
        """
        action = state.target_policy(batch.next_observation)
        noise = self.target_noise * jax.random.normal(key, action.shape)
        action = jnp.clip(
            action + jnp.clip(noise, -self.target_noise_clip, self.target_noise_clip), -1, 1
        )
        future = critic_values(state.target_critics, batch.next_observation, action).min(0)
        return losses.td_target(batch.reward, future, batch.terminated, self.discount)

    def improve_policy(self, state: TD3State, batch: Transition) -> TD3State:
        """One step up E[Q₁(s, π(s))]: the deterministic policy gradient (Silver et al., 2014), the
        critic held fixed."""

        def loss(policy):
            return -critic_values(
                state.critics[:1], batch.observation, policy(batch.observation)
            ).mean()

        value, gradient = jax.value_and_grad(loss)(state.policy)
        step, optimizer = self.optimizer().update(gradient, state.policy_optimizer)
        return replace(
            state,
            policy=optax.apply_updates(state.policy, step),
            policy_optimizer=optimizer,
            policy_loss=value,
        )

    def move_targets(self, state: TD3State) -> TD3State:
        """Polyak averages: each target goes `target_rate` of the way."""
        followed, targets = (
            (state.policy, state.critics),
            (state.target_policy, state.target_critics),
        )
        target_policy, target_critics = optax.incremental_update(
            followed, targets, self.target_rate
        )
        return replace(state, target_policy=target_policy, target_critics=target_critics)


DDPG = functools.partial(TD3, critics=1, policy_interval=1, target_noise=0.0)

ALGORITHMS = {
    "ddpg": (DDPG, "deep deterministic policy gradient: a bounded Box"),
    "td3": (TD3, "DDPG with twin critics, target policy smoothing and delayed policy updates"),
}
