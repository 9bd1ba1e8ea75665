"""What the algorithms that clone how goals were reached share: input, hindsight goals, distance.

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

Whatever an episode of T steps was meant to achieve, its action at step t is a demonstration of how
to achieve what it achieved at any later step, the last observation included. With a horizon the
policy is told k as well, π_θ(aₜ|sₜ, g, k). When it plays, k is what is left of the horizon: it is
asked to be at the goal when the horizon is over, not as soon as it can.

A goal environment shows the desired goal and the achieved one. In learning g takes the place of the
desired goal, and the policy never sees the achieved one: other entries tell the state. In any other
environment a goal is a whole observation, and in every one it may be parts of an observation that
are named.

A recurrent cell reads observations alone, and the goal and the remaining steps enter after it; see
`goal_torso`. So what is remembered of an episode is the same whatever its goal was, and each step
demonstrates with it how to achieve every goal that it has in hindsight.

The functions read these hyperparameters of `algorithm`, and those of `cloning`:

    goal         names of the parts of an observation that are the goal
    horizon      whether the policy is told how many steps remain, and out of how many
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.cloning import Cloner, Demonstrations
from etude.algorithms.imitation.goal_torso import make_goal_torso
from etude.algorithms.protocol import Component
from etude.counters import count_back
from etude.data.transition import Transition
from etude.environments.goal_spaces import (
    achieved_goal,
    entries_of,
    goal_distance,
    goal_space,
    names_beside_mask,
    shows_goal,
    space_of_named,
    value_of_named,
)
from etude.errors import InvalidInput
from etude.nn.action_masks import mask_space
from etude.nn.recurrent import Carry
from etude.spaces import (
    ACHIEVED_GOAL,
    ACTION_MASK,
    DESIRED_GOAL,
    Box,
    Composite,
    EnvironmentSpec,
    Space,
)
from etude.struct import replace, static, struct
from etude.types import Array

REMAINING_STEPS = "remaining_steps"  # an entry of the policy's input, in units of the horizon


@struct
class GoalInput:
    """The input of a policy with goals, a Dict, as a function of observation and goal.

    Where observations show a goal, it is the observation without "achieved_goal", with the goal as
    "desired_goal"; elsewhere the observation and the goal side by side. With a horizon it has the
    remaining steps, too.
    """

    observation_space: Space = static()
    horizon: int = static(0)
    names: tuple[str, ...] = static(())  # the parts of an observation that are the goal

    @property
    def is_shown(self) -> bool:
        """Whether observations say which goal is desired."""
        return shows_goal(self.observation_space, self.names)

    @property
    def goal_space(self) -> Space:
        """The space of the goals."""
        return goal_space(self.observation_space, self.names)

    @property
    def space(self) -> Composite:
        """The space of the input."""
        if self.is_shown:
            entries = entries_of(self.observation_space)
            # the goals that it learns with were achieved, so their space is that of those
            entries[DESIRED_GOAL] = entries.pop(ACHIEVED_GOAL)
        else:
            beside_mask = names_beside_mask(self.observation_space)
            state = space_of_named(self.observation_space, beside_mask)
            entries = {"goal": self.goal_space, "observation": state}
            if (mask := mask_space(self.observation_space)) is not None:
                entries[ACTION_MASK] = mask
        if self.horizon:
            if REMAINING_STEPS in entries:
                raise InvalidInput(
                    f"horizon is {self.horizon}, and observations have an entry {REMAINING_STEPS}, "
                    "as what the horizon adds would be called; leave horizon out"
                )
            entries[REMAINING_STEPS] = Box((), low=0.0, high=1.0)
        names = tuple(sorted(entries))
        return Composite(tuple(entries[name] for name in names), names)

    def __call__(self, observation: Any, goal: Any, remaining_steps: Array) -> dict[str, Any]:
        """The input where `goal` is asked for, and is to be achieved in so many steps; [n, ...]."""
        if self.is_shown:
            entries = {name: observation[name] for name in observation if name != ACHIEVED_GOAL}
            entries[DESIRED_GOAL] = goal
        else:
            beside_mask = names_beside_mask(self.observation_space)
            state = value_of_named(self.observation_space, observation, beside_mask)
            entries = {"goal": goal, "observation": state}
            if mask_space(self.observation_space) is not None:
                entries[ACTION_MASK] = observation[ACTION_MASK]
        if self.horizon:
            entries[REMAINING_STEPS] = jnp.clip(remaining_steps / self.horizon, 0, 1)
        return entries

    @property
    def asked_entries(self) -> tuple[str, ...]:
        """The names of the entries that say what is asked for: goal and remaining steps."""
        goal = DESIRED_GOAL if self.is_shown else "goal"
        return (goal, REMAINING_STEPS) if self.horizon else (goal,)

    def achieved_goal(self, observation: Any) -> Any:
        """The goal that an observation is, has as a part, or says to be achieved."""
        return achieved_goal(self.observation_space, observation, self.names)

    def desired_goal(self, observation: Any, memory: "GoalMemory") -> Any:
        """The goal to act for: the environment's, or the one drawn for the episode."""
        return observation[DESIRED_GOAL] if self.is_shown else memory.goal


