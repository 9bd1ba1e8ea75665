"""REINFORCE (Williams, 1992) and its off-policy form.

    ∇J = E[Σₜ ∇log π(aₜ | sₜ) (Gₜ - b)]

What is lived is kept until there are whole episodes enough; then the policy takes a step along the
weighted likelihood of what it did, or several, with importance weights for those after the first.
Where there are several copies, an episode may have begun before the policy's last step.
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators import baselines, importance_sampling, returns
from etude.estimators.losses import l2_loss, weighted_nll
from etude.nn.networks import Activation
from etude.nn.policies import Policy
from etude.nn.recurrent import CellType
from etude.optim.schedules import any_in_vmap, linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class ReinforceState:
    learner: LearnerState  # its optimizer is a pair: of the policy and of the value
    buffer: Any  # the Ring of the latest steps of all copies
    # int32 [env]: the row of time, of all ever lived, from which steps are yet to be learned from
    start_row: Array
    end_row: Array  # int32 [env]: the row after the last that ended an episode
    pending_episodes: Array  # int32: whole episodes yet to be learned from
    learned_episodes: Array  # int32: whole episodes learned from


@struct
class EpisodeBatch:
    """Whole episodes, [time, env]; where `counts` is false there is a step of another."""

    experience: Transition
    valid: Array
    episode: Array  # int32: which one a step belongs to

    def mean(self, x: Array) -> Array:
        return jnp.where(self.valid, x, 0).sum() / jnp.maximum(self.valid.sum(), 1)

    def by_episode(self, x: Array) -> Array:
        """The sums over whole episodes, [episode], with a place for as many as there could be."""
        return jax.ops.segment_sum(
            jnp.where(self.valid, x, 0).ravel(), self.episode.ravel(), self.episode.size
        )


@struct
class Reinforce:
    """REINFORCE for every kind of action, from whole episodes."""

    learning_rate: float = traced(1e-3, above=0)
    """Adam's step size, of the policy."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    value_learning_rate: float = traced(1e-3, above=0)
    """Of the value, where it is the baseline."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus."""
    weight_clip: float = traced(math.inf, above=0)
    """Importance weights are clipped here; inf: never."""
    initial_std: float = traced(1.0, above=0)
    """Of continuous actions, in units of the policy's [-1, 1]."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer, of policy and value alike."""
    activation: Activation = static("tanh")
    """Between layers."""
    recurrent: CellType = static("none")
    """A memory before the hidden layers, trained through whole episodes."""
    memory_size: int = static(64, at_least=1)
    """Its units."""
    causality: bool = static(True)
    """An action is weighed by the rewards after it; else by all."""
    baseline: Literal["none", "average", "optimal", "value"] = static("value")
    """Optimal: of the least variance."""
    normalize_advantage: bool = static(False)
    """To mean 0 and std 1 over the batch."""
    batch_steps: int = static(1_000, at_least=1)
    """Steps of whole episodes in a batch, at least."""
    batch_episodes: int = static(0, at_least=0)
    """Whole episodes in a batch instead; 0: steps count."""
    max_episodes: int = static(0, at_least=0)
    """Learned from, and no more; 0: no limit."""
    gradient_steps: int = static(1, at_least=1)
    """Of the policy on a batch; those after the first are off-policy."""
    correction: Literal["trajectory", "per_decision", "first_order"] = static("per_decision")
    """Importance weights."""
    value_steps: int = static(20, at_least=1)
    """Of the value on a batch."""
    capacity: int = static(4_096, at_least=2)
    """Steps of each copy kept until a batch is whole; longer ones are cut."""
    rollout_length: int = static(8, at_least=1)
    """Environment steps of each copy between looks at what there is."""

    default_num_envs: ClassVar[int] = 1
    shared: ClassVar[bool] = False
    state_noise: ClassVar[bool] = False  # with noise that is held, actions depend on each other
    normalize_observation: ClassVar[bool] = False  # a batch is seen with one scale

    def validate_fields(self) -> None:
        of_others = self.baseline in ("average", "optimal")
        if of_others and self.batch_episodes == 1:
            raise InvalidInput(
                f"batch_episodes is 1; the {self.baseline} baseline of an episode is that of the "
                "others in its "
                "batch: give at least 2, or another baseline"
            )
        if self.baseline == "optimal" and self.recurrent != "none":
            raise InvalidInput(
                "baseline is 'optimal', which takes the score of each step by itself, and with a "
                "memory "
                f"(recurrent {self.recurrent!r}) there is none: give another baseline"
            )
        if self.rollout_length > self.capacity // 2:
            raise InvalidInput(
                f"rollout_length {self.rollout_length} is more than half of capacity "
                f"{self.capacity}; "
                "give shorter rollouts or a larger capacity"
            )

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate * linear_decay(steps, self.learning_rate_decay))

    def value_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.value_learning_rate)

    def init(self, key: Array, spec: EnvironmentSpec) -> ReinforceState:
        if not self.batch_episodes and self.batch_steps > (kept := self.capacity * spec.num_envs):
            raise InvalidInput(
                f"batch_steps {self.batch_steps} is more than the {kept} that are kept (capacity "
                f"{self.capacity} "
                f"× num_envs {spec.num_envs}); give a larger capacity"
            )
        learner = on_policy.init_learner(self, key, spec)
        optimizer = (
            self.optimizer(learner.steps).init(learner.networks.policy),
            self.value_optimizer().init(learner.networks.value),
        )
        first = jax.tree.map(lambda x: x[None], spec.observation.zeros())
        noted = jax.eval_shape(
            lambda key: on_policy.act(self, learner, first, (), key, True)[1], key
        )
        step = replace(
            zeros_like_spec(spec),
            memory=jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), noted),
        )
        ring = ring_buffer.init(
            step, self.capacity * spec.num_envs, spec.num_envs, self.rollout_length
        )
        rows, none = jnp.zeros(spec.num_envs, jnp.int32), jnp.int32(0)
        return ReinforceState(replace(learner, optimizer=optimizer), ring, rows, rows, none, none)

    def act(
        self, state: ReinforceState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        return on_policy.act(self, state.learner, observation, memory, key, explore)

    def update(
        self, state: ReinforceState, experience: Transition, key: Array
    ) -> tuple[ReinforceState, Metrics]:
        state = self.store(state, experience)
        steps = (state.end_row - state.start_row).sum()
        enough = (
            state.pending_episodes >= self.batch_episodes
            if self.batch_episodes
            else steps >= self.batch_steps
        )
        if self.baseline in ("average", "optimal"):
            enough &= state.pending_episodes >= 2
        # [env]
        full = (
            state.buffer.inserted - state.start_row
            > ring_buffer.length(state.buffer) - self.rollout_length
        )
        due = (enough | full.any()) & (
            (state.learned_episodes < self.max_episodes) | (self.max_episodes == 0)
        )
        ring, state = state.buffer, replace(state, buffer=())  # learning does not change it

        def learn(state):
            after, metrics = self.fit_episodes(ring, state, full)
            return jax.tree.map(lambda new, old: jnp.where(due, new, old), after, state), metrics

        def wait(state):
            return state, jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learn, state)[1]
            )

        state, metrics = jax.lax.cond(any_in_vmap(due), learn, wait, state)
        return replace(state, buffer=ring), {**metrics, "updates": due * self.gradient_steps}

    def store(self, state: ReinforceState, experience: Transition) -> ReinforceState:
        """Experience [time, env] among what is kept."""
        done = experience.done
        rows = state.buffer.inserted + jnp.arange(1, len(done) + 1)  # the row after each
        ended = jnp.maximum(state.end_row, jnp.where(done, rows[:, None], 0).max(0))
        learner = on_policy.finish_update(self, state.learner, experience)
        return replace(
            state,
            learner=learner,
            buffer=ring_buffer.insert(state.buffer, experience),
            end_row=ended,
            pending_episodes=state.pending_episodes + done.sum(),
        )

    def fit_episodes(
        self, ring: RingBuffer, state: ReinforceState, cut: Array
    ) -> tuple[ReinforceState, Metrics]:
        """Steps of the policy on whole episodes, then of the value; of copies that are `cut`,
        [env], what goes on counts too."""
        ended = jnp.where(cut, ring.inserted, state.end_row)
        lived = gather_episodes(ring, state.start_row, ended)
        batch, next_value = on_policy.evaluate_rollout(self, state.learner, lived.experience)
        batch = on_policy.to_sequence(self, lived.experience, batch)
        x, with_value = lived.experience, self.baseline == "value"
        ahead: dict[str, Any] = {
            "reward": x.reward,
            "next_value": next_value if with_value else jnp.zeros_like(next_value),
            "terminated": x.terminated,
            "done": x.done,
            "discount": self.discount,
        }
        earned = self.importance_weighted_returns(jnp.zeros_like(batch.log_prob), ahead, lived)[1]
        baseline = self.estimate_baseline(state.learner.networks.policy, batch, lived, earned)

        def step(carry, _):
            policy, optimizer = carry
            log_ratio = batch.distribution_of(policy).log_prob(batch.action) - batch.log_prob
            weight, later = self.importance_weighted_returns(log_ratio, ahead, lived)
            advantage = self.normalize_advantages(lived, later - baseline)

            def loss(policy):
                choice = batch.distribution_of(policy)
                # a mean over those that count
                kept = lived.valid.size / jnp.maximum(lived.valid.sum(), 1) * lived.valid
                likelihood = weighted_nll(choice.log_prob(batch.action), kept * weight * advantage)
                entropy = lived.mean(choice.entropy())
                return likelihood - self.entropy_coefficient * entropy, {
                    "policy_loss": likelihood,
                    "entropy": entropy,
                }

            gradient, metrics = jax.grad(loss, has_aux=True)(policy)
            change, optimizer = self.optimizer(state.learner.steps).update(gradient, optimizer)
            return (optax.apply_updates(policy, change), optimizer), metrics

        of_policy, of_value = state.learner.optimizer
        (policy, of_policy), metrics = jax.lax.scan(
            step, (state.learner.networks.policy, of_policy), length=self.gradient_steps
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        value = state.learner.networks.value
        if with_value:  # last, so that the baseline does not know what it was subtracted from
            target = returns.discounted_returns(**ahead)
            value, of_value, metrics["value_loss"] = self.fit_value(
                value, of_value, batch, target, lived
            )
        agent = replace(state.learner.networks, policy=policy, value=value)
        learner = replace(state.learner, networks=agent, optimizer=(of_policy, of_value))
        return ReinforceState(
            learner, (), ended, ended, jnp.int32(0), state.learned_episodes + state.pending_episodes
        ), metrics

    def importance_weighted_returns(
        self, log_ratio: Array, ahead: dict[str, Any], lived: EpisodeBatch
    ) -> tuple[Array, Array]:
        """(importance weight, return) of each step, [time, env]: those of the policy now, from what
        an earlier one did."""
        done, limit = lived.experience.done, self.weight_clip
        later = returns.discounted_returns(**ahead)
        match self.correction:
            case "trajectory":
                weight = importance_sampling.trajectory_weight(log_ratio, done, limit)
            case "first_order":
                weight = importance_sampling.first_order_weight(log_ratio, limit)
            case _:
                weight = importance_sampling.per_decision_weight(log_ratio, done, limit)
                later = importance_sampling.per_decision_returns(log_ratio, **ahead, clip=limit)
        if self.causality:
            return weight, later
        # after these an episode begins, or what is left of one that was cut
        others = done | ~lived.valid
        begins = jnp.concatenate([jnp.ones_like(done[:1]), others[:-1]])
        # the return of the whole
        return weight, lived.by_episode(jnp.where(begins, later, 0))[lived.episode]

    def estimate_baseline(
        self, policy: Policy, batch: RolloutBatch, lived: EpisodeBatch, earned: Array
    ) -> Array:
        """b, [time, env]: 0, the average or the optimal one of the other episodes, or the value of
        the state."""
        match self.baseline:
            case "none":
                return jnp.zeros_like(earned)
            case "value":
                return batch.value
            case "average":
                square = jnp.ones_like(earned)
            case "optimal":
                square = squared_scores(policy, batch)
        length = lived.by_episode(square)
        middle = baselines.safe_divide(lived.by_episode(square * earned), length)
        return baselines.leave_one_out_optimal(middle, length)[lived.episode]

    def normalize_advantages(self, lived: EpisodeBatch, advantage: Array) -> Array:
        if not self.normalize_advantage:
            return advantage
        mean = lived.mean(advantage)
        return (advantage - mean) / (jnp.sqrt(lived.mean((advantage - mean) ** 2)) + 1e-8)

    def fit_value(
        self, value: Any, optimizer: Any, batch: RolloutBatch, target: Array, lived: EpisodeBatch
    ) -> tuple[Any, Any, Array]:
        """So many steps on E[½ (Gₜ - V(sₜ))²] over whole episodes."""

        def step(carry, _):
            value, optimizer = carry
            loss, gradient = jax.value_and_grad(
                lambda value: lived.mean(l2_loss(target - batch.values_of(value)))
            )(value)
            change, optimizer = self.value_optimizer().update(gradient, optimizer)
            return (optax.apply_updates(value, change), optimizer), loss

        (value, optimizer), losses = jax.lax.scan(step, (value, optimizer), length=self.value_steps)
        return value, optimizer, losses.mean()


def gather_episodes(ring: RingBuffer, begun: Array, ended: Array) -> EpisodeBatch:
    """All that is kept, in the order it was lived; the steps that count are those of each copy from
    `begun` up to `ended`."""
    rows, copies = ring_buffer.length(ring), ring_buffer.num_envs(ring)
    # of all rows ever; negative: none was there
    lived = ring.inserted - rows + jnp.arange(rows)[:, None]
    lived, env = jnp.broadcast_arrays(lived, jnp.arange(copies))
    experience = ring_buffer.gather(ring, Indices(lived % rows, env))
    apart = (lived < 0) | (lived == ring.inserted - 1)  # before the first; what comes is not known
    experience = replace(experience, truncated=experience.truncated | apart)
    done = experience.done
    return EpisodeBatch(
        experience, (lived >= begun) & (lived < ended), jnp.cumsum(done, 0) - done + rows * env
    )


def squared_scores(policy: Policy, batch: RolloutBatch) -> Array:
    """‖∇log π(a|s)‖² of each step, [time, env]."""

    def squared_score(step):
        observation, action = step
        score = jax.grad(lambda policy: policy(observation).log_prob(action))(policy)
        return optax.tree.norm(score, squared=True)

    shape = batch.log_prob.shape
    steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.observation, batch.action))
    return jax.lax.map(squared_score, steps, batch_size=256).reshape(shape)


# The gradient from what an earlier policy did, several steps on a batch.
OffPolicyGradient = partial(Reinforce, gradient_steps=10, weight_clip=2.0)

ALGORITHMS = {
    "reinforce": (
        Reinforce,
        "policy gradient from whole episodes, with a choice of baselines: every kind of action",
    ),
    "off-policy-gradient": (
        OffPolicyGradient,
        "REINFORCE with several gradient steps on each batch, corrected by importance weights",
    ),
}
