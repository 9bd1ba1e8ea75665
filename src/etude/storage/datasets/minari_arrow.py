"""The episodes of Minari's layout in Arrow or Parquet (see `etude.storage.datasets.minari`).

data/N/part-0.arrow        or .parquet: the columns observations, actions, rewards, terminations
                           and truncations of episode N, each [step + 1, ...]; what belongs to a
                           step ends with a row that is no step's. Arrays are flat lists, parts
                           of a Dict or Tuple are fields of a struct
data/N/metadata.json       its id, total_steps, seed and options
"""

from pathlib import Path
from typing import Any

import numpy as np

from etude.data.recorded_arrays import recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, EnvironmentSpec, Space
from etude.storage import files
from etude.storage.datasets.arrow import import_pyarrow, read_tables, rows_of
from etude.storage.datasets.budget import ReadBudget
from etude.storage.datasets.pictures import JPEG_NOTE, decode_pictures, is_picture
from etude.storage.datasets.recorded_episodes import FIELDS, known_seed
from etude.storage.files import CorruptFile

FORMATS = "arrow", "parquet"


def read_arrow_episodes(
    folder: Path, spec: EnvironmentSpec, total: int, file_format: str, is_jpeg: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """(the fields and the seed of each episode, what a reader should know).

    Raises InvalidInput for files that are damaged, made to do harm, or of other spaces, and where
    pyarrow is not installed.
    """
    import_pyarrow()
    folders = {*files.names_in(folder, r"\d{1,9}")}
    missing = next((number for number in range(total) if str(number) not in folders), None)
    if missing is not None:
        raise CorruptFile(f"it has no folder of episode {missing}; export or copy it again")
    names = []
    for number in range(total):
        parts = files.names_in(folder / str(number), rf"[\w-]+\.{file_format}")
        if len(parts) != 1:
            raise CorruptFile(
                f"the folder of episode {number} has {len(parts)} files of {file_format}, and one "
                "is read; export it again with Minari"
            )
        names.append(f"{number}/{parts[0]}")
    size = sum(files.plain_size(folder / name) for name in names)
    spend, notes, episodes = ReadBudget(folder, size).spend, [], []
    if len(folders) > total:
        notes.append(
            "the folder has episodes that its metadata do not count: only the first "
            f"{total} are read"
        )
    spaces = recorded_spaces(spec)
    has_pictures = is_jpeg and any(map(_has_picture, spaces.values()))
    if has_pictures:
        notes.append(JPEG_NOTE)
    for number, table in enumerate(read_tables(folder, names, FIELDS)):
        rows = len(table["rewards"])
        episode = {
            field: _value(_without_padding(table[field], field), field, space, is_jpeg, spend)
            for field, space in spaces.items()
        }
        metadata = files.read_json(folder / str(number) / "metadata.json")
        if not isinstance(metadata, dict) or metadata.get("total_steps", rows - 1) != rows - 1:
            raise CorruptFile(
                f"episode {number} has {rows} rows, and its metadata.json does not give "
                f"{rows - 1} as total_steps; export it again"
            )
        if metadata.get("id", number) != number:
            raise InvalidInput(
                f"the folder {number} has the id {str(metadata['id'])!r:.80}; number the episodes "
                "from 0, each once"
            )
        if metadata.get("options"):
            notes.append("options were given to its resets")
        episodes.append(episode | {"seed": known_seed(metadata.get("seed"))})
    return episodes, notes


def _without_padding(column: Any, field: str) -> Any:
    """A column without the last row of what belongs to a step, which may be missing values."""
    return column if field == "observations" else column[:-1]


def _value(array: Any, name: str, space: Space, is_jpeg: bool, spend: Any) -> Any:
    """The values of a column, built as its space."""
    types = import_pyarrow().types
    if isinstance(space, Composite):
        keys = [*map(str, range(len(space.parts)))] if space.names is None else [*space.names]
        if not types.is_struct(array.type) or {x.name for x in array.type} != set(keys):
            raise CorruptFile(f"{name!r} is not a struct of {', '.join(keys)}; export it again")
        if array.null_count:
            raise CorruptFile(f"{name!r} lacks {array.null_count:,} values; export it again")
        return space.assemble(
            [
                _value(array.field(key), f"{name}/{key}", part, is_jpeg, spend)
                for key, part in zip(keys, space.parts, strict=True)
            ]
        )
    if is_jpeg and isinstance(space, Box) and is_picture(space):
        if not types.is_binary(array.type) or array.null_count:
            raise CorruptFile(f"{name!r} has rows of another kind than bytes; export it again")
        return decode_pictures((x.as_py() for x in array), name, space, spend)
    rows = rows_of(array, name)
    shape = getattr(space, "shape", ())
    if rows.size != len(rows) * int(np.prod(shape)):
        raise CorruptFile(
            f"{name!r} has rows of {rows[:1].size} numbers, and its space is {space}; write it "
            "again"
        )
    return rows.reshape(len(rows), *shape)


def _has_picture(space: Space) -> bool:
    return (
        any(map(_has_picture, space.parts)) if isinstance(space, Composite) else is_picture(space)
    )
