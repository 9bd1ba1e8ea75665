"""A Python function as a handler of XLA's foreign function interface (FFI), on a CPU.

XLA calls a handler with a call frame, a C struct that points to the buffers of arguments and
results. The structs below are those of `xla/ffi/api/c_api.h`, which jaxlib ships.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cffi
import jax
import numpy as np

VERSION = 0, 3  # of XLA's interface that these structs belong to: major, minor
METADATA = 1  # the type of the extension in which XLA asks what a handler is
INTERNAL = 13  # the code of an error inside a program
MAX_VIEWS = 64  # of a buffer: XLA reuses few addresses for it, and beyond these all are forgotten

ffi = cffi.FFI()
ffi.cdef(
    """
    typedef struct { size_t struct_size; void* extension; int major; int minor; } Version;
    typedef struct { size_t struct_size; Version version; uint32_t traits; } Metadata;
    typedef struct { size_t struct_size; int type; void* next; Metadata* metadata; } Extension;

    typedef struct {
        size_t struct_size; void* extension; int dtype; uintptr_t data;
        int64_t rank; int64_t* sizes;
    } Buffer;
    typedef struct {
        size_t struct_size; void* extension; int64_t count; void* types; Buffer** buffers;
    } Buffers;

    typedef struct {
        size_t struct_size; void* extension; const char* message; int code;
    } ErrorText;
    typedef struct {
        size_t struct_size; void* extension; Version version; void* internal;
        void* (*create_error)(ErrorText*);
    } Interface;
    typedef struct {
        size_t struct_size; Extension* extension; Interface* interface; void* context; int stage;
        Buffers arguments; Buffers results;
    } CallFrame;
    """
)


class Views(dict[int, np.ndarray]):
    """Views of memory as arrays of one shape and dtype, by address."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.shape, self.dtype = shape, dtype
        self.num_bytes = math.prod(shape) * dtype.itemsize

    def __missing__(self, address: int) -> np.ndarray:
        if len(self) >= MAX_VIEWS:
            self.clear()
        memory = ffi.buffer(ffi.cast("char*", address), self.num_bytes)
        view = np.frombuffer(memory, self.dtype).reshape(self.shape)
        self[address] = view
        return view


_handlers: list["Handler"] = []


class Handler:
    """A handler that calls `function` with copies of its arguments, and copies what it returns.

    It lives for ever, since nothing tells when the last program that calls it has gone.

    function   returns one array of the right dtype and shape for each result
    on_error   is told of an exception in `function`, after which XLA ends the program
    """

    def __init__(
        self,
        function: Callable[..., Sequence[np.ndarray]],
        arguments: Sequence[Any],
        results: Sequence[Any],
        on_error: Callable[[BaseException], None],
    ):
        argument_views, result_views = (
            [Views(buffer.shape, np.dtype(buffer.dtype)) for buffer in buffers]
            for buffers in (arguments, results)
        )
        self.on_error, self.interface = on_error, ffi.NULL

        # For a thread that Python did not start, cffi keeps the thread state from call to call.
        # Making one for each call, as JAX's own callbacks do, takes 10 µs and more.
        @ffi.callback("void*(CallFrame*)", onerror=self._error)
        def handle(frame):
            if frame.extension and frame.extension.type == METADATA:
                return self._describe(frame)
            buffers = frame.arguments.buffers
            inputs = [views[buffers[i].data].copy() for i, views in enumerate(argument_views)]
            buffers = frame.results.buffers
            for i, output in enumerate(function(*inputs)):
                result_views[i][buffers[i].data][...] = output
            return ffi.NULL

        self.handle = handle
        _handlers.append(self)

    @property
    def capsule(self) -> Any:
        """The handler as `jax.ffi.register_ffi_target` takes it."""
        return jax.ffi.pycapsule(int(ffi.cast("uintptr_t", self.handle)))

    def _describe(self, frame: Any) -> Any:
        self.interface = frame.interface
        version = frame.extension.metadata.version
        version.major, version.minor = VERSION
        return ffi.NULL

    def _error(self, kind: type, error: BaseException, traceback: Any) -> Any:
        """The error of XLA for an exception, which a signal may raise where `handle` begins."""
        self.on_error(error)
        message = ffi.new("char[]", kind.__name__.encode(errors="backslashreplace"))
        text = ffi.new("ErrorText*", {"message": message, "code": INTERNAL})
        text.struct_size = ffi.offsetof("ErrorText", "code") + ffi.sizeof("int")
        return self.interface.create_error(text)
