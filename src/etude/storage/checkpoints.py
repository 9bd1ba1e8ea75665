"""Checkpoints of pytrees: atomic, verified by hashes, and free of code.

    directory/step_1000/arrays.safetensors    the leaves of a pytree, each named by its path
                        facts.json            metadata of the caller
                        manifest.json         version of the format, sizes and SHA-256 of both

A checkpoint exists as a whole or not at all. Reading checks sizes and hashes before it parses, and
the names, shapes and dtypes of the arrays against a template. Nothing in a file can name code. Only
one process may write to a directory at a time.
"""

import hashlib
import operator
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from etude.errors import InvalidInput
from etude.storage import directories, files
from etude.storage.files import CorruptFile

FORMAT = 1
ARRAYS, METADATA, MANIFEST = "arrays.safetensors", "facts.json", "manifest.json"
MANIFEST_LIMIT = 4096  # bytes
HEADER_LIMIT = 64 * 2**20  # bytes
_NAME = re.compile(r"step_(0|[1-9][0-9]{0,17})")
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
            _manifest({name: _measure(temporary / name) for name in (ARRAYS, METADATA)})
        )
    _prune(target, max(keep, 2))
    return target


def load_checkpoint(path: Path, template: Any) -> tuple[Any, dict]:
    """Load the tree and the metadata of one checkpoint, bit for bit.

    `template` is a tree of arrays, or of the shapes of `jax.eval_shape`, with the expected
    structure, shapes and dtypes. Leaves are JAX arrays, or NumPy arrays where JAX would narrow them
    (64 bits without `jax_enable_x64`). Raises CorruptFile when anything is not as it was written or
    does not fit the template.
    """
    path = Path(path)
    expected, structure = _leaves(template)
    _verify(path)
    metadata = files.read_json(path / METADATA)
    if not isinstance(metadata, dict):
        raise CorruptFile(f"{path / METADATA} holds no JSON object; take another checkpoint")
    return jax.tree.unflatten(structure, _read_arrays(path / ARRAYS, expected)), metadata


def load_newest(
    directory: Path, template: Any, warn: Callable[[str], None] = warnings.warn
) -> tuple[Path, Any, dict]:
    """Load the newest intact checkpoint: (path, tree, metadata).

    `warn` gets a message for every checkpoint that is skipped. Raises CorruptFile when none is
    left, and OtherArrays, of the newest, where all of them are of another template.
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


def _manifest(measures):
    return files.encode_json({"format": FORMAT, "files": measures})


def _measure(path):
    """Return the size and hash of a file."""
    size = files.plain_size(path)
    try:
        with open(path, "rb") as file:
            return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise CorruptFile(
            f"{path} cannot be read ({error.strerror}); take another checkpoint"
        ) from error


def _check_sizes(path):
    """Return the entries of the manifest after a check of the files' sizes, which is cheap."""
    if path.is_symlink() or not path.is_dir():
        raise CorruptFile(
            f"{path} is not a checkpoint's directory; name the directory step_N itself"
        )
    manifest_path = path / MANIFEST
    manifest = files.read_json(manifest_path, MANIFEST_LIMIT)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise CorruptFile(
            f"{manifest_path} states format {version!r}, this etude reads {FORMAT}; "
            "use the etude that wrote it"
        )
    entries = manifest.get("files")
    if not isinstance(entries, dict) or set(entries) != {ARRAYS, METADATA}:
        raise CorruptFile(
            f"{manifest_path} must list {ARRAYS} and {METADATA} and nothing else; "
            "take another checkpoint"
        )
    for file, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
            raise CorruptFile(
                f"{manifest_path} must give size and sha256 of {file}; take another checkpoint"
            )
        if (size := files.plain_size(path / file)) != entry["size"]:
            raise CorruptFile(
                f"{path / file} has {size} bytes, {MANIFEST} says {entry['size']!r}; take another "
                "checkpoint"
            )
    return entries


def _verify(path):
    """Check the files against the hashes of the manifest, and the encoding of the manifest."""
    entries = _check_sizes(path)
    measures = {file: _measure(path / file) for file in (ARRAYS, METADATA)}
    for file, measure in measures.items():
        if measure != entries[file]:
            raise CorruptFile(
                f"{path / file} is not what {MANIFEST} says by its SHA-256; take another checkpoint"
            )
    if files.read_bytes(path / MANIFEST, MANIFEST_LIMIT) != _manifest(measures):
        raise CorruptFile(
            f"{path / MANIFEST} is not written the way etude writes it; take another checkpoint"
        )


def _read_arrays(path, expected):
    """Read the arrays in the order of `expected`; each is checked before it is read."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER_LIMIT, files.plain_size(path) - 8):
            raise CorruptFile(
                f"{path} announces a header of {length} bytes where {HEADER_LIMIT} and its own "
                "size are the limit; take another checkpoint"
            )
        with safe_open(path, framework="np") as tensors:
            _check_fit(path, tensors, expected)
            return [_to_device(tensors.get_tensor(name)) for name in expected]
    except (SafetensorError, OSError) as error:
        raise CorruptFile(
            f"{path} is no safetensors file ({error}); take another checkpoint"
        ) from error


def _check_fit(path, tensors, expected):
    names = set(tensors.keys())
    faults = [f"{name or 'the array'} is missing" for name in expected if name not in names]
    faults += [f"{name or 'the array'} is not expected" for name in sorted(names - set(expected))]
    for name in (name for name in expected if name in names):
        view, leaf = tensors.get_slice(name), expected[name]
        actual, required = (
            (view.get_dtype(), tuple(view.get_shape())),
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
    return jax.device_put(array) if fits else array


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
    intact = [
        path for path in others if _is_intact(path, thorough=_step(path.name) > _step(saved.name))
    ]
    for path in others:
        if path not in intact[: keep - 1]:
            directories.remove(path)


def _is_intact(path, thorough):
    try:
        (_verify if thorough else _check_sizes)(path)
    except CorruptFile:
        return False
    return True
