"""Transitions, and the order in which they are learned from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from etude.data.transition import (
    Transition,
    flatten_time,
    minibatches,
    random_permutation,
    zeros_like_spec,
)
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary


def test_done_is_either_end():
    flags = jnp.array([False, True, False, True]), jnp.array([False, False, True, True])
    np.testing.assert_array_equal(
        Transition((), (), (), (), *flags).done, [False, True, True, True]
    )


def test_an_example_has_the_shapes_of_the_spec_and_no_leading_axes():
    spec = EnvironmentSpec(
        Composite((Box((2, 2), "uint8", 0.0, 255.0), Discrete(3)), ("eye", "room")),
        MultiBinary((4,)),
        7,
    )
    one = zeros_like_spec(spec)
    told = jax.tree.map(lambda x: (x.shape, x.dtype.name), one)
    seen = {"eye": ((2, 2), "uint8"), "room": ((), "int32")}
    assert told == Transition(
        seen, ((4,), "int8"), ((), "float32"), seen, ((), "bool"), ((), "bool")
    )
    assert not any(x.any() for x in jax.tree.leaves(one))
    box = zeros_like_spec(EnvironmentSpec(Box((1,)), Box((2,), "int32", 0.0, 10.0)))
    # in [-1, 1], which integers are too coarse for
    assert (box.action.shape, box.action.dtype) == ((2,), "float32")


def test_merged_axes_keep_time_before_copies():
    merged = flatten_time({"a": jnp.arange(6).reshape(2, 3), "b": jnp.arange(24).reshape(2, 3, 4)})
    np.testing.assert_array_equal(merged["a"], np.arange(6))
    np.testing.assert_array_equal(merged["b"], np.arange(24).reshape(6, 4))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 2**16, 2**16 + 1])
def test_a_shuffle_is_every_number_once(n):
    permutation = jax.jit(partial(random_permutation, n=n))
    order = np.asarray(permutation(jax.random.key(n)))
    assert order.shape == (n,) and order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n > 3:
        assert (order != np.asarray(permutation(jax.random.key(n + 1)))).any()
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


def test_every_order_is_as_likely():
    orders = np.asarray(
        jax.jit(jax.vmap(lambda key: random_permutation(key, 3)))(
            jax.random.split(jax.random.key(0), 12_000)
        )
    )
    seen = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(seen) == 6 and scipy.stats.chisquare(seen).pvalue > 1e-4


def test_minibatches_hold_every_sample_at_most_once_with_its_parts_together():
    samples = {"a": jnp.arange(10), "b": 2 * jnp.arange(10)[:, None]}
    batches = minibatches(jax.random.key(0), samples, 3)
    assert batches["a"].shape == (3, 3) and batches["b"].shape == (3, 3, 1)
    np.testing.assert_array_equal(2 * batches["a"], batches["b"][..., 0])
    drawn = np.asarray(batches["a"]).ravel()
    assert len(set(drawn)) == 9 and set(drawn) < set(range(10))
