"""Pictures of next observations: which are stored once, in how many bytes, and how many rows that
keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lives import Lives, example

from etude.data import transition
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices
from etude.data.transition import Transition
from etude.spaces import Box, Discrete, EnvironmentSpec

insert = jax.jit(ring_buffer.insert)


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, shortest, longest", [(64, 150, 150), (50, 150, 150), (16, 48, 62), (1, 3, 3)]
)
def test_only_time_limits_below_64_steps_shorten_the_ring(limit, shortest, longest):
    """There are 1 + 150 // 64 places a copy for successors that were cut off: as many episodes, and
    what follows them."""
    capacity, num_envs, rows = 300, 2, 2
    lives = Lives(0, num_envs, 0.0, 0.0, limit)
    ring = ring_buffer.init(example(), capacity, num_envs, rows)
    assert ring.boundary.row.size == num_envs * 3
    sizes = []
    for i in range(150):
        ring = insert(ring, lives.live(rows))
        if i >= 75:
            sizes.append(ring.inserted - ring_buffer.oldest(ring))
    assert (min(sizes), max(sizes)) == (shortest, longest)


def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_pictures_are_stored_once_and_take_the_bytes_that_the_docstring_says():
    spec = EnvironmentSpec(Box((84, 84, 4), "uint8", 0.0, 255.0), Discrete(4), 8)
    ring = jax.eval_shape(lambda: ring_buffer.init(transition.zeros_like_spec(spec), 100_000, 8, 4))
    assert ring.storage.observation.dtype == jnp.uint8 and ring.storage.observation.shape == (
        12_500,
        8,
        84,
        84,
        4,
    )
    assert ring.storage.next_observation is None
    assert (
        bytes_of(ring)
        == pytest.approx(100_000 * (28_224 + 441 + 14), rel=1e-3)
        == pytest.approx(2.87e9, rel=1e-3)
    )
    assert bytes_of(transition.zeros_like_spec(spec)) == 56_458


@pytest.mark.slow
@pytest.mark.parametrize(
    "observation, once",
    [
        (np.zeros((3, 3), np.uint8), True),
        (np.zeros((2, 3, 3, 1), np.uint8), True),
        (np.zeros(128, np.uint8), False),
        (np.zeros((3, 3), np.int32), False),
        (np.zeros((3, 3), np.float32), False),
    ],
    ids=["gray", "stack", "memory", "integers", "floats"],
)
def test_only_pictures_are_stored_once(observation, once):
    like = Transition(
        observation, np.int32(0), np.float32(0), observation, np.bool_(0), np.bool_(0)
    )
    ring = ring_buffer.init(like, 6, 2, 3)
    assert (ring.storage.next_observation is None) == bool(ring.boundary) == once
    rollout = jax.tree.map(lambda x: np.ones((3, 2, *x.shape), x.dtype), like)
    drawn = ring_buffer.gather(insert(ring, rollout), Indices(np.int32([0, 2]), np.int32([1, 0])))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: ((2, *x.shape), x.dtype), like
    )
    assert all((x == 1).all() for x in jax.tree.leaves(drawn))
