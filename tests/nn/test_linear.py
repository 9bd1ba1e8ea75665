"""The layer's product against the plain one: values, and derivatives of every kind and order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.nn.linear import linear


def plain(x, weight):
    return x @ weight.T


def loss(product):
    return lambda x, weight: (jnp.tanh(product(x, weight)) ** 2).sum()


TRANSFORMS = {
    "value": lambda f, x, w: f(x, w),
    "reverse": lambda f, x, w: jax.grad(f, (0, 1))(x, w),
    "forward": lambda f, x, w: jax.jvp(f, (x, w), (x + 1, w - 1)),
    "forward over reverse": lambda f, x, w: jax.jacfwd(jax.grad(f, (0, 1)), (0, 1))(x, w),
    "reverse over reverse": lambda f, x, w: jax.grad(lambda w: (jax.grad(f)(x, w) ** 2).sum())(w),
    "samples under vmap": lambda f, x, w: jax.vmap(jax.grad(f, 1), (1, None))(x, w),
    "weights under vmap": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)), (None, 2))(
        x, jnp.stack([w, 2 * w], 2)
    ),
    "both under vmap": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)))(
        x, jnp.stack([w, 2 * w, w + 1])
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("inputs, outputs", [(4, 3), (2, 5)])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_it_is_the_plain_product_under_every_transformation(transform, inputs, outputs):
    random = np.random.default_rng(0)
    x, weight = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((3, 6, inputs), (outputs, inputs))
    )
    expected, found = (
        jax.jit(partial(transform, loss(product)))(x, weight) for product in (plain, linear)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, found
    )


@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_leading_axes_stay(leading):
    assert linear(np.ones((*leading, 4), np.float32), np.ones((3, 4), np.float32)).shape == (
        *leading,
        3,
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the turn is made on a CPU alone")
@pytest.mark.parametrize("inputs, outputs", [(4, 64), (64, 4)])
def test_the_sum_over_samples_runs_along_the_rows(inputs, outputs):
    """In the compiled gradient no product contracts the first axis of its left matrix."""
    x, weight = np.ones((256, inputs), np.float32), np.ones((outputs, inputs), np.float32)

    def text(product):
        return jax.jit(jax.grad(loss(product), 1)).lower(x, weight).compile().as_text()

    assert "lhs_contracting_dims={0}" in text(plain)
    assert "lhs_contracting_dims={0}" not in text(linear)
