"""metrics.csv: rows of numbers, appended as training goes, that a killed process cannot spoil.

The first line names the columns, one of which is `step`. Floats are written as the shortest text
that reads back as the same float; an empty cell is a value that was not there. A row counts once
its line has ended.
"""

import math
import numbers
import os
from pathlib import Path

import numpy as np

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.files import CorruptFile

SIZE_LIMIT = 2**30  # bytes


class MetricsWriter:
    """Appends rows to a CSV file, new or continued; a last line torn by a killed process is dropped
    on opening.

    with Records(path) as records:
        records.append({"step": 1000, "return": 21.5})
        records.sync()
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        new = not self.path.exists()
        self._columns, lines = ([], []) if new else _lines(self.path)
        if not new and self.path.stat().st_size != sum(map(len, lines)):
            files.write_bytes(self.path, b"".join(lines))
        self._file = open(self.path, "ab")  # noqa: SIM115  open for as long as the records are
        if new:
            files.sync(self.path.parent)

    def append(self, row: dict) -> None:
        """Write one row; the first one of a file fixes its columns.

        Columns of the file that the row lacks, and values None, become empty cells. Raises
        InvalidInput for a column the file does not have, for a row without a whole `step` and for
        what is no number.
        """
        cells = {name: _cell(name, value) for name, value in row.items()}
        if not cells.get("step", "").isdigit():
            raise InvalidInput(
                f"a row of {self.path} has the step {row.get('step')!r}; give the environment "
                "step it "
                "belongs to, a whole number"
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
                    "every "
                    "column in the first row, with None where there is no value yet"
                )
        self._write([cells.get(name, "") for name in self._columns])

    def sync(self) -> None:
        """Return once every row is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> None:
        """Drop the rows beyond a step: on resume, those that followed the checkpoint."""
        self._file.close()
        columns, lines = _lines(self.path)
        if columns:
            place = columns.index("step")
            kept = [line for line in lines[1:] if float(line.split(b",")[place]) <= step]
            if len(kept) < len(lines) - 1:
                files.write_bytes(self.path, b"".join([lines[0], *kept]))
        self._file = open(self.path, "ab")  # noqa: SIM115

    def close(self) -> None:
        """Put the rows on the disk and let go of the file."""
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
    """The columns, float64 [row], NaN for an empty cell; a torn last line is passed over. Raises
    Damaged."""
    columns, lines = _lines(Path(path))
    rows = [
        [float(cell) if cell else math.nan for cell in line[:-1].split(b",")] for line in lines[1:]
    ]
    table = np.array(rows, float).reshape(len(rows), len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}


def _lines(path):
    """The columns and all whole lines, the header first; raises Damaged for a line that is no
    row."""
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
            numbers_in = [float(cell) for cell in cells if cell]
        except ValueError:
            numbers_in = None
        if len(cells) != len(columns) or numbers_in is None or not cells[step]:
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
