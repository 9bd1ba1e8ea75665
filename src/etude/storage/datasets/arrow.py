"""Arrow and Parquet files, read so that one that is damaged or made to do harm is refused.

Of a file only the columns that are asked for are read, and these hold numbers, bytes, or lists and
structs of them. Refused are:

    columns with an extension type     it may name code
    compressed parts of an Arrow file  their sizes are not known before memory is taken for them
    dictionaries

`pyarrow` is needed, which is an extra of etude.
"""

import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.datasets.budget import ReadBudget
from etude.storage.files import CorruptFile

NAME_LIMIT = 80  # characters of a name in a message
_PARQUET, _ARROW_FILE = b"PAR1", b"ARROW1\0\0"  # the first bytes of a file
_END = b"\xff\xff\xff\xff\0\0\0\0"  # the last ones of a stream of Arrow's
_VALUE_BYTES = 8  # of the widest number
_ROWS_AT_ONCE = 256  # of Parquet


def import_pyarrow() -> Any:
    """The module pyarrow; raises InvalidInput, naming the extra, where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput(
            "datasets in Arrow and Parquet need pyarrow, which is not installed: pip install "
            '"etude[parquet]"'
        ) from error
    return pyarrow


def read_tables(
    folder: Path, names: Sequence[str], needed: Collection[str], optional: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """The columns of each file of a folder, in turn, as arrays of pyarrow.

    Args:
        folder: the folder of the dataset.
        names: of the files, with their folders in it; they are Parquet, or Arrow, as a file or as
            a stream.
        needed: the names of columns that each file has.
        optional: of columns that are read where they are.

    Raises:
        InvalidInput: where pyarrow is not installed, and naming the file, for one that is not in
            the folder itself or lacks a column, and for an extension type.
        CorruptFile: naming the file, for one that is no whole file, or declares more than it holds.
    """
    import_pyarrow()
    paths = [Path(folder, name) for name in names]
    budget = ReadBudget(folder, sum(map(files.plain_size, paths)))
    for name, path in zip(names, paths, strict=True):
        with files.open_plain(path) as file:
            data = file.read()
        try:
            yield _read_columns(data, [*needed], [*optional], budget)
        except InvalidInput as error:
            raise type(error)(f"{name}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            reason = f"{error}".partition("\n")[0][:200]
            raise CorruptFile(
                f"{name} is damaged, or not Arrow or Parquet ({reason}); export or copy it again"
            ) from error


def rows_of(array: Any, name: str) -> np.ndarray:
    """Numbers, or lists of one length of such, as an array [row, ...].

    Raises CorruptFile, calling the column `name`, for values that are missing, of other kinds, or
    in lists of several lengths.
    """
    types, kind = import_pyarrow().types, array.type
    if array.null_count:
        raise CorruptFile(
            f"{name!r} lacks {array.null_count:,} values; export it again, or leave their episodes "
            "out"
        )
    if types.is_fixed_size_list(kind):
        inner = rows_of(array.flatten(), name)
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = np.asarray(array.value_lengths())
        if len(lengths) and (lengths != lengths[0]).any():
            raise CorruptFile(
                f"{name!r} has rows of {lengths.min():,} to {lengths.max():,} numbers; give rows "
                "of one shape"
            )
        inner = rows_of(array.flatten(), name)
        return inner.reshape(len(array), lengths[0] if len(lengths) else 0, *inner.shape[1:])
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
        raise CorruptFile(f"{name!r} has the type {str(kind)[:NAME_LIMIT]}; only numbers are read")
    return array.to_numpy(zero_copy_only=False)


def _read_columns(data, needed, optional, budget):
    """The columns of a file, each as one array that has been checked whole."""
    pa = import_pyarrow()
    if data.startswith(_PARQUET):
        file = pa.parquet.ParquetFile(pa.BufferReader(data))
        schema, content = file.schema_arrow, file
    else:
        messages = _messages(data)
        schema, content = pa.ipc.read_schema(next(messages)), messages
    if missing := [name for name in needed if schema.names.count(name) != 1]:
        have = ", ".join(repr(name[:NAME_LIMIT]) for name in schema.names[:12]) or "none"
        raise InvalidInput(f"it has no column {missing[0]!r}; there are {have}")
    names = [*needed, *(name for name in optional if schema.names.count(name) == 1)]
    for name in names:
        _check_type(schema.field(name), name)
    if data.startswith(_PARQUET):
        batches = _parquet_batches(content, schema, names, budget)
    else:
        batches = _arrow_batches(content, schema, names, budget)
    parts: dict[str, list] = {name: [] for name in names}
    for batch in batches:
        for name in names:
            parts[name].append(batch.column(name))
    return {
        name: pa.concat_arrays(arrays) if arrays else pa.array([], schema.field(name).type)
        for name, arrays in parts.items()
    }


def _parquet_batches(file, schema, names, budget):
    """The columns of a few rows after others.

    What numbers and lists of fixed lengths take is known before they are read, from the number of
    rows; what lists of any length and bytes take is counted after each few rows. The metadata of
    single columns are left alone: where they are damaged, pyarrow ends the process.
    """
    for name in names:
        size = file.metadata.num_rows * _width(schema.field(name).type) * _VALUE_BYTES
        budget.spend(max(0, size), name)
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False):
        for name in names:
            batch.column(name).validate(full=True)
            if not _width(batch.column(name).type):
                budget.spend(batch.column(name).nbytes, name)
        yield batch


def _width(kind):
    """How many numbers a row of a type has; 0 where each has its own number."""
    types = import_pyarrow().types
    if types.is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    if types.is_struct(kind):
        widths = [_width(field.type) for field in kind]
        return sum(widths) if all(widths) else 0
    is_number = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    return int(is_number)


def _arrow_batches(messages, schema, names, budget):
    """The columns of each batch of rows, whose values are views of the file."""
    pa = import_pyarrow()
    for message in messages:
        if message.type != "record batch":
            raise CorruptFile(f"it has a part of the type {message.type}; write it without")
        if _is_compressed(message.metadata.to_pybytes()):
            raise CorruptFile("its parts are compressed; write it without compression")
        batch = pa.ipc.read_record_batch(message, schema)
        for name in names:
            batch.column(name).validate(full=True)  # before anything in it is looked at
            budget.spend(batch.column(name).nbytes, name)
        yield batch


def _messages(data):
    """The messages of a stream of Arrow's, the first of which is the schema; all, or an error."""
    pa = import_pyarrow()
    if data.startswith(_ARROW_FILE):  # a stream, with a table of contents after it
        is_whole = data.endswith(_ARROW_FILE.rstrip(b"\0"))
        data = data[len(_ARROW_FILE) :]
    else:
        is_whole = data.endswith(_END)
    if not is_whole:
        raise ValueError("it has no end")
    messages = iter(pa.ipc.MessageReader.open_stream(pa.py_buffer(data)))
    first = next(messages, None)
    if first is None or first.type != "schema":
        raise ValueError("it does not begin with a schema")
    yield first
    yield from messages


