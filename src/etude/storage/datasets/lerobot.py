"""Datasets in LeRobot's layout, of its versions 2 and 3, read without LeRobot.

    meta/info.json                    the features with their dtypes and shapes, numbers of episodes
                                      and frames
    data/chunk-N/NAME.parquet         a row for each step: observation.state, other observation.KEY,
                                      action, episode_index, frame_index; next.reward and next.done,
                                      where they were recorded
    videos/, features of images       pictures, which are not read

A row has what was observed before its action, so the observation after the last action of an
episode was not recorded. The dataset repeats the one before that action in its place, and
algorithms that would read it refuse the dataset.
"""

from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec, Space
from etude.storage import files
from etude.storage.datasets.arrow import import_pyarrow, read_tables, rows_of
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    RecordedEpisodes,
    errors_name,
    observation_keys,
)
from etude.storage.files import CorruptFile

INFO = Path("meta", "info.json")
PREFIX, STATE = "observation.", "observation.state"
_INDICES = "episode_index", "frame_index"
_OPTIONAL = "next.reward", "next.done"
_PICTURES = "image", "video"
_ELEMENTS = 2**27  # of a feature


def is_lerobot(path: Path) -> bool:
    """Whether a directory has the layout of LeRobot."""
    return (Path(path) / INFO).is_file()


def read_lerobot(path: Path, spec: EnvironmentSpec | None) -> RecordedEpisodes:
    """The episodes of a LeRobot directory, in the order of their numbers.

    Args:
        path: the directory, with meta and data in it.
        spec: the spaces of the environment. Of a Dict the observations of its keys are read, of
            another space, or without it, observation.state.

    Raises:
        InvalidInput: naming the path, for what cannot be read or lacks what is needed, for
            observations that are pictures, and where pyarrow is not installed.
    """
    path = Path(path)
    with errors_name(path):
        import_pyarrow()
        info = _read_info(path)
        features = info["features"]
        keys = _observation_keys(features, spec)
        columns = _read_columns(path, features, keys)
        first_rows = _first_rows(columns, info)
        ends = [*first_rows[1:].tolist(), len(columns["action"])]
        rows = [slice(*bounds) for bounds in zip(first_rows.tolist(), ends, strict=True)]
        notes = _notes(features, keys, columns, rows)
        episodes = _episodes(columns, keys, rows, spec)
    return RecordedEpisodes(
        "LeRobot",
        "",
        None,
        {field: [episode[field] for episode in episodes] for field in FIELDS},
        (None,) * len(episodes),
        tuple(notes),
        has_last_observations=False,
    )


def _episodes(columns, keys, rows, spec) -> list[dict[str, Any]]:
    """The fields of each episode, whose observations end with the last one twice."""
    is_dict = observation_keys(spec) is not None
    spaces = {} if spec is None else {STATE: spec.observation}
    if is_dict:
        spaces = dict(zip(keys, spec.observation.parts, strict=True))
    observations = {key: _fit(columns[key], spaces.get(key)) for key in keys}
    actions = _fit(columns["action"], None if spec is None else spec.action)
    rewards = columns.get("next.reward", np.zeros(len(actions), np.float32))
    done = columns.get("next.done", np.zeros(len(actions), bool)) != 0
    episodes = []
    for of_episode in rows:
        padded = {
            key.removeprefix(PREFIX): np.concatenate([x[of_episode], x[of_episode][-1:]])
            for key, x in observations.items()
        }
        count = of_episode.stop - of_episode.start
        is_last = np.arange(count) == count - 1
        episodes.append(
            {
                "observations": padded if is_dict else padded[STATE.removeprefix(PREFIX)],
                "actions": actions[of_episode],
                "rewards": rewards[of_episode],
                "terminations": is_last & done[of_episode],
                "truncations": is_last & ~done[of_episode],
            }
        )
    return episodes


def _read_info(path: Path) -> dict[str, Any]:
    """The content of meta/info.json, of which what is read has been checked."""
    info = files.read_json(path / INFO)
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise CorruptFile(f"{INFO} has no object of features; restore it from a copy")
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith(("v2.", "v3.")):
        raise InvalidInput(
            f"its codebase_version is {str(version)!r:.80}, and v2 and v3 are read; convert it "
            "with LeRobot"
        )
    for name, feature in info["features"].items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if (
            not isinstance(shape, list)
            or not all(type(length) is int and 0 <= length < _ELEMENTS for length in shape)
            or not isinstance(feature.get("dtype"), str)
        ):
            raise CorruptFile(
                f"{INFO} gives the feature {name!r:.80} without a dtype and a shape; restore it "
                "from a copy"
            )
    return info


