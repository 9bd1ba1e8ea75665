"""The latest observations in place of one: the simple alternative to a memory (Mnih et al., 2015)."""
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import Environment, Outcome
from etude.errors import InvalidInput
from etude.spaces import MASK, Box, Space, Tree, leaves
from etude.struct import replace, struct
from etude.trees import where_done

Array = jax.Array


@struct
class Frames:
    """The environment's own state, and the observations that are stacked: a tree of leaves [env, frame, ...], oldest first."""
    state: Any
    seen: Any


class Stacked:
    """An environment of any kind whose every Box of an observation shows its latest `count`, oldest first, [count, *shape].

    At the start of an episode the first observation stands for those before it. Choices, masks and the like are the latest
    alone. All that is asked of it but `spec`, `reset` and `step` is the inner environment's.

    Raises InvalidInput for fewer than one frame.
    """

    def __init__(self, environment: Environment, count: int):
        if count < 1:
            raise InvalidInput(f"frame_stack is {count}; it must be at least 1")
        self.environment, self.count = environment, count
        self.spec = replace(environment.spec, observation=stacked(environment.spec.observation, count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.environment, name)

    def reset(self, key: Array) -> tuple[Frames, Any]:
        state, observation = self.environment.reset(key)
        seen = self._repeated(observation)
        return Frames(state, seen), self._shown(observation, seen)

    def step(self, frames: Frames, action: Any, key: Array) -> tuple[Frames, Any, Outcome]:
        state, observation, outcome = self.environment.step(frames.state, action, key)
        after = jax.tree.map(lambda seen, new: jnp.concatenate([seen[:, 1:], new[:, None]], 1), frames.seen,
                             self._boxes(outcome.next_observation))
        done = outcome.terminated | outcome.truncated
        seen = jax.tree.map(lambda new, old: where_done(done, new, old), self._repeated(observation), after)
        outcome = replace(outcome, next_observation=self._shown(outcome.next_observation, after))
        return Frames(state, seen), self._shown(observation, seen), outcome

    def _boxes(self, observation: Any) -> list[Array]:
        leaves = zip(boxes(self.environment.spec.observation), jax.tree.leaves(observation), strict=True)
        return [x for is_box, x in leaves if is_box]

    def _repeated(self, observation: Any) -> list[Array]:
        return [jnp.repeat(x[:, None], self.count, 1) for x in self._boxes(observation)]

    def _shown(self, observation: Any, seen: list[Array]) -> Any:
        """The observation with what has been seen in place of its boxes."""
        values, structure = jax.tree.flatten(observation)
        stacks = iter(seen)
        flags = boxes(self.environment.spec.observation)
        return jax.tree.unflatten(structure, [next(stacks) if is_box else x
                                              for is_box, x in zip(flags, values, strict=True)])


def stacked(space: Space, count: int, path: tuple = ()) -> Space:
    """The space of stacked observations."""
    match space:
        case Tree():
            names = space.names or range(len(space.parts))
            return replace(space, parts=tuple(stacked(part, count, (*path, name))
                                              for name, part in zip(names, space.parts, strict=True)))
        case Box() if path[-1:] != (MASK,):
            low, high = (bound if isinstance(bound, (int, float)) else bound * count for bound in (space.low, space.high))
            return replace(space, shape=(count, *space.shape), low=low, high=high)
    return space


def boxes(space: Space) -> list[bool]:
    """Which leaves of an observation are stacked."""
    return [isinstance(leaf, Box) and path[-1:] != (MASK,) for path, leaf in leaves(space)]
