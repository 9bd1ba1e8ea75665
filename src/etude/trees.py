"""Operations on pytrees, and on leading and trailing axes of arrays."""

import hashlib
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.types import Array


def tree_vdot(x: Any, y: Any) -> Array:
    """The inner product Σ xᵢ yᵢ of two trees with the same structure, []."""
    return jax.tree.reduce(operator.add, jax.tree.map(jnp.vdot, x, y))


def tree_axpy(x: Any, scale: float | Array, y: Any) -> Any:
    """x + scale y, leaf by leaf."""
    return jax.tree.map(lambda x, y: x + scale * y, x, y)


def batched_index(values: Array, index: Array) -> Array:
    """values[..., index], one element of the last axis for each leading index.

    The shapes are [..., n] and [...] to [...].
    """
    return jnp.take_along_axis(values, index[..., None], -1)[..., 0]


def where_done(done: Array, new: Array, old: Array) -> Array:
    """`new` in the rows where `done` [env] is true, `old` elsewhere; both are [env, ...]."""
    return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - done.ndim)), new, old)


def content_hash(tree: Any) -> str:
    """SHA-256, in hex, of the name, dtype, shape and bytes of each array of a tree, on the host."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf, order="C")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
