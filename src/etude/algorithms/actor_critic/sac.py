"""Soft actor-critic, SAC (Haarnoja et al., 2018), and a variant with a score-function gradient.

SAC has a learned temperature (Haarnoja et al., 2019) and also takes discrete actions
(Christodoulou, 2019). The variant, OffPolicyActorCritic, has no entropy bonus. Both compute the
policy gradient from actions sampled from the current policy, not from those in replay.
"""

import functools
import math
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import replay_agents
from etude.algorithms.common.exploration import random_choice
from etude.algorithms.common.off_policy import update_from_replay
from etude.algorithms.protocol import Relabel, algorithm
from etude.counters import count_up
from etude.data.replay.hindsight import Hindsight
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.estimators import losses
from etude.nn.action_masks import legal_actions, masked
from etude.nn.critics import Critics, critic_values, make_critics
from etude.nn.custom_torso import TorsoMaker
from etude.nn.distributions import (
    MASKED_LOGIT,
    Categorical,
    SquashedNormal,
    squashed_distribution_for,
)
from etude.nn.networks import Activation, Network, make_network
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import linear_decay
from etude.spaces import Box, Discrete, EnvironmentSpec, GoalRewardFunction, Space
from etude.struct import code, nested, replace, static, struct, traced
from etude.trees import batched_index
from etude.types import Array, Metrics

MAX_LOG_STD = 2.0  # as in the code of Haarnoja et al. and in Stable-Baselines3 (SB3)


@struct
class StochasticPolicy:
    """A network that maps an observation tree [..., *shape] to a distribution over actions."""

    network: Network
    actions: "DiscreteActions | BoxActions" = static()

    def __call__(self, observation: Any) -> Categorical | SquashedNormal:
        return self.actions.distribution(self.network(observation), observation)


@struct
class SACState:
    policy: StochasticPolicy
    critics: Critics
    target_critics: Critics  # Polyak average of the critics; the bootstrap value comes from them
    log_temperature: Any  # log α; () without learn_temperature, when α is a constant
    policy_opt_state: optax.OptState
    critic_opt_state: optax.OptState
    temperature_opt_state: optax.OptState
    replay: Any  # a RingBuffer; () during gradient steps
    rollout_noise_key: Any  # key data of the exploration noise; () without noise_per_rollout
    steps: Array  # int32: environment steps taken, summed over all environment copies
    gradient_steps_taken: Array  # int32
    goal_reward: GoalRewardFunction | None = static(None)  # of hindsight, None without


