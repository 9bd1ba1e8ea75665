"""The convolution of a layer as a matrix product, which XLA compiles well for a CPU in a loop too.

XLA's own convolution has a gradient on the CPU that is a dozen times slower inside a loop than
outside, and training is a loop. Here pictures are cut into blocks of stride × stride pixels, of
which a kernel of any size covers a few, one block further each time; those are laid side by side
for one product.
"""

import jax
import jax.numpy as jnp
from jax import lax

from etude.nn.linear import linear
from etude.types import Array


def convolution(x: Array, weight: Array, stride: int, padding: str = "VALID") -> Array:
    """Pictures [n, height, width, channel] under `weight` [filter, channel, rows, columns], to [n,
    height', width', filter]."""
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x, weight, (stride, stride), padding, dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
    filters, channels, *kernel = weight.shape
    pads = lax.padtype_to_pads(x.shape[1:3], kernel, (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    places = [(size - rows) // stride + 1 for size, rows in zip(x.shape[1:3], kernel, strict=True)]
    under = [-(-rows // stride) for rows in kernel]  # blocks under a kernel, along each axis
    bands = [place + block - 1 for place, block in zip(places, under, strict=True)]

    cut = resized(resized(x, 1, bands[0] * stride), 2, bands[1] * stride)
    cut = cut.reshape(-1, bands[0], stride, bands[1], stride, channels).transpose(0, 1, 3, 2, 4, 5)
    cut = cut.reshape(-1, *bands, stride * stride * channels)  # [n, band, band, block]
    covered = [
        cut[:, i : i + places[0], j : j + places[1]]
        for i in range(under[0])
        for j in range(under[1])
    ]

    weight = resized(resized(weight, 2, under[0] * stride), 3, under[1] * stride)
    weight = weight.reshape(filters, channels, under[0], stride, under[1], stride).transpose(
        0, 2, 4, 3, 5, 1
    )
    return linear(jnp.concatenate(covered, -1), weight.reshape(filters, -1))


def resized(x: Array, axis: int, size: int) -> Array:
    """x cut off, or padded with zeros, to this size of an axis."""
    x = lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
    return jnp.pad(x, [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
