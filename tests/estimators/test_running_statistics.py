"""Running moments against NumPy's, in float64 over all samples at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.spaces import Box, Composite, Discrete, MultiBinary

update = jax.jit(running_statistics.update_statistics)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([1, 2, 7]), min_size=1, max_size=5),
    st.sampled_from([(), (3,), (2, 2)]),
    st.integers(0, 2**20),
)
def test_batches_of_any_size_merge_into_the_moments_of_all(sizes, shape, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(rng.normal(), 2, (n, *shape)).astype(np.float32) for n in sizes]
    running = running_statistics.init_statistics(shape)
    for batch in batches:
        running = update(running, batch)
    everything = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(running.mean, everything.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(running.variance, everything.var(0), rtol=1e-4, atol=1e-5)
    assert (
        running.count == len(everything) and running.mean.shape == running.variance.shape == shape
    )


@pytest.mark.parametrize("offset, spread", [(0, 1), (1e4, 1), (-1e6, 300), (3, 1e-3), (0, 1e5)])
def test_many_batches_far_from_zero(offset, spread):
    """2,000 batches: 64,000 samples, and the mean of the squares less the square of the mean would
    be noise."""
    rng = np.random.default_rng(0)
    samples = (offset + spread * rng.normal(size=(2000, 32, 2))).astype(np.float32)
    running, _ = jax.jit(
        lambda: jax.lax.scan(
            lambda running, batch: (running_statistics.update_statistics(running, batch), ()),
            running_statistics.init_statistics((2,)),
            samples,
        )
    )()
    everything = samples.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(running.mean, everything.mean(0), rtol=1e-6, atol=2e-3 * spread)
    np.testing.assert_allclose(running.variance, everything.var(0), rtol=2e-3)
    assert running.count == 64_000


def test_a_drifting_mean_is_part_of_the_variance():
    samples = np.arange(1000, dtype=np.float32).reshape(100, 10)
    running = running_statistics.init_statistics(())
    for batch in samples:
        running = update(running, batch)
    np.testing.assert_allclose(
        [running.mean, running.variance], [samples.mean(), samples.var(dtype=float)], rtol=1e-5
    )


def test_before_the_first_sample_normalizing_changes_nothing():
    x = jnp.linspace(-9, 9, 7)
    np.testing.assert_array_equal(
        running_statistics.normalize(running_statistics.init_statistics(()), x, 10.0), x
    )


def test_normalized_samples_have_mean_0_and_std_1_and_are_clipped():
    samples = np.random.default_rng(0).normal(5, 3, (500, 2)).astype(np.float32)
    running = update(running_statistics.init_statistics((2,)), samples)
    told = np.asarray(running_statistics.normalize(running, samples, 10.0))
    np.testing.assert_allclose([told.mean(0), told.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    np.testing.assert_allclose(told, (samples - samples.mean(0)) / samples.std(0), atol=1e-4)
    np.testing.assert_array_equal(
        running_statistics.normalize(running, np.float32([[1e6, -1e6]]), 10.0), [[10, -10]]
    )
    np.testing.assert_array_equal(
        running_statistics.normalize(running, np.float32([1e6, -1e6]), 5.0), [5, -5]
    )
    # leading axes are any
    assert running_statistics.normalize(running, np.zeros((4, 3, 2), np.float32), 10.0).shape == (
        4,
        3,
        2,
    )


def test_a_constant_is_no_division_by_zero():
    running = update(running_statistics.init_statistics(()), jnp.full(10, 3.0))
    assert running.variance == 0
    np.testing.assert_array_equal(
        running_statistics.normalize(running, np.float32([3, 4]), 10.0), [0, 10]
    )


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6])
def test_the_unit_of_samples_does_not_matter(unit):
    samples = np.random.default_rng(0).normal(2, 3, (200, 2)).astype(np.float32)
    running = update(running_statistics.init_statistics((2,)), np.float32(unit) * samples)
    told = running_statistics.normalize(running, np.float32(unit) * samples, 10.0)
    expected = (samples - samples.mean(0)) / samples.std(0)
    np.testing.assert_allclose(told, expected, atol=1e-4)


def test_rounding_errors_of_a_constant_are_no_signal():
    running = running_statistics.init_statistics(())
    for n in (3, 7, 1000):
        running = update(running, jnp.full(n, 0.1))
    assert abs(running_statistics.normalize(running, np.float32(0.1), 10.0)) < 0.2


def test_the_count_stops_before_an_int32_overflows():
    """From there on new samples keep their weight, so old ones are forgotten slowly."""
    running = running_statistics.RunningMeanStd(
        np.float32(0), np.float32(1), np.int32(running_statistics.MAX_COUNT - 5)
    )
    for _ in range(5):
        running = update(running, jnp.full(2**20, 1.0))
        assert running_statistics.MAX_COUNT <= running.count <= running_statistics.MAX_COUNT + 2**20
    share = 2**20 / running_statistics.MAX_COUNT  # of each of the five batches
    np.testing.assert_allclose(running.mean, 1 - (1 - share) ** 5, rtol=5e-3)
    assert np.isfinite(running.variance) and running.variance > 0


OBSERVATION = Composite(
    (
        Box((2,)),
        Composite((Discrete(3), Box((4, 4), "uint8", 0, 255))),
        Box((), "int32"),
        MultiBinary((2,)),
    ),
    ("arm", "board", "clock", "lights"),
)


def observations(rng, *leading):
    return {
        "arm": rng.normal(7, 2, (*leading, 2)).astype(np.float32),
        "board": (
            rng.integers(3, size=leading),
            rng.integers(256, size=(*leading, 4, 4), dtype=np.uint8),
        ),
        "clock": rng.integers(100, 200, size=leading, dtype=np.int32),
        "lights": rng.integers(2, size=(*leading, 2), dtype=np.int8),
    }


@pytest.mark.slow
def test_only_numbers_of_a_tree_are_normalized():
    """Choices and switches have their own scale; pictures are numbers."""
    rng = np.random.default_rng(0)
    each = running_statistics.init_observation_statistics(OBSERVATION)
    assert [one is not None for one in each] == [True, False, True, True, False]
    seen = [observations(rng, 50) for _ in range(4)]
    for batch in seen:
        each = running_statistics.update_observation_statistics(Normalization(), each, batch)
    arm, clock = (
        np.concatenate([batch[name] for batch in seen]).astype(float) for name in ("arm", "clock")
    )
    np.testing.assert_allclose(each[0].mean, arm.mean(0), rtol=1e-5)
    np.testing.assert_allclose(each[0].variance, arm.var(0), rtol=1e-4)
    np.testing.assert_allclose(
        [each[3].mean, each[3].variance], [clock.mean(), clock.var()], rtol=1e-4
    )

    fresh = observations(rng, 3, 5)
    told = running_statistics.normalize_leaves(Normalization(), each, fresh)
    np.testing.assert_allclose(told["arm"], (fresh["arm"] - arm.mean(0)) / arm.std(0), atol=1e-3)
    np.testing.assert_allclose(
        told["clock"], (fresh["clock"] - clock.mean()) / clock.std(), atol=1e-3
    )
    board = np.concatenate([batch["board"][1] for batch in seen]).astype(float)
    np.testing.assert_allclose(
        told["board"][1], (fresh["board"][1] - board.mean(0)) / board.std(0), atol=1e-3
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        (told["board"][0], told["lights"]),
        (fresh["board"][0], fresh["lights"]),
    )
    assert all(one.count == 200 for one in each if one)


def test_one_observation_without_a_tree():
    each = running_statistics.init_observation_statistics(Box((2,)))
    seen, told = np.float32([[0, 10], [2, 30]]), np.float32([2, 10])
    assert running_statistics.update_observation_statistics(None, each, seen) is each
    each = running_statistics.update_observation_statistics(Normalization(), each, seen)
    np.testing.assert_allclose(
        running_statistics.normalize_leaves(Normalization(), each, told), [1, -1], rtol=1e-5
    )
    assert running_statistics.normalize_leaves(None, each, told) is told
    choice = np.int32([1, 2])
    none = running_statistics.update_observation_statistics(
        Normalization(), running_statistics.init_observation_statistics(Discrete(3)), choice
    )
    assert running_statistics.normalize_leaves(Normalization(), none, choice) is choice


def test_samples_that_do_not_count_are_as_if_they_were_not_there():
    samples = np.random.default_rng(0).normal(3, 2, (50, 2)).astype(np.float32)
    is_counted = np.arange(50) % 3 > 0
    seen = np.where(is_counted[:, None], samples, 1e3)
    begun = running_statistics.update_statistics(
        running_statistics.init_statistics((2,)), jnp.asarray(samples[:7])
    )
    some = running_statistics.update_statistics(begun, jnp.asarray(seen), jnp.asarray(is_counted))
    alone = running_statistics.update_statistics(begun, jnp.asarray(samples[is_counted]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), some, alone)


def test_where_no_sample_counts_nothing_changes():
    samples = jnp.ones((5, 3))
    for begun in (
        running_statistics.init_statistics((3,)),
        running_statistics.update_statistics(running_statistics.init_statistics((3,)), samples),
    ):
        same = running_statistics.update_statistics(begun, samples + 1, jnp.zeros(5, bool))
        for one, other in zip(*map(jax.tree.leaves, (same, begun)), strict=True):
            np.testing.assert_array_equal(one, other)
