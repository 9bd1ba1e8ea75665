"""Goals in observations: which part of an observation can be a goal, and how far it is from one.

In a goal environment, as those of Gymnasium-Robotics, an observation is a Dict which says what goal
the state achieves and what goal is desired. In any other environment the whole observation is what
can be asked for.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import (
    ACHIEVED_GOAL,
    ACTION_MASK,
    DESIRED_GOAL,
    Box,
    Composite,
    Space,
    leaves_with_path,
)
from etude.types import Array


def has_goals(observation_space: Space) -> bool:
    """Whether observations are a Dict with the keys "achieved_goal" and "desired_goal"."""
    return (
        isinstance(observation_space, Composite)
        and observation_space.names is not None
        and {ACHIEVED_GOAL, DESIRED_GOAL} <= set(observation_space.names)
    )


def goal_space(observation_space: Space) -> Space:
    """The space of goals: that of "achieved_goal", or of whole observations where there is none."""
    if not has_goals(observation_space):
        return observation_space
    return entries_of(observation_space)[ACHIEVED_GOAL]


def entries_of(space: Any) -> dict[str, Space]:
    """The spaces of the entries of a Dict."""
    return dict(zip(space.names, space.parts, strict=True))


def has_distance(space: Space) -> bool:
    """Whether `goal_distance` is defined in a space of goals: whether a Box is among its leaves."""
    return any(_is_measured(space))


def goal_distance(space: Space, achieved: Any, desired: Any) -> Array:
    """The Euclidean distance of goals [n, ...] from others, [n], over the Box leaves of a space.

    It is in the units of the observations. What is discrete does not count, nor does an action
    mask. The space has a Box.
    """
    leaves = zip(
        _is_measured(space), jax.tree.leaves(achieved), jax.tree.leaves(desired), strict=True
    )
    differences = [
        (x.astype(jnp.float32) - y.astype(jnp.float32)).reshape(len(x), -1)
        for is_measured, x, y in leaves
        if is_measured
    ]
    return jnp.linalg.norm(jnp.concatenate(differences, -1), axis=-1)


def _is_measured(space: Space) -> list[bool]:
    """Whether each leaf of a space counts in a distance."""
    return [
        isinstance(leaf, Box) and path[-1:] != (ACTION_MASK,)
        for path, leaf in leaves_with_path(space)
    ]
