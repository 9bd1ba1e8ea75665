"""Checkpoints of pytrees: atomic, verified by hashes, and free of code.

    directory/step_1000/arrays.safetensors    the leaves of a pytree, each named by its path
                        facts.json            metadata of the caller
                        manifest.json         version of the format, step, sizes and SHA-256 of both

A checkpoint exists as a whole or not at all. Each file is opened once: the bytes whose size and
hash are checked are those that are parsed. The names, shapes and dtypes of the arrays are checked
against a template. Nothing in a file can name code. Only one process may write to a directory at a
time.
"""

import contextlib
import hashlib
import math
import operator
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from etude.errors import InvalidInput
from etude.storage import directories, files
from etude.storage.files import CorruptFile

FORMAT = 2
ARRAYS, METADATA, MANIFEST = "arrays.safetensors", "facts.json", "manifest.json"
MANIFEST_LIMIT = 4096  # bytes
HEADER_LIMIT = 64 * 2**20  # bytes
_NAME = re.compile(r"step_(0|[1-9][0-9]{0,17})")
_REMEDY = "take another checkpoint"
_TYPES = {  # NumPy dtype -> safetensors dtype
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_SIZES = {code: np.dtype(name).itemsize for name, code in _TYPES.items()}  # bytes of a number
Template = Any  # a tree of arrays or shapes, or a function that makes it of the metadata


class OtherArrays(CorruptFile):
    """An intact checkpoint holds other arrays than are to be restored."""


def save_checkpoint(directory: Path, step: int, tree: Any, metadata: dict, keep: int = 2) -> Path:
    """Write `directory/step_{step}` atomically, then remove all but the newest `keep` (at least 2).

    An older checkpoint stays readable at every instant, and the new one is always kept. Weak types
    are lost. Raises InvalidInput for a leaf that is no array or of an unsupported dtype, for
    metadata that is no JSON and for a negative step; OSError when the disk refuses.
    """
    step = operator.index(step)
    target = Path(directory) / f"step_{step}"
    if not _NAME.fullmatch(target.name):
        raise InvalidInput(f"step is {step}; it must be at least 0 and have at most 18 digits")
    leaves, _ = _leaves(tree)
    encoded_metadata = files.encode_json(dict(metadata))
    with directories.new_directory(target) as temporary:
        save_file(
            {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}, temporary / ARRAYS
        )
        (temporary / METADATA).write_bytes(encoded_metadata)
        # safetensors files are readable by the owner alone
        shutil.copymode(temporary / METADATA, temporary / ARRAYS)
        (temporary / MANIFEST).write_bytes(
            _manifest(step, {name: _measure(temporary / name) for name in (ARRAYS, METADATA)})
        )
    _prune(target, max(keep, 2))
    return target


def keep_best(directory: Path, path: Path) -> None:
    """Make a copy of the checkpoint at `path` the only checkpoint in `directory`, atomically.

    Both have the same files where the file system can give a file two names, for no file of a
    checkpoint is ever written again.
    """
    target = Path(directory) / path.name
    with directories.new_directory(target) as temporary:
        for name in (ARRAYS, METADATA, MANIFEST):
            try:
                os.link(path / name, temporary / name)
            except OSError:
                shutil.copyfile(path / name, temporary / name)
    remove_others(target)


def remove_others(path: Path) -> None:
    """Remove all checkpoints but this one from its directory."""
    for other in _candidates(path.parent):
        if other != path:
            directories.remove(other)


def load_checkpoint(path: Path, template: Template) -> tuple[Any, dict]:
    """Load the tree and the metadata of one checkpoint, bit for bit.

    `template` is a tree of arrays, or of the shapes of `jax.eval_shape`, with the expected
    structure, shapes and dtypes; or a function that returns it for the metadata, which are read and
    verified before the arrays, and which it may refuse with CorruptFile. Leaves are JAX arrays, or
    NumPy arrays where JAX would narrow them (64 bits without `jax_enable_x64`).

    Raises CorruptFile when anything is not as it was written or does not fit the template.
    """
    path = Path(path)
    entries = _read_manifest(path)
    metadata = _read_metadata(path, entries)
    # a function is a leaf, which a module of networks that can be called is not
    if callable(template) and jax.tree_util.all_leaves([template]):
        template = template(metadata)
    expected, structure = _leaves(template)
    data = _read_verified(path, ARRAYS, entries)
    return jax.tree.unflatten(structure, _arrays(path / ARRAYS, data, expected)), metadata


def load_newest(
    directory: Path, template: Template, warn: Callable[[str], None] = warnings.warn
) -> tuple[Path, Any, dict]:
    """Load the newest intact checkpoint: (path, tree, metadata).

    `template` is that of `load_checkpoint`. `warn` gets a message for every checkpoint that is
    skipped. Raises CorruptFile when none is left, and OtherArrays, of the newest, where all of them
    are of another template.
    """
    directory = Path(directory)
    errors: dict[Path, CorruptFile] = {}
    found = None
    for path in _candidates(directory):
        try:
            found = path, *load_checkpoint(path, template)
            break
        except CorruptFile as error:
            errors[path] = error
    if found is None and errors and all(isinstance(x, OtherArrays) for x in errors.values()):
        raise next(iter(errors.values()))
    for path, reason in errors.items():
        warn(f"skipped the checkpoint {path}: {reason}")
    if found is not None:
        return found
    raise CorruptFile(
        f"{directory} holds no checkpoint that can be read "
        f"({'; '.join(map(str, errors.values())) or 'there is none'}); "
        "restore it from a copy or start the run anew"
    )


def has_any(directory: Path) -> bool:
    """Whether a directory holds a checkpoint, intact or not, also while one is replaced."""
    return bool(_candidates(Path(directory)))


def load_newest_metadata(directory: Path) -> dict | None:
    """Return the metadata of the newest checkpoint of which they are intact, None without one."""
    for path in _candidates(Path(directory)):
        with contextlib.suppress(CorruptFile):
            return _read_metadata(path, _read_manifest(path))
    return None


def step_of(path: Path) -> int:
    """Return the step of the checkpoint at a path that `load_newest` returned."""
    return _step(directories.final_name(path))


def _read_metadata(path, entries):
    data = _read_verified(path, METADATA, entries)
    metadata = files.decode_json(data.tobytes(), str(path / METADATA))
    if not isinstance(metadata, dict):
        raise CorruptFile(f"{path / METADATA} holds no JSON object; {_REMEDY}")
    return metadata


def _leaves(tree):
    """Return a dict from name to leaf, and the structure; raises InvalidInput for a bad leaf."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {}
    for path, leaf in pairs:
        name = jax.tree_util.keystr(path)
        if name in leaves:
            raise InvalidInput(
                f"two leaves of the tree are called {name}; rename a key of the dict that holds "
                "them"
            )
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise InvalidInput(
                f"{name or 'the tree'} is a {type(leaf).__name__}; a checkpoint holds arrays: "
                "make it one, or a static field"
            )
        if leaf.dtype.name not in _TYPES:
            raise InvalidInput(
                f"{name or 'the tree'} has the type {leaf.dtype.name}; a checkpoint holds "
                f"{', '.join(_TYPES)} (of a PRNG key, save jax.random.key_data)"
            )
        leaves[name] = leaf
    return leaves, structure


def _manifest(step, measures):
    return files.encode_json({"format": FORMAT, "step": step, "files": measures})


def _measure(path):
    """Return the size and hash of a file, which is not held in memory."""
    with files.open_plain(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _read_manifest(path):
    """Return size and hash of each file, by its name, after a check of all that can be compared."""
    if path.is_symlink() or not path.is_dir():
        raise CorruptFile(
            f"{path} is not a checkpoint's directory; name the directory step_N itself"
        )
    manifest_path = path / MANIFEST
    data = files.read_bytes(manifest_path, MANIFEST_LIMIT)
    manifest = files.decode_json(data, str(manifest_path))
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise CorruptFile(
            f"{manifest_path} states format {version!r}, this etude reads {FORMAT}; "
            "use the etude that wrote it"
        )
    entries, step = manifest.get("files"), manifest.get("step")
    if not isinstance(entries, dict) or set(entries) != {ARRAYS, METADATA}:
        raise CorruptFile(
            f"{manifest_path} must list {ARRAYS} and {METADATA} and nothing else; {_REMEDY}"
        )
    for file, entry in entries.items():
        is_measure = isinstance(entry, dict) and set(entry) == {"size", "sha256"}
        if not (is_measure and type(entry["size"]) is int and type(entry["sha256"]) is str):
            raise CorruptFile(f"{manifest_path} must give size and sha256 of {file}; {_REMEDY}")
    if type(step) is not int or data != _manifest(
        step, {file: entries[file] for file in (ARRAYS, METADATA)}
    ):
        raise CorruptFile(f"{manifest_path} is not written the way etude writes it; {_REMEDY}")
    if f"step_{step}" != directories.final_name(path):
        raise CorruptFile(
            f"{path} holds the checkpoint of step {step!r} by its {MANIFEST}; give the directory "
            "its own name again"
        )
    return entries


def _read_verified(path, name, entries):
    """Return the bytes of a file, an array of uint8, which are those of the manifest."""
    with files.open_plain(path / name) as file:
        _check_size(path / name, files.size_of(file), entries[name])
        data = np.empty(entries[name]["size"], np.uint8)
        length = file.readinto(data.data)
    _check_size(path / name, length, entries[name])
    _check_hash(path / name, hashlib.sha256(data.data).hexdigest(), entries[name])
    return data


def _check_size(path, size, entry):
    if size != entry["size"]:
        raise CorruptFile(f"{path} has {size} bytes, {MANIFEST} says {entry['size']}; {_REMEDY}")


def _check_hash(path, digest, entry):
    if digest != entry["sha256"]:
        raise CorruptFile(f"{path} is not what {MANIFEST} says by its SHA-256; {_REMEDY}")


def _arrays(path, data, expected):
    """Return the arrays in the order of `expected` from the bytes of a safetensors file."""
    header, start = _header(path, data)
    _check_fit(path, header, expected)
    arrays = []
    for name, leaf in expected.items():
        begin, end = (start + offset for offset in header[name]["data_offsets"])
        values = data[begin:end].view(leaf.dtype.newbyteorder("<"))
        arrays.append(_to_device(values.reshape(leaf.shape)))
    return arrays


def _header(path, data):
    """Return dtype, shape and place of each array, and where the arrays begin, all checked."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    start = 8 + length
    if length > HEADER_LIMIT or start > len(data):
        raise CorruptFile(
            f"{path} announces a header of {length} bytes where {HEADER_LIMIT} and its own "
            f"size are the limit; {_REMEDY}"
        )
    header = files.decode_json(data[8:start].tobytes(), str(path))
    if not isinstance(header, dict):
        raise CorruptFile(f"{path} is no safetensors file; {_REMEDY}")
    header.pop("__metadata__", None)
    place = 0
    try:
        for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
            begin, end = entry["data_offsets"]
            if begin != place or end < begin:
                raise ValueError("its arrays do not lie one after the other")
            place = end
            shape = [operator.index(size) for size in entry["shape"]]
            size = math.prod(shape) * _SIZES[entry["dtype"]]
            if size != operator.index(end) - operator.index(begin) or min(shape, default=0) < 0:
                raise ValueError("the shape of an array does not fit its bytes")
        if start + place != len(data):
            raise ValueError("its arrays do not end where it does")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} is no safetensors file ({error}); {_REMEDY}") from error
    return header, start


