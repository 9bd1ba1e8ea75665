"""Host callbacks: call a Python function from inside a compiled loop, at 2 µs a call.

`jax.experimental.io_callback` copies its arguments to a device, which takes 50 µs. `host_call`
passes NumPy arrays to the function and takes NumPy arrays back. The compiler sees a side effect, so
it neither merges calls nor moves them out of a loop. It may drop a call whose results are unused,
so make the results part of the state that the loop carries. A host call has no derivative, and
`vmap` over it raises InvalidInput.
"""

import contextlib
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from etude.errors import InvalidInput

# Asynchronous programs run on a thread of XLA's pool. One that calls Python, which calls JAX in
# turn, waits for that pool, and hangs where it has one thread. So programs are synchronous.
if not jax._src.xla_bridge.backends_are_initialized():
    jax.config.update("jax_cpu_enable_async_dispatch", False)

_raised: list[BaseException] = []  # by host functions since the last `raise_host_errors` began
_handler_numbers = itertools.count()


def host_call(function: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """Call `function(*arguments)` on the host with NumPy arrays and return its tree of arrays.

    `result` has the structure, shapes and dtypes of what the function returns. An exception in the
    function ends the program with an error of JAX; `raise_host_errors` raises it in its place.
    """
    leaves, structure = jax.tree.flatten(arguments)
    shapes, result_structure = jax.tree.flatten(result)
    is_leaf, children = jax.tree_util.treedef_is_leaf, jax.tree_util.treedef_children
    takes_arrays, returns_array = all(map(is_leaf, children(structure))), is_leaf(result_structure)
    # a handler lives for ever, and must not keep the environments of its method
    method = weakref.WeakMethod(function) if inspect.ismethod(function) else lambda: function

    def flat_function(*leaves):
        call = method()
        if call is None:
            raise ReferenceError("the environment that this program calls is gone; keep it")
        outputs = call(*(leaves if takes_arrays else jax.tree.unflatten(structure, leaves)))
        outputs = [outputs] if returns_array else jax.tree.leaves(outputs)
        return [as_declared(x, shape) for x, shape in zip(outputs, shapes, strict=True)]

    results = _call.bind(
        *leaves, function=flat_function, shapes=tuple(shapes), owner=Owner(function)
    )
    return jax.tree.unflatten(result_structure, results)


class Owner:
    """Keeps what a host function belongs to, for as long as JAX keeps the program."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


def as_declared(value: Any, declared: jax.ShapeDtypeStruct) -> np.ndarray:
    """What a host function returned, in the dtype that was declared; its shape has to be."""
    array = np.asarray(value, declared.dtype)
    if array.shape != declared.shape:
        raise ValueError(f"a host function returned shape {array.shape}, not {declared.shape}")
    return array


@contextlib.contextmanager
def raise_host_errors() -> Iterator[None]:
    """Raise the error of a host function as it is, where a program in the block ends with one."""
    _raised.clear()
    try:
        yield
    except Exception:  # JAX raises several types, with the error as text
        if _raised:
            raise _raised[0] from _raised[0].__cause__
        raise
    if _raised:  # as where a second signal came while the program was told of the first
        raise _raised[0] from _raised[0].__cause__


_call = Primitive("host_call")
_call.multiple_results = True


@_call.def_abstract_eval
def _shapes(*arguments, function, shapes, owner):
    return [jax.core.ShapedArray(shape.shape, shape.dtype) for shape in shapes]


@_call.def_impl
def _call_eagerly(*arguments, function, shapes, owner):
    return [jnp.array(x) for x in function(*map(np.asarray, arguments))]


def _lower_on_cpu(context, *arguments, function, shapes, owner):
    if jax.config.read("jax_cpu_enable_async_dispatch"):
        # XLA runs programs with JAX's own callbacks synchronously even so
        return _lower(context, *arguments, function=function, shapes=shapes, owner=owner)
    from etude.environments.backends.ffi_handler import Handler

    name = f"etude_host_call_{next(_handler_numbers)}"
    handler = Handler(function, context.avals_in, context.avals_out, _raised.append)
    context.module_context.add_keepalive(owner)
    jax.ffi.register_ffi_target(name, handler.capsule, platform="cpu")
    return jax.ffi.ffi_lowering(name, has_side_effect=True)(context, *arguments)


def _lower(context, *arguments, function, shapes, owner):
    context.module_context.add_keepalive(owner)

    def recorded_function(*leaves):
        try:
            return tuple(function(*leaves))
        except BaseException as error:
            _raised.append(error)
            raise

    results, _, _ = mlir.emit_python_callback(
        context,
        recorded_function,
        None,
        list(arguments),
        context.avals_in,
        context.avals_out,
        has_side_effect=True,
        returns_token=False,
    )
    return results


def _refuse_vmap(arguments, axes, *, function, shapes, owner):
    raise InvalidInput(
        "vmap reached a call of Python, such as the step of a Gymnasium environment, which takes "
        "one call at a time; train one seed after another, with `seeds` of etude.train, which "
        "takes a process for each, or choose an environment written in JAX"
    )


mlir.register_lowering(_call, _lower, cacheable=False)
mlir.register_lowering(_call, _lower_on_cpu, platform="cpu", cacheable=False)
batching.primitive_batchers[_call] = _refuse_vmap
