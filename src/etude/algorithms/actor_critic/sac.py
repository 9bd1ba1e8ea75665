"""Soft actor-critic, SAC (Haarnoja et al., 2018), and the off-policy actor-critic as a variant.

SAC has a learned temperature (Haarnoja et al., 2019) and also takes discrete actions
(Christodoulou, 2019). Both algorithms improve the policy on actions that they sample from it, not
on those in replay.
"""

import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.off_policy import check_batch_size, update_from_replay
from etude.data.replay import uniform
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators import losses
from etude.nn.critics import Critics, critic_values, make_critics
from etude.nn.distributions import Categorical, SquashedNormal, squashed_distribution_for
from etude.nn.networks import Activation, Network, make_network
from etude.optim.schedules import linear_decay
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.trees import batched_index
from etude.types import Array, Metrics

MAX_LOG_STD = 2.0  # as in the authors' code and Stable-Baselines3


@struct
class StochasticPolicy:
    """A network from an observation tree [..., *shape] to a distribution over actions."""

    network: Network
    actions: "DiscreteActions | BoxActions" = static()

    def __call__(self, observation: Any) -> Categorical | SquashedNormal:
        return self.actions.distribution(self.network(observation))


@struct
class SACState:
    policy: StochasticPolicy
    critics: Critics
    target_critics: Critics  # the bootstrap value comes from them; they follow the critics slowly
    log_temperature: Any  # log α; () when it is not learned
    policy_opt_state: optax.OptState
    critic_opt_state: optax.OptState
    temperature_opt_state: optax.OptState
    replay: Any  # a uniform.ReplayBuffer; () during gradient steps
    rollout_noise_key: Any  # key data of the exploration noise; () unless `noise_per_rollout`
    steps: Array  # int32: environment steps taken
    gradient_steps_taken: Array  # int32: gradient steps taken


