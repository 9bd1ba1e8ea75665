"""Datasets: recorded episodes laid end to end, checked when they are made.

`make_dataset` takes what a user of Gymnasium records: T + 1 observations and T actions, rewards and
flags for an episode of T steps, in the environment's own units. `to_recorded_arrays` gives that
back, so every file format is read and written in these terms. Everything here but `episode_starts`
runs on the host, with NumPy.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from etude.data.recorded_arrays import (
    RecordedArray,
    check_lengths,
    convert_action,
    convert_choices,
    convert_observation,
    flatten_fields,
    join_episodes,
)
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.spaces import (
    EnvironmentSpec,
    leaves_with_path,
    recorded_dtype,
    same_space,
    to_environment_action,
    to_environment_observation,
)
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class Dataset:
    """Recorded episodes, one after another, in the policy's units.

    As in a rollout, bounded Box actions are in [-1, 1], discrete observations and actions count
    from 0, and the dtypes are those of `zeros_like_spec`. The arrays are traced and the spec is
    static, so a compiled function takes a dataset as an argument.
    """

    transitions: Transition  # [step, ...]; the last step of each episode, and no other, is done
    episode_lengths: Array  # int32 [episode], in steps, at least 1
    spec: EnvironmentSpec = static()  # the spaces and id of the environment recorded; num_envs is 1
    # False: the observation after the last step of each episode was not recorded, and the
    # next_observation of that step repeats its observation
    has_last_observations: bool = static(True)

    @property
    def num_steps(self) -> int:
        return self.transitions.reward.shape[0]

    @property
    def num_episodes(self) -> int:
        return self.episode_lengths.shape[0]


def dataset_shapes(spec: EnvironmentSpec, num_steps: int, num_episodes: int) -> Dataset:
    """A dataset of `jax.ShapeDtypeStruct` in place of arrays, for `jax.eval_shape`."""
    spec = replace(spec, num_envs=1)
    transitions = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num_steps, *x.shape), x.dtype),
        jax.eval_shape(partial(zeros_like_spec, spec)),
    )
    lengths: Any = jax.ShapeDtypeStruct((num_episodes,), "int32")
    return Dataset(transitions, lengths, spec)


def episode_starts(dataset: Dataset) -> Array:
    """The first step of each episode, int32 [episode]."""
    lengths = dataset.episode_lengths
    return lengths.cumsum().astype(lengths.dtype) - lengths


def episode_returns(dataset: Dataset) -> np.ndarray:
    """The undiscounted return of each episode, float64 [episode]."""
    lengths = np.asarray(dataset.episode_lengths)
    starts = lengths.cumsum() - lengths
    return np.add.reduceat(np.asarray(dataset.transitions.reward, np.float64), starts)


def make_dataset(
    spec: EnvironmentSpec,
    *,
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any,
    truncations: Any,
    episode_lengths: Any = None,
    truncate_unfinished: bool = False,
) -> Dataset:
    """Check recorded episodes and lay them end to end.

    All values are in the environment's own units, as `env.step` takes and returns them: Box actions
    within the bounds of their space, choices counted from its `start`. An observation of a Dict is
    a dict of arrays, one of a Tuple a tuple of arrays. Integers may be of any width that holds the
    space's values, and floats of any precision; they are stored in the dtype of `zeros_like_spec`.

    Args:
        spec: the spaces to hold the values against, and the id of the environment.
        observations: [step + 1, ...] of each episode: the one that the reset returned, then the one
            that each step returned. Of episodes of 3 and 2 steps, end to end, there are 7 rows.
        actions: [step, ...] of each episode.
        rewards: [step] of each episode; give zeros where none were recorded.
        terminations, truncations: [step] of each episode, bool or 0 and 1. The last step of an
            episode has one of them or both, and no other step has any. With both, both are kept,
            and algorithms take it as terminated.
        episode_lengths: [episode], the number of steps of each episode, where the five arrays have
            all episodes end to end. Without it, each of the five is a sequence with one entry for
            each episode.
        truncate_unfinished: mark the last step of an episode as truncated where it has no flag.
            This is right for a recording that was cut off, and wrong for one whose flags were lost,
            since a failure would count as a time limit; so it must be asked for.

    Raises:
        InvalidInput: for arrays that are not those of such episodes, naming the first episode, step
            and field at fault, the value and the way out.
    """
    recorded = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
    }
    spec = replace(spec, num_envs=1)
    if episode_lengths is None:
        lengths, arrays = join_episodes(spec, recorded)
    else:
        lengths = check_lengths(episode_lengths)
        arrays = flatten_fields(spec, recorded, lengths)
    return _convert(spec, arrays, lengths, truncate_unfinished)


def to_recorded_arrays(dataset: Dataset) -> dict[str, Any]:
    """The NumPy arrays from which `make_dataset` makes this dataset, with their names.

    They are laid end to end, in the environment's own units and in the dtypes of its spaces, with
    rewards in float32. Box actions come back but for rounding (see `from_environment_action`).

    Raises:
        InvalidInput: for a dataset in which a next observation is not the observation of the
            episode's next step, and for one without the last observations of its episodes, for
            these arrays cannot hold it.
    """
    check_last_observations(dataset.has_last_observations)
    transitions, lengths = jax.tree.map(np.asarray, (dataset.transitions, dataset.episode_lengths))
    is_last = np.zeros(dataset.num_steps, bool)
    is_last[lengths.cumsum() - 1] = True
    rows = _observation_rows(lengths)

    def join(space, observation, next_observation):
        if not np.array_equal(next_observation[:-1][~is_last[:-1]], observation[1:][~is_last[:-1]]):
            raise InvalidInput(
                "a next observation of this dataset is not the observation of the step that "
                "follows; write the dataset that it was made from"
            )
        num_rows = dataset.num_steps + len(lengths)
        joined = np.empty((num_rows, *observation.shape[1:]), recorded_dtype(space))
        joined[rows] = to_environment_observation(space, observation)
        joined[rows[is_last] + 1] = to_environment_observation(space, next_observation[is_last])
        return joined

    spaces = [space for _, space in leaves_with_path(dataset.spec.observation)]
    observations, structure = jax.tree.flatten(transitions.observation)
    next_observations = jax.tree.leaves(transitions.next_observation)
    action_space = dataset.spec.action
    dtype = recorded_dtype(action_space)
    actions = to_environment_action(action_space, transitions.action).astype(dtype)
    return {
        "observations": jax.tree.unflatten(
            structure, list(map(join, spaces, observations, next_observations))
        ),
        "actions": actions,
        "rewards": transitions.reward,
        "terminations": transitions.terminated,
        "truncations": transitions.truncated,
        "episode_lengths": lengths,
    }


def check_last_observations(has_last_observations: bool) -> None:
    """Raise InvalidInput where the observation after the last step of an episode is not known."""
    if not has_last_observations:
        raise InvalidInput(
            "the observations after the last steps of its episodes were not recorded, and no file "
            "that etude writes can be without them; learn from it as it is, with an algorithm that "
            "does not read them, such as bc"
        )


def check_dataset_spaces(dataset: Dataset, spec: EnvironmentSpec) -> None:
    """Check that a dataset has the spaces of an environment.

    They may differ in the precision of floats and the width of integers, which a dataset does not
    keep.

    Raises:
        InvalidInput: naming both spaces.
    """
    for role, recorded, needed in (
        ("observation", dataset.spec.observation, spec.observation),
        ("action", dataset.spec.action, spec.action),
    ):
        if not same_space(recorded, needed):
            raise InvalidInput(
                f"the {role} space of the dataset{_id_in_brackets(dataset.spec)} is {recorded}, "
                f"and that of the environment{_id_in_brackets(spec)} is {needed}; give the dataset "
                "of this environment, or wrap the environment as it was for the recording"
            )


def _convert(spec, arrays, lengths, truncate_unfinished):
    """Return the dataset of arrays in the environment's units, after a check of their values."""
    example = jax.eval_shape(partial(zeros_like_spec, spec))
    *observations, action, reward, terminations, truncations = arrays
    rows = _observation_rows(lengths)
    leaves, structure = jax.tree.flatten(example.observation)
    joined = [
        convert_observation(array, leaf.dtype)
        for array, leaf in zip(observations, leaves, strict=True)
    ]
    fields: dict[str, Any] = {
        "observation": jax.tree.unflatten(structure, [leaf[rows] for leaf in joined]),
        "action": convert_action(action, example.action.dtype),
        "reward": convert_observation(reward, example.reward.dtype),
        "next_observation": jax.tree.unflatten(structure, [leaf[rows + 1] for leaf in joined]),
    }
    flags: Any = end_flags(terminations, truncations, truncate_unfinished)
    transitions = Transition(**fields, terminated=flags[0], truncated=flags[1])
    return jax.device_put(Dataset(transitions, lengths, spec))


