"""The latest observations in place of one: the simple alternative to a memory (Mnih et al.,
2015)."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import Environment, StepResult
from etude.errors import InvalidInput
from etude.spaces import ACTION_MASK, Box, Composite, Space, leaves_with_path
from etude.struct import replace, struct
from etude.trees import where_done
from etude.types import Array


@struct
class FrameStackState:
    """The environment's own state, and the observations that are stacked: a tree of leaves [env,
    frame, ...], oldest first."""

    state: Any
    frames: Any


class FrameStack:
    """An environment of any kind whose every Box of an observation shows its latest `count`, oldest
    first, [count, *shape].

    At the start of an episode the first observation stands for those before it. Choices, masks and
    the like are the latest alone. All that is asked of it but `spec`, `reset` and `step` is the
    inner environment's.

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
        seen = self._repeat_boxes(observation)
        return FrameStackState(state, seen), self._stacked_observation(observation, seen)

    def step(
        self, frames: FrameStackState, action: Any, key: Array
    ) -> tuple[FrameStackState, Any, StepResult]:
        state, observation, outcome = self.environment.step(frames.state, action, key)
        after = jax.tree.map(
            lambda seen, new: jnp.concatenate([seen[:, 1:], new[:, None]], 1),
            frames.frames,
            self._boxes(outcome.next_observation),
        )
        done = outcome.terminated | outcome.truncated
        seen = jax.tree.map(
            lambda new, old: where_done(done, new, old), self._repeat_boxes(observation), after
        )
        outcome = replace(
            outcome, next_observation=self._stacked_observation(outcome.next_observation, after)
        )
        return FrameStackState(state, seen), self._stacked_observation(observation, seen), outcome

    def _boxes(self, observation: Any) -> list[Array]:
        leaves = zip(
            is_stacked(self.environment.spec.observation), jax.tree.leaves(observation), strict=True
        )
        return [x for is_box, x in leaves if is_box]

    def _repeat_boxes(self, observation: Any) -> list[Array]:
        return [jnp.repeat(x[:, None], self.count, 1) for x in self._boxes(observation)]

    def _stacked_observation(self, observation: Any, seen: list[Array]) -> Any:
        """The observation with what has been seen in place of its boxes."""
        values, structure = jax.tree.flatten(observation)
        stacks = iter(seen)
        flags = is_stacked(self.environment.spec.observation)
        return jax.tree.unflatten(
            structure,
            [next(stacks) if is_box else x for is_box, x in zip(flags, values, strict=True)],
        )


def stacked_space(space: Space, count: int, path: tuple = ()) -> Space:
    """The space of stacked observations."""
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
    """Which leaves of an observation are stacked."""
    return [
        isinstance(leaf, Box) and path[-1:] != (ACTION_MASK,)
        for path, leaf in leaves_with_path(space)
    ]