@struct
class SAC:
    """Soft actor-critic for a Box or discrete actions: replay, twin critics, an entropy bonus."""

    learning_rate: float = traced(3e-4, above=0)
    """Step size of Adam, of policy, critics and temperature alike (SB3)."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which the learning rate falls linearly to zero; inf: never."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    target_rate: float = traced(0.005, above=0, at_most=1)
    """Fraction by which each gradient step moves the target critics to the critics."""
    initial_temperature: float = traced(1.0, at_least=0)
    """Temperature α, the reward for a nat of entropy, at the start; fixed if not learned."""
    target_entropy_per_element: float = traced(-1.0)
    """Target entropy for each element of a Box action, in nats (Haarnoja et al., 2019)."""
    target_entropy_fraction: float = traced(0.5, above=0, at_most=1)
    """Target entropy for n discrete actions as a fraction of log n; see update_temperature."""
    min_log_std: float = static(-20.0, at_most=MAX_LOG_STD)
    """Smallest log standard deviation of a Box policy, before the squashing (SB3)."""
    learn_temperature: bool = static(True)
    """Learn the temperature, so that the policy's entropy stays near its target."""
    noise_per_rollout: bool = static(False)
    """Draw the exploration noise once for each rollout, not each step (Raffin et al., 2021)."""
    policy_gradient: Literal["reparameterized", "score_function"] = static("reparameterized")
    """Estimator of the policy gradient: through the sampled action, or ∇log π Q."""
    num_critics: int = static(2, at_least=1)
    """Number of critics, whose minimum is used; two are twins (Fujimoto et al., 2018)."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer, of policy and critics alike."""
    activation: Activation = static("relu")
    """Activation after each hidden layer."""
    batch_size: int = static(256, at_least=1)
    """Transitions in each gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions that the replay buffer holds; SB3 has 1,000,000."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps with uniform actions before the first gradient step (SB3)."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates."""
    gradient_steps: int = static(1, at_least=1)
    """Gradient steps in each update."""

    default_num_envs: ClassVar[int] = 1

    def validate_fields(self) -> None:
        check_batch_size(self)
        is_concrete = not isinstance(self.initial_temperature, jax.core.Tracer)
        if self.learn_temperature and is_concrete and self.initial_temperature == 0:
            raise InvalidInput(
                "initial_temperature is 0, and a learned temperature grows from it by factors; "
                "start it above 0, or keep it at 0 with learn_temperature=False"
            )

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Adam, with its step size after `steps` environment steps."""
        return optax.adam(self.learning_rate * linear_decay(steps, self.learning_rate_decay))

    def init(self, key: Array, spec: EnvironmentSpec) -> SACState:
        """Random weights and an empty replay buffer.

        Raises InvalidInput for actions that are neither Discrete nor a Box.
        """
        actions = actions_for(spec.action, self.min_log_std)
        spec = replace(spec, action=actions.space)
        key_policy, key_critics, key_noise = jax.random.split(key, 3)
        network = make_network(
            key_policy, spec.observation, self.hidden, actions.num_outputs, self.activation
        )
        policy = StochasticPolicy(network, actions)
        critics = actions.init_critics(
            key_critics, spec, self.hidden, self.activation, self.num_critics
        )
        log_temperature = (
            jnp.log(jnp.float32(self.initial_temperature)) if self.learn_temperature else ()
        )
        replay_buffer = uniform.init(
            zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length
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
            replay_buffer,
            jax.random.key_data(key_noise) if self.noise_per_rollout else (),
            zero,
            zero,
        )

    def act(
        self, state: SACState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The policy's mode; when exploring, a sample, or a random action during the warm-up.

        With `noise_per_rollout` the noise is the same for all steps of a rollout. Independent noise
        at each step mostly cancels out over time, so it explores less far. The idea is that of
        state-dependent exploration (Raffin et al., 2021), without the dependence on the state.
        """
        pi = state.policy(observation)
        mode = pi.mode()
        if not explore:
            return mode, memory
        key_sample, key_random = jax.random.split(
            jax.random.wrap_key_data(state.rollout_noise_key) if self.noise_per_rollout else key
        )
        random_action = state.policy.actions.random_action(key_random, mode.shape)
        is_warmup = state.steps < self.warmup_steps
        return jnp.where(is_warmup, random_action, pi.sample(key_sample)), memory

    def update(
        self, state: SACState, experience: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        """Insert the experience [time, env] into replay, then take `gradient_steps` steps."""
        if self.noise_per_rollout:
            key, key_noise = jax.random.split(key)
            state = replace(state, rollout_noise_key=jax.random.key_data(key_noise))
        return update_from_replay(self, state, experience, key)

    def gradient_step(
        self, state: SACState, batch: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        """One gradient step of critics, policy and temperature, and an update of the targets."""
        key_critics, key_policy = jax.random.split(key)
        metrics = {"temperature": self.temperature(state)}
        state, critic_metrics = self.update_critics(state, batch, key_critics)
        state, policy_metrics = self.update_policy(state, batch.observation, key_policy)
        state = self.update_temperature(state, policy_metrics["entropy"])
        targets = optax.incremental_update(state.critics, state.target_critics, self.target_rate)
        state = replace(
            state, target_critics=targets, gradient_steps_taken=state.gradient_steps_taken + 1
        )
        return state, {**metrics, **critic_metrics, **policy_metrics}

    def temperature(self, state: SACState) -> Any:
        """α, learned or fixed."""
        return (
            jnp.exp(state.log_temperature)
            if self.learn_temperature
            else jnp.float32(self.initial_temperature)
        )

    def update_critics(
        self, state: SACState, batch: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        """One gradient step on the sum over critics of E[½ (target - Q(s, a))²]."""
        target = self.estimate_target(state, batch, key)

        def loss_fn(critics):
            # [critic, batch]
            values = state.policy.actions.q_values(critics, batch.observation, batch.action)
            return losses.l2_loss(target - values).mean(-1).sum(), values.mean()

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.critics)
        step, opt_state = self.optimizer(state.steps).update(gradient, state.critic_opt_state)
        state = replace(
            state, critics=optax.apply_updates(state.critics, step), critic_opt_state=opt_state
        )
        return state, {"critic_loss": loss, "q_value": q_mean}

    def estimate_target(self, state: SACState, batch: Transition, key: Array) -> Array:
        """r + γ (1 - terminated) E[min Q_target(s', a') - α log π(a'|s')], a' ~ π(·|s'), [batch].

        Haarnoja et al., 2019, eq. 2 and 3.
        """
        next_samples = state.policy.actions.action_expectation(
            state.policy(batch.next_observation), state.target_critics, batch.next_observation, key
        )
        next_value = next_samples.expectation(
            next_samples.min_q - self.temperature(state) * next_samples.log_prob
        )
        return losses.td_target(batch.reward, next_value, batch.terminated, self.discount)

    def update_policy(
        self, state: SACState, observation: Any, key: Array
    ) -> tuple[SACState, Metrics]:
        """One gradient step on E[α log π(a|s) - min Q(s, a)] at `observation` [batch, ...]."""
        loss_fn = (
            self.reparameterized_loss
            if self.policy_gradient == "reparameterized"
            else self.score_function_loss
        )
        gradient, metrics = jax.grad(loss_fn, has_aux=True)(state.policy, state, observation, key)
        step, opt_state = self.optimizer(state.steps).update(gradient, state.policy_opt_state)
        policy = optax.apply_updates(state.policy, step)
        return replace(state, policy=policy, policy_opt_state=opt_state), metrics

    def reparameterized_loss(
        self, policy: StochasticPolicy, state: SACState, observation: Any, key: Array
    ) -> tuple[Array, Metrics]:
        """E[α log π(a|s) - min Q(s, a)], differentiated through the policy.

        The gradient passes through the sampled action (Haarnoja et al., 2018, eq. 12), or through
        the probability of each discrete action (Christodoulou, 2019, eq. 12).
        """
        samples = policy.actions.action_expectation(
            policy(observation), state.critics, observation, key
        )
        cost = self.temperature(state) * samples.log_prob - samples.min_q
        loss = samples.expectation(cost).mean()
        entropy = -samples.expectation(samples.log_prob).mean()
        return loss, {"policy_loss": loss, "entropy": entropy}

    def score_function_loss(
        self, policy: StochasticPolicy, state: SACState, observation: Any, key: Array
    ) -> tuple[Array, Metrics]:
        """A surrogate loss with the gradient E[∇log π(a|s) (cost - baseline)], a ~ π(·|s).

            cost = α log π(a|s) - min Q(s, a)

        It samples two actions at each state and uses the cost of one as the baseline of the other.
        The baseline does not depend on the action, so the gradient is unbiased (Kool et al., 2019).
        """
        repeat = functools.partial(jax.tree.map, lambda x: jnp.stack([x, x]))  # [2, batch, ...]
        action, log_prob = policy.actions.sample_and_log_prob(repeat(policy(observation)), key)
        min_q = policy.actions.q_values(state.critics, repeat(observation), action).min(0)
        cost = jax.lax.stop_gradient(self.temperature(state) * log_prob - min_q)
        centered_cost = cost - cost[::-1]
        loss = (log_prob * centered_cost).mean()
        return loss, {"policy_loss": cost.mean(), "entropy": -log_prob.mean()}

    def update_temperature(self, state: SACState, entropy: Array) -> SACState:
        """One gradient step of log α on log α (H(π) - target entropy).

        The temperature grows while the entropy is below its target. The gradient is that of
        α (H(π) - target) (Haarnoja et al., 2019, eq. 18) without its factor α, which vanishes as α
        does (SB3). The published targets for discrete actions, 0.98 log n (Christodoulou, 2019) and
        0.89 log n (CleanRL), can be out of reach at any temperature: on CartPole, where survival
        itself collects entropy, the temperature then grows without bound.
        """
        if not self.learn_temperature:
            return state
        gradient = entropy - state.policy.actions.target_entropy(self)
        step, opt_state = self.optimizer(state.steps).update(gradient, state.temperature_opt_state)
        return replace(
            state, log_temperature=state.log_temperature + step, temperature_opt_state=opt_state
        )


# DiscreteActions and BoxActions have the same methods: the parts of SAC that depend on the action
# space.


@struct
class ActionExpectation:
    """Actions for an expectation over the policy, [..., action]: all of them, or one sample."""

    log_prob: Array
    min_q: Array  # minimum of the critics' values
    weight: Array  # in the expectation: the probability of each action, or 1 for a sample

    def expectation(self, x: Array) -> Array:
        """E[x] over the policy, from x [..., action], [...]."""
        return (self.weight * x).sum(-1)


@struct
class DiscreteActions:
    """Discrete actions: critics give all values at once, expectations over the policy are exact."""

    space: Discrete = static()

    @property
    def num_outputs(self) -> int:
        """Outputs of the policy network."""
        return self.space.n

    def distribution(self, outputs: Array) -> Categorical:
        """π(·|s) from the outputs of the policy network, [..., num_outputs]."""
        return Categorical(outputs)

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random actions, [*shape]."""
        return jax.random.randint(key, shape, 0, self.space.n)

    def init_critics(
        self,
        key: Array,
        spec: EnvironmentSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        count: int,
    ) -> Critics:
        """Networks from observations to the values of all actions, [..., action]."""
        return tuple(
            make_network(key_critic, spec.observation, hidden, self.space.n, activation)
            for key_critic in jax.random.split(key, count)
        )

    def q_values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Q(s, a) by each critic, [critic, ...]."""
        return jnp.stack([batched_index(critic(observation), action) for critic in critics])

    def action_expectation(
        self, pi: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionExpectation:
        """All actions, weighted by their probabilities; the key is not used."""
        log_prob = jax.nn.log_softmax(pi.logits)
        min_q = jnp.stack([critic(observation) for critic in critics]).min(0)
        return ActionExpectation(log_prob, min_q, jnp.exp(log_prob))

    def sample_and_log_prob(self, pi: Any, key: Array) -> tuple[Array, Array]:
        """A sampled action and its log π(a|s), whose gradient is the score function."""
        action = pi.sample(key)
        return action, pi.log_prob(action)

    def target_entropy(self, sac: SAC) -> Any:
        """The entropy, in nats, to which the temperature is tuned."""
        return sac.target_entropy_fraction * math.log(self.space.n)


@struct
class BoxActions:
    """Actions of a Box, squashed where bounded; an expectation is of one sample."""

    space: Box = static()
    min_log_std: float = static()

    @property
    def num_outputs(self) -> int:
        """Outputs of the policy network."""
        return 2 * math.prod(self.space.shape)

    def distribution(self, outputs: Array) -> SquashedNormal:
        """π(·|s) from the outputs of the policy network, [..., num_outputs]."""
        mean, log_std = jnp.split(outputs, 2, -1)
        return squashed_distribution_for(
            self.space, mean, jnp.clip(log_std, self.min_log_std, MAX_LOG_STD)
        )

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random actions in the policy's [-1, 1], also for elements without bounds."""
        return jax.random.uniform(key, shape, minval=-1, maxval=1)

    def init_critics(
        self,
        key: Array,
        spec: EnvironmentSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        count: int,
    ) -> Critics:
        """Networks from (observation, action) to the action's value, [..., 1]."""
        return make_critics(key, spec, hidden, activation, count)

    def q_values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Q(s, a) by each critic, [critic, ...]."""
        return critic_values(critics, observation, action)

    def action_expectation(
        self, pi: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionExpectation:
        """One reparameterized sample."""
        action, log_prob = pi.sample_and_log_prob(key)
        min_q = self.q_values(critics, observation, action).min(0)
        return ActionExpectation(
            log_prob[..., None], min_q[..., None], jnp.ones_like(log_prob)[..., None]
        )

    def sample_and_log_prob(self, pi: Any, key: Array) -> tuple[Array, Array]:
        """A sampled action and its log π(a|s), whose gradient is the score function."""
        return pi.sample_and_log_prob(key, reparameterized=False)

    def target_entropy(self, sac: SAC) -> Any:
        """The entropy, in nats, to which the temperature is tuned."""
        return sac.target_entropy_per_element * math.prod(self.space.shape)


def actions_for(space: spaces.Space, min_log_std: float) -> DiscreteActions | BoxActions:
    """The methods of SAC for actions of `space`.

    Raises InvalidInput for a space that is neither Discrete nor a Box.
    """
    match space:
        case Discrete():
            return DiscreteActions(space)
        case Box():  # a policy's actions are real numbers, whatever the dtype of the space
            return BoxActions(replace(space, dtype="float32"), min_log_std)
    raise InvalidInput(
        f"sac takes a Box or discrete actions, and this environment's are {space}; ppo takes "
        "every kind of action"
    )


# Without an entropy bonus only min_log_std keeps the policy from becoming deterministic, where
# learning stops because sampled actions no longer differ.
OffPolicyActorCritic = functools.partial(
    SAC,
    num_critics=1,
    learn_temperature=False,
    initial_temperature=0.0,
    min_log_std=-2.0,
    policy_gradient="score_function",
)

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
