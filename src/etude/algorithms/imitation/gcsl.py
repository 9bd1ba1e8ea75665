"""Goal-conditioned supervised learning, GCSL (Ghosh et al., "Learning to Reach Goals via Iterated
Supervised Learning", 2021).

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

It is goal-conditioned behavior cloning of its own episodes, again and again: the policy plays for a
goal, and whatever it achieves instead is a demonstration of how to achieve that. No reward is read.

In a noisy environment the goals that were achieved by luck are imitated as well: the policy learns
the probability of an action where the goal was achieved, which is not that of the best action.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.exploration import mix_actions
from etude.algorithms.control.random_policy import Random, RandomState
from etude.algorithms.imitation import cloning, goal_cloning
from etude.algorithms.imitation.cloning import LOSS, AnyHead, Cloner, Demonstrations
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.protocol import Component, algorithm
from etude.counters import count_up
from etude.data.replay import ring_buffer
from etude.data.replay.hindsight import episode_offsets
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.replay.uniform import sample_indices
from etude.data.transition import Transition, zeros_like_spec
from etude.environments.goal_spaces import has_goals
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.spaces import EnvironmentSpec, executed_action
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class GCSLState:
    learner: Cloner
    buffer: RingBuffer  # of Transitions, whose memory is the step of the episode, from 1
    # int32 [row * env]: the number of possible goals in the buffer up to each step; () in a goal
    # environment
    goal_counts: Any
    steps: Array  # int32: environment steps taken, summed over all environment copies
    goal_input: GoalInput


@algorithm
class GCSL:
    """Goal-conditioned supervised learning (GCSL) for every kind of action space.

    In a goal environment, such as etude/PointRoom-v0, the policy acts for the goal that is desired.
    In any other, a goal is a whole observation, and an episode is played for the last observation
    of a random one of the episodes in the buffer; before one has ended, for any observation there.
    Evaluations report the distance to the goal at the end of an episode, beside the return.

    By default Box actions are those of a normal distribution. The authors' code cuts each element
    of a Box into three bins, and so can hold several ways to a goal, of which a normal is the mean;
    here other heads do so.
    """

    learning_rate: float = traced(5e-4, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Gradient steps over which the learning rate falls linearly to zero; inf: constant."""
    weight_decay: float = traced(0.0, at_least=0)
    """Share of each weight that a gradient step takes away, per unit of the learning rate
    (AdamW)."""
    max_gradient_norm: float = traced(math.inf, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    head: AnyHead = nested(Direct())
    """What is predicted from the features of a state, and by which loss."""
    random_steps: int = static(10_000, at_least=0)
    """Environment steps of all copies with random actions, before the policy plays; it learns from
    them, too."""
    sample_actions: bool = static(True)
    """Whether training plays samples of the policy; else it plays the policy's mode."""
    epsilon: float = traced(0.0, at_least=0, at_most=1)
    """Probability of a random action in place of the policy's, in training."""
    hidden: tuple[int, ...] = static((400, 300), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    horizon: int = static(0, at_least=0)
    """Steps of an episode, of which the policy is then told how many remain to achieve the goal; 0:
    it is not told."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether the policy's input, goals included, is normalized to mean 0 and std 1 by the
    statistics of all that was played; images are not."""
    batch_size: int = static(256, at_least=1)
    """Steps of the buffer in a gradient step."""
    gradient_steps: int = static(50, at_least=1)
    """Gradient steps per update."""
    rollout_length: int = static(50, at_least=1)
    """Environment steps of each environment copy per update."""
    capacity: int = static(100_000, at_least=1)
    """Steps that are kept; beyond it, the oldest are dropped."""

    recurrent: ClassVar[None] = None
    chunk: ClassVar[int] = 1
    ema: ClassVar[None] = None
    state_noise: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = goal_cloning.ASSUMPTIONS
    components: ClassVar[dict[str, Component]] = {"policy": goal_cloning.GOAL_POLICY}

    @property
    def is_deterministic(self) -> bool:
        """A head that has several modes draws one."""
        return self.head.is_deterministic

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of a buffer that does not hold all steps, and of a play that is random."""
        rollout = self.rollout_length * num_envs
        held = self.capacity // rollout * rollout
        of_buffer = (
            f"of {steps:,} steps the latest {held:,} are kept (capacity {self.capacity:,}, whole "
            "rollouts)"
        )
        of_play = (
            f"all {steps:,} steps are random actions (random_steps {self.random_steps:,}), so the "
            "policy never plays for its goals"
        )
        return (of_buffer,) * (held < steps) + (of_play,) * (self.random_steps >= steps)

    def init(self, key: Array, spec: EnvironmentSpec) -> GCSLState:
        """Return the initial policy and optimizer state, and an empty buffer."""
        learner, goal_input = goal_cloning.init_goal_cloner(self, key, spec)
        example = zeros_like_spec(spec, jnp.int32(0))
        buffer = ring_buffer.init(example, self.capacity, spec.num_envs, self.rollout_length)
        goal_counts = () if has_goals(spec.observation) else count_goals(buffer)
        return GCSLState(learner, buffer, goal_counts, jnp.int32(0), goal_input)

    def initial_memory(self, state: GCSLState, spec: EnvironmentSpec, key: Array) -> GoalMemory:
        """Return the goals with which an episode begins, where the environment shows none."""
        if has_goals(spec.observation):
            return goal_cloning.first_memory((), spec.num_envs)
        goal = draw_goals(key, state.buffer, state.goal_counts, spec.num_envs)
        return goal_cloning.first_memory(goal, spec.num_envs)

    def act(
        self, state: GCSLState, observation: Any, memory: GoalMemory, key: Array, explore: bool
    ) -> tuple[Any, GoalMemory]:
        """Return (action, next memory): with `explore` that of the behavior policy, else the
        policy's mode."""
        if not explore:
            return goal_cloning.act_for_goal(self, state, observation, memory, key, False)
        key_policy, key_random, key_mix = jax.random.split(key, 3)
        action, memory = goal_cloning.act_for_goal(
            self, state, observation, memory, key_policy, self.sample_actions
        )
        spaces = RandomState(state.goal_input.observation_space, state.learner.weights.action_space)
        random_action, _ = Random().act(spaces, observation, (), key_random, explore)
        probability = jnp.where(state.steps < self.random_steps, 1.0, self.epsilon)
        return mix_actions(key_mix, random_action, action, probability), memory

    def final_measures(
        self, state: GCSLState, memory: GoalMemory, observation: Any
    ) -> dict[str, Array]:
        """Return the distance to the goal at the end of an episode, [env]."""
        return goal_cloning.distance_to_goal(state, memory, observation)

    def update(
        self, state: GCSLState, experience: Transition, key: Array
    ) -> tuple[GCSLState, Metrics]:
        """Add a rollout [time, env] to the buffer, and take `gradient_steps` on all of it."""
        key_statistics, key_steps = jax.random.split(key)
        buffer = ring_buffer.insert(
            state.buffer, to_stored(experience, state.learner.weights.action_space)
        )
        newest = relabel_rows(
            state.goal_input, key_statistics, buffer, newest_rows(buffer, self.rollout_length)
        )
        learner = cloning.add_observations(self, state.learner, newest.observation)

        def step(learner, key):
            key_rows, key_goals = jax.random.split(key)
            indices = sample_indices(buffer, key_rows, self.batch_size)
            batch = relabel_rows(state.goal_input, key_goals, buffer, indices)
            key_loss = jax.random.fold_in(key, LOSS)
            learner, metrics, _ = cloning.gradient_step(self, learner, batch, key_loss)
            return learner, metrics

        learner, metrics = jax.lax.scan(
            step, learner, jax.random.split(key_steps, self.gradient_steps)
        )
        steps = count_up(state.steps, experience.reward.size)
        goal_counts = count_goals(buffer) if len(state.goal_counts) else ()
        return GCSLState(learner, buffer, goal_counts, steps, state.goal_input), {
            **jax.tree.map(jnp.mean, metrics),
            "updates": jnp.int32(self.gradient_steps),
        }


def to_stored(experience: Transition, action_space: Any) -> Transition:
    """A rollout as the buffer holds it: the actions as they were executed, and the step as memory.

    A last observation is a goal, whatever ended the episode, so that every end is stored as a
    truncation, whose next observation the buffer keeps.
    """
    action = executed_action(action_space, experience.action).astype(experience.action.dtype)
    return replace(
        experience,
        action=action,
        terminated=jnp.zeros_like(experience.terminated),
        truncated=experience.done,
        memory=experience.memory.step,
    )


def newest_rows(buffer: RingBuffer, rows: int) -> Indices:
    """The indices [rows * env] of the newest rows of time in a buffer."""
    num_envs = ring_buffer.num_envs(buffer)
    time = (buffer.inserted - 1 - jnp.arange(rows)) % ring_buffer.length(buffer)
    return Indices(jnp.repeat(time, num_envs), jnp.tile(jnp.arange(num_envs), rows))


def relabel_rows(
    goal_input: GoalInput, key: Array, buffer: RingBuffer, indices: Indices
) -> Demonstrations:
    """The steps of a buffer at `indices` [n], each with a goal of its own episode.

    An episode that goes on has no observation yet beyond the newest.
    """
    _, last_offset = episode_offsets(buffer, indices)
    return goal_cloning.relabel(
        goal_input,
        key,
        last_offset + 1,
        lambda offset: ring_buffer.gather(buffer, ring_buffer.advance(buffer, indices, offset)),
    )


def count_goals(buffer: RingBuffer) -> Array:
    """The number of possible goals up to each step of a buffer, int32 [row * env].

    They are the last observations of its episodes; before an episode has ended, all that followed a
    step.
    """
    num_rows = ring_buffer.length(buffer)
    age = (buffer.inserted - 1 - jnp.arange(num_rows)) % num_rows
    is_held = (age < ring_buffer.num_valid(buffer))[:, None]
    is_end = buffer.storage.truncated & is_held
    is_goal = jnp.where(is_end.any(), is_end, is_held)
    return jnp.cumsum(is_goal.ravel(), dtype=jnp.int32)


def draw_goals(key: Array, buffer: RingBuffer, goal_counts: Array, num_envs: int) -> Any:
    """Random ones of the possible goals in a buffer, [env, ...]; zeros where it is empty."""
    number = jax.random.randint(key, (num_envs,), 0, jnp.maximum(goal_counts[-1], 1))
    row = jnp.searchsorted(goal_counts, number, side="right")
    time, env = jnp.divmod(jnp.minimum(row, len(goal_counts) - 1), ring_buffer.num_envs(buffer))
    return ring_buffer.gather(buffer, Indices(time, env)).next_observation


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "gcsl": (GCSL, "goal-conditioned supervised learning: its own play, cloned in hindsight")
}
