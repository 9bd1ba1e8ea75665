"""Soft actor-critic (Haarnoja et al., 2018), its temperature (2019), discrete actions
(Christodoulou, 2019), and what it generalizes: the off-policy actor-critic with actions drawn
anew."""

import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.off_policy import check_batch_size, update_from_replay
from etude.data.replay import uniform as replay
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
    """An observation tree [..., *shape] to a distribution over actions."""

    network: Network
    actions: "DiscreteActions | BoxActions" = static()

    def __call__(self, observation: Any) -> Categorical | SquashedNormal:
        return self.actions.distribution(self.network(observation))


@struct
class SACState:
    policy: StochasticPolicy
    critics: Critics
    target_critics: Critics  # where the bootstrap comes from; they follow the critics slowly
    log_temperature: Any  # log α; empty when it is not learned
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    temperature_optimizer: optax.OptState
    replay: Any  # a replay.ReplayBuffer; left out during gradient steps
    # data of the key that exploration draws with until the next update; empty unless
    # `noise_per_rollout`
    rollout_noise_key: Any
    steps: Array  # int32: environment steps taken
    updates: Array  # int32: gradient steps taken


@struct
class SAC:
    """Soft actor-critic for a Box or discrete actions: replay, twin critics, a policy paid for its
    entropy."""

    learning_rate: float = traced(3e-4, above=0)
    """Adam's step size, of policy, critics and temperature (SB3)."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    target_rate: float = traced(0.005, above=0, at_most=1)
    """The targets' share of the way to the critics, each gradient step."""
    initial_temperature: float = traced(1.0, at_least=0)
    """α: what a nat of entropy is worth in reward; fixed if not learned."""
    target_entropy_per_element: float = traced(-1.0)
    """Of a Box action, nats in units of [-1, 1] (Haarnoja et al., 2019)."""
    target_entropy_fraction: float = traced(0.5, above=0, at_most=1)
    """Of log n, of n choices; see adjust_temperature."""
    min_log_std: float = static(-20.0, at_most=MAX_LOG_STD)
    """Of a Box policy, before it is squashed (SB3)."""
    learn_temperature: bool = static(True)
    """So that the policy's entropy stays near its target."""
    noise_per_rollout: bool = static(False)
    """One draw for a whole rollout, so that it leads somewhere (Raffin 2021)."""
    gradient: Literal["reparameterized", "score_function"] = static("reparameterized")
    """The policy's; score: ∇log π Q of fresh actions."""
    critics: int = static(2, at_least=1)
    """The least of them counts; two are twins (Fujimoto et al., 2018)."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer, of policy and critics alike."""
    activation: Activation = static("relu")
    """Between layers."""
    batch_size: int = static(256, at_least=1)
    """Transitions a gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions the replay buffer holds (SB3: ten times the memory)."""
    warmup_steps: int = static(100, at_least=0)
    """Environment steps at random before the first gradient step (SB3)."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates."""
    gradient_steps: int = static(1, at_least=1)
    """In each update."""

    default_num_envs: ClassVar[int] = 1

    def validate_fields(self) -> None:
        check_batch_size(self)
        known = not isinstance(self.initial_temperature, jax.core.Tracer)
        if self.learn_temperature and known and self.initial_temperature == 0:
            raise InvalidInput(
                "initial_temperature is 0, and a learned temperature grows from it by factors; "
                "start it above 0, or keep it at 0 with learn_temperature=False"
            )

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate * linear_decay(steps, self.learning_rate_decay))

    def init(self, key: Array, spec: EnvironmentSpec) -> SACState:
        actions = actions_for(spec.action, self.min_log_std)
        spec = replace(spec, action=actions.space)
        key_policy, key_critics, key_held = jax.random.split(key, 3)
        policy = StochasticPolicy(
            make_network(
                key_policy, spec.observation, self.hidden, actions.num_parameters, self.activation
            ),
            actions,
        )
        judges = actions.init_critics(key_critics, spec, self.hidden, self.activation, self.critics)
        log_temperature = (
            jnp.log(jnp.float32(self.initial_temperature)) if self.learn_temperature else ()
        )
        ring = replay.init(zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length)
        steps = jnp.int32(0)
        adam = self.optimizer(steps).init
        return SACState(
            policy,
            judges,
            judges,
            log_temperature,
            adam(policy),
            adam(judges),
            adam(log_temperature),
            ring,
            jax.random.key_data(key_held) if self.noise_per_rollout else (),
            steps,
            steps,
        )

    def act(
        self, state: SACState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The policy's mode; when exploring a sample of it, and until the warm-up is over any
        action at all.

        With `noise_per_rollout` the noise of a rollout is drawn once, for a policy whose noise is
        drawn anew each step mostly undoes what it did the step before. So it is in state-dependent
        exploration (Raffin et al., 2021), here without a noise that depends on the state.
        """
        choice = state.policy(observation)
        mode = choice.mode()
        if not explore:
            return mode, memory
        key_sample, key_random = jax.random.split(
            jax.random.wrap_key_data(state.rollout_noise_key) if self.noise_per_rollout else key
        )
        random = state.policy.actions.random_action(key_random, mode.shape)
        return jnp.where(state.steps < self.warmup_steps, random, choice.sample(key_sample)), memory

    def update(
        self, state: SACState, experience: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        if self.noise_per_rollout:
            key, key_held = jax.random.split(key)
            state = replace(state, rollout_noise_key=jax.random.key_data(key_held))
        return update_from_replay(self, state, experience, key)

    def gradient_step(
        self, state: SACState, batch: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        key_next, key_now = jax.random.split(key)
        metrics = {"temperature": self.temperature(state)}
        state, of_critics = self.fit_critics(state, batch, key_next)
        state, of_policy = self.improve_policy(state, batch.observation, key_now)
        state = self.update_temperature(state, of_policy["entropy"])
        targets = optax.incremental_update(state.critics, state.target_critics, self.target_rate)
        return replace(state, target_critics=targets, updates=state.updates + 1), {
            **metrics,
            **of_critics,
            **of_policy,
        }

    def temperature(self, state: SACState) -> Any:
        return (
            jnp.exp(state.log_temperature)
            if self.learn_temperature
            else jnp.float32(self.initial_temperature)
        )

    def fit_critics(
        self, state: SACState, batch: Transition, key: Array
    ) -> tuple[SACState, Metrics]:
        """Each critic by the square of its own error: the sum over critics of E[½ (target - Q(s,
        a))²]."""
        target = self.estimate_target(state, batch, key)

        def loss(critics):
            # [critic, batch]
            values = state.policy.actions.values(critics, batch.observation, batch.action)
            return losses.l2_loss(target - values).mean(-1).sum(), values.mean()

        (value, mean), gradient = jax.value_and_grad(loss, has_aux=True)(state.critics)
        step, optimizer = self.optimizer(state.steps).update(gradient, state.critic_optimizer)
        state = replace(
            state, critics=optax.apply_updates(state.critics, step), critic_optimizer=optimizer
        )
        return state, {"critic_loss": value, "q_value": mean}

    def estimate_target(self, state: SACState, batch: Transition, key: Array) -> Array:
        """r + γ (1 - terminated) E[min Q_target(s', a') - α log π(a'|s')], a' drawn anew  (Haarnoja
        et al., 2019, eq. 2 and 3)"""
        observation = batch.next_observation
        then = state.policy.actions.action_samples(
            state.policy(observation), state.target_critics, observation, key
        )
        future = then.expected(then.value - self.temperature(state) * then.log_prob)
        return losses.td_target(batch.reward, future, batch.terminated, self.discount)

    def improve_policy(
        self, state: SACState, observation: Any, key: Array
    ) -> tuple[SACState, Metrics]:
        """One gradient step on E[α log π(a|s) - min Q(s, a)] at `observation` [batch, ...]."""
        loss = (
            self.reparameterized_loss
            if self.gradient == "reparameterized"
            else self.score_function_loss
        )
        gradient, metrics = jax.grad(loss, has_aux=True)(state.policy, state, observation, key)
        step, optimizer = self.optimizer(state.steps).update(gradient, state.policy_optimizer)
        return replace(
            state, policy=optax.apply_updates(state.policy, step), policy_optimizer=optimizer
        ), metrics

    def reparameterized_loss(
        self, policy: StochasticPolicy, state: SACState, observation: Any, key: Array
    ) -> tuple[Array, Metrics]:
        """The expectation itself, its gradient through the action (Haarnoja et al., 2018, eq. 12)
        or, of discrete actions, through the probability of each (Christodoulou, 2019, eq. 12)."""
        now = policy.actions.action_samples(policy(observation), state.critics, observation, key)
        loss = now.expected(self.temperature(state) * now.log_prob - now.value).mean()
        return loss, {"policy_loss": loss, "entropy": -now.expected(now.log_prob).mean()}

    def score_function_loss(
        self, policy: StochasticPolicy, state: SACState, observation: Any, key: Array
    ) -> tuple[Array, Metrics]:
        """What has the gradient E[∇log π(a|s) (cost - baseline)], cost = α log π(a|s) - min Q(s,
        a), a ~ π drawn anew.

        Two actions are drawn at each state, and the cost of one is the other's baseline, which
        depends on the state and not on the action, so that the gradient stays unbiased (Kool et
        al., 2019).
        """
        twice = functools.partial(jax.tree.map, lambda x: jnp.stack([x, x]))  # [draw, batch, ...]
        action, log_prob = policy.actions.sample_with_score(twice(policy(observation)), key)
        value = policy.actions.values(state.critics, twice(observation), action).min(0)
        cost = jax.lax.stop_gradient(self.temperature(state) * log_prob - value)
        return (log_prob * (cost - cost[::-1])).mean(), {
            "policy_loss": cost.mean(),
            "entropy": -log_prob.mean(),
        }

    def update_temperature(self, state: SACState, entropy: Array) -> SACState:
        """One gradient step of log α on log α (H(π) - target): it grows while the policy has too
        little entropy.

        The slope is that of α (H(π) - target) (Haarnoja et al., 2019, eq. 18) less the factor α,
        which fades as α does (SB3). The targets published for discrete actions, 0.98 log n
        (Christodoulou, 2019) and 0.89 log n (CleanRL), can be more than any temperature holds: on
        CartPole, where to survive is to gather entropy, it then grows without end.
        """
        if not self.learn_temperature:
            return state
        slope = entropy - state.policy.actions.target_entropy(self)
        step, optimizer = self.optimizer(state.steps).update(slope, state.temperature_optimizer)
        return replace(
            state, log_temperature=state.log_temperature + step, temperature_optimizer=optimizer
        )


# What differs between discrete actions and those of a Box


@struct
class ActionSamples:
    """Actions that the policy may take, [..., action]: all there are, or one drawn anew."""

    log_prob: Array
    value: Array  # the least that a critic says
    weight: Array  # in an expectation over the policy: the probability of each, or 1

    def expected(self, x: Array) -> Array:
        return (self.weight * x).sum(-1)


@struct
class DiscreteActions:
    """Discrete actions: a critic tells the value of each, and expectations over the policy are
    exact."""

    space: Discrete = static()

    @property
    def num_parameters(self) -> int:
        return self.space.n

    def distribution(self, parameters: Array) -> Categorical:
        return Categorical(parameters)

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
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
            make_network(key, spec.observation, hidden, self.space.n, activation)
            for key in jax.random.split(key, count)
        )

    def values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Q(s, a) by each critic, [critic, ...]."""
        return jnp.stack([batched_index(critic(observation), action) for critic in critics])

    def action_samples(
        self, choice: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionSamples:
        log_prob = jax.nn.log_softmax(choice.logits)
        return ActionSamples(
            log_prob,
            jnp.stack([critic(observation) for critic in critics]).min(0),
            jnp.exp(log_prob),
        )

    def sample_with_score(self, choice: Any, key: Array) -> tuple[Array, Array]:
        """An action and log π of it, whose gradient is the score."""
        action = choice.sample(key)
        return action, choice.log_prob(action)

    def target_entropy(self, sac: SAC) -> Any:
        return sac.target_entropy_fraction * math.log(self.space.n)


@struct
class BoxActions:
    """Actions of a Box, squashed where it has both bounds: an expectation over the policy is that
    of one sample."""

    space: Box = static()
    min_log_std: float = static()

    @property
    def num_parameters(self) -> int:
        return 2 * math.prod(self.space.shape)

    def distribution(self, parameters: Array) -> SquashedNormal:
        mean, log_std = jnp.split(parameters, 2, -1)
        return squashed_distribution_for(
            self.space, mean, jnp.clip(log_std, self.min_log_std, MAX_LOG_STD)
        )

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniform in the policy's [-1, 1], elements without bounds too."""
        return jax.random.uniform(key, shape, minval=-1, maxval=1)

    def init_critics(
        self,
        key: Array,
        spec: EnvironmentSpec,
        hidden: tuple[int, ...],
        activation: Activation,
        count: int,
    ) -> Critics:
        """Networks from (observation, action) to its value, [..., 1]."""
        return make_critics(key, spec, hidden, activation, count)

    def values(self, critics: Critics, observation: Any, action: Array) -> Array:
        """Q(s, a) by each critic, [critic, ...]."""
        return critic_values(critics, observation, action)

    def action_samples(
        self, choice: Any, critics: Critics, observation: Any, key: Array
    ) -> ActionSamples:
        action, log_prob = choice.sample_and_log_prob(key)
        value = self.values(critics, observation, action).min(0)
        return ActionSamples(
            log_prob[..., None], value[..., None], jnp.ones_like(log_prob)[..., None]
        )

    def sample_with_score(self, choice: Any, key: Array) -> tuple[Array, Array]:
        """An action and log π of it, whose gradient is the score."""
        return choice.sample_and_log_prob(key, reparameterized=False)

    def target_entropy(self, sac: SAC) -> Any:
        return sac.target_entropy_per_element * math.prod(self.space.shape)


def actions_for(space: spaces.Space, min_log_std: float) -> DiscreteActions | BoxActions:
    """What the algorithm does with actions of `space`; raises InvalidInput for those it cannot
    take."""
    match space:
        case Discrete():
            return DiscreteActions(space)
        case Box():  # a policy acts in real numbers, whatever the environment takes
            return BoxActions(replace(space, dtype="float32"), min_log_std)
    raise InvalidInput(
        f"sac takes a Box or discrete actions, and this environment's are {space}; ppo takes "
        "every kind of action"
    )


# Nothing but the least standard deviation keeps its policy from certainty, where actions no longer
# differ and nothing is learned.
OffPolicyActorCritic = functools.partial(
    SAC,
    critics=1,
    learn_temperature=False,
    initial_temperature=0.0,
    min_log_std=-2.0,
    gradient="score_function",
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
