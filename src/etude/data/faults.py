"""All faults of recorded episodes, where `make_dataset` refuses them for the first."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.data.dataset import end_flags
from etude.data.recorded_arrays import (
    ArrayFault,
    RecordedArray,
    as_array,
    check_form,
    convert_action,
    convert_observation,
    flatten_value,
    recorded_spaces,
)
from etude.data.transition import zeros_like_spec
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec


class Fault(NamedTuple):
    """One kind of fault in the episodes of a dataset."""

    message: str  # of the first: its episode, step, field and value, and the way out
    values: int  # how many values have it
    episodes: int  # in how many episodes

    def __str__(self) -> str:
        if self.values == self.episodes == 1:
            return self.message
        return f"{self.message} ({self.values:,} in all, in {self.episodes:,} episodes)"


def find_faults(
    spec: EnvironmentSpec, fields: Mapping[str, Any], *, truncate_unfinished: bool = False
) -> list[Fault]:
    """Every kind of fault for which `make_dataset` would refuse the episodes, in order.

    Args:
        spec: the spaces to hold the values against.
        fields: observations, actions, rewards, terminations and truncations as `make_dataset` takes
            them, each with one entry for each episode.
        truncate_unfinished: as in `make_dataset`.

    Returns:
        The faults: [] for episodes of which a dataset can be made.
    """
    numbers = {field: len(episodes) for field, episodes in fields.items()}
    if len(set(numbers.values())) > 1:
        counts = ", ".join(f"{field} of {n}" for field, n in numbers.items())
        return [Fault(f"there are {counts} episodes; give as many of each", 1, 1)]
    if not numbers["actions"]:
        return [Fault("the dataset has no episodes; record at least one", 1, 1)]
    example = jax.eval_shape(partial(zeros_like_spec, spec))
    dtypes = {
        "observations": [leaf.dtype for leaf in jax.tree.leaves(example.observation)],
        "actions": [example.action.dtype],
        "rewards": [example.reward.dtype],
    }
    kinds: dict[tuple[str, str], Fault] = {}
    for episode in range(numbers["actions"]):
        values = {field: episodes[episode] for field, episodes in fields.items()}
        for fault in _faults_of(spec, values, episode, dtypes, truncate_unfinished):
            kind = fault.name, fault.requirement
            first = kinds.get(kind, Fault(fault.message, 0, 0))
            values_so_far = first.values + fault.num_values
            kinds[kind] = Fault(first.message, values_so_far, first.episodes + 1)
    return list(kinds.values())


def _faults_of(spec, values, episode, dtypes, truncate_unfinished) -> list[ArrayFault]:
    """The faults of one episode, one of each kind."""
    faults: list[ArrayFault] = []
    owner = f" of episode {episode}"
    try:
        actions = as_array(values["actions"], f"actions{owner}")
    except InvalidInput as error:
        return [ArrayFault("actions", "form", str(error), 1)]
    if not actions.ndim:
        message = f"actions{owner} is the number {actions}; give the actions of all its steps"
        return [ArrayFault("actions", "form", message, 1)]
    num_steps = len(actions)
    if not num_steps:
        message = f"episode {episode} has 0 steps; leave out episodes without steps"
        return [ArrayFault("actions", "empty", message, 1)]
    flags = []
    for field, space in recorded_spaces(spec).items():
        counts = np.array([num_steps + (field == "observations")])
        try:
            leaves = flatten_value(space, values[field], field, owner)
        except InvalidInput as error:
            faults.append(ArrayFault(field, "structure", str(error), 1))
            continue
        for i, (name, leaf_space, value) in enumerate(leaves):
            try:
                rows = as_array(value, name + owner)
                array = RecordedArray(name, leaf_space, rows, counts, episode, faults)
                check_form(array, num_steps, owner)
            except InvalidInput as error:
                faults.append(ArrayFault(name, "form", str(error), 1))
                continue
            if field not in dtypes:
                flags.append(array)
            elif field == "actions":
                convert_action(array, dtypes[field][i])
            else:
                convert_observation(array, dtypes[field][i])
    if len(flags) == 2:
        end_flags(flags[0], flags[1], truncate_unfinished)
    return faults
