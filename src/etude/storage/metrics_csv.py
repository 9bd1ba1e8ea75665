"""metrics.csv: rows of numbers that training appends and that a killed process cannot corrupt.

The first line names the columns, one of which is `step`. Floats are written as the shortest text
that reads back as the same float; an empty cell is a missing value. A row without the end of its
line is ignored. `measure_rows` says by what the rows up to a step are known again.
"""

import hashlib
import math
import numbers
import os
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.files import CorruptFile

SIZE_LIMIT = 2**30  # bytes


class MetricsWriter:
    """Appends rows to a CSV file; opening an existing one removes its incomplete last line.

    with MetricsWriter(path) as writer:
        writer.append({"step": 1000, "return": 21.5})
        writer.sync()
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        new = not self.path.exists()
        self._columns, lines = ([], []) if new else _lines(self.path)
        if not new and self.path.stat().st_size != sum(map(len, lines)):
            files.write_bytes(self.path, b"".join(lines))
        self._file = open(self.path, "ab")  # noqa: SIM115  open for as long as the writer is
        if new:
            files.sync(self.path.parent)

    def append(self, row: dict) -> None:
        """Write one row; the first row of a file determines its columns.

        Columns that the row lacks and None become empty cells. Raises InvalidInput for a column
        that the file does not have, for a row without a whole `step` and for values that are no
        numbers.
        """
        cells = {name: _cell(name, value) for name, value in row.items()}
        if not cells.get("step", "").isdigit():
            raise InvalidInput(
                f"a row of {self.path} has the step {row.get('step')!r}; give the environment "
                "step it belongs to, a whole number"
            )
        if not self._columns:
            for name in row:
                _check_name(name)
            self._write(list(row))
            self._columns = list(row)
        for name in row:
            if name not in self._columns:
                raise InvalidInput(
                    f"{self.path} has no column {name!r} but {', '.join(self._columns)}; name "
                    "every column in the first row, with None where there is no value yet"
                )
        self._write([cells.get(name, "") for name in self._columns])

    def sync(self) -> None:
        """Flush every row to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> None:
        """Remove the rows beyond a step: on resume, those that follow the checkpoint."""
        self._file.close()
        columns, lines = _lines(self.path)
        kept_lines = _up_to(step, columns, lines)
        if len(kept_lines) < len(lines) - 1:
            files.write_bytes(self.path, b"".join([lines[0], *kept_lines]))
        self._file = open(self.path, "ab")  # noqa: SIM115

    def close(self) -> None:
        """Flush the rows to the disk and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _write(self, cells):
        self._file.write((",".join(cells) + "\n").encode())
        self._file.flush()


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Read the columns, float64 [row], with NaN for empty cells.

    An incomplete last line is ignored. Raises CorruptFile for a file that is not in this format.
    """
    columns, lines = _lines(Path(path))
    rows = [
        [float(cell) if cell else math.nan for cell in line[:-1].split(b",")] for line in lines[1:]
    ]
    table = np.array(rows, float).reshape(len(rows), len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}


def measure_rows(path: Path, step: int) -> dict[str, Any]:
    """Return the number of the rows up to a step, and the SHA-256 of their lines and the header.

    A file that is not there has no rows. Raises CorruptFile as `read_metrics` does.
    """
    path = Path(path)
    columns, lines = _lines(path) if os.path.lexists(path) else ([], [])
    rows = _up_to(step, columns, lines)
    digest = hashlib.sha256(b"".join([*lines[:1], *rows]) if rows else b"").hexdigest()
    return {"rows": len(rows), "sha256": digest}


def _up_to(step, columns, lines):
    """Return the lines of the rows up to a step."""
    place = columns.index("step") if columns else 0
    return [line for line in lines[1:] if float(line.split(b",")[place]) <= step]


def _lines(path):
    """Return the columns and all complete lines, header included; raises CorruptFile."""
    lines = files.read_bytes(path, SIZE_LIMIT).splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    if not lines:
        return [], []
    try:
        columns = lines[0][:-1].decode().split(",")
    except UnicodeDecodeError as error:
        raise CorruptFile(
            f"{path} has a first line that is no text; restore it from a copy"
        ) from error
    if "step" not in columns or len(set(columns)) < len(columns):
        raise CorruptFile(
            f"{path} has no header with different names and a step; restore it from a copy"
        )
    step = columns.index("step")
    for i, line in enumerate(lines[1:], start=2):
        cells = line[:-1].split(b",")
        try:
            values = [float(cell) for cell in cells if cell]
        except ValueError:
            values = None
        if len(cells) != len(columns) or values is None or not cells[step]:
            raise CorruptFile(
                f"{path}, line {i}, is no row of {len(columns)} numbers; mend or remove that line"
            )
    return columns, lines


def _cell(name, value):
    if value is None:
        return ""
    if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    raise InvalidInput(f"{name!r} is {value!r}; a row holds single numbers or None")


def _check_name(name):
    if not isinstance(name, str) or not name or any(character in name for character in ',"\r\n'):
        raise InvalidInput(
            f"{name!r} cannot name a column; use a name without commas, quotes and line breaks"
        )
