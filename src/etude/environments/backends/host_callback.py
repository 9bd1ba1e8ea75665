"""Calling Python from inside a compiled loop, at 4 µs a call.

`jax.experimental.io_callback` puts its arguments on a device and takes 50 µs for it; here a
function gets the NumPy arrays that the compiled program holds, and gives NumPy arrays back. The
call has a side effect as the compiler sees it: it is never merged or moved out of a loop; only a
call of whose results nothing is used may be left out, so let what must happen be part of a state
that is carried on. It has no `vmap` and no derivative, and none would make sense.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir


def host_call(function: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """`function(*arguments)` on the host, arrays in and a tree of arrays out, with the shapes and
    dtypes of `result`.

    What the function raises ends the program with a `jax.errors.JaxRuntimeError`.
    """
    structure = jax.tree.structure(result)

    def flat(*leaves):
        given = jax.tree.unflatten(jax.tree.structure(arguments), leaves)
        told = jax.tree.leaves(function(*given))
        return tuple(np.asarray(x, shape.dtype) for x, shape in zip(told, shapes, strict=True))

    shapes = tuple(jax.tree.leaves(result))
    return jax.tree.unflatten(
        structure, _call.bind(*jax.tree.leaves(arguments), function=flat, shapes=shapes)
    )


_call = Primitive("host_call")
_call.multiple_results = True


@_call.def_abstract_eval
def _shapes(*arguments, function, shapes):
    return [jax.core.ShapedArray(shape.shape, shape.dtype) for shape in shapes]


@_call.def_impl
def _call_eagerly(*arguments, function, shapes):
    return [jnp.asarray(x) for x in function(*map(np.asarray, arguments))]


def _lower(context, *arguments, function, shapes):
    results, _, _ = mlir.emit_python_callback(
        context,
        function,
        None,
        list(arguments),
        context.avals_in,
        context.avals_out,
        has_side_effect=True,
        returns_token=False,
    )
    return results


mlir.register_lowering(_call, _lower, cacheable=False)
