"""Goals in observations: which part of an observation can be a goal, and how far it is from one.

Goals are parts of an observation that are named: entries of a Dict, or elements of a vector. Where
none are, an observation may show a goal by itself: in a goal environment, as those of
Gymnasium-Robotics, it is a Dict which says what goal the state achieves and what goal is desired.
In any other environment the whole observation is what can be asked for, but for its action mask,
which is no state to come to.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.spaces import (
    ACHIEVED_GOAL,
    ACTION_MASK,
    DESIRED_GOAL,
    Box,
    Composite,
    Space,
    leaves_with_path,
)
from etude.struct import replace
from etude.types import Array


def has_goals(observation_space: Space) -> bool:
    """Whether observations are a Dict with the keys "achieved_goal" and "desired_goal"."""
    return (
        isinstance(observation_space, Composite)
        and observation_space.names is not None
        and {ACHIEVED_GOAL, DESIRED_GOAL} <= set(observation_space.names)
    )


def shows_goal(observation_space: Space, names: tuple[str, ...] = ()) -> bool:
    """Whether observations say which goal is desired: in a goal environment without `names`."""
    return not names and has_goals(observation_space)


def goal_space(observation_space: Space, names: tuple[str, ...] = ()) -> Space:
    """The space of goals.

    Args:
        observation_space: the space of observations.
        names: the entries of a Dict, or the indices of the elements of a vector, that are the goal.
            None: it is "achieved_goal", or where there is no such entry a whole observation, but
            for its action mask.

    Raises:
        InvalidInput: for a name that is not there, with those that are.
    """
    if shows_goal(observation_space, names):
        return entries_of(observation_space)[ACHIEVED_GOAL]
    if names:
        _check_names(observation_space, names)
    return space_of_named(observation_space, names or names_beside_mask(observation_space))


def achieved_goal(observation_space: Space, observation: Any, names: tuple[str, ...] = ()) -> Any:
    """The goal that an observation [n, ...] achieves, in the space that `goal_space` returns."""
    if shows_goal(observation_space, names):
        return observation[ACHIEVED_GOAL]
    return value_of_named(
        observation_space, observation, names or names_beside_mask(observation_space)
    )


def names_beside_mask(space: Space) -> tuple[str, ...]:
    """The names of the entries of an observation beside its action mask; () if it has none."""
    if not isinstance(space, Composite) or ACTION_MASK not in (space.names or ()):
        return ()
    return tuple(name for name in entries_of(space) if name != ACTION_MASK)


def space_of_named(space: Space, names: tuple[str, ...]) -> Space:
    """The space of the entries of a Dict, or the elements of a vector, with these names.

    It is the whole space without names.
    """
    if not names:
        return space
    if isinstance(space, Box):
        indices = _indices(names)
        low, high = (tuple(bound[indices].tolist()) for bound in space.bounds)
        return replace(space, shape=(len(indices),), low=low, high=high)
    entries, chosen = entries_of(space), tuple(sorted(set(names)))
    return Composite(tuple(entries[name] for name in chosen), chosen)


def value_of_named(space: Space, value: Any, names: tuple[str, ...]) -> Any:
    """The part of a value [n, ...] of `space` that is in the space of `space_of_named`."""
    if not names:
        return value
    if isinstance(space, Box):
        return value[..., _indices(names)]
    return {name: value[name] for name in names}


def entries_of(space: Any) -> dict[str, Space]:
    """The spaces of the entries of a Dict."""
    return dict(zip(space.names, space.parts, strict=True))


def has_distance(space: Space) -> bool:
    """Whether `goal_distance` is defined in a space of goals: whether a Box is among its leaves."""
    return any(_is_measured(space))


def goal_distance(space: Space, achieved: Any, desired: Any) -> Array:
    """The Euclidean distance of goals [n, ...] from others, [n], over the Box leaves of a space.

    Differences are in the units of the observations, which may differ from leaf to leaf. What is
    discrete does not count, nor does an action mask. The space must have a Box; see `has_distance`.
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


def _indices(names: tuple[str, ...]) -> np.ndarray:
    """The elements of a vector, in their order, that are named by their indices."""
    return np.unique([int(name) for name in names])


def _check_names(space: Space, names: tuple[str, ...]) -> None:
    """Raise InvalidInput for names of what is no part of an observation."""
    if isinstance(space, Composite) and space.names is not None:
        known = [name for name in space.names if name != ACTION_MASK]
        there = f"observations have the entries {', '.join(known)}; name some of these"
    elif isinstance(space, Box) and len(space.shape) == 1:
        known = [str(index) for index in range(space.shape[0])]
        there = (
            f"observations are vectors of {len(known)} elements; give indices from 0 to "
            f"{len(known) - 1}"
        )
    else:
        known, there = [], f"observations are {space}, neither a Dict nor a vector; leave goal out"
    if unknown := [name for name in names if name not in known]:
        raise InvalidInput(f"goal is {', '.join(map(repr, unknown))}, and {there}")