def _observation_keys(features: dict[str, Any], spec: EnvironmentSpec | None) -> list[str]:
    """The features that are the observation."""
    names = observation_keys(spec)
    keys = [STATE] if names is None else [PREFIX + name for name in names]
    there = [name for name in features if name.startswith(PREFIX)]
    for key in keys:
        pictures = [name for name in there if features[name]["dtype"] in _PICTURES]
        if key in pictures or (key not in features and pictures):
            raise InvalidInput(
                f"the observations in it are pictures ({', '.join(pictures)[:200]}), which are "
                "not read; decode them with LeRobot, and write an .npz with numpy.savez"
            )
        if key not in features:
            raise InvalidInput(
                f"it has no feature {key!r}; those of observations are "
                f"{', '.join(there)[:200] or 'none'}"
            )
    return keys


def _read_columns(path, features, keys):
    """The columns of all files, [row, ...], in the order of episodes and frames."""
    names = (
        files.names_in(path / "data", r"chunk-\d+", r".+\.parquet")
        if (path / "data").is_dir()
        else []
    )
    if not names or (path / "data").is_symlink():
        raise InvalidInput("it has no data/chunk-000/….parquet; copy the whole directory")
    needed = [*keys, "action", *_INDICES]
    if missing := [name for name in needed if name not in features]:
        raise InvalidInput(f"{INFO} has no feature {missing[0]!r}; record it, or restore the file")
    optional = [name for name in _OPTIONAL if name in features]
    parts: dict[str, list] = {}
    for table in read_tables(path / "data", names, [*needed, *optional]):
        for name, array in table.items():
            shape = () if name in (*_INDICES, *_OPTIONAL) else tuple(features[name]["shape"])
            rows = rows_of(array, name)
            if rows.size != len(rows) * int(np.prod(shape)):
                raise CorruptFile(
                    f"{name!r} has rows of the shape {rows.shape[1:]}, and {INFO} gives {shape}; "
                    "restore one of them from a copy"
                )
            parts.setdefault(name, []).append(rows.reshape(len(rows), *shape))
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    return {name: column[order] for name, column in columns.items()}


def _first_rows(columns, info):
    """The first row of each episode, after a check that no frame is missing or there twice."""
    episode, frame = (columns[name] for name in _INDICES)
    if not len(frame):
        raise InvalidInput("it has no steps; record at least one episode")
    begins = np.append(True, episode[1:] != episode[:-1])
    first_rows = np.flatnonzero(begins)
    expected = np.arange(len(frame)) - np.repeat(first_rows, np.diff([*first_rows, len(frame)]))
    if (wrong := frame != expected).any():
        row = int(wrong.argmax())
        raise InvalidInput(
            f"episode {episode[row]} has no frame {expected[row]}, or has it twice; its "
            "frame_index count from 0, each once"
        )
    for key, count in (("total_frames", len(frame)), ("total_episodes", len(first_rows))):
        if info.get(key, count) != count:
            raise CorruptFile(
                f"{INFO} gives {str(info[key])!r:.80} as {key}, and in the files there are "
                f"{count:,}; copy the whole directory"
            )
    return first_rows


def _notes(features, keys, columns, rows):
    """What a reader should know."""
    notes = [
        "the observation after the last step of an episode is not in it, so only algorithms that "
        "do not read it take the dataset, such as bc"
    ]
    if left_out := [name for name in features if name.startswith(PREFIX) and name not in keys]:
        notes.append(f"of its observations {', '.join(left_out)[:200]} are left out")
    if "next.reward" not in columns:
        notes.append("it has no rewards, which are zero here")
    if "next.done" not in columns:
        notes.append("it does not say how episodes end: their last steps are truncated")
        return notes
    notes.append("it does not tell a failure from a time limit: a done at the end is a termination")
    if any(columns["next.done"][of_episode][:-1].any() for of_episode in rows):
        notes.append("dones before the last step of an episode are left out: they end none")
    return notes


def _fit(rows: np.ndarray, space: Space | None) -> np.ndarray:
    """Rows of one number each as numbers, where the space is that of a number."""
    is_number = space is not None and getattr(space, "shape", ()) == ()
    return rows[:, 0] if is_number and rows.shape[1:] == (1,) else rows
