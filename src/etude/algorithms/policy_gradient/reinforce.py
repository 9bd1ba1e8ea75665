"""REINFORCE (Williams, 1992) with baselines, and its off-policy form by importance sampling.

    ∇J = E[Σₜ ∇log π(aₜ|sₜ) (Gₜ - b)]

The factor γᵗ of a discounted objective is left out, as usual. Rollouts are buffered until there are
enough complete episodes. Then the policy takes `gradient_steps` steps on them. Those after the
first are off-policy, and with several environments an episode may have begun before the policy's
last update: actions carry importance weights π / β, where log β(a|s) was noted when the action was
taken.
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.algorithms.protocol import Component, algorithm
from etude.counters import count_up
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators import baselines, importance_sampling
from etude.estimators.losses import check_target, l2_loss, weighted_nll
from etude.estimators.returns import discounted_returns
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.policies import PolicyNetwork, ValueNetwork
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import any_in_vmap, linear_decay
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class ReinforceState:
    learner: LearnerState  # opt_state: (that of the policy, that of the value)
    buffer: Any  # RingBuffer of the latest steps of every environment; () during gradient steps
    # Rows of time are counted as in the buffer. The steps to learn from are those of complete
    # episodes, from start_row up to end_row.
    start_row: Array  # int32 [env]
    end_row: Array  # int32 [env]: the row after the last end of an episode
    pending_episodes: Array  # int32: complete episodes to learn from
    learned_episodes: Array  # int32: complete episodes learned from


@struct
class EpisodeMemory:
    """What an episode remembers, [env, ...]: the policy's memory and how likely its action was."""

    policy: Any  # a PolicyMemory, () without memory
    log_prob: Array  # log β(a|s) of the action taken, β being the policy that took it


@struct
class EpisodeBatch:
    """The buffer [time, env], with a mask of the steps of complete, pending episodes."""

    experience: Transition
    valid: Array  # bool: the step is one to learn from
    episode: Array  # int32: index of the step's episode, below time * env

    def mean(self, x: Array) -> Array:
        """Return the mean of x [time, env] over the valid steps."""
        return jnp.where(self.valid, x, 0).sum() / jnp.maximum(self.valid.sum(), 1)

    def by_episode(self, x: Array) -> Array:
        """Return the sum of x [time, env] over each episode's valid steps, [time * env]."""
        return jax.ops.segment_sum(
            jnp.where(self.valid, x, 0).ravel(), self.episode.ravel(), self.episode.size
        )


