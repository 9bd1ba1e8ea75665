"""Twin delayed DDPG, TD3 (Fujimoto et al., 2018), and its variant DDPG (Lillicrap et al., 2016)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import replay_agents
from etude.algorithms.common.exploration import add_gaussian_noise
from etude.algorithms.common.off_policy import update_from_replay
from etude.algorithms.protocol import Relabel, algorithm
from etude.counters import count_back, is_multiple
from etude.data.replay.hindsight import Hindsight
from etude.data.transition import ReplayBatch, Transition
from etude.estimators import losses
from etude.nn.critics import Critics, critic_values, make_critics
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation, Network, make_network
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import assume_unbatched
from etude.spaces import EnvironmentSpec, GoalRewardFunction
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class DeterministicPolicy:
    """A network that maps an observation tree [..., *shape] to actions [..., *shape] in (-1, 1)."""

    network: Network
    shape: tuple[int, ...] = static()  # of actions

    def __call__(self, observation: Any) -> Array:
        action = jnp.tanh(self.network(observation))
        return action.reshape(*action.shape[:-1], *self.shape)


@struct
class TD3State:
    policy: DeterministicPolicy
    critics: Critics  # each ((observation, action)) -> [..., 1]
    target_policy: DeterministicPolicy  # chooses the next action of the target; follows the policy
    target_critics: Critics  # evaluate that action; they follow the critics
    policy_opt_state: optax.OptState
    critic_opt_state: optax.OptState
    policy_loss: Array  # of the latest gradient step of the policy; 0 before the first
    replay: Any  # a RingBuffer; () during gradient steps
    steps: Array  # int32: environment steps taken, summed over all environment copies
    gradient_steps_taken: Array  # int32, by the critics
    goal_reward: GoalRewardFunction | None = static(None)  # of hindsight, None without


@algorithm
class TD3:
    """Deterministic policy gradients for a bounded Box: twin critics, delayed policy updates."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for policy and critics."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    target_rate: float = traced(0.005, above=0, at_most=1)
    """Fraction by which an update moves the target networks toward the networks; smaller values
    give slower, steadier targets; 1 copies them."""
    exploration_noise: float = traced(0.1, at_least=0)
    """Standard deviation of the Gaussian exploration noise; actions are scaled to [-1, 1]."""
    target_noise: float = traced(0.2, at_least=0)
    """Standard deviation of the Gaussian noise on the target policy's actions, in [-1, 1]."""
    target_noise_clip: float = traced(0.5, at_least=0, infinite=True)
    """Bound to which the noise on the target policy's actions is clipped, on both sides; no effect
    with target_noise 0."""
    hindsight: Hindsight | None = nested(None)
    """Whether goals that were achieved later take the desired goals' place in replay, where
    observations have both (HER; Andrychowicz et al., 2017)."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, a memory for partially observed environments."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer; SB3 and the papers have (400, 300)."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    num_critics: int = static(2, at_least=1)
    """Number of critics; targets use their minimum, which reduces overestimation, and the policy
    follows the first."""
    policy_interval: int = static(2, at_least=1)
    """Gradient steps of the critics between updates of the policy and the target networks."""
    sequence_length: int = static(16, at_least=1)
    """Steps of the sequences that recurrent networks learn from, burn-in included; batch_size must
    be a multiple; no effect with recurrent "none"."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence that only bring the recurrent state up to date (Kapturowski
    et al., 2019); no effect with recurrent "none"."""
    batch_size: int = static(256, at_least=1)
    """Transitions sampled from replay per gradient step; 256 in SB3."""
    capacity: int = static(100_000, at_least=1)
    """Transitions in the replay buffer, summed over all environment copies; 1,000,000 in SB3."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps, summed over all environment copies, of uniformly random actions before the
    first gradient step; 100 in SB3."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each environment copy per update."""
    gradient_steps: int = static(1, at_least=1)
    """Gradient steps of the critics per update; more of them reuse each transition more often."""

    def validate_fields(self) -> None:
        replay_agents.check_replay(self)

    first_update, remarks = replay_agents.first_update, replay_agents.remarks

    @property
    def assumes(self) -> Assumptions:
        return replay_agents.replay_assumptions(self, Assumptions(("bounded Box",)))

    def optimizer(self) -> optax.GradientTransformation:
        """Return Adam."""
        return optax.adam(self.learning_rate)

    def init(self, key: Array, spec: EnvironmentSpec) -> TD3State:
        """Return random networks, optimizer states and an empty replay buffer."""
        spec = spaces.with_normalized_actions(spec)
        key_policy, key_critics = jax.random.split(key)
        num_outputs = spec.action.is_bounded.size
        network = make_network(
            key_policy,
            spec.observation,
            self.hidden,
            num_outputs,
            self.activation,
            torso=self.torso,
            recurrent=self.recurrent,
        )
        policy = DeterministicPolicy(network, spec.action.shape)
        critics = make_critics(
            key_critics,
            spec,
            self.hidden,
            self.activation,
            self.num_critics,
            self.torso,
            self.recurrent,
        )
        return TD3State(
            policy,
            critics,
            policy,
            critics,
            self.optimizer().init(policy),
            self.optimizer().init(critics),
            jnp.zeros(()),
            replay_agents.init_replay(self, (policy, critics), spec),
            jnp.int32(0),
            jnp.int32(0),
            replay_agents.hindsight_reward(self, spec),
        )

    def initial_memory(self, state: TD3State, spec: EnvironmentSpec, key: Array) -> Any:
        """Return what an episode begins with; () unless recurrent or with hindsight."""
        return replay_agents.initial_agent_memory(self, (state.policy, state.critics), spec)

    def act(
        self, state: TD3State, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the policy's action; with `explore` plus noise, or a random one in the warm-up."""
        networks = (state.policy, state.critics) if explore else state.policy
        observation, memory = replay_agents.remember(self, networks, observation, memory)
        action = state.policy(observation)  # [env, *shape]
        if explore:
            action = add_gaussian_noise(
                action, self.exploration_noise, state.steps < self.warmup_steps, key
            )
        return action, memory

    def update(
        self, state: TD3State, experience: Transition, key: Array, *, relabel: Relabel | None = None
    ) -> tuple[TD3State, Metrics]:
        """Insert the experience [time, env] into replay, then take `gradient_steps` steps.

        `relabel` may change each batch before.
        """
        return update_from_replay(self, state, experience, key, relabel)

    def gradient_step(
        self, state: TD3State, batch: ReplayBatch, key: Array
    ) -> tuple[TD3State, Metrics]:
        """Update the critics; every `policy_interval` steps also the policy and the targets.

        The metric "policy_loss" repeats the latest policy loss, so that its mean over steps is a
        mean over policy updates.
        """
        state, metrics = self.update_critics(state, batch, key)

        def update_policy_and_targets(state):
            return self.update_targets(self.update_policy(state, batch))

        is_policy_step = is_multiple(
            assume_unbatched(state.gradient_steps_taken), self.policy_interval
        )
        if self.policy_interval == 1:
            state = update_policy_and_targets(state)
        else:
            state = jax.lax.cond(
                is_policy_step, update_policy_and_targets, lambda state: state, state
            )
        return state, {**metrics, "policy_loss": state.policy_loss}

    def update_critics(
        self, state: TD3State, batch: ReplayBatch, key: Array
    ) -> tuple[TD3State, Metrics]:
        """Take one gradient step on the sum over critics of E[½ (target - Q(s, a))²]."""
        td_target = self.estimate_target(state, batch, key)
        transition = batch.transition

        def loss_fn(critics):
            # [critic, batch]
            values = critic_values(critics, transition.observation, transition.action)
            losses.check_target("estimate_target", td_target, values[0])
            loss = batch.weight * losses.l2_loss(td_target - values)
            return loss.mean(range(1, loss.ndim)).sum(), values.mean()

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.critics)
        updates, opt_state = self.optimizer().update(gradient, state.critic_opt_state)
        state = replace(
            state,
            critics=optax.apply_updates(state.critics, updates),
            critic_opt_state=opt_state,
            gradient_steps_taken=count_back(state.gradient_steps_taken, self.policy_interval) + 1,
        )
        return state, {"critic_loss": loss, "q_value": q_mean}

    def estimate_target(self, state: TD3State, batch: ReplayBatch, key: Array) -> Array:
        """Return the TD targets y of the critics, [batch].

            y = r + γ (1 - terminated) minᵢ Q'ᵢ(s', clip(π'(s') + ε, -1, 1))

        Q' and π' are the target networks, and ε is normal noise clipped to ± target_noise_clip
        (Fujimoto et al., 2018, eq. 14 and algorithm 1). With one critic and no noise this is DDPG's
        target (Lillicrap et al., 2016).
        """
        next_value = self.target_value(state, batch.transition.next_observation, key)
        return batch.transition.reward + batch.discount * next_value

    def target_value(self, state: TD3State, observation: Any, key: Array) -> Array:
        """Return minᵢ Q'ᵢ(s, clip(π'(s) + ε, -1, 1)), [...]."""
        action = state.target_policy(observation)
        noise = self.target_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.target_noise_clip, self.target_noise_clip)
        action = jnp.clip(action + noise, -1, 1)
        return critic_values(state.target_critics, observation, action).min(0)

    def value(self, state: TD3State, observation: Any, memory: Any, key: Array) -> Array:
        """Return V(s) of the target networks, with the noise of the target policy, [env]."""
        networks = state.policy, state.critics
        return self.target_value(
            state, replay_agents.remember(self, networks, observation, memory)[0], key
        )

    def update_policy(self, state: TD3State, batch: ReplayBatch) -> TD3State:
        """Take one gradient ascent step on E[Q₁(s, π(s))] (Silver et al., 2014)."""
        observation = batch.transition.observation

        def loss_fn(policy):
            (q,) = critic_values(state.critics[:1], observation, policy(observation))
            return -(batch.weight * q).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(state.policy)
        updates, opt_state = self.optimizer().update(gradient, state.policy_opt_state)
        return replace(
            state,
            policy=optax.apply_updates(state.policy, updates),
            policy_opt_state=opt_state,
            policy_loss=loss,
        )

    def update_targets(self, state: TD3State) -> TD3State:
        """Move the target networks by `target_rate` toward the networks: Polyak averages."""
        target_policy, target_critics = optax.incremental_update(
            (state.policy, state.critics),
            (state.target_policy, state.target_critics),
            self.target_rate,
        )
        return replace(state, target_policy=target_policy, target_critics=target_critics)


DDPG = functools.partial(TD3, num_critics=1, policy_interval=1, target_noise=0.0)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "ddpg": (DDPG, "deep deterministic policy gradient: a bounded Box"),
    "td3": (TD3, "DDPG with twin critics, target policy smoothing and delayed policy updates"),
}
