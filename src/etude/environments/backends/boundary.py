"""The boundary with Python environments: what they return is checked here, for every backend.

One rule holds for each kind of value. What the space says is taken: integers for discrete spaces
and integer boxes, within what their types can hold; real numbers for float boxes, finite as
float32; zeros and ones for binary spaces, masks and the flags of a step; one finite number for a
reward. All else is refused with its place, what came and what the space says. Finite values
outside of the bounds of a Box, which many environments give, are taken, and said once.

This module needs NumPy and Gymnasium alone, so that worker processes start without JAX.
"""

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from etude.environments.backends.step_layout import (
    NEXT_OBSERVATION,
    OBSERVATION,
    ObservationLeaf,
    StepLayout,
)
from etude.environments.wrappers.action_mask import ACTION_MASK
from etude.errors import EnvironmentFault

LOOK_EVERY = 64  # bounds of boxes are looked at in one step of all environments of this many
REAL_KINDS = "biuf"  # of dtypes: booleans, signed and unsigned integers, floats
RESET_RETURNS = (
    "reset() has to return (observation, info) with a dict as info: write `return observation, {}`"
)
STEP_RETURNS = (
    "step() has to return (observation, reward, terminated, truncated, info) with a dict as info: "
    "write `return observation, reward, terminated, False, {}`"
)