@algorithm
class Reinforce:
    """REINFORCE for every kind of action space."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for the policy."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    value_learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for the value function; no effect unless baseline is "value"."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus, per nat, in the loss; larger values explore more."""
    weight_clip: float = traced(math.inf, above=0)
    """Upper limit of each importance weight, and with "per_decision" of each ratio in the product
    that weights a return: values near 1 shrink the returns of long episodes; inf: no clip."""
    initial_std: float = traced(1.0, above=0)
    """Initial standard deviation of Box actions; a bounded Box is scaled to [-1, 1]; no effect with
    other action spaces."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer, of policy and value alike."""
    activation: Activation = static("tanh")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, trained through complete episodes."""
    causality: bool = static(True)
    """Whether an action is weighted by the reward to go; else by the whole episode's return."""
    baseline: Literal["none", "average", "optimal", "value"] = static("value")
    """Baseline b: none, the mean return over the steps of the other episodes, that mean with each
    step's squared score as weight (of least variance for single steps), or the learned V(s)."""
    normalize_advantage: bool = static(False)
    """Whether advantages are normalized to mean 0 and std 1 over the batch."""
    batch_steps: int = static(1_000, at_least=1)
    """Fewest environment steps of complete episodes in a batch; no effect with batch_episodes."""
    batch_episodes: int = static(0, at_least=0)
    """Fewest complete episodes in a batch, in place of batch_steps; 0: batch_steps decides."""
    max_episodes: int = static(0, at_least=0)
    """Episodes after which learning stops; 0: no limit."""
    gradient_steps: int = static(1, at_least=1)
    """Gradient steps of the policy per batch; those after the first are off-policy."""
    correction: Literal["trajectory", "per_decision", "first_order"] = static("per_decision")
    """Importance weights: of whole trajectories, of the steps so far, or of the step alone;
    "per_decision" is "trajectory" without causality."""
    value_steps: int = static(20, at_least=1)
    """Gradient steps of the value function per batch; no effect unless baseline is "value"."""
    capacity: int = static(4_096, at_least=2)
    """Environment steps of each environment copy that the buffer holds; longer episodes are cut."""
    rollout_length: int = static(8, at_least=1)
    """Environment steps of each environment copy between checks for a complete batch."""

    shared: ClassVar[bool] = False
    discount_from: ClassVar[str] = "now"
    state_noise: ClassVar[bool] = False  # noise held over steps makes actions dependent
    normalize_observation: ClassVar[None] = None  # scales would differ between buffered rollouts

    assumes: ClassVar[Assumptions] = Assumptions(
        episodes=True, full_observation=False, action_masks=True
    )
    components: ClassVar[dict[str, Component]] = {"policy": on_policy.POLICY}

    def validate_fields(self) -> None:
        uses_other_episodes = self.baseline in ("average", "optimal")
        if uses_other_episodes and self.batch_episodes == 1:
            raise InvalidInput(
                f"batch_episodes is 1; the {self.baseline} baseline of an episode is that of the "
                "others in its batch: give at least 2, or another baseline"
            )
        if self.baseline == "optimal" and self.recurrent:
            raise InvalidInput(
                "baseline is 'optimal', which takes the score of each step by itself, and with a "
                f"memory (recurrent {self.recurrent!r}) there is none: give another baseline"
            )
        if self.rollout_length > self.capacity // 2:
            raise InvalidInput(
                f"rollout_length {self.rollout_length} is more than half of capacity "
                f"{self.capacity}; give shorter rollouts or a larger capacity"
            )

    def first_update(self, num_envs: int) -> tuple[int, str]:
        """(steps before the first gradient step, the setting that says so): those of a batch."""
        rollout = self.rollout_length * num_envs
        held = self.capacity // self.rollout_length * rollout  # a full buffer is learned from too
        batch = 0 if self.batch_episodes else min(self.batch_steps, held)
        return max(rollout, -(-batch // rollout) * rollout), f"batch_steps {self.batch_steps:,}"

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of a buffer that holds less than its capacity."""
        held = self.capacity // self.rollout_length * self.rollout_length
        if held >= min(self.capacity, steps // num_envs):
            return ()
        return (
            f"the buffer holds {held:,} steps of each environment, the whole rollouts of "
            f"rollout_length {self.rollout_length} that fit into capacity {self.capacity:,}",
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> ReinforceState:
        """Return the initial networks, optimizer states and an empty buffer."""
        if not self.batch_episodes and self.batch_steps > (limit := self.capacity * spec.num_envs):
            raise InvalidInput(
                f"batch_steps {self.batch_steps} is more than the {limit} that are kept (capacity "
                f"{self.capacity} × num_envs {spec.num_envs}); give a larger capacity"
            )
        learner = on_policy.init_learner(self, key, spec)
        opt_state = (
            self.optimizer(learner.steps).init(learner.networks.policy),
            self.value_optimizer().init(learner.networks.value),
        )
        memory = initial_episode_memory(self, learner, spec)
        transition = replace(
            zeros_like_spec(spec), memory=jax.tree.map(lambda x: jnp.zeros_like(x[0]), memory)
        )
        buffer = ring_buffer.init(
            transition, self.capacity * spec.num_envs, spec.num_envs, self.rollout_length
        )
        row, zero = jnp.zeros(spec.num_envs, jnp.int32), jnp.int32(0)
        return ReinforceState(replace(learner, opt_state=opt_state), buffer, row, row, zero, zero)

    def initial_memory(self, state: ReinforceState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return the memory at the start of an episode: zeros."""
        return initial_episode_memory(self, state.learner, spec)

    def act(
        self, state: ReinforceState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        pi, action, policy_memory = on_policy.choose_action(
            self, state.learner, observation, memory.policy, key, explore
        )
        return action, EpisodeMemory(policy_memory, pi.log_prob(action))

    def update(
        self, state: ReinforceState, experience: Transition, key: Array
    ) -> tuple[ReinforceState, Metrics]:
        """Store a rollout [time, env]; learn once the batch is complete or the buffer is full."""
        state = self.store(state, experience)
        pending_steps = (state.end_row - state.start_row).sum()
        is_complete = (
            state.pending_episodes >= self.batch_episodes
            if self.batch_episodes
            else pending_steps >= self.batch_steps
        )
        if self.baseline in ("average", "optimal"):
            is_complete &= state.pending_episodes >= 2
        # [env]: the next rollout would overwrite steps that are yet to be learned from.
        is_full = (
            state.buffer.inserted - state.start_row
            > ring_buffer.length(state.buffer) - self.rollout_length
        )
        is_ready = (is_complete | is_full.any()) & (
            (state.learned_episodes < self.max_episodes) | (self.max_episodes == 0)
        )
        # `cond` copies its outputs, so the buffer, which learning does not change, stays outside.
        buffer, state = state.buffer, replace(state, buffer=())

        def fit(state):
            fitted, metrics = self.fit_episodes(buffer, state, is_full)
            state = jax.tree.map(lambda new, old: jnp.where(is_ready, new, old), fitted, state)
            return state, metrics

        def skip(state):
            metrics = jax.eval_shape(fit, state)[1]
            return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        state, metrics = jax.lax.cond(any_in_vmap(is_ready), fit, skip, state)
        updates = is_ready * self.gradient_steps
        return replace(state, buffer=buffer), {**metrics, "updates": updates}

    def store(self, state: ReinforceState, experience: Transition) -> ReinforceState:
        """Insert a rollout [time, env] into the buffer and count the episodes that it completes."""
        done, buffer = experience.done, ring_buffer.insert(state.buffer, experience)
        # where the buffer counts its rows from a later one
        dropped = state.buffer.inserted + len(done) - buffer.inserted
        next_row = buffer.inserted + jnp.arange(1 - len(done), 1)  # [time]
        end_row = jnp.where(done, next_row[:, None], 0).max(0)
        learner = on_policy.finish_update(self, state.learner, experience)
        return replace(
            state,
            learner=learner,
            buffer=buffer,
            start_row=state.start_row - dropped,
            end_row=jnp.maximum(state.end_row - dropped, end_row),
            pending_episodes=state.pending_episodes + done.sum(),
        )

    def truncate_episodes(self, state: ReinforceState, is_cut: Array) -> ReinforceState:
        """Complete the running episodes of the environments in `is_cut` [env] where they are."""
        is_cut = is_cut & (state.end_row < state.buffer.inserted)
        return replace(
            state,
            buffer=ring_buffer.truncate_newest(state.buffer, is_cut),
            end_row=jnp.where(is_cut, state.buffer.inserted, state.end_row),
            pending_episodes=state.pending_episodes + is_cut.sum(),
        )

    def fit_episodes(
        self, buffer: RingBuffer, state: ReinforceState, is_full: Array
    ) -> tuple[ReinforceState, Metrics]:
        """Take `gradient_steps` of the policy, then `value_steps` of the value, on the episodes.

        Where `is_full` [env], the steps of the running, incomplete episode are used too.
        """
        end_row = jnp.where(is_full, buffer.inserted, state.end_row)
        episodes = gather_episodes(buffer, state.start_row, end_row)
        memory = episodes.experience.memory
        experience = replace(episodes.experience, memory=memory.policy)
        batch, next_value = on_policy.evaluate_rollout(self, state.learner, experience)
        batch = on_policy.to_sequence(self, experience, batch)
        has_value_baseline = self.baseline == "value"
        return_inputs: dict[str, Any] = {
            "reward": experience.reward,
            "next_value": next_value if has_value_baseline else jnp.zeros_like(next_value),
            "terminated": experience.terminated,
            "done": experience.done,
            "discount": self.discount,
        }
        log_ratio = batch.old_log_prob - memory.log_prob
        _, returns = self.importance_weighted_returns(log_ratio, return_inputs, episodes)
        baseline = self.estimate_baseline(state.learner.networks.policy, batch, episodes, returns)

        def policy_step(carry, _):
            policy, opt_state = carry
            log_ratio = batch.distribution_of(policy).log_prob(batch.action) - memory.log_prob
            weight, returns = self.importance_weighted_returns(log_ratio, return_inputs, episodes)
            advantage = self.normalize_advantages(episodes, returns - baseline)

            def loss_fn(policy):
                pi = batch.distribution_of(policy)
                check_target("estimate_baseline", advantage, batch.old_log_prob)
                # The factor turns the loss's mean over all steps into one over the valid steps.
                mask = episodes.valid.size / jnp.maximum(episodes.valid.sum(), 1) * episodes.valid
                policy_loss = weighted_nll(pi.log_prob(batch.action), mask * weight * advantage)
                entropy = episodes.mean(pi.entropy())
                return policy_loss - self.entropy_coefficient * entropy, {
                    "policy_loss": policy_loss,
                    "entropy": entropy,
                }

            gradient, metrics = jax.grad(loss_fn, has_aux=True)(policy)
            updates, opt_state = self.optimizer(state.learner.steps).update(gradient, opt_state)
            return (optax.apply_updates(policy, updates), opt_state), metrics

        policy_opt_state, value_opt_state = state.learner.opt_state
        (policy, policy_opt_state), metrics = jax.lax.scan(
            policy_step,
            (state.learner.networks.policy, policy_opt_state),
            length=self.gradient_steps,
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        value = state.learner.networks.value
        if has_value_baseline:  # after the policy: V fitted to the same returns would add bias
            target = discounted_returns(**return_inputs)
            value, value_opt_state, metrics["value_loss"] = self.fit_value(
                value, value_opt_state, batch, target, episodes
            )
        networks = replace(state.learner.networks, policy=policy, value=value)
        opt_state = (policy_opt_state, value_opt_state)
        learner = replace(state.learner, networks=networks, opt_state=opt_state)
        learned_episodes = count_up(state.learned_episodes, state.pending_episodes)
        state = ReinforceState(learner, (), end_row, end_row, jnp.int32(0), learned_episodes)
        return state, metrics

    def importance_weighted_returns(
        self, log_ratio: Array, return_inputs: dict[str, Any], episodes: EpisodeBatch
    ) -> tuple[Array, Array]:
        """Return (importance weight, return) of each step for the policy π, [time, env].

        `log_ratio` is log π(a|s) - log β(a|s), β being the policy that took the action. Without
        causality the weight holds the ratios of all steps whose rewards the return sums, so that
        the return is the plain one.
        """
        done, clip = episodes.experience.done, self.weight_clip
        log_ratio = jnp.where(episodes.valid, log_ratio, 0)
        if self.correction == "per_decision" and self.causality:
            return importance_sampling.per_decision_weight(
                log_ratio, done, clip
            ), importance_sampling.per_decision_returns(log_ratio, **return_inputs, clip=clip)
        weight = (
            importance_sampling.first_order_weight(log_ratio, clip)
            if self.correction == "first_order"
            else importance_sampling.trajectory_weight(log_ratio, done, clip)
        )
        returns = discounted_returns(**return_inputs)
        if self.causality:
            return weight, returns
        # The return of the whole episode is that of its first valid step.
        ends = done | ~episodes.valid
        is_first = jnp.concatenate([jnp.ones_like(done[:1]), ends[:-1]])
        return weight, episodes.by_episode(jnp.where(is_first, returns, 0))[episodes.episode]

    def estimate_baseline(
        self, policy: PolicyNetwork, batch: RolloutBatch, episodes: EpisodeBatch, returns: Array
    ) -> Array:
        """Return the baseline b of each step, [time, env].

        "average" and "optimal" weight the returns at the steps of the other episodes by 1 or
        ‖∇log π(a|s)‖². The latter has the least variance for one step alone, with weights of 1.
        """
        match self.baseline:
            case "none":
                return jnp.zeros_like(returns)
            case "value":
                return batch.old_value
            case "average":
                weight = jnp.ones_like(returns)
            case "optimal":
                weight = squared_scores(policy, batch)
        episode_weight = episodes.by_episode(weight)
        episode_mean = baselines.safe_divide(episodes.by_episode(weight * returns), episode_weight)
        return baselines.leave_one_out_optimal(episode_mean, episode_weight)[episodes.episode]

    def normalize_advantages(self, episodes: EpisodeBatch, advantage: Array) -> Array:
        """Return the advantages with mean 0 and std 1 over the valid steps, if so configured.

        One alone stays as it is, for it would become 0.
        """
        if not self.normalize_advantage:
            return advantage
        mean = episodes.mean(advantage)
        std = jnp.sqrt(episodes.mean((advantage - mean) ** 2))
        return jnp.where(episodes.valid.sum() > 1, (advantage - mean) / (std + 1e-8), advantage)

    def fit_value(
        self,
        value: ValueNetwork,
        opt_state: optax.OptState,
        batch: RolloutBatch,
        target: Array,
        episodes: EpisodeBatch,
    ) -> tuple[ValueNetwork, optax.OptState, Array]:
        """Take `value_steps` gradient steps on E[½ (Gₜ - V(sₜ))²]; return the mean loss too."""

        def value_loss(value):
            output = batch.values_of(value)
            check_target("discounted_returns", target, output)
            return episodes.mean(l2_loss(target - output))

        def step(carry, _):
            value, opt_state = carry
            loss, gradient = jax.value_and_grad(value_loss)(value)
            updates, opt_state = self.value_optimizer().update(gradient, opt_state)
            return (optax.apply_updates(value, updates), opt_state), loss

        (value, opt_state), losses = jax.lax.scan(step, (value, opt_state), length=self.value_steps)
        return value, opt_state, losses.mean()

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """The policy's optimizer; its learning rate decays with the environment steps taken."""
        return optax.adam(self.learning_rate * linear_decay(steps, self.learning_rate_decay))

    def value_optimizer(self) -> optax.GradientTransformation:
        """The value function's optimizer."""
        return optax.adam(self.value_learning_rate)


def initial_episode_memory(
    algorithm: Reinforce, learner: LearnerState, spec: EnvironmentSpec
) -> EpisodeMemory:
    """Return what an episode begins with: the policy's initial memory, and no action yet."""
    policy_memory = on_policy.initial_memory(algorithm, learner, spec)
    return EpisodeMemory(policy_memory, jnp.zeros(spec.num_envs))


def gather_episodes(buffer: RingBuffer, start_row: Array, end_row: Array) -> EpisodeBatch:
    """Return the whole buffer in order of time; valid are the rows from start_row up to end_row.

    In place of rows before the first insertion stands the first row, for zeros are no observations
    of the environment: their action mask allows nothing. These rows and the newest row, whose
    successor may be unknown, are marked truncated.
    """
    length, num_envs = ring_buffer.length(buffer), ring_buffer.num_envs(buffer)
    # Counted as in the buffer; negative before the first insertion.
    row = buffer.inserted - length + jnp.arange(length)[:, None]
    row, env = jnp.broadcast_arrays(row, jnp.arange(num_envs))
    experience = ring_buffer.gather(buffer, Indices(jnp.maximum(row, 0) % length, env))
    is_cut = (row < 0) | (row == buffer.inserted - 1)
    experience = replace(experience, truncated=experience.truncated | is_cut)
    done = experience.done
    valid = (row >= start_row) & (row < end_row)
    episode = jnp.cumsum(done, 0) - done + length * env
    return EpisodeBatch(experience, valid, episode)


def squared_scores(policy: PolicyNetwork, batch: RolloutBatch) -> Array:
    """Return ‖∇log π(a|s)‖² of each step, [time, env]."""

    def squared_score(step):
        observation, action = step
        score = jax.grad(lambda policy: policy(observation).log_prob(action))(policy)
        return optax.tree.norm(score, squared=True)

    shape = batch.old_log_prob.shape
    steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.observation, batch.action))
    return jax.lax.map(squared_score, steps, batch_size=256).reshape(shape)


# REINFORCE with several gradient steps on each batch, corrected by clipped importance weights.
OffPolicyGradient = partial(Reinforce, gradient_steps=10, weight_clip=2.0)

# Name on the command line: (constructor, description).
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
