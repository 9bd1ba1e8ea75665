"""Datasets in D4RL's layout, HDF5 with all steps end to end, read without D4RL.

    observations [step, ...]  actions [step, ...]  rewards [step]
    terminals [step]          the episode ended there, in a state without a future
    timeouts [step]           it was cut off there
    next_observations         [step, ...]: what each step returned

Without `timeouts` an episode ends where a next observation is not the one that follows. Without
`next_observations` the last observation of an episode is not in the file: a terminated episode has
the one before in its place, since its future is worth zero; one that was cut off ends one step
earlier, or is left out where it has no other step.
"""

from pathlib import Path

import numpy as np

from etude.errors import InvalidInput
from etude.storage.datasets.hdf5 import Group, open_hdf5
from etude.storage.datasets.recorded_episodes import FIELDS, RecordedEpisodes, errors_name, is_jump
from etude.storage.files import CorruptFile

_NEEDED = "observations", "actions", "rewards", "terminals"


def is_d4rl(file: Group) -> bool:
    """Whether the root group of an HDF5 file has the layout of D4RL."""
    return "observations" in file and "actions" in file


def read_d4rl(path: Path) -> RecordedEpisodes:
    """The episodes of a D4RL file.

    Raises:
        InvalidInput: naming the file, for one that cannot be read or lacks what is needed, and
            where h5py is not installed.
    """
    with errors_name(path):
        with open_hdf5(path) as file:
            arrays = {name: _rows(file, name) for name in _NEEDED}
            for name in ("timeouts", "next_observations"):
                if name in file:
                    arrays[name] = _rows(file, name)
        num_steps = len(arrays["observations"])
        for name, array in arrays.items():
            if len(array) != num_steps:
                raise CorruptFile(
                    f"observations has {num_steps:,} rows and {name} {len(array):,}; each has one "
                    "for each step"
                )
        shape = arrays["observations"].shape
        next_shape = arrays.get("next_observations", arrays["observations"]).shape
        if shape != next_shape:
            raise CorruptFile(
                f"observations has the shape {shape} and next_observations {next_shape}; they "
                "should have the same"
            )
        if not num_steps:
            raise InvalidInput("it has no steps; record at least one episode")
        terminated = arrays["terminals"] != 0
        truncated = _truncated(arrays, terminated)
        notes: list[str] = []
        episodes = _episodes(arrays, terminated, truncated, notes)
    return RecordedEpisodes(
        "D4RL",
        "",
        None,
        {field: [episode[field] for episode in episodes] for field in FIELDS},
        (None,) * len(episodes),
        tuple(notes),
    )


def _rows(file: Group, name: str) -> np.ndarray:
    array = file.array(name)
    if not array.ndim:
        raise CorruptFile(f"{name} is one number; it should have a row for each step")
    is_column = name in ("rewards", "terminals", "timeouts") and array.shape[1:] == (1,)
    return array[:, 0] if is_column else array


def _truncated(arrays, terminated):
    """Where episodes were cut off, [step]; raises InvalidInput where that is not known."""
    if "next_observations" in arrays:
        jumps = np.append(is_jump(arrays["observations"], arrays["next_observations"]), False)
    if "timeouts" not in arrays:
        if "next_observations" not in arrays:
            raise InvalidInput(
                "it has neither 'timeouts' nor 'next_observations', so it is not known where its "
                "episodes end; add timeouts, which are true at the last step of an episode that "
                "was cut off"
            )
        return jumps & ~terminated
    truncated = arrays["timeouts"] != 0
    if "next_observations" in arrays:
        faults = jumps & ~terminated & ~truncated
        if faults.any():
            row = int(faults.argmax())
            ends = np.flatnonzero((terminated | truncated)[:row]) + 1
            step = row - (int(ends[-1]) if len(ends) else 0)
            raise InvalidInput(
                f"episode {len(ends)}, step {step}: its next observation is not the observation "
                f"that follows, and neither terminals nor timeouts end the episode there (row "
                f"{row}); set the one that is right"
            )
    return truncated


def _episodes(arrays, terminated, truncated, notes):
    """The fields of each episode; says in the notes what was left out or put in place."""
    is_last = terminated | truncated
    is_last[-1:] = True
    ends = np.flatnonzero(is_last) + 1
    is_whole = "next_observations" in arrays
    episodes, shortened, repeated, removed = [], 0, 0, 0
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        observations, stop = arrays["observations"][begin:end], end
        if is_whole:
            last = arrays["next_observations"][end - 1 : end]
            observations = np.concatenate([observations, last])
        elif terminated[end - 1]:
            observations = np.concatenate([observations, observations[-1:]])
            repeated += 1
        elif end - 1 == begin:
            removed += 1
            continue
        else:
            stop, shortened = end - 1, shortened + 1
        truncations = np.zeros(stop - begin, bool)
        truncations[-1] = truncated[end - 1]
        episodes.append(
            {
                "observations": observations,
                "actions": arrays["actions"][begin:stop],
                "rewards": arrays["rewards"][begin:stop],
                "terminations": terminated[begin:stop],
                "truncations": truncations,
            }
        )
    if repeated:
        notes.append(
            f"{repeated:,} terminated episodes have their last observation twice, since the file "
            "does not have the one after it"
        )
    if shortened:
        notes.append(
            f"{shortened:,} episodes that were cut off end one step earlier, since the file does "
            "not have their last observation"
        )
    if removed:
        notes.append(
            f"{removed:,} episodes of one step that was cut off are left out, since the file does "
            "not have their last observation"
        )
    if not episodes:
        raise InvalidInput(
            "all its episodes are cut off after one step, and it does not have the observation "
            "after that; add next_observations"
        )
    return episodes