def _check_fit(path, header, expected):
    faults = [f"{name or 'the array'} is missing" for name in expected if name not in header]
    faults += [f"{name or 'the array'} is not expected" for name in sorted({*header} - {*expected})]
    for name in (name for name in expected if name in header):
        entry, leaf = header[name], expected[name]
        actual, required = (
            (entry["dtype"], tuple(entry["shape"])),
            (_TYPES[leaf.dtype.name], tuple(leaf.shape)),
        )
        if actual != required:
            faults.append(
                f"{name or 'the array'} is {actual[0]} {actual[1]} "
                f"instead of {required[0]} {required[1]}"
            )
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise OtherArrays(
            f"{path} does not fit what is to be restored: {'; '.join(faults[:3])}{more}; "
            "use the algorithm, sizes, torso and environment it was saved with"
        )


def _to_device(array):
    fits = jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype
    # a copy in either case: the bytes of the whole file are not kept for one array
    return jax.device_put(array, may_alias=False) if fits else array.copy()


def _candidates(directory):
    """Return the paths of the checkpoints in a directory, newest first."""
    names = sorted(
        (name for name in directories.list_names(directory) if _NAME.fullmatch(name)),
        key=_step,
        reverse=True,
    )
    return [path for name in names for path in directories.previous_versions(directory / name)]


def _step(name):
    return int(name.removeprefix("step_"))


def _prune(saved, keep):
    """Remove checkpoints but the one just saved and the newest intact others, `keep` in all.

    A checkpoint of a later step belongs to a run that went back to an earlier one, so it is read in
    full before it counts as intact.
    """
    others = [path for path in _candidates(saved.parent) if path != saved]
    intact = [path for path in others if _is_intact(path, thorough=step_of(path) > step_of(saved))]
    for path in others:
        if path not in intact[: keep - 1]:
            directories.remove(path)


def _is_intact(path, thorough):
    try:
        for name, entry in _read_manifest(path).items():
            _check_size(path / name, files.plain_size(path / name), entry)
            if thorough:
                _check_hash(path / name, _measure(path / name)["sha256"], entry)
    except CorruptFile:
        return False
    return True
