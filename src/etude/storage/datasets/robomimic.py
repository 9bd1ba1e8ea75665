"""Datasets in robomimic's layout, HDF5, read without robomimic.

    data/demo_N/obs/KEY       [step, ...]: what was observed before each step, for each key
    data/demo_N/next_obs/KEY  [step, ...]: and after it
    data/demo_N/actions, rewards, dones       [step, ...]

The attribute env_args, which says of the environment, is not read, nor are the lists of
demonstrations in the group mask: all demonstrations are read, in the order of their numbers. A done
before the last step says that the task was solved then, and ends no episode.
"""

import re
from pathlib import Path

import numpy as np

from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.hdf5 import Group, open_hdf5
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    RecordedEpisodes,
    errors_name,
    is_jump,
    observation_keys,
)
from etude.storage.files import CorruptFile

DATA, MASK = "data", "mask"
_DEMONSTRATION = re.compile(r"demo_(\d{1,9})")


def is_robomimic(file: Group) -> bool:
    """Whether the root group of an HDF5 file has the layout of robomimic."""
    return DATA in file and file.is_group(DATA)


def read_robomimic(path: Path, spec: EnvironmentSpec | None) -> RecordedEpisodes:
    """The episodes of a robomimic file.

    Args:
        path: the file.
        spec: the spaces of the environment. Of a Dict the keys of its observations are read, of
            another space the one key that the file has; without it all keys, as a Dict.

    Raises:
        InvalidInput: naming the file, for one that cannot be read or lacks what is needed, and
            where h5py is not installed.
    """
    with errors_name(path), open_hdf5(path) as file:
        data = file.group(DATA)
        names = _names(data)
        notes = ["it does not tell a failure from a time limit: a done at the end is a termination"]
        episodes = [_episode(data.group(name), name, spec, notes) for name in names]
        if MASK in file:
            notes.append("its lists of demonstrations (mask) are not read: all of them are here")
    return RecordedEpisodes(
        "robomimic",
        "",
        None,
        {field: [episode[field] for episode in episodes] for field in FIELDS},
        (None,) * len(episodes),
        tuple(dict.fromkeys(notes)),
    )


def _names(data: Group) -> list[str]:
    """The names of the demonstrations by their numbers."""
    numbers: dict[int, str] = {}
    for name in data.names():
        if match := _DEMONSTRATION.fullmatch(name):
            if (number := int(match[1])) in numbers:
                raise InvalidInput(f"{numbers[number]} and {name} have one number; rename one")
            numbers[number] = name
    if not numbers:
        raise InvalidInput(f"its group {DATA!r} has no demonstration, as demo_0; record one")
    return [numbers[number] for number in sorted(numbers)]


def _episode(group: Group, name: str, spec: EnvironmentSpec | None, notes: list[str]) -> dict:
    for needed in ("obs", "next_obs", "actions", "rewards", "dones"):
        if needed not in group:
            hint = {
                "obs": "; robomimic's dataset_states_to_obs writes observations",
                "next_obs": ", so the observation after its last step is not known; robomimic's "
                "dataset_states_to_obs writes them, without --exclude-next-obs",
            }
            raise InvalidInput(f"{DATA}/{name} has no {needed!r}{hint.get(needed, '')}")
    before, after = group.group("obs"), group.group("next_obs")
    keys = _keys(before.names(), spec)
    dones = group.array("dones")
    if dones.shape[1:] == (1,):
        dones = dones[:, 0]
    if dones.ndim != 1:
        raise CorruptFile(f"{name}: dones has the shape {dones.shape}; it has a flag for each step")
    if dones[:-1].any():
        notes.append("dones before the last step of an episode are left out: they end none")
    terminations = np.zeros(dones.shape, bool)
    terminations[-1:] = dones[-1:] != 0
    observations = {key: _joined(before, after, key, name) for key in keys}
    is_array = spec is not None and observation_keys(spec) is None
    return {
        "observations": observations[keys[0]] if is_array else observations,
        "actions": group.array("actions"),
        "rewards": group.array("rewards"),
        "terminations": terminations,
        "truncations": np.zeros(dones.shape, bool),
    }


def _keys(names: list[str], spec: EnvironmentSpec | None) -> list[str]:
    """The keys of the observations that are read."""
    if spec is None:
        return names
    if (needed := observation_keys(spec)) is not None:
        if missing := [key for key in needed if key not in names]:
            raise InvalidInput(
                f"its observations have no key {missing[0]!r}, which the observation space has; "
                f"there are {', '.join(names)}"
            )
        return list(needed)
    if len(names) != 1:
        raise InvalidInput(
            f"the keys of its observations are {', '.join(names) or 'none'}, and the observation "
            f"space is {spec.observation}; give an environment whose observations are a Dict with "
            "keys of these"
        )
    return names


def _joined(before: Group, after: Group, key: str, name: str) -> np.ndarray:
    """The observations of an episode, [step + 1, ...]."""
    first, then = before.array(key), after.array(key)
    if first.shape != then.shape or not first.ndim or not len(first):
        raise CorruptFile(
            f"{name}: obs/{key} has the shape {first.shape} and next_obs/{key} {then.shape}; both "
            "have a row for each step"
        )
    jumps = is_jump(first, then)
    if jumps.any():
        raise InvalidInput(
            f"{name}, step {jumps.argmax()}: next_obs/{key} is not the obs/{key} of the step "
            "after it; cut the demonstration in two there"
        )
    return np.concatenate([first, then[-1:]])