@struct
class GoalMemory:
    """What an episode remembers, [env, ...]."""

    goal: Any  # drawn at its start; () where observations show one
    step: Array  # int32: steps of the episode so far
    carry: Carry = ()  # before the latest observation; () without a recurrent cell
    next_carry: Carry = ()  # after it


def get_goal_policy(state: Any) -> Any:
    """The weights that act for goals, and the statistics that normalize their input.

    It is a function of its own, since components are the same where `get` is: a run of bc, whose
    network has another input, cannot start from these.
    """
    return cloning.get_cloned_policy(state)


GOAL_POLICY = Component(
    get_goal_policy,
    cloning.put_cloned_policy,
    settings=(
        "hidden",
        "activation",
        "torso",
        "recurrent",
        "normalize_observation",
        "head",
        "goal",
        "horizon",
    ),
)


def init_goal_cloner(algorithm: Any, key: Array, spec: EnvironmentSpec) -> tuple[Cloner, GoalInput]:
    """The initial policy and optimizer state, and the policy's input."""
    goal_input = GoalInput(spec.observation, algorithm.horizon, algorithm.goal)
    input_spec = replace(spec, observation=goal_input.space)
    if not algorithm.recurrent:
        return cloning.init_cloner(algorithm, key, input_spec), goal_input
    make_torso = partial(make_goal_torso, goal_input.asked_entries)
    return cloning.init_cloner(algorithm, key, input_spec, make_torso), goal_input


def first_memory(learner: Cloner, goal: Any, num_envs: int) -> GoalMemory:
    """The memory with which an episode begins."""
    carry = cloning.start_carry(learner, num_envs)
    return GoalMemory(goal, jnp.zeros(num_envs, jnp.int32), carry, carry)


def act_for_goal(
    algorithm: Any, state: Any, observation: Any, memory: GoalMemory, key: Array, sampled: bool
) -> tuple[Any, GoalMemory]:
    """The policy's action for the episode's goal, a sample or its mode, and the next memory.

    Once the horizon is over, one step remains.
    """
    goal = state.goal_input.desired_goal(observation, memory)
    remaining_steps = jnp.maximum(algorithm.horizon - memory.step, 1)
    policy_input = state.goal_input(observation, goal, remaining_steps)
    carry = memory.next_carry
    action, next_carry = cloning.act_as_cloned(
        algorithm, state.learner, policy_input, carry, key, sampled
    )
    # it never stands still, for `episode_offsets` finds episodes by steps that follow each other
    step = count_back(memory.step, 1) + 1
    return action, GoalMemory(memory.goal, step, carry, next_carry)


def relabel(
    goal_input: GoalInput,
    key: Array,
    steps_left: Array,
    steps_after: Callable[[int | Array], Transition],
) -> Demonstrations:
    """Steps [n] as demonstrations of how to achieve what was achieved later in their episodes.

    Args:
        goal_input: the policy's input.
        key: of the goals that are drawn.
        steps_left: int32 [n], how many steps of the episode are left, the step itself included: as
            many observations follow it.
        steps_after: returns the steps [n, ...] that come so many steps after those n. Its argument
            is one number, or int32 [n], below `steps_left`.
    """
    offset = jax.random.randint(key, steps_left.shape, 0, steps_left)
    step, later_step = steps_after(0), steps_after(offset)
    goal = goal_input.achieved_goal(later_step.next_observation)
    return cloning.single_actions(goal_input(step.observation, goal, offset + 1), step.action)


def in_sequences(batch: Demonstrations, carry: Carry, is_first: Array) -> Demonstrations:
    """Steps [time * sequence] as sequences [time, sequence], for a recurrent cell.

    `carry` [sequence, ...] is before the first of each, and `is_first` [time, sequence] says where
    an episode begins.
    """
    shape = is_first.shape
    batch = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)
    return replace(batch, carry=carry, is_first=is_first)


def distance_to_goal(state: Any, memory: GoalMemory, observation: Any) -> dict[str, Array]:
    """The distance [env] of what an episode has achieved at its end from its goal.

    It is Euclidean, over the Box entries of goals, in the units of the observations.
    """
    goal_input = state.goal_input
    return {
        "distance": goal_distance(
            goal_input.goal_space,
            goal_input.achieved_goal(observation),
            goal_input.desired_goal(observation, memory),
        )
    }
