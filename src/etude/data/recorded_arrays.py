"""Recorded arrays of episodes: checked against the spaces, converted to the policy's units.

Recorded are T + 1 observations and T actions, rewards and flags for an episode of T steps, in the
environment's own units. All is done with NumPy on the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.errors import InvalidInput
from etude.spaces import (
    Box,
    Composite,
    EnvironmentSpec,
    MultiBinary,
    Space,
    from_environment_action,
    value_bounds,
)


class ArrayFault(NamedTuple):
    """Values of an array that a requirement refuses."""

    name: str  # of the array
    requirement: str
    message: str  # of the first of them
    num_values: int  # how many it refuses


class RecordedArray(NamedTuple):
    """One array of episodes, laid end to end: of all of them, or of some that follow another."""

    name: str  # as in "observations['position']"
    space: Space
    values: np.ndarray  # [row, *shape of the space]
    counts: np.ndarray  # [episode], the number of rows of each: one more than steps in observations
    first_episode: int = 0  # the number of the first of them
    faults: list[ArrayFault] | None = None  # where it is a list, faults are added, not raised

    def refuse_where(self, is_bad: np.ndarray, requirement: str) -> None:
        """Raise InvalidInput for the first of `is_bad` [row, ...] that is true, if there is one.

        With a list of `faults` it is added to them.
        """
        if not is_bad.any():
            return
        row, *element = map(int, np.unravel_index(is_bad.argmax(), is_bad.shape))
        ends = self.counts.cumsum()
        episode = int(np.searchsorted(ends, row, side="right"))
        step = row - int(ends[episode] - self.counts[episode])
        message = (
            f"episode {self.first_episode + episode}, step {step}: {self.name}{element or ''} is "
            f"{self.values[(row, *element)]}; {requirement}"
        )
        if self.faults is None:
            raise InvalidInput(message)
        self.faults.append(ArrayFault(self.name, requirement, message, int(is_bad.sum())))


def recorded_spaces(spec: EnvironmentSpec) -> dict[str, Space]:
    """The space of each recorded field, by its name."""
    flag = MultiBinary(())
    return {
        "observations": spec.observation,
        "actions": spec.action,
        "rewards": Box(()),
        "terminations": flag,
        "truncations": flag,
    }


def join_episodes(
    spec: EnvironmentSpec, recorded: dict[str, Any]
) -> tuple[np.ndarray, list[RecordedArray]]:
    """(lengths [episode], arrays) of fields that are sequences with one entry for each episode.

    The arrays are those of `flatten_fields`. Raises InvalidInput where the fields do not have the
    same number of episodes, or as `flatten_fields`.
    """
    hint = "with arrays laid end to end, give episode_lengths"
    for field, episodes in recorded.items():
        is_array = isinstance(episodes, np.ndarray | jax.Array) and episodes.ndim > 0
        if not is_array and not isinstance(episodes, Sequence):
            raise InvalidInput(
                f"{field} is a {type(episodes).__name__}, not a sequence with one entry for each "
                f"episode; {hint}"
            )
    counts = {field: len(episodes) for field, episodes in recorded.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInput(
            f"there are {', '.join(f'{field} of {n}' for field, n in counts.items())} episodes; "
            f"give as many of each; {hint}"
        )
    actions = [
        as_array(actions, f"actions of episode {episode}")
        for episode, actions in enumerate(recorded["actions"])
    ]
    for episode, array in enumerate(actions):
        if not array.ndim:
            raise InvalidInput(
                f"actions of episode {episode} is the number {array}, not an array of the actions "
                f"of all its steps; {hint}"
            )
    lengths = check_lengths([len(array) for array in actions])
    episodes = [
        flatten_fields(
            spec,
            {field: values[episode] for field, values in recorded.items()},
            lengths[episode : episode + 1],
            f" of episode {episode}",
        )
        for episode in range(len(lengths))
    ]
    return lengths, [
        RecordedArray(
            parts[0].name,
            parts[0].space,
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )
        for parts in zip(*episodes, strict=True)
    ]


def check_lengths(episode_lengths: Any) -> np.ndarray:
    """The lengths of episodes as int32 [episode].

    Raises InvalidInput for what is no list of whole numbers, for no episodes and for empty ones.
    """
    lengths = as_array(episode_lengths, "episode_lengths")
    if not lengths.size:
        raise InvalidInput("the dataset has no episodes; record at least one")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise InvalidInput(
            f"episode_lengths has the dtype {lengths.dtype} and the shape {lengths.shape}; give "
            "the whole number of steps of each episode, [episode]"
        )
    is_bad = (lengths < 1) | (lengths > np.iinfo(np.int32).max)
    if is_bad.any():
        raise InvalidInput(
            f"episode {is_bad.argmax()} has {lengths[is_bad.argmax()]} steps; an episode has at "
            "least 1 and fewer than 2**31: leave out episodes without steps"
        )
    return lengths.astype(np.int32)


def flatten_fields(
    spec: EnvironmentSpec, recorded: dict[str, Any], lengths: np.ndarray, owner: str = ""
) -> list[RecordedArray]:
    """The arrays of fields laid end to end, in the order of `recorded_spaces` and of their leaves.

    `owner` says in messages what they are of. Raises InvalidInput for the first array whose
    structure, kind of numbers or shape is not that of its space, or whose rows do not fit the
    lengths of the episodes, [episode].
    """
    arrays = []
    for field, space in recorded_spaces(spec).items():
        counts = lengths + 1 if field == "observations" else lengths
        for name, leaf_space, value in flatten_value(space, recorded[field], field, owner):
            array = RecordedArray(name, leaf_space, as_array(value, name + owner), counts)
            check_form(array, int(lengths.sum(dtype=np.int64)), owner)
            arrays.append(array)
    return arrays


def convert_observation(array: RecordedArray, dtype: np.dtype) -> np.ndarray:
    """Observations as a policy sees them: of a Box as recorded, choices counted from 0.

    Raises InvalidInput, naming the first value at fault, for real numbers that are not finite in
    `dtype`, integers that it does not hold and choices outside their space.
    """
    return (_cast if isinstance(array.space, Box) else convert_choices)(array, dtype)


def convert_action(array: RecordedArray, dtype: np.dtype) -> np.ndarray:
    """Actions in the policy's units; raises InvalidInput, naming the first outside its space."""
    if not isinstance(array.space, Box):
        return convert_choices(array, dtype)
    low, high = array.space.bounds
    rounded = _cast(array, dtype)  # as the bounds are
    array.refuse_where(
        (rounded < low) | (rounded > high),
        f"its space is {array.space}: give the action that the environment acted on, in the units "
        "of that space",
    )
    return from_environment_action(array.space, array.values).astype(dtype)