class Boundary:
    """Checks what environments return, and writes it into `rows` [env]; see `StepLayout`."""

    def __init__(self, layout: StepLayout, rows: np.ndarray):
        self.layout, self.rows = layout, rows
        self.observation, self.next_observation = (
            [rows[f"{role}{i}"] for i in range(len(layout.leaves))]
            for role in (OBSERVATION, NEXT_OBSERVATION)
        )
        self.first_next_observation = self.next_observation[0]
        self.observation_pairs = list(zip(self.observation, self.next_observation, strict=True))
        self.has_masks = bool(layout.mask_leaves)
        self.readers = [leaf_reader(leaf) for leaf in layout.leaves]
        self.reward, self.terminated, self.truncated = (
            rows[name] for name in ("reward", "terminated", "truncated")
        )
        # of an observation that is one Box: a value of this type and shape is taken as it is
        only = layout.leaves[0]
        is_box = only.path == () and isinstance(only.space, gymnasium.spaces.Box)
        self.dtype, self.shape = (np.dtype(only.dtype), only.shape) if is_box else (None, None)
        self.float_words = words_of(layout, rows)
        # 0 · x is NaN for NaN and ±∞ alone, so one product with zeros looks at all numbers
        self.zeros = np.zeros(0 if self.float_words is None else self.float_words.size, np.float32)
        is_flat = self.float_words is not None and self.float_words.ndim == 1
        self.flat_dot = self.float_words.dot if is_flat else None
        self.batches_to_look, self.steps_looked_at, self.values_outside = 1, 0, 0
        self.first_outside = ""  # what was found first outside of a Box's bounds
        self.bounded = [
            (i, leaf.space.low.astype(leaf.dtype), leaf.space.high.astype(leaf.dtype))
            for i, leaf in enumerate(layout.leaves)
            if isinstance(leaf.space, gymnasium.spaces.Box)
            and not (np.isneginf(leaf.space.low) & np.isposinf(leaf.space.high)).all()
        ]

    def read_reset(self, i: int, result: Any) -> None:
        """Write what `reset` of environment `i` returned, the observation to act on.

        Raises EnvironmentFault for what it cannot return.
        """
        is_pair = isinstance(result, (tuple, list)) and len(result) == 2
        if not is_pair or not isinstance(result[1], dict):
            raise EnvironmentFault(f"it returned {shown_with_type(result)}, and {RESET_RETURNS}")
        self._write(self.observation, i, result[0])
        self._check_masks(self.observation, i)

    def read_step(self, i: int, result: Any) -> bool:
        """Write what `step` of environment `i` returned, and return whether its episode is over.

        The observation to act on is written later: by `read_reset` where the episode is over, else
        by `read_batch`. Raises EnvironmentFault for what a step cannot return.
        """
        if type(result) is not tuple or len(result) != 5:
            result = read_five(result)
        observation, reward, terminated, truncated, info = result
        if (
            type(observation) is np.ndarray
            and observation.dtype is self.dtype
            and observation.shape == self.shape
        ):
            self.first_next_observation[i] = observation
        else:
            self._write(self.next_observation, i, observation)
        if not isinstance(reward, float):  # as NumPy's float64 is
            reward = read_reward(reward)
        self.reward[i] = reward
        if terminated is not False:
            terminated = read_end_flag("terminated", terminated)
        if truncated is not False:
            truncated = read_end_flag("truncated", truncated)
        if type(info) is not dict and not isinstance(info, dict):
            raise EnvironmentFault(f"its info is {shown_with_type(info)}, and {STEP_RETURNS}")
        self.terminated[i], self.truncated[i] = terminated, truncated
        if terminated or truncated:
            return True
        if self.has_masks:
            self._check_masks(self.next_observation, i)
        return False

    def begin_rows(self, begun: list[int]) -> None:
        """Write that the environments in `begun` are at the start of an episode."""
        for i in begun:
            self.clear_step(i)
            for field, next_field in self.observation_pairs:
                next_field[i] = field[i]

    def clear_step(self, i: int) -> None:
        """Write that environment `i` has taken no step: no reward, and no end."""
        self.reward[i], self.terminated[i], self.truncated[i] = 0, False, False

    def read_batch(self, begun: list[int]) -> tuple[int, str] | None:
        """Look at the rows of all environments after a step.

        Those in `begun` are at the start of an episode. The others act next on the observation of
        the step. Returns (environment, fault) of a number that is not finite, None for none. In one
        of `LOOK_EVERY` calls, the values outside of the bounds of their Box are counted.
        """
        if begun:
            going_on = sorted({*range(len(self.rows))}.difference(begun))
            for field, next_field in self.observation_pairs:
                field[going_on] = next_field[going_on]
        else:
            for field, next_field in self.observation_pairs:
                field[...] = next_field
        self.batches_to_look -= 1
        if not self.batches_to_look:
            self._look_at_bounds()
        if self.flat_dot is not None and not self.flat_dot(self.zeros):
            return None
        if self.float_words is not None and not self.float_words.ravel().dot(self.zeros):
            return None
        return self._find_by_field()

    def _look_at_bounds(self) -> None:
        self.batches_to_look = LOOK_EVERY
        self.steps_looked_at += len(self.rows)
        for leaf, low, high in self.bounded:
            values = self.next_observation[leaf]
            outside = (values < low) | (values > high)
            if outside.any():
                self.values_outside += int(outside.sum())
                self.first_outside = self.first_outside or self._describe_outside(leaf, outside)

    def notice(self) -> str:
        """What a person should know of the values seen so far; "" for nothing."""
        if not self.first_outside:
            return ""
        return (
            f"{self.first_outside}; so far {self.values_outside:,} values in the "
            f"{self.steps_looked_at:,} steps that were looked at (one in {LOOK_EVERY}) lie outside "
            "of the bounds of their space. They are taken as they are"
        )

    def _write(self, fields: list[np.ndarray], i: int, value: Any) -> None:
        for field, reader, leaf in zip(fields, self.readers, self.layout.leaves, strict=True):
            field[i] = reader(part_of(value, leaf.path, self.layout.observation_space))

    def _check_masks(self, fields: list[np.ndarray], i: int) -> None:
        for mask in self.layout.mask_leaves:
            parts = np.split(fields[mask][i].ravel(), self.layout.mask_splits)
            if not all(part.any() for part in parts):
                raise EnvironmentFault(f"its {ACTION_MASK} allows nothing, and play goes on")

    def _find_by_field(self) -> tuple[int, str] | None:
        names = [("reward", "reward")]
        for index, leaf in enumerate(self.layout.leaves):
            name = "observation" + place_of(leaf.path)
            names += [(f"{role}{index}", name) for role in (OBSERVATION, NEXT_OBSERVATION)]
        for field, name in names:
            values = self.rows[field]
            if values.dtype.kind != "f" or np.isfinite(values).all():
                continue
            place = [int(x) for x in np.argwhere(~np.isfinite(values))[0]]
            value = values[tuple(place)]
            number = "NaN" if math.isnan(value) else f"{value}, or beyond float32"
            where = f" at index {place[1:]}" if place[1:] else ""
            return place[0], f"its {name} is {number}{where}"
        return None

    def _describe_outside(self, leaf: int, outside: np.ndarray) -> str:
        place = [int(x) for x in np.argwhere(outside)[0]]
        path, _, space = self.layout.leaves[leaf]
        where = place_of(path) + (f" at index {place[1:]}" if place[1:] else "")
        value = self.next_observation[leaf][tuple(place)]
        return f"an observation{where} is {value:.6g}, and its space is {space}"


def words_of(layout: StepLayout, rows: np.ndarray) -> np.ndarray | None:
    """A view of `rows` with all their floats as float32; None where some have another type.

    It is one-dimensional where that takes no copy: of one row, or of rows that are viewed as a
    whole, where all leaves are float32. Flags and counts are then read as floats too, so that a NaN
    among them only starts the exact search.
    """
    kinds = {leaf.dtype for leaf in layout.leaves if np.dtype(leaf.dtype).kind == "f"}
    if kinds - {"float32"}:
        return None
    words = rows.view(np.float32).reshape(len(rows), -1)
    if all(leaf.dtype == "float32" for leaf in layout.leaves):
        return words.reshape(-1)
    floats = words[:, : layout.num_floats]
    return floats[0] if len(rows) == 1 else floats


