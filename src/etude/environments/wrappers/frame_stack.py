"""Frame stacking: observe the latest frames, a simple alternative to a recurrent policy.

Source: Mnih et al., "Human-level control through deep reinforcement learning", 2015.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.backends.episode_log import EpisodeLog
from etude.environments.protocol import Environment, Replayer, StepResult
from etude.errors import InvalidInput
from etude.spaces import ACTION_MASK, Box, Composite, Space, leaves_with_path
from etude.struct import replace, struct
from etude.trees import where_done
from etude.types import Array


@struct
class FrameStackState:
    """The state of the wrapped environment and its latest frames, oldest first.

    `frames` is a list of leaves [env, frame, ...], one for each Box of the observation.
    """

    state: Any
    frames: Any


class FrameStack:
    """An environment that stacks the latest `count` frames of each Box of its observation.

    A stack is [count, *shape], oldest first. At the start of an episode it repeats the first
    observation. Other leaves, such as action masks, are not stacked. All attributes but `spec`,
    `reset` and `step` are those of the wrapped environment.

    Raises InvalidInput for fewer than one frame.
    """

    def __init__(self, environment: Environment, count: int):
        if count < 1:
            raise InvalidInput(f"frame_stack is {count}; it must be at least 1")
        self.environment, self.count = environment, count
        self.spec = replace(
            environment.spec, observation=stacked_space(environment.spec.observation, count)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.environment, name)

    def reset(self, key: Array) -> tuple[FrameStackState, Any]:
        state, observation = self.environment.reset(key)
        frames = self._repeat_boxes(observation)
        return FrameStackState(state, frames), self._stacked_observation(observation, frames)

    def step(
        self, stack_state: FrameStackState, action: Any, key: Array
    ) -> tuple[FrameStackState, Any, StepResult]:
        state, observation, result = self.environment.step(stack_state.state, action, key)
        next_frames = jax.tree.map(
            lambda old, new: jnp.concatenate([old[:, 1:], new[:, None]], 1),
            stack_state.frames,
            self._box_leaves(result.next_observation),
        )
        done = result.terminated | result.truncated
        frames = jax.tree.map(
            lambda new, old: where_done(done, new, old),
            self._repeat_boxes(observation),
            next_frames,
        )
        result = replace(
            result, next_observation=self._stacked_observation(result.next_observation, next_frames)
        )
        return (
            FrameStackState(state, frames),
            self._stacked_observation(observation, frames),
            result,
        )

    @property
    def replayer(self) -> "FrameStack | None":
        """Itself, where the wrapped environment has one."""
        return None if self.environment.replayer is None else self

    def episode_log(self) -> EpisodeLog:
        return self._replayer().episode_log()

    def replay(
        self, stack_state: FrameStackState, log: EpisodeLog
    ) -> tuple[FrameStackState, Any, list[str]]:
        """Replay the wrapped environment; a new episode repeats its first observation."""
        state, observation, reasons = self._replayer().replay(stack_state.state, log)
        is_new = jnp.array([bool(reason) for reason in reasons])
        frames = jax.tree.map(
            lambda new, old: where_done(is_new, new, old),
            self._repeat_boxes(observation),
            stack_state.frames,
        )
        return (
            FrameStackState(state, frames),
            self._stacked_observation(observation, frames),
            reasons,
        )

    def _replayer(self) -> Replayer:
        replayer = self.environment.replayer
        assert replayer is not None  # as `replayer` says before
        return replayer

    def _box_leaves(self, observation: Any) -> list[Array]:
        leaves = zip(
            is_stacked(self.environment.spec.observation), jax.tree.leaves(observation), strict=True
        )
        return [x for is_box, x in leaves if is_box]

    def _repeat_boxes(self, observation: Any) -> list[Array]:
        return [jnp.repeat(x[:, None], self.count, 1) for x in self._box_leaves(observation)]

    def _stacked_observation(self, observation: Any, frames: list[Array]) -> Any:
        """Return the observation with the stacked frames in place of its boxes."""
        leaves, structure = jax.tree.flatten(observation)
        stacks = iter(frames)
        stacked_flags = is_stacked(self.environment.spec.observation)
        return jax.tree.unflatten(
            structure,
            [
                next(stacks) if is_box else x
                for is_box, x in zip(stacked_flags, leaves, strict=True)
            ],
        )


def stacked_space(space: Space, count: int, path: tuple = ()) -> Space:
    """Return the space of stacked observations."""
    match space:
        case Composite():
            names = space.names or range(len(space.parts))
            return replace(
                space,
                parts=tuple(
                    stacked_space(part, count, (*path, name))
                    for name, part in zip(names, space.parts, strict=True)
                ),
            )
        case Box() if path[-1:] != (ACTION_MASK,):
            low, high = (
                bound if isinstance(bound, (int, float)) else bound * count
                for bound in (space.low, space.high)
            )
            return replace(space, shape=(count, *space.shape), low=low, high=high)
    return space


def is_stacked(space: Space) -> list[bool]:
    """Return for each leaf of an observation whether it is stacked."""
    return [
        isinstance(leaf, Box) and path[-1:] != (ACTION_MASK,)
        for path, leaf in leaves_with_path(space)
    ]
