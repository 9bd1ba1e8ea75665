"""Observation and action spaces as hashable specs, conversion from Gymnasium, action scaling.

A policy acts in [-1, 1] on the bounded elements of a Box and counts discrete actions from 0.
`to_environment_action` alone converts its actions to those of the environment, and
`from_environment_action` alone converts recorded ones back.
"""

import math
from typing import Any, Protocol, TypeVar, cast

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.struct import replace, static, struct
from etude.types import Array

AnyArray = TypeVar("AnyArray", Array, np.ndarray)

WIDEST_SCALE = 1e9  # between two bounds of an action

# keys of a Dict observation: the legal actions; the goal that a state is, and the one to reach
ACTION_MASK, ACHIEVED_GOAL, DESIRED_GOAL = "action_mask", "achieved_goal", "desired_goal"


@struct
class Box:
    """Real or integer arrays between bounds.

    `low` and `high` are one number, or one for each element in row-major order.
    """

    shape: tuple[int, ...] = static()
    dtype: str = static("float32")
    low: float | tuple[float, ...] = static(-math.inf)
    high: float | tuple[float, ...] = static(math.inf)

    def zeros(self) -> Array:
        return jnp.zeros(self.shape, jax.dtypes.canonicalize_dtype(self.dtype))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each of `shape`."""
        low, high = (
            np.broadcast_to(
                np.asarray(bound, np.float32).reshape(-1 if np.ndim(bound) else ()),
                math.prod(self.shape),
            ).reshape(self.shape)
            for bound in (self.low, self.high)
        )
        return low, high

    @property
    def is_bounded(self) -> np.ndarray:
        """True for the elements with two finite bounds, of `shape`."""
        return np.logical_and(*map(np.isfinite, self.bounds))


@struct
class Discrete:
    """One of `n` integers: the environment counts them from `start`, policies from 0."""

    n: int = static()
    start: int = static(0)
    dtype: str = static("int64")

    def zeros(self) -> Array:
        return jnp.zeros((), jnp.int32)


@struct
class MultiDiscrete:
    """An array of Discrete elements, with `sizes` and `starts` in row-major order."""

    sizes: tuple[int, ...] = static()
    starts: tuple[int, ...] = static()
    shape: tuple[int, ...] = static()
    dtype: str = static("int64")

    def zeros(self) -> Array:
        return jnp.zeros(self.shape, jnp.int32)


@struct
class MultiBinary:
    """An array of zeros and ones."""

    shape: tuple[int, ...] = static()

    def zeros(self) -> Array:
        return jnp.zeros(self.shape, jnp.int8)


@struct
class Composite:
    """A Dict (with names) or Tuple (without) of spaces: its values are dicts or tuples."""

    parts: tuple[Any, ...] = static()
    names: tuple[str, ...] | None = static(None)

    def zeros(self) -> Any:
        return self.assemble([part.zeros() for part in self.parts])

    def assemble(self, values) -> Any:
        return tuple(values) if self.names is None else dict(zip(self.names, values, strict=True))

    def split(self, value) -> list:
        return list(value) if self.names is None else [value[name] for name in self.names]


Space = Box | Discrete | MultiDiscrete | MultiBinary | Composite


class GoalRewardFunction(Protocol):
    """The reward of steps where one goal was achieved and another desired; it is hashable."""

    def __call__(
        self, achieved_goal: Array, desired_goal: Array, terminated: Array
    ) -> tuple[Array, Array]:
        """(reward, terminated), [...], of goals [..., *goal].

        `terminated` [...] are the flags of the steps themselves.
        """
        ...


@struct
class EnvironmentSpec:
    """What an algorithm is told of an environment: its spaces, the number of its copies, its id."""

    observation: Space = static()
    action: Space = static()
    num_envs: int = static(1)
    id: str = static("")  # that of Gymnasium; "" for an environment without one
    # what the environment itself says of the reward of other goals, hashable; None where nothing:
    # `etude.environments.goals.goal_reward_for` is to be asked
    goal_reward: GoalRewardFunction | None = static(None)


def space_from_gymnasium(space: gymnasium.Space, role: str = "observation") -> Space:
    """The spec of a Gymnasium space.

    Raises InvalidInput, naming `role` and the space, for a space whose values are not arrays of one
    size (Text, Graph, ...).
    """
    gym_spaces = gymnasium.spaces
    match space:
        case gym_spaces.Box():
            low, high = (compact_bound(bound) for bound in (space.low, space.high))
            box = Box(space.shape, space.dtype.name, low, high)
            if role == "action":
                check_scale(box, space)
            return box
        case gym_spaces.Discrete():
            return Discrete(int(space.n), int(space.start), space.dtype.name)
        case gym_spaces.MultiDiscrete():
            sizes, starts = (tuple(np.ravel(x).tolist()) for x in (space.nvec, space.start))
            return MultiDiscrete(sizes, starts, space.shape, space.dtype.name)
        case gym_spaces.MultiBinary():
            return MultiBinary(space.shape)
        case gym_spaces.Dict() if role != "action":
            names = tuple(sorted(space.spaces))  # the order in which JAX flattens a dict
            return Composite(
                tuple(space_from_gymnasium(space[name], f"{role}[{name!r}]") for name in names),
                names,
            )
        case gym_spaces.Tuple() if role != "action":
            return Composite(
                tuple(
                    space_from_gymnasium(part, f"{role}[{i}]")
                    for i, part in enumerate(space.spaces)
                )
            )
    supported = "Discrete, MultiDiscrete, MultiBinary and Box" + (
        ", and Dict and Tuple of them" if role != "action" else ""
    )
    raise InvalidInput(
        f"the {role} space is {space}; {type(space).__name__} is not supported there. "
        f"Supported: {supported}. Wrap the environment to give one of these"
    )


def check_scale(box: Box, space: gymnasium.Space) -> None:
    """Raise InvalidInput where actions in [-1, 1] cannot be scaled to the bounds of a Box."""
    with np.errstate(over="ignore"):
        low, high = (bound.astype(np.float64) for bound in box.bounds)
    widest = np.where(box.is_bounded, high - low, 0).max(initial=0)
    if widest > WIDEST_SCALE:
        raise InvalidInput(
            f"the action space is {space}: an action in [-1, 1] cannot be scaled to bounds "
            f"{widest:.3g} apart (at most {WIDEST_SCALE:.0e}). Give the bounds of actions that "
            "make sense, or -inf and inf where there are none"
        )


def space_to_gymnasium(space: Space) -> gymnasium.Space:
    """The Gymnasium space of a spec."""
    gym_spaces = gymnasium.spaces
    match space:
        case Box():
            dtype = np.dtype(space.dtype)
            low, high = (
                np.broadcast_to(
                    np.asarray(bound, dtype).reshape(space.shape if np.ndim(bound) else ()),
                    space.shape,
                )
                for bound in (space.low, space.high)
            )
            return gym_spaces.Box(low, high, dtype=dtype.type)
        case Discrete():
            return gym_spaces.Discrete(space.n, start=space.start, dtype=np.dtype(space.dtype).type)
        case MultiDiscrete():
            reshaped = (np.asarray(x).reshape(space.shape) for x in (space.sizes, space.starts))
            sizes, starts = reshaped
            return gym_spaces.MultiDiscrete(sizes, dtype=np.dtype(space.dtype).type, start=starts)
        case MultiBinary():
            return gym_spaces.MultiBinary(space.shape if len(space.shape) != 1 else space.shape[0])
        case Composite():
            parts = space.assemble([space_to_gymnasium(part) for part in space.parts])
            return gym_spaces.Tuple(parts) if space.names is None else gym_spaces.Dict(parts)


def to_environment_action(space: Space, action: AnyArray) -> AnyArray:
    """The environment's action for an action of the policy, [..., *shape].

    Bounded Box elements are scaled from [-1, 1] to [low, high] and clipped; elements with a single
    bound are clipped only; discrete actions are shifted by the space's `start`. Arrays of NumPy
    give arrays of NumPy.
    """
    match space:
        case Box():
            center, half_width = _scale(space)
            action = (action * half_width + center).clip(*space.bounds)
            return action.round() if np.issubdtype(space.dtype, np.integer) else action
        case Discrete(start=start):
            return action + start
        case MultiDiscrete():
            return action + np.asarray(space.starts, np.int32).reshape(space.shape)
    return action


def from_environment_action(space: Space, action: np.ndarray) -> np.ndarray:
    """The policy's action for an action of the environment, [..., *shape], on the host.

    The inverse of `to_environment_action`, whatever the dtype of a Box's actions. It is exact for
    discrete actions. Box actions are float32, so there and back is exact but for the rounding of
    float32 numbers as large as the bounds. Bounded elements are clipped to [-1, 1], and are 0 where
    their two bounds are equal.
    """
    match space:
        case Box():
            center, half_width = _scale(space)
            action = (action - center) / np.where(half_width > 0, half_width, 1)
            limit = np.where(space.is_bounded, 1, np.inf)
            return action.clip(-limit, limit).astype(np.float32)
        case Discrete(start=start):
            return action - start
        case MultiDiscrete():
            return action - np.asarray(space.starts, np.int32).reshape(space.shape)
    return action


def executed_action(space: Space, action: Any) -> Any:
    """What the environment executes of an action, [..., *shape], both in the policy's units.

    Elements of a Box are clipped to its bounds, and rounded where it has integers.
    """
    return from_environment_action(space, to_environment_action(space, action))


def to_environment_observation(space: Space, observation: Any) -> Any:
    """The environment's observation for one as policies see it, [..., *shape], on the host.

    Its arrays are copies in the dtypes of the space, and discrete ones count from its `start`.
    """
    if isinstance(space, Composite):
        values = zip(space.parts, space.split(observation), strict=True)
        return space.assemble([to_environment_observation(part, value) for part, value in values])
    array = np.asarray(observation)
    if not isinstance(space, Box):
        array = to_environment_action(space, array.astype(np.int64))
    return array.astype(recorded_dtype(space))


def value_bounds(space: Space) -> tuple[Any, Any]:
    """The least and the greatest value of each element, in the environment's own units."""
    match space:
        case Box():
            return space.bounds
        case Discrete(n=n, start=start):
            return start, start + n - 1
        case MultiDiscrete(sizes=sizes, starts=starts, shape=shape):
            low = np.reshape(starts, shape)
            return low, low + np.reshape(sizes, shape) - 1
    return 0, 1


