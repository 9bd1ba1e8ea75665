"""Convolution as one matrix product, which XLA compiles to fast code on a CPU, in loops too.

XLA's own convolution has a gradient on the CPU that is a dozen times slower inside a loop than
outside, and training is a loop. Here images are cut into blocks of stride × stride pixels. A kernel
covers a few neighboring blocks, and from one output pixel to the next it moves by one block. The
blocks under the kernel are concatenated for one product.
"""

import jax
import jax.numpy as jnp
from jax import lax

from etude.nn.linear import linear
from etude.types import Array


def convolution(x: Array, weight: Array, stride: int, padding: str = "VALID") -> Array:
    """The convolution of images x with the kernels `weight`.

    Shapes are [n, height, width, channel] and [filter, channel, rows, columns] to [n, height',
    width', filter].
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x, weight, (stride, stride), padding, dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
    filters, channels, *kernel = weight.shape
    pads = lax.padtype_to_pads(x.shape[1:3], kernel, (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    output = [(size - rows) // stride + 1 for size, rows in zip(x.shape[1:3], kernel, strict=True)]
    kernel_blocks = [-(-rows // stride) for rows in kernel]  # blocks under a kernel, of each axis
    blocks = [size + count - 1 for size, count in zip(output, kernel_blocks, strict=True)]

    x_blocks = _crop_or_pad(_crop_or_pad(x, 1, blocks[0] * stride), 2, blocks[1] * stride)
    x_blocks = x_blocks.reshape(-1, blocks[0], stride, blocks[1], stride, channels).transpose(
        0, 1, 3, 2, 4, 5
    )
    x_blocks = x_blocks.reshape(-1, *blocks, stride * stride * channels)  # [n, row, column, pixels]
    patches = [
        x_blocks[:, i : i + output[0], j : j + output[1]]
        for i in range(kernel_blocks[0])
        for j in range(kernel_blocks[1])
    ]

    weight = _crop_or_pad(
        _crop_or_pad(weight, 2, kernel_blocks[0] * stride), 3, kernel_blocks[1] * stride
    )
    weight = weight.reshape(
        filters, channels, kernel_blocks[0], stride, kernel_blocks[1], stride
    ).transpose(0, 2, 4, 3, 5, 1)
    return linear(jnp.concatenate(patches, -1), weight.reshape(filters, -1))


def _crop_or_pad(x: Array, axis: int, size: int) -> Array:
    """x with this size of an axis, its end cropped or padded with zeros."""
    x = lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
    return jnp.pad(x, [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
