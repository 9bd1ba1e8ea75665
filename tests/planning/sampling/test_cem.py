"""The cross-entropy method against NumPy step by step, and on functions whose maximum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.sampling.cem import CEMState, cem, refit_to_elites

KEY = jax.random.key(0)
SIZES = {"samples": 40, "elites": 5, "iterations": 6}


def test_each_iteration_is_that_of_numpy(watched):
    """The distribution is drawn from, held in the box, judged and refitted to the elites; its walls
    are in reach."""
    high = np.float32([1, 2, 0.5])
    score, seen = watched(lambda x: -((x - 0.8) ** 2).sum((1, 2)))
    mean, std = np.float32([[0.0, 0.5, -0.5]]), np.float32([[0.5, 1.0, 2.0]])
    search = jax.jit(
        lambda smoothing: cem(
            score, KEY, mean, std, **SIZES, smoothing=smoothing, low=-1.0, high=high
        )[0]
    )
    for smoothing in (0.0, 0.3):
        found = search(smoothing)
        jax.effects_barrier()
        m, s, best, value = np.asarray(mean, float), np.asarray(std, float), None, -np.inf
        assert len(seen) == 6
        for candidates, key in zip(seen, jax.random.split(KEY, 6), strict=True):
            drawn = np.clip(m + s * np.asarray(jax.random.normal(key, (40, 1, 3)), float), -1, high)
            np.testing.assert_allclose(candidates, drawn, rtol=1e-4, atol=1e-5)
            values = -((candidates.astype(float) - 0.8) ** 2).sum((1, 2))
            elite = candidates[np.argsort(-values)[:5]].astype(float)
            m = smoothing * m + (1 - smoothing) * elite.mean(0)
            s = smoothing * s + (1 - smoothing) * np.sqrt(((elite - elite.mean(0)) ** 2).mean(0))
            if values.max() > value:
                best, value = candidates[values.argmax()], values.max()
        for ours, theirs in (
            (found.mean, m),
            (found.std, s),
            (found.best, best),
            (found.value, value),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        everything = np.concatenate(seen)
        assert (
            (everything >= -1).all()
            and (everything <= high).all()
            and (everything == -1).any()
            and (everything == high).any()
        )
        seen.clear()


@pytest.mark.slow
def test_the_best_of_all_is_kept_when_later_ones_are_worse():
    search = CEMState(
        np.zeros(1, np.float32), np.ones(1, np.float32), np.float32([7]), np.float32(3)
    )
    worse = refit_to_elites(search, np.float32([[1], [2], [5]]), np.float32([1, 2.5, 2]), 2, 0.0)
    assert worse.best == 7 and worse.value == 3 and worse.mean == 3.5 and worse.std == 1.5
    better = refit_to_elites(search, np.float32([[1], [2], [5]]), np.float32([1, 3.5, 2]), 2, 0.5)
    assert better.best == 2 and better.value == 3.5 and better.mean == 1.75 and better.std == 1.25


TOP = np.float32([0.3, -0.5, 0.7])
FORM = np.float32([[2, 0.5, 0], [0.5, 1, 0.3], [0, 0.3, 4]])
LOW, HIGH = np.float32([-1, -1, -0.6]), np.float32([1.5, 1, 1])
QUADRATIC, CORNER, HILLS, HOLES = range(4)


def score(which, x):
    """A concave quadratic, a slope, two hills of height 1 and 2, and a slope that is not a number
    past the middle."""
    hills = sum(
        height * jnp.exp(-3 * ((x - place) ** 2).sum(-1)) for height, place in ((1, -0.5), (2, 0.5))
    )
    slope = x @ jnp.float32([-1, 2, 1])
    quadratic = 5 - ((x - TOP) @ FORM * (x - TOP)).sum(-1)
    return jnp.stack([quadratic, slope, hills, jnp.where(x[:, 1] > 0, jnp.nan, slope)])[which]


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
@partial(jax.vmap, in_axes=(0, None))
def solve(which, key):
    return cem(
        partial(score, which),
        key,
        jnp.float32([0.1, 0, 0]),
        1.0,
        samples=128,
        elites=24,
        iterations=15,
        low=LOW,
        high=HIGH,
    )[0]


KEYS = jax.random.split(KEY, 8)


@pytest.fixture(scope="module")
def found():
    """A search with leading [seed, function]."""
    return solve(jnp.arange(4), KEYS)


def of(found, which):
    return jax.tree.map(lambda x: x[:, which], found)


@pytest.mark.slow
def test_it_converges_to_the_maximum_of_a_concave_quadratic(found):
    one = of(found, QUADRATIC)
    np.testing.assert_allclose(one.best, np.tile(TOP, (8, 1)), atol=0.01)
    np.testing.assert_allclose(one.mean, np.tile(TOP, (8, 1)), atol=0.01)
    np.testing.assert_allclose(one.value, 5, atol=1e-3)
    assert (one.std < 0.01).all()


@pytest.mark.slow
def test_a_maximum_in_the_corner_of_the_box_is_found_exactly(found):
    one = of(found, CORNER)
    np.testing.assert_array_equal(one.best, np.tile([-1.0, 1.0, 1.0], (8, 1)))
    np.testing.assert_array_equal(one.value, np.full(8, 4.0))
    assert (one.mean >= LOW).all() and (one.mean <= HIGH).all()


def test_the_higher_of_two_hills_is_found(found):
    np.testing.assert_allclose(of(found, HILLS).best, np.full((8, 3), 0.5), atol=0.02)
    np.testing.assert_allclose(of(found, HILLS).value, 2, atol=0.01)


def test_what_is_not_a_number_is_no_elite(found):
    one = of(found, HOLES)
    assert (one.best[:, 1] <= 0).all() and (one.mean[:, 1] <= 0).all()
    np.testing.assert_allclose(one.value, 2, atol=0.1)


@pytest.mark.slow
def test_many_problems_at_once_are_each_alone_and_a_key_is_an_answer(found):
    for i, which in ((0, CORNER), (5, HILLS)):
        alone = jax.tree.map(lambda x: x[0, 0], solve(np.int32([which]), KEYS[i : i + 1]))
        together = jax.tree.map(lambda x, i=i, which=which: x[i, which], found)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), alone, together)
    jax.tree.map(np.testing.assert_array_equal, solve(jnp.arange(4), KEYS), found)
    assert len(np.unique(np.asarray(found.mean)[:, QUADRATIC, 0])) == 8


@pytest.mark.parametrize("elites", [0, 9])
def test_more_elites_than_samples_are_refused(elites):
    with pytest.raises(
        InvalidInput, match=f"elites is {elites}; of 8 samples there can be 1 to 8 of them"
    ):
        cem(
            partial(score, 0),
            KEY,
            np.zeros(3, np.float32),
            1.0,
            samples=8,
            elites=elites,
            iterations=1,
        )