def same_space(space: Space, other: Space) -> bool:
    """Whether two spaces have the same values, in arrays of the same shapes.

    They may differ in the precision of floats and the width of integers.
    """
    leaves, other_leaves = leaves_with_path(space), leaves_with_path(other)
    return [path for path, _ in leaves] == [path for path, _ in other_leaves] and all(
        _same_leaf(leaf, other_leaf)
        for (_, leaf), (_, other_leaf) in zip(leaves, other_leaves, strict=True)
    )


def with_normalized_actions(spec: EnvironmentSpec) -> EnvironmentSpec:
    """`spec` with the actions of a tanh policy in place of its bounded Box: floats in [-1, 1]."""
    return replace(spec, action=Box(cast(Box, spec.action).shape, low=-1.0, high=1.0))


def gymnasium_dtype(space: Space) -> str | None:
    """The dtype of actions that a Gymnasium environment takes; None for a plain Python integer."""
    return None if isinstance(space, Discrete) else getattr(space, "dtype", "int8")


def recorded_dtype(space: Space) -> str:
    """The dtype of a space's values in the environment's own units."""
    return "int8" if isinstance(space, MultiBinary) else space.dtype


def action_offset(space: Space) -> Any:
    """The number, or the array of them, that the environment adds to an action counted from 0.

    None where it adds nothing.
    """
    match space:
        case Discrete(start=start):
            return start or None
        case MultiDiscrete(starts=starts, shape=shape):
            return np.reshape(starts, shape) if any(starts) else None
    return None


