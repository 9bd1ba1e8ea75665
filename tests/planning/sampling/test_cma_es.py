"""CMA-ES against the tutorial's equations in NumPy, and on functions whose maximum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_planners import CMAES

from etude.errors import InvalidInput
from etude.planning.sampling import cma_es as cma
from etude.planning.sampling.cem import cem
from etude.planning.sampling.cma_es import cma_es

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 8)
close = dict(rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("samples, n", [(7, 4), (40, 3), (2, 1)])
def test_adaptation_is_the_tutorials(samples, n):
    """Eight generations of moves that mostly go one way, so that the step grows fast at first and
    the path has to wait."""
    rng = np.random.default_rng(samples)
    std = rng.uniform(0.5, 2, n)
    slow, p, waited = CMAES(np.zeros(n), std, samples), cma.default_parameters(samples, n), set()
    zero = np.zeros(n, np.float32)
    search = cma.CMAESState(
        zero, np.float32(1), jnp.diag(np.float32(std**2)), zero, zero, zero, np.float32(0)
    )
    adapt = jax.jit(lambda search, y, z, g: cma.update_distribution(search, p, y, z, g))
    for g in range(8):
        y = (rng.normal(size=(samples, n)) + (3 if g < 3 else 0)) @ slow.root(0.5)
        whitened = y @ slow.root(-0.5)
        search = adapt(search, np.float32(y), np.float32(whitened), g)
        waited.add(slow.step(y))
        for ours, theirs in (
            (search.mean, slow.m),
            (search.step_size, slow.sigma),
            (search.covariance, slow.C),
            (search.step_size_path, slow.p_sigma),
            (search.covariance_path, slow.p_c),
        ):
            np.testing.assert_allclose(ours, theirs, **close)
        assert np.linalg.eigvalsh(slow.C).min() > 0
    assert waited == {0.0, 1.0}


def test_the_path_waits_while_the_step_grows_fast():
    """The longer the first and the second move, told apart to a fiftieth; the path is young, and
    its length judged by that."""
    p, noise = cma.default_parameters(8, 3), np.random.default_rng(0).normal(size=(8, 3))
    zero = np.zeros(3, np.float32)

    @jax.jit
    @jax.vmap
    def waits(y):
        search = cma.CMAESState(zero, jnp.float32(1), jnp.eye(3), zero, zero, zero, jnp.float32(0))
        first = cma.update_distribution(search, p, y, y, 0)
        return (first.covariance_path == 0).all(), (
            cma.update_distribution(first, p, y, y, 1).covariance_path
            == (1 - p.covariance_path_rate) * first.covariance_path
        ).all()

    moves = noise + np.linspace(0, 4, 200)[:, None, None]
    waited, expected = np.stack(waits(np.float32(moves)), 1), []
    for y in moves:
        slow = CMAES(np.zeros(3), np.ones(3), 8)
        first = slow.step(y)
        slow.C = np.eye(3)  # as `y` is told to be white
        expected.append([first == 0, slow.step(y) == 0])
    assert (waited != expected).mean() < 0.01 and waited.any(0).all() and not waited.all(0).any()


def test_candidates_are_drawn_ranked_and_judged_as_the_tutorial_says(watched):
    """From the candidates that the score saw, NumPy finds the distribution that the next ones came
    from."""
    score, seen = watched(lambda x: -jnp.abs(x - jnp.float32([0.2, -0.1])).sum(-1))
    start = np.float32([0.0, 0.3])
    search = lambda key: cma_es(
        score, key, start, jnp.float32([0.2, 0.1]), samples=6, iterations=5, low=-9.0, high=9.0
    )[0]
    found = jax.jit(search)(KEY)
    jax.effects_barrier()
    slow = CMAES(start, [0.2, 0.1], 6)
    # the walls are out of reach
    for candidates, key in zip(seen, jax.random.split(KEY, 5), strict=True):
        drawn = (candidates.astype(float) - slow.m) / slow.sigma  # y = B D z
        noise = np.asarray(jax.random.normal(key, (6, 2)), float)
        np.testing.assert_allclose(
            (drawn @ slow.root(-1.0) * drawn).sum(-1), (noise**2).sum(-1), rtol=1e-3, atol=1e-3
        )
        slow.step(drawn[np.argsort(abs(candidates - [0.2, -0.1]).sum(-1))])
    np.testing.assert_allclose(found.mean, slow.m, **close)
    np.testing.assert_allclose(
        found.step_size**2 * found.covariance, slow.sigma**2 * slow.C, **close
    )
    everything = np.concatenate(seen)
    values = -abs(everything - [0.2, -0.1]).sum(-1)
    np.testing.assert_allclose(found.best, everything[values.argmax()], rtol=1e-6)
    assert found.value == pytest.approx(values.max(), abs=1e-6)


@pytest.mark.parametrize("samples, n", [(2, 1), (4, 1), (9, 5), (64, 1), (64, 17), (1000, 3)])
def test_weights_and_rates_are_in_their_ranges(samples, n):
    p, slow = cma.default_parameters(samples, n), CMAES(np.zeros(n), np.ones(n), samples)
    np.testing.assert_allclose(p.weights, slow.w, rtol=1e-9, atol=1e-12)
    assert p.weights[p.weights > 0].sum() == pytest.approx(1) and (np.diff(p.weights) <= 0).all()
    assert (
        p.rank_one_rate > 0
        and p.rank_mu_rate > 0
        and p.rank_one_rate + p.rank_mu_rate <= 1
        and 0 < p.step_size_rate < 1
    )
    assert p.expected_norm == pytest.approx(
        np.linalg.norm(np.random.default_rng(0).normal(size=(100_000, n)), axis=1).mean(), rel=0.03
    )


@pytest.mark.slow
def test_a_mirror_is_a_mirror():
    x = np.float32([0.5, 1.25, -1.25, 3.0, 3.5, 1.0, -1.0, 5.5, -1e6])
    np.testing.assert_allclose(
        cma.reflect_into_box(x, -1.0, 1.0), [0.5, 0.75, -0.75, -1, -0.5, 1, -1, 0.5, 0], atol=1e-6
    )
    wide = np.random.default_rng(0).normal(0, 20, 1000).astype(np.float32)
    inside = cma.reflect_into_box(wide, 2.0, 5.0)
    assert inside.min() >= 2 and inside.max() <= 5
    np.testing.assert_allclose(
        np.cos(np.pi * (np.asarray(inside, float) - 2) / 3),
        np.cos(np.pi * (wide.astype(float) - 2) / 3),
        atol=1e-4,
    )  # of the period of two widths, and even about each wall


N = 4
LOW, HIGH = np.float32([-1, -1, -0.6, 0]), np.float32([1.5, 1, 1, 0.9])
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(N, N)))[0]
# a quadratic of this condition, its axes turned
FORM = TURN @ np.diag(np.geomspace(1, 1e3, N)) @ TURN.T
STEEP, CORNER, HILLS, HOLES = range(4)


def score(which, x):
    """A quadratic with maximum 0 at .2, a slope, hills of height 1 and 2, a slope partly not a
    number."""
    x = x.reshape(-1, N)
    steep = -((x - 0.2) @ jnp.float32(FORM) * (x - 0.2)).sum(-1)
    hills = sum(
        height * jnp.exp(-6 * ((x - place) ** 2).sum(-1)) for height, place in ((1, 0.0), (2, 0.7))
    )
    slope = x @ jnp.float32([-1, 2, 1, -1])
    return jnp.stack([steep, slope, hills, jnp.where(x[:, 1] > 0.5, jnp.nan, slope)])[which]


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
@partial(jax.vmap, in_axes=(0, None))
def solve(which, key):
    low, high = LOW.reshape(2, 2), HIGH.reshape(2, 2)
    return cma_es(
        partial(score, which),
        key,
        jnp.float32(low + high) / 2,
        0.3 * (high - low),
        samples=32,
        iterations=60,
        low=low,
        high=high,
    )[0]


@pytest.fixture(scope="module")
def found():
    """A search with leading [seed, function]."""
    return solve(jnp.arange(4), KEYS)


def of(found, which):
    return jax.tree.map(lambda x: x[:, which], found)


@pytest.mark.slow
def test_a_turned_ill_conditioned_quadratic_needs_the_covariance(found):
    """After 1,920 evaluations a method that scales each element by itself has lost more, by far."""
    one = of(found, STEEP)

    @jax.jit
    @jax.vmap
    def without(key):
        return cem(
            partial(score, STEEP), key, jnp.zeros(N), 1.0, samples=96, elites=12, iterations=20
        )[0].value

    assert (one.value > -1e-6).all() and np.median(without(KEYS)) < -1e-3
    np.testing.assert_allclose(one.best, 0.2, atol=2e-3)
    spreads = [
        np.linalg.eigvals(covariance @ FORM).real
        for covariance in np.asarray(one.covariance, float)
    ]
    ratios = [spread.max() / spread.min() for spread in spreads]  # a thousand before
    # C is the inverse Hessian but for its scale, or that of a mirror image
    assert np.median(ratios) < 10


@pytest.mark.slow
def test_a_maximum_in_the_corner_of_the_box_is_found(found):
    best = of(found, CORNER).best.reshape(-1, N)
    np.testing.assert_allclose(best, np.tile([-1, 1, 1, 0], (8, 1)), atol=1e-3)
    np.testing.assert_allclose(of(found, CORNER).value, 4, atol=1e-3)


@pytest.mark.slow
def test_the_higher_of_two_hills_is_found(found):
    assert of(found, HILLS).best.shape == (8, 2, 2) and of(found, HILLS).mean.shape == (8, N)
    np.testing.assert_allclose(of(found, HILLS).best, 0.7, atol=0.01)


def test_what_is_not_a_number_loses(found):
    best = of(found, HOLES).best.reshape(-1, N)
    assert (best[:, 1] <= 0.5).all()
    np.testing.assert_allclose(of(found, HOLES).value, 3, atol=0.05)


def test_candidates_keep_to_the_box(found):
    best = np.asarray(found.best.reshape(-1, N))
    assert (best >= LOW).all() and (best <= HIGH).all()
    assert (best[:, 1] > 0.99).any() and (best[:, 3] < 0.01).any()


@pytest.mark.slow
def test_nothing_breaks_down_long_after_it_converged():
    """On a hill, and on a plain where no candidate is better than another."""

    def search(height):
        return cma_es(
            lambda x: -height * (x**2).sum(-1), KEY, jnp.zeros(2), 0.6, samples=6, iterations=1000
        )[0]

    found = jax.jit(jax.vmap(search))(np.float32([1, 0]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    np.testing.assert_allclose(found.value, 0, atol=1e-12)


@pytest.mark.slow
def test_many_problems_at_once_are_each_alone_and_a_key_is_an_answer(found):
    alone = jax.tree.map(lambda x: x[0, 0], solve(np.int32([CORNER]), KEYS[5:6]))
    np.testing.assert_allclose(alone.best, found.best[5, CORNER], atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, solve(jnp.arange(4), KEYS), found)
    # some may agree to the last bit: they converged
    assert len(np.unique(np.asarray(found.best)[:, STEEP, 0, 0])) > 4


def test_one_sample_is_refused():
    with pytest.raises(InvalidInput, match="samples is 1; CMA-ES needs at least 2"):
        cma_es(lambda x: x.sum(-1), KEY, np.zeros(2, np.float32), 1.0, samples=1, iterations=1)