def convert_choices(array: RecordedArray, dtype: np.dtype) -> np.ndarray:
    """Choices counted from 0, or flags; raises InvalidInput, naming the first outside its space."""
    low, high = value_bounds(array.space)
    requirement = (
        "it must be 0 or 1"
        if isinstance(array.space, MultiBinary)
        else f"it must be in {array.space}, whose choices count from its start"
    )
    array.refuse_where((array.values < low) | (array.values > high), requirement)
    return from_environment_action(array.space, array.values.astype(np.int64)).astype(dtype)


def _cast(array, dtype):
    """Return the values in another dtype, where real numbers are rounded."""
    with np.errstate(over="ignore"):
        cast = array.values.astype(dtype)
    if cast.dtype.kind == "f":
        array.refuse_where(
            ~np.isfinite(cast),
            f"it must be finite as {dtype.name}: leave the episode out, or scale what is too large",
        )
    else:  # an integer that does not fit has become another
        array.refuse_where(
            cast != array.values, f"{dtype.name} does not hold it: convert the array"
        )
    return cast


def flatten_value(space: Space, value: Any, name: str, owner: str) -> list[tuple[str, Space, Any]]:
    """(name, space, value) of each array of a value, in the order of `leaves_with_path`.

    Raises InvalidInput for a value that is not built as its space.
    """
    if not isinstance(space, Composite):
        return [(name, space, value)]
    keys = list(range(len(space.parts)) if space.names is None else space.names)
    if space.names is None:
        fits = isinstance(value, Sequence) and len(value) == len(keys)
    else:
        fits = isinstance(value, Mapping) and set(value) == set(keys)
    if not fits:
        given = f" with the keys {list(value)}" if isinstance(value, Mapping) else ""
        raise InvalidInput(
            f"{name}{owner} is a {type(value).__name__}{given}; its space needs a "
            f"{'tuple' if space.names is None else 'dict'} of arrays with the keys {keys}"
        )
    return [
        leaf
        for key, part in zip(keys, space.parts, strict=True)
        for leaf in flatten_value(part, value[key], f"{name}[{key!r}]", owner)
    ]


def check_form(array: RecordedArray, num_steps: int, owner: str) -> None:
    """Check the kind of numbers and the shape of an array of so many steps in all.

    Raises InvalidInput, which calls it the array of `owner`.
    """
    name, space, values, counts = array[:4]
    num_rows, shape = int(counts.sum(dtype=np.int64)), getattr(space, "shape", ())
    is_real = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if values.dtype.kind not in ("biuf" if is_real else "biu"):
        raise InvalidInput(
            f"{name}{owner} has the dtype {values.dtype}, and its space has "
            f"{'real' if is_real else 'whole'} numbers; convert it with `astype`"
        )
    if not values.ndim or values.shape[1:] != shape:
        raise InvalidInput(
            f"{name}{owner} has the shape {values.shape}; by its space and the lengths of the "
            f"episodes it should be {(num_rows, *shape)}"
        )
    if len(values) == num_steps < num_rows:
        raise InvalidInput(
            f"{name}{owner} has {num_steps} rows, as many as there are steps; an episode of T "
            "steps has T + 1 observations: append the one that its last step returned"
        )
    if len(values) != num_rows:
        raise InvalidInput(
            f"{name}{owner} has {len(values)} rows, and by the lengths of the episodes it should "
            f"have {num_rows}; correct episode_lengths or the array"
        )


def as_array(value: Any, name: str) -> np.ndarray:
    """A value as an array; raises InvalidInput, calling it `name`, for rows of several shapes."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"{name} is no array ({error}); give rows of one shape") from error