def leaf_reader(leaf: ObservationLeaf) -> Callable[[Any], Any]:
    """A function from what an environment gives for `leaf` to what is written in its field.

    The function raises EnvironmentFault for what the leaf's space cannot have.
    """
    space, shape, dtype = leaf.space, leaf.shape, np.dtype(leaf.dtype)
    start = np.asarray(getattr(space, "start", 0), np.int64)
    count = np.asarray(getattr(space, "nvec", getattr(space, "n", 0)))  # of MultiDiscrete, Discrete

    def refused(value: Any, why: str = "") -> EnvironmentFault:
        return EnvironmentFault(
            f"its observation{place_of(leaf.path)} is {shown_with_type(value)}, and its space is "
            f"{space}{why}"
        )

    def array_of(value: Any) -> np.ndarray:
        try:
            array = np.asarray(value)
        except Exception:  # of many types, as NumPy meets an object
            raise refused(value) from None
        if array.dtype.kind not in REAL_KINDS:
            raise refused(value)
        if array.shape != shape:
            raise EnvironmentFault(
                f"its observation{place_of(leaf.path)} has shape {array.shape}, and its space says "
                f"{shape}"
            )
        return array

    def is_exact(value: Any) -> bool:
        return type(value) is np.ndarray and value.dtype is dtype and value.shape == shape

    def read_float(value: Any) -> Any:
        if is_exact(value):
            return value
        with np.errstate(over="ignore"):  # beyond float32 is found where infinities are
            return array_of(value).astype(dtype)

    def read_integer(value: Any) -> Any:
        if is_exact(value):
            return value
        array = array_of(value)
        if array.dtype.kind == "f":
            raise refused(value, f", and {array.dtype} is no integer type")
        low, high = integer_limits(dtype)
        if array.size and not low <= array.min() <= array.max() <= high:
            raise refused(value, f"; integers from {low} to {high} can be taken")
        return array

    def read_choices(value: Any) -> Any:
        if isinstance(space, gymnasium.spaces.Discrete) and type(value) is int:
            choice = value - int(space.start)
            if not 0 <= choice < space.n:
                raise refused(value)
            return choice
        array = array_of(value)
        if array.dtype.kind == "f":
            raise refused(value, f", and {array.dtype} is no integer type")
        if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
            raise refused(value)
        choices = array.astype(np.int64) - start
        if ((choices < 0) | (choices >= count)).any():
            raise refused(value)
        return choices

    def read_binary(value: Any) -> Any:
        array = array_of(value)
        if array.dtype.kind != "b" and not ((array == 0) | (array == 1)).all():
            raise refused(value)
        return array

    match space:
        case gymnasium.spaces.Box():
            return read_float if dtype.kind == "f" else read_integer
        case gymnasium.spaces.MultiBinary():
            return read_binary
    return read_choices


def integer_limits(dtype: np.dtype) -> tuple[int, int]:
    """The least and the greatest integer of a dtype."""
    if dtype == np.bool_:
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def part_of(value: Any, path: tuple[str | int, ...], space: gymnasium.Space) -> Any:
    """The part of an observation at `path`; raises EnvironmentFault where there is none."""
    part = value
    for depth, key in enumerate(path):
        try:
            part = part[key]
        except (KeyError, IndexError, TypeError):
            raise EnvironmentFault(
                f"its observation{place_of(path[:depth])} is {shown_with_type(part)}, which has no "
                f"{key!r}, and its space is {space}"
            ) from None
    return part


def read_end_flag(name: str, value: Any) -> bool:
    """A flag of a step: a boolean, or 0 or 1, also in an array of one element.

    Raises EnvironmentFault for anything else.
    """
    if value is True or value is False:
        return value
    try:
        array = np.asarray(value)
    except Exception:  # of many types, as NumPy meets an object
        array = np.asarray(None)
    if array.dtype.kind in REAL_KINDS and array.size == 1 and array.item() in (0, 1):
        return bool(array.item())
    raise EnvironmentFault(f"its {name} is {shown_with_type(value)}; it has to be True or False")


def read_reward(value: Any) -> float:
    """A reward: one real number, also in an array of one element.

    Raises EnvironmentFault for anything else; what is not finite is found in `read_batch`.
    """
    try:
        array = np.asarray(value)
    except Exception:  # of many types, as NumPy meets an object
        array = np.asarray(None)
    if array.dtype.kind in REAL_KINDS and array.size == 1:
        return float(array.item())
    raise EnvironmentFault(f"its reward is {shown_with_type(value)}; it has to be one number")


def place_of(path: tuple[str | int, ...]) -> str:
    """A path into an observation as Python writes it: ['goal'][0]."""
    return "".join(f"[{key!r}]" for key in path)


def shown_with_type(value: Any) -> str:
    """A value as an error message shows it: shortened, with its type."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:79] + '…'} ({type(value).__name__})"


def read_five(result: Any) -> tuple:
    """The five values that a step returned; raises EnvironmentFault for anything else."""
    if not isinstance(result, (tuple, list)):
        raise EnvironmentFault(f"it returned {shown_with_type(result)}, and {STEP_RETURNS}")
    if len(result) != 5:
        old = ", as in Gym before version 0.26" if len(result) == 4 else ""
        raise EnvironmentFault(f"it returned {len(result)} values{old}, and {STEP_RETURNS}")
    return tuple(result)