def end_flags(
    terminations: RecordedArray, truncations: RecordedArray, truncate_unfinished: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Check the flags of the ends of episodes, and return (terminated, truncated), bool [step].

    With `truncate_unfinished` the last step of an episode is truncated where it has no flag. Raises
    InvalidInput, naming the first, for a flag before the last step of an episode, and for none
    there.
    """
    terminated, truncated = (
        convert_choices(array, np.dtype(bool)) for array in (terminations, truncations)
    )
    is_last = np.zeros(len(terminated), bool)
    is_last[terminations.counts.cumsum() - 1] = True
    for array, flag in ((terminations, terminated), (truncations, truncated)):
        array.refuse_where(
            flag & ~is_last,
            "only the last step of an episode has a flag: let the episode end there",
        )
    unfinished = is_last & ~terminated & ~truncated
    if not truncate_unfinished:
        truncations.refuse_where(
            unfinished,
            "the last step of an episode has terminations or truncations, and this one has "
            "neither: set the one that is right, or give truncate_unfinished=True where the "
            "recording was cut off",
        )
    return terminated, truncated | unfinished


def _observation_rows(lengths):
    """The row of each step's observation, int [step]; an episode of T steps has T + 1 rows."""
    return np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)), lengths)


def _id_in_brackets(spec):
    return f" ({spec.id})" if spec.id else ""
