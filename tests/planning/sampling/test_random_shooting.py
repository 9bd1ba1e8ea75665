"""Random shooting against the best of its own draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.planning.sampling.candidates import argmax_candidate, evaluate_candidates
from etude.planning.sampling.random_shooting import random_shooting

KEY = jax.random.key(0)


def hill(x):
    """Highest, at 2, where every element is .3: candidates [samples, *shape]."""
    return 2 - ((x - 0.3) ** 2).reshape(len(x), -1).sum(-1)


def test_it_is_the_best_of_its_own_draws():
    seen = []

    def score(candidates):
        seen.append(candidates)
        return hill(candidates)

    given = np.full((2, 2, 3), 0.3, np.float32)
    found, history = random_shooting(score, KEY, (2, 3), samples=100, iterations=5)
    best, value = found.best, found.value
    (candidates,) = seen
    assert candidates.shape == (500, 2, 3) and best.shape == (2, 3) and value.shape == ()
    values = [2 - ((np.asarray(one, float) - 0.3) ** 2).sum() for one in candidates]
    np.testing.assert_array_equal(best, candidates[int(np.argmax(values))])
    np.testing.assert_allclose(value, max(values), rtol=1e-5)
    for i in range(5):  # the history looks back from the end of each iteration
        first = int(np.argmax(values[: 100 * (i + 1)]))
        np.testing.assert_array_equal(history.plans[i], candidates[first])
        np.testing.assert_allclose(history.values[i], values[first], rtol=1e-5)
    exact, _ = random_shooting(hill, KEY, (2, 3), samples=100, candidates=given)
    np.testing.assert_array_equal(exact.best, given[0])


@pytest.mark.slow
def test_draws_fill_the_box_evenly():
    low, high = np.float32([-3, 0]), np.float32([-1, 10])
    seen = []
    random_shooting(
        lambda x: seen.append(x) or x.sum(-1), KEY, (2,), samples=20_000, low=low, high=high
    )
    unit = (np.asarray(seen[0]) - low) / (high - low)
    assert unit.min() >= 0 and unit.max() <= 1
    for column in unit.T:
        np.testing.assert_allclose(np.histogram(column, 5, (0, 1))[0], 4000, atol=250)


@pytest.mark.slow
def test_a_maximum_is_found_inside_and_on_the_boundary():
    """In one dimension 2,000 draws leave gaps of a thousandth."""
    for score, expected in ((hill, [0.3, 2]), (lambda x: x[:, 0], [1, 1])):
        found, _ = random_shooting(score, KEY, (1,), samples=2000)
        np.testing.assert_allclose([found.best[0], found.value], expected, atol=0.01)


def test_a_key_is_an_answer():
    one, again, other = (
        random_shooting(hill, key, (2, 3), samples=500)[0].best
        for key in (KEY, KEY, jax.random.key(1))
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()


@pytest.mark.slow
def test_many_problems_at_once_are_each_alone():
    centers = np.float32([[0.1, -0.9], [0.5, 0.5], [-1, 2]])
    keys = jax.random.split(KEY, 3)

    @jax.jit
    @jax.vmap
    def solve(center, key):
        return random_shooting(lambda x: -((x - center) ** 2).sum(-1), key, (2,), samples=50)[0]

    together = solve(centers, keys)
    for i in range(3):
        alone = jax.tree.map(lambda x: x[0], solve(centers[i : i + 1], keys[i : i + 1]))
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-6),
            alone,
            jax.tree.map(lambda x, i=i: x[i], together),
        )


@pytest.mark.slow
def test_what_is_not_a_number_is_worth_least():
    candidates = jnp.arange(4.0)[:, None]
    values = evaluate_candidates(lambda x: jnp.where(x[:, 0] == 2, jnp.nan, x[:, 0]), candidates)
    np.testing.assert_array_equal(values, [0, 1, -np.inf, 3])
    best, value = argmax_candidate(candidates, values)
    assert best == 3 and value == 3