@algorithm
class SAC:
    """Soft actor-critic for a Box or discrete actions: replay, twin critics, an entropy bonus."""

    learning_rate: float = traced(3e-4, above=0)
    """Step size of Adam for policy, critics and temperature; 3e-4 in SB3."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    target_rate: float = traced(0.005, above=0, at_most=1)
    """Fraction by which each gradient step moves the target critics toward the critics; smaller
    values give slower, steadier targets."""
    initial_temperature: float = traced(1.0, at_least=0)
    """Initial temperature α, the reward per nat of entropy; constant without learn_temperature."""
    target_entropy_per_element: float = traced(-1.0)
    """Target entropy per element of a Box action, in nats on the scale [-1, 1]; larger values
    explore more (Haarnoja et al., 2019); no effect with Discrete actions or without
    learn_temperature."""
    target_entropy_fraction: float = traced(0.5, above=0, at_most=1)
    """Target entropy of n Discrete actions as a fraction of log n nats, see update_temperature;
    larger values explore more; no effect with a Box or without learn_temperature."""
    min_log_std: float = static(-20.0, at_most=MAX_LOG_STD)
    """Lower bound of the log standard deviation of a Box action before tanh, which keeps some
    exploration; -20 in SB3; no effect with Discrete actions."""
    hindsight: Hindsight | None = nested(None)
    """Whether goals that were achieved later take the desired goals' place in replay, where
    observations have both (HER; Andrychowicz et al., 2017)."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, a memory for partially observed environments."""
    learn_temperature: bool = static(True)
    """Whether the temperature is learned, which keeps the policy's entropy near its target."""
    noise_per_rollout: bool = static(False)
    """Whether the exploration noise is sampled once per rollout, not at each step (Raffin et al.,
    2021); no effect with rollout_length 1."""
    policy_gradient: Literal["reparameterized", "score_function"] = static("reparameterized")
    """Estimator of the policy gradient: "reparameterized" differentiates Q through the sampled Box
    action, or the exact expectation over Discrete actions; "score_function" uses ∇log π Q."""
    num_critics: int = static(2, at_least=1)
    """Number of critics; their minimum reduces overestimation; 2 are twin critics (Fujimoto et al.,
    2018)."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer, of policy and critics alike."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    sequence_length: int = static(16, at_least=1)
    """Steps of the sequences that recurrent networks learn from, burn-in included; batch_size must
    be a multiple; no effect with recurrent "none"."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence that only bring the recurrent state up to date (Kapturowski
    et al., 2019); no effect with recurrent "none"."""
    batch_size: int = static(256, at_least=1)
    """Transitions sampled from replay per gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions in the replay buffer, summed over all environment copies; 1,000,000 in SB3."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps, summed over all environment copies, of uniformly random actions before the
    first gradient step; 100 in SB3."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each environment copy per update."""
    gradient_steps: int = static(1, at_least=1)
    """Gradient steps per update; more of them reuse each transition more often."""

    def validate_fields(self) -> None:
        replay_agents.check_replay(self)
        is_concrete = not isinstance(self.initial_temperature, jax.core.Tracer)
        if self.learn_temperature and is_concrete and self.initial_temperature == 0:
            raise InvalidInput(
                "initial_temperature is 0; a learned temperature changes by multiplication, so it "
                "would stay 0: start it above 0, or set learn_temperature=False"
            )

    first_update, remarks = replay_agents.first_update, replay_agents.remarks

    @property
    def assumes(self) -> Assumptions:
        assumptions = Assumptions(("Discrete", "Box"), action_masks=True)
        return replay_agents.replay_assumptions(self, assumptions)

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Return Adam with its step size after `steps` environment steps."""
        return optax.adam(self.learning_rate * linear_decay(steps, self.learning_rate_decay))

    def init(self, key: Array, spec: EnvironmentSpec) -> SACState:
        """Return random networks, optimizer states and an empty replay buffer."""
        actions = actions_for(spec, self.min_log_std)
        spec = replace(spec, action=actions.space)
        key_policy, key_critics, key_noise = jax.random.split(key, 3)
        network = make_network(
            key_policy,
            spec.observation,
            self.hidden,
            actions.num_outputs,
            self.activation,
            torso=self.torso,
            recurrent=self.recurrent,
        )
        policy = StochasticPolicy(network, actions)
        critics = actions.init_critics(
            key_critics,
            spec,
            self.hidden,
            self.activation,
            self.num_critics,
            self.torso,
            self.recurrent,
        )
        log_temperature = (
            jnp.log(jnp.float32(self.initial_temperature)) if self.learn_temperature else ()
        )
        zero = jnp.int32(0)
        init_optimizer = self.optimizer(zero).init
        return SACState(
            policy,
            critics,
            critics,
            log_temperature,
            init_optimizer(policy),
            init_optimizer(critics),
            init_optimizer(log_temperature),
            replay_agents.init_replay(self, (policy, critics), spec),
            jax.random.key_data(key_noise) if self.noise_per_rollout else (),
            zero,
            zero,
            replay_agents.hindsight_reward(self, spec),
        )

    def initial_memory(self, state: SACState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return what an episode begins with; () unless recurrent or with hindsight."""
        return replay_agents.initial_agent_memory(self, (state.policy, state.critics), spec)

    def act(
        self, state: SACState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the policy's mode; with `explore` a sample, or a random action in the warm-up.

        With `noise_per_rollout` all steps of a rollout use the same noise, also in the warm-up.
        Noise sampled anew at each step tends to cancel out over time; shared noise explores
        further. It is that of gSDE (Raffin et al., 2021) without the dependence on the state.
        """
        networks = (state.policy, state.critics) if explore else state.policy
        observation, memory = replay_agents.remember(self, networks, observation, memory)
        pi = state.policy(observation)
        mode = pi.mode()
        if not explore:
            return mode, memory
        key_sample, key_random = jax.random.split(
            jax.random.wrap_key_data(state.rollout_noise_key) if self.noise_per_rollout else key
        )
        random_action = state.policy.actions.random_action(observation, key_random, mode.shape)
        is_warmup = state.steps < self.warmup_steps
        return jnp.where(is_warmup, random_action, pi.sample(key_sample)), memory

    def update(
        self, state: SACState, experience: Transition, key: Array, *, relabel: Relabel | None = None
    ) -> tuple[SACState, Metrics]:
        """Insert the experience [time, env] into replay, then take `gradient_steps` steps.

        `relabel` may change each batch before.
        """
        if self.noise_per_rollout:
            key, key_noise = jax.random.split(key)
            state = replace(state, rollout_noise_key=jax.random.key_data(key_noise))
        return update_from_replay(self, state, experience, key, relabel)

    def gradient_step(
        self, state: SACState, batch: ReplayBatch, key: Array
    ) -> tuple[SACState, Metrics]:
        """Update critics, policy and temperature by one gradient step each, then the targets."""
        key_critics, key_policy = jax.random.split(key)
        metrics = {"temperature": self.temperature(state)}
        state, critic_metrics = self.update_critics(state, batch, key_critics)
        state, policy_metrics = self.update_policy(state, batch, key_policy)
        state = self.update_temperature(state, batch, policy_metrics["entropy"])
        state = self.update_targets(state)
        state = replace(state, gradient_steps_taken=count_up(state.gradient_steps_taken, 1))
        return state, {**metrics, **critic_metrics, **policy_metrics}

    def temperature(self, state: SACState) -> Any:
        """Return the temperature α: exp(log_temperature), or the constant initial_temperature."""
        return (
            jnp.exp(state.log_temperature)
            if self.learn_temperature
            else jnp.float32(self.initial_temperature)
        )

    def update_critics(
        self, state: SACState, batch: ReplayBatch, key: Array
    ) -> tuple[SACState, Metrics]:
        """Take one gradient step on the sum over critics of E[½ (target - Q(s, a))²]."""
        td_target = self.estimate_target(state, batch, key)
        transition = batch.transition

        def loss_fn(critics):
            # [critic, batch]
            values = state.policy.actions.q_values(
                critics, transition.observation, transition.action
            )
            losses.check_target("estimate_target", td_target, values[0])
            loss = batch.weight * losses.l2_loss(td_target - values)
            return loss.mean(range(1, loss.ndim)).sum(), values.mean()

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.critics)
        updates, opt_state = self.optimizer(state.steps).update(gradient, state.critic_opt_state)
        state = replace(
            state, critics=optax.apply_updates(state.critics, updates), critic_opt_state=opt_state
        )
        return state, {"critic_loss": loss, "q_value": q_mean}

    def estimate_target(self, state: SACState, batch: ReplayBatch, key: Array) -> Array:
        """Return the TD targets y of the critics, [batch].

            y = r + γ (1 - terminated) E[min Q_target(s', a') - α log π(a'|s')],   a' ~ π(·|s')

        Haarnoja et al. (2019), eq. 2 and 3.
        """
        next_value = self.soft_value(state, batch.transition.next_observation, key)
        return batch.transition.reward + batch.discount * next_value

    def soft_value(self, state: SACState, observation: Any, key: Array) -> Array:
        """Return V(s) = E[min Q_target(s, a) - α log π(a|s)], a ~ π(·|s), [...]."""
        action = state.policy.actions.action_expectation(
            state.policy(observation), state.target_critics, observation, key
        )
        return action.expectation(action.min_q - self.temperature(state) * action.log_prob)

    def value(self, state: SACState, observation: Any, memory: Any, key: Array) -> Array:
        """Return V(s) with the policy's entropy, by the target critics, [env]."""
        networks = state.policy, state.critics
        return self.soft_value(
            state, replay_agents.remember(self, networks, observation, memory)[0], key
        )

    def update_policy(
        self, state: SACState, batch: ReplayBatch, key: Array
    ) -> tuple[SACState, Metrics]:
        """Take one gradient step on E[α log π(a|s) - min Q(s, a)] at the batch's observations."""
        loss_fn = (
            self.reparameterized_loss
            if self.policy_gradient == "reparameterized"
            else self.score_function_loss
        )
        gradient, metrics = jax.grad(loss_fn, has_aux=True)(state.policy, state, batch, key)
        updates, opt_state = self.optimizer(state.steps).update(gradient, state.policy_opt_state)
        policy = optax.apply_updates(state.policy, updates)
        return replace(state, policy=policy, policy_opt_state=opt_state), metrics

    def reparameterized_loss(
        self, policy: StochasticPolicy, state: SACState, batch: ReplayBatch, key: Array
    ) -> tuple[Array, Metrics]:
        """Return E[α log π(a|s) - min Q(s, a)], differentiable in the policy, and metrics.

        The gradient passes through the sampled action (Haarnoja et al., 2018, eq. 12), or through
        the probability of each discrete action (Christodoulou, 2019, eq. 12).
        """
        observation = batch.transition.observation
        action = policy.actions.action_expectation(
            policy(observation), state.critics, observation, key
        )
        cost = self.temperature(state) * action.log_prob - action.min_q
        loss = (batch.weight * action.expectation(cost)).mean()
        entropy = mean_of_rows(-action.expectation(action.log_prob), batch.weight)
        return loss, {"policy_loss": loss, "entropy": entropy}

    def score_function_loss(
        self, policy: StochasticPolicy, state: SACState, batch: ReplayBatch, key: Array
    ) -> tuple[Array, Metrics]:
        """Return a loss whose gradient is E[(cost - baseline) ∇log π(a|s)], and metrics.

            cost = α log π(a|s) - min Q(s, a)

        It samples two actions at each state and uses the cost of one as the baseline of the other,
        a leave-one-out baseline (RLOO; Kool et al., 2019). The baseline does not depend on the
        action, so the gradient is unbiased.
        """
        observation = batch.transition.observation
        duplicate = functools.partial(jax.tree.map, lambda x: jnp.stack([x, x]))  # [2, batch, ...]
        action, log_prob = policy.actions.sample_and_log_prob(duplicate(policy(observation)), key)
        min_q = jax.vmap(lambda a: policy.actions.q_values(state.critics, observation, a).min(0))(
            action
        )
        cost = jax.lax.stop_gradient(self.temperature(state) * log_prob - min_q)
        cost_minus_baseline = cost - cost[::-1]
        loss = (batch.weight * log_prob * cost_minus_baseline).mean()
        # The metric is the mean cost, as in `reparameterized_loss`; `loss` only has its gradient.
        entropy = mean_of_rows(-log_prob.mean(0), batch.weight)
        return loss, {"policy_loss": cost.mean(), "entropy": entropy}

    def update_temperature(self, state: SACState, batch: ReplayBatch, entropy: Array) -> SACState:
        """Take one gradient step on log α with the loss log α · (H(π) - target entropy).

        The temperature grows while the entropy is below its target. With respect to log α, the loss
        of Haarnoja et al. (2019), eq. 18, has a gradient with a factor α. As in SB3 it is dropped,
        because it would stop learning when α is near 0.

        Usual target entropies of discrete actions are 0.98 log n (Christodoulou, 2019) and
        0.89 log n (CleanRL). Some tasks cannot reach them at any α. On CartPole each step survived
        earns an entropy bonus, so α would grow without bound. n is the number of legal actions.
        """
        if not self.learn_temperature:
            return state
        observation = batch.transition.observation
        target = state.policy.actions.target_entropy(self, observation)
        gradient = entropy - mean_of_rows(target, batch.weight)
        updates, opt_state = self.optimizer(state.steps).update(
            gradient, state.temperature_opt_state
        )
        return replace(
            state, log_temperature=state.log_temperature + updates, temperature_opt_state=opt_state
        )

    def update_targets(self, state: SACState) -> SACState:
        """Move the target critics by `target_rate` toward the critics: a Polyak average."""
        target_critics = optax.incremental_update(
            state.critics, state.target_critics, self.target_rate
        )
        return replace(state, target_critics=target_critics)


