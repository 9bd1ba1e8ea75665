"""Datasets that the library `imitation` wrote as `.npz`, read without it.

obs         [step + 1, ...] of each episode
acts        [step, ...] of each episode; rews, too, where rewards were recorded
indices     [episode - 1]: the steps at which the episodes are divided
terminal    [episode]: whether the episode came to its end
infos       Python objects, which are not read, for reading them runs code
"""

from pathlib import Path

import numpy as np

from etude.errors import InvalidInput
from etude.storage.datasets.npz import read_arrays
from etude.storage.datasets.recorded_episodes import FIELDS, RecordedEpisodes, named, split_episodes

KEYS = "obs", "acts", "terminal", "indices"


def read_imitation(path: Path) -> RecordedEpisodes:
    """The episodes of a file of `imitation`'s.

    Raises InvalidInput, naming the file, for one that cannot be read, or whose arrays do not fit
    one another.
    """
    with named(path):
        arrays = read_arrays(path, list(KEYS), ("rews",), ignored=("infos",))
        actions, indices, terminal = (arrays[key] for key in ("acts", "indices", "terminal"))
        if not actions.ndim or indices.ndim != 1 or indices.dtype.kind not in "iuf":
            raise InvalidInput(
                f"acts have the shape {actions.shape} and indices {indices.shape}; the first has "
                "a row for each step, and the second a number for each episode but the first"
            )
        bounds = np.array([0, *indices.tolist(), len(actions)])
        lengths = np.diff(bounds).astype(np.int64)
        if (lengths < 1).any() or (bounds % 1).any():
            raise InvalidInput(
                f"episode {int((lengths < 1).argmax())} has no steps by its indices; they rise, "
                "and are less than the number of acts"
            )
        rewards = arrays.get("rews", np.zeros(len(actions), np.float32))
        for key, array, count in (
            ("obs", arrays["obs"], len(actions) + len(lengths)),
            ("rews", rewards, len(actions)),
            ("terminal", terminal, len(lengths)),
        ):
            if not array.ndim or len(array) != count:
                raise InvalidInput(
                    f"{key} has the shape {array.shape}, and by acts and indices it should have "
                    f"{count} rows"
                )
        flags = np.zeros(len(actions), bool)
        flags[lengths.cumsum() - 1] = terminal != 0
        notes = ["it does not tell a failure from a time limit: a terminal episode is terminated"]
        if "rews" not in arrays:
            notes.append("it has no rewards, which are zero here")
    values = arrays["obs"], actions, rewards, flags, np.zeros(len(actions), bool)
    fields = {
        field: split_episodes(value, lengths + 1 if field == "observations" else lengths)
        for field, value in zip(FIELDS, values, strict=True)
    }
    return RecordedEpisodes("imitation", "", None, fields, (None,) * len(lengths), tuple(notes))
