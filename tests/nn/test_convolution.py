"""The layer's convolution against XLA's own, and its share of what made it necessary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from etude.nn.convolution import convolution


def plain(x, weight, stride, padding):
    return lax.conv_general_dilated(
        x, weight, (stride, stride), padding, dimension_numbers=("NHWC", "OIHW", "NHWC")
    )


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size, kernel", [((11, 8), (3, 3)), ((8, 13), (8, 5)), ((5, 6), (1, 2))])
def test_it_is_the_convolution_and_so_are_its_gradients(size, kernel, stride, padding):
    random = np.random.default_rng(0)
    x, weight = (
        random.normal(size=shape).astype(np.float32) for shape in ((2, *size, 3), (4, 3, *kernel))
    )

    def told(function):
        def loss(x, weight):
            y = function(x, weight, stride, padding)
            return (jnp.tanh(y) ** 2).sum(), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, weight)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        told(plain),
        told(convolution),
    )


@pytest.mark.slow
def test_many_seeds_convolve_as_one():
    random = np.random.default_rng(0)
    x, weight = (
        random.normal(size=shape).astype(np.float32) for shape in ((3, 2, 9, 8, 2), (3, 4, 2, 4, 4))
    )
    for seed, y in enumerate(jax.vmap(lambda x, weight: convolution(x, weight, 2))(x, weight)):
        np.testing.assert_allclose(
            y, plain(x[seed], weight[seed], 2, "VALID"), rtol=1e-4, atol=1e-5
        )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends have their own")
def test_on_a_cpu_no_convolution_is_left_to_the_compiler():
    x, weight = np.ones((2, 12, 12, 3), np.float32), np.ones((4, 3, 8, 8), np.float32)
    text = jax.jit(jax.grad(lambda weight: convolution(x, weight, 4).sum())).lower(weight).as_text()
    assert "convolution" not in text and "dot_general" in text