def leaves_with_path(space: Space, path: tuple = ()) -> list[tuple[tuple, Space]]:
    """(path, space) of each array in a value of `space`, in the order of `jax.tree.leaves`."""
    if not isinstance(space, Composite):
        return [(path, space)]
    keys = range(len(space.parts)) if space.names is None else space.names
    return [
        leaf
        for key, part in zip(keys, space.parts, strict=True)
        for leaf in leaves_with_path(part, (*path, key))
    ]


def compact_bound(bound: np.ndarray) -> float | tuple[float, ...]:
    """One number where all elements of a bound are equal, else one for each, in row-major order."""
    # integers stay integers, for floats cannot represent the bounds of int64
    values = np.ravel(bound).tolist()
    return values[0] if values and values.count(values[0]) == len(values) else tuple(values)


def _same_leaf(space, other):
    match space, other:
        case Box(), Box():
            dtypes = {jax.dtypes.canonicalize_dtype(box.dtype) for box in (space, other)}
            return (
                len(dtypes) == 1
                and space.shape == other.shape
                and all(map(np.array_equal, space.bounds, other.bounds))
            )
        case (Discrete(), Discrete()) | (MultiDiscrete(), MultiDiscrete()):
            return replace(space, dtype=other.dtype) == other
    return space == other


def _scale(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """(center, half width) of the bounded elements, (0, 1) for the others, of `shape`."""
    lower, upper = (
        np.where(space.is_bounded, bound, limit)
        for bound, limit in zip(space.bounds, np.array([-1, 1], np.float32), strict=True)
    )
    # halve before adding, so that no sum overflows
    return lower / 2 + upper / 2, upper / 2 - lower / 2