def _is_compressed(metadata: bytes) -> bool:
    """Whether the values of a batch of rows are compressed, by the metadata of its message.

    They are a FlatBuffer (Arrow's Message.fbs), whose tables are read here by the numbers of their
    fields: `header` is the third of a Message, `compression` the fourth of a RecordBatch.
    """

    def place_of(table, number):
        start = table - struct.unpack_from("<i", metadata, table)[0]  # of the table of places
        (size,) = struct.unpack_from("<H", metadata, start)
        entry = 4 + 2 * number
        place = struct.unpack_from("<H", metadata, start + entry)[0] if entry < size else 0
        return table + place if place else None

    (message,) = struct.unpack_from("<I", metadata, 0)
    header = place_of(message, 2)
    if header is None:
        return False
    return place_of(header + struct.unpack_from("<I", metadata, header)[0], 3) is not None


def _check_type(field, name):
    """Refuse extension types, of the column or of anything in it."""
    pa = import_pyarrow()
    is_named = b"ARROW:extension:name" in (field.metadata or {})
    if is_named or isinstance(field.type, pa.BaseExtensionType):
        raise InvalidInput(
            f"the column {name!r} has an extension type, and only plain numbers and lists are "
            "read, for such a type may name code; write it as lists"
        )
    for number in range(field.type.num_fields):
        _check_type(field.type.field(number), name)