@struct
class ActionExpectation:
    """Terms of an expectation over π, [..., action]: every discrete action, or one Box sample."""

    log_prob: Array  # log π(a|s)
    min_q: Array  # minimum over the critics of Q(s, a)
    weight: Array  # π(a|s) of each discrete action, or 1 for a sample

    def expectation(self, x: Array) -> Array:
        """Return E[x] under π, [...], for x [..., action]."""
        return (self.weight * x).sum(-1)


# DiscreteActions and BoxActions share an interface for everything in SAC that depends on the action
# space.


@struct
class DiscreteActions:
    """Discrete actions: critics return the values of all, so expectations over π are exact.

    An illegal action has probability zero.
    """

    space: Discrete = static()
    observation_space: Space = static()

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the policy network."""
        return self.space.n

    def legal_actions(self, observation: Any) -> Array | None:
        """Return the legal actions, bool [..., action]; None where all always are."""
        return legal_actions(self.observation_space, self.space, observation)

    def distribution(self, outputs: Array, observation: Any) -> Categorical:
        """Return π(·|s) from the outputs [..., num_outputs] of the policy network."""
        return Categorical(masked(outputs, self.legal_actions(observation), MASKED_LOGIT))

    def random_action(self, observation: Any, key: Array, shape: tuple[int, ...]) -> Array:
        """Return uniformly random legal actions, [*shape]."""
        return random_choice(key, shape, self.space.n, self.legal_actions(observation))

    def init_critics(
        self,
        key: Array,
        spec: EnvironmentSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        num_critics: int,
        torso: TorsoMaker | None,
        recurrent: GRU | LSTM | None,
    ) -> Critics:
        """Return networks from observations to the values of all actions, [..., action]."""
        return tuple(
            make_network(
                key_critic,
                spec.observation,
                hidden,
                self.space.n,
                activation,
                torso=torso,
                recurrent=recurrent,
                carry_index=carry_index,
            )
            for carry_index, key_critic in enumerate(jax.random.split(key, num_critics), start=1)
        )

    def q_values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Return Q(s, a) of each critic, [critic, ...]."""
        return jnp.stack([batched_index(critic(observation), action) for critic in critics])

    def action_expectation(
        self, pi: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionExpectation:
        """Return all actions, weighted by their probabilities; the key is not used."""
        log_prob = jax.nn.log_softmax(pi.logits)
        min_q = jnp.stack([critic(observation) for critic in critics]).min(0)
        return ActionExpectation(log_prob, min_q, jnp.exp(log_prob))

    def sample_and_log_prob(self, pi: Any, key: Array) -> tuple[Array, Array]:
        """Return a sampled action, which is not differentiated, and log π(a|s), which is."""
        action = pi.sample(key)
        return action, pi.log_prob(action)

    def target_entropy(self, sac: SAC, observation: Any) -> Any:
        """Return the policy entropy, in nats, that the learned temperature maintains, [...]."""
        legal = self.legal_actions(observation)
        log_n = math.log(self.space.n) if legal is None else jnp.log(legal.sum(-1))
        return sac.target_entropy_fraction * log_n


def mean_of_rows(values: Any, weight: Array) -> Array:
    """The mean of values [...] over the rows with a weight; a number stands for all rows.

    Rows of a sequence that are not in the buffer have the weight 0.
    """
    if jnp.ndim(weight) == 0 or jnp.ndim(values) == 0:
        return jnp.mean(values)
    has_weight = jnp.broadcast_to(weight > 0, values.shape)
    return jnp.where(has_weight, values, 0).sum() / jnp.maximum(has_weight.sum(), 1)


@struct
class BoxActions:
    """Actions of a Box, tanh-squashed where bounded; one sample estimates each expectation."""

    space: Box = static()
    min_log_std: float = static()

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the policy network."""
        return 2 * math.prod(self.space.shape)

    def distribution(self, outputs: Array, observation: Any) -> SquashedNormal:
        """Return π(·|s) from the outputs [..., num_outputs] of the policy network."""
        mean, log_std = jnp.split(outputs, 2, -1)
        return squashed_distribution_for(
            self.space, mean, jnp.clip(log_std, self.min_log_std, MAX_LOG_STD)
        )

    def random_action(self, observation: Any, key: Array, shape: tuple[int, ...]) -> Array:
        """Return uniform actions in [-1, 1], the policy's scale, also for unbounded elements."""
        return jax.random.uniform(key, shape, minval=-1, maxval=1)

    def init_critics(
        self,
        key: Array,
        spec: EnvironmentSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        num_critics: int,
        torso: TorsoMaker | None,
        recurrent: GRU | LSTM | None,
    ) -> Critics:
        """Return networks from (observation, action) to the action's value, [..., 1]."""
        return make_critics(key, spec, hidden, activation, num_critics, torso, recurrent)

    def q_values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Return Q(s, a) of each critic, [critic, ...]."""
        return critic_values(critics, observation, action)

    def action_expectation(
        self, pi: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionExpectation:
        """Return one reparameterized sample, of weight 1."""
        action, log_prob = pi.sample_and_log_prob(key)
        min_q = self.q_values(critics, observation, action).min(0)
        return ActionExpectation(
            log_prob[..., None], min_q[..., None], jnp.ones_like(log_prob)[..., None]
        )

    def sample_and_log_prob(self, pi: Any, key: Array) -> tuple[Array, Array]:
        """Return a sampled action, which is not differentiated, and log π(a|s), which is."""
        return pi.sample_and_log_prob(key, reparameterized=False)

    def target_entropy(self, sac: SAC, observation: Any) -> Any:
        """Return the policy entropy, in nats, that the learned temperature maintains."""
        return sac.target_entropy_per_element * math.prod(self.space.shape)


def actions_for(spec: EnvironmentSpec, min_log_std: float) -> DiscreteActions | BoxActions:
    """Return the part of SAC that depends on the action space."""
    if isinstance(spec.action, Discrete):
        return DiscreteActions(spec.action, spec.observation)
    # the policy outputs float32, also for a Box of float64 or integers
    return BoxActions(replace(cast(Box, spec.action), dtype="float32"), min_log_std)


# Degris et al. (2012) use the actions of a behavior policy, weighted by importance ratios; this
# variant samples actions from the current policy at replayed states and needs no ratios. There is
# no entropy bonus, so the policy can become deterministic; then both sampled actions agree and the
# gradient is zero. For a Box, min_log_std prevents this.
OffPolicyActorCritic = functools.partial(
    SAC,
    num_critics=1,
    learn_temperature=False,
    initial_temperature=0.0,
    min_log_std=-2.0,
    policy_gradient="score_function",
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "off-policy-actor-critic": (
        OffPolicyActorCritic,
        "actor-critic from replay with a score-function gradient: Box or discrete actions",
    ),
    "sac": (
        SAC,
        "soft actor-critic with twin critics and a learned temperature: Box or discrete actions",
    ),
}
