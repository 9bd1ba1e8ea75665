"""Datasets that the library `imitation` wrote, read without it: as an `.npz`, or as a folder.

    obs         [step + 1, ...] of each episode
    acts        [step, ...] of each episode; rews, too, where rewards were recorded
    terminal    [episode]: whether the episode came to its end; one that did not has no flag of its
                end, so `make_dataset` refuses it but with truncate_unfinished
    infos       Python objects, which are not read, for reading them runs code
    indices     of an .npz, [episode - 1]: the steps at which the episodes are divided

A folder is one that HuggingFace's `datasets` saved: state.json names the files of Arrow's in it, in
which each episode is a row.
"""

import re
from pathlib import Path

import numpy as np

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.datasets.arrow import read_tables, rows_of
from etude.storage.datasets.npz import member_keys, read_arrays
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    RecordedEpisodes,
    errors_name,
    split_episodes,
)
from etude.storage.files import CorruptFile

KEYS = "obs", "acts", "terminal", "indices"
STATE = "state.json"
_SHARD = re.compile(r"\w[\w.-]*\.arrow", re.ASCII)


def is_imitation(path: Path) -> bool:
    """Whether an .npz file has the keys of `imitation`."""
    return member_keys(path) >= {"obs", "acts"}


def read_imitation(path: Path) -> RecordedEpisodes:
    """The episodes of a file of `imitation`'s.

    Raises InvalidInput, naming the file, for one that cannot be read, or whose arrays do not fit
    one another.
    """
    with errors_name(path):
        arrays = read_arrays(path, list(KEYS), ("rews",), ignored=("infos",))
        actions, indices, terminal = (arrays[key] for key in ("acts", "indices", "terminal"))
        if not actions.ndim or indices.ndim != 1 or indices.dtype.kind not in "iuf":
            raise InvalidInput(
                f"acts have the shape {actions.shape} and indices {indices.shape}; the first has "
                "a row for each step, and the second a number for each episode but the first"
            )
        bounds = np.array([0, *indices.tolist(), len(actions)])
        lengths = np.diff(bounds).astype(np.int64)
        if (bounds % 1).any():
            raise InvalidInput(
                f"indices has the number {bounds[bounds % 1 != 0][0]}; give whole ones"
            )
        if (lengths < 1).any():
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
    return _recorded(
        split_episodes(arrays["obs"], lengths + 1),
        split_episodes(actions, lengths),
        split_episodes(rewards, lengths),
        terminal,
        "rews" in arrays,
    )


def is_imitation_folder(path: Path) -> bool:
    """Whether a directory is one that HuggingFace's `datasets` saved."""
    return (Path(path) / STATE).is_file() and (Path(path) / "dataset_info.json").is_file()


def read_imitation_folder(path: Path) -> RecordedEpisodes:
    """The episodes of a folder of `imitation`'s.

    Raises InvalidInput, naming the path, for one that cannot be read or has other columns, and
    where pyarrow is not installed.
    """
    with errors_name(path):
        episodes: dict[str, list] = {"obs": [], "acts": [], "rews": []}
        terminal: list[np.ndarray] = []
        is_rewarded = False
        for table in read_tables(path, _shards(path), ["obs", "acts", "terminal"], ["rews"]):
            terminal.append(rows_of(table["terminal"], "terminal"))
            is_rewarded = "rews" in table
            for episode in range(len(terminal[-1])):
                for key in episodes.keys() & table.keys():
                    # a list of rows, which is one row of the column
                    episodes[key].append(rows_of(table[key].slice(episode, 1), key)[0])
        if len(episodes["rews"]) not in (0, len(episodes["acts"])):
            raise CorruptFile("some of its files have rews, and others none; export it again")
        if not is_rewarded:
            episodes["rews"] = [np.zeros(len(acts), np.float32) for acts in episodes["acts"]]
        ends = np.concatenate(terminal)
        if ends.ndim != 1:
            raise CorruptFile("terminal is not a flag of each episode; export it again")
    return _recorded(episodes["obs"], episodes["acts"], episodes["rews"], ends, is_rewarded)


def _shards(path: Path) -> list[str]:
    """The names of the files of a folder, which are in it and nowhere else."""
    state = files.read_json(Path(path) / STATE)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(entries, list) or not entries:
        raise CorruptFile(f"{STATE} names no files; save the dataset again")
    names = []
    for entry in entries:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise CorruptFile(
                f"{STATE} names the file {name!r:.80}, which is none of those that `datasets` "
                "writes beside it, as data-00000-of-00001.arrow"
            )
        names.append(name)
    return names


def _recorded(observations, actions, rewards, terminal, is_rewarded) -> RecordedEpisodes:
    """The episodes of lists with an array for each, and whether each came to its end."""
    terminations, truncations = ([np.zeros(len(acts), bool) for acts in actions] for _ in range(2))
    for flags, is_terminal in zip(terminations, terminal, strict=True):
        flags[-1:] = is_terminal != 0
    notes = ["it does not tell a failure from a time limit: a terminal episode is terminated"]
    if not is_rewarded:
        notes.append("it has no rewards, which are zero here")
    values = observations, actions, rewards, terminations, truncations
    fields = dict(zip(FIELDS, values, strict=True))
    return RecordedEpisodes("imitation", "", None, fields, (None,) * len(actions), tuple(notes))
