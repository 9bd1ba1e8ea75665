"""iCEM against NumPy step by step, its noise against the spectrum asked for, and plans against the
LQR optimum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.plans import return_of_plans
from etude.planning.protocol import ControlProblem, LiftedModel, model_step_of
from etude.planning.sampling.cem import cem
from etude.planning.sampling.icem import colored_noise, icem
from etude.planning.sampling.mppi import mppi
from etude.planning.trajectory.lqr import LinearQuadratic, lqr, simulate_regulator

noise_of = jax.jit(colored_noise, static_argnums=1)
KEY = jax.random.key(0)


def test_each_iteration_is_that_of_numpy(watched):
    """Ever fewer plans are drawn; the best of the last elites are judged again, and at the end the
    mean itself."""
    score, seen = watched(lambda x: -((x - 0.8) ** 2).sum((1, 2)))
    mean = np.float32(np.linspace(-1, 1, 10).reshape(5, 2))
    kept = np.float32(np.linspace(1, -1, 30).reshape(3, 5, 2))
    search = partial(
        icem, score, samples=40, elites=10, iterations=4, exponent=2.0, smoothing=0.2, high=0.9
    )
    found, history = jax.jit(lambda key: search(key, mean, 0.7, kept_plans=kept))(KEY)
    jax.effects_barrier()
    m, s, kept, best, value = (
        np.asarray(mean, float),
        np.full((5, 2), 0.7),
        np.asarray(kept, float),
        None,
        -np.inf,
    )
    assert [len(candidates) for candidates in seen] == [40 + 3, 32 + 3, 25 + 3, 20 + 3 + 1]
    for i, (candidates, key) in enumerate(zip(seen, jax.random.split(KEY, 4), strict=True)):
        drawn = (40, 32, 25, 20)[i]
        noise = np.asarray(noise_of(key, (drawn, 5, 2), 2.0), float)
        np.testing.assert_allclose(
            candidates[:drawn], np.clip(m + s * noise, -1, 0.9), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(candidates[drawn : drawn + 3], kept, rtol=1e-5)
        if i == 3:
            np.testing.assert_allclose(candidates[-1], m, rtol=1e-4, atol=1e-5)
        values = -((candidates.astype(float) - 0.8) ** 2).sum((1, 2))
        elite = candidates[np.argsort(-values)[:10]].astype(float)
        m, s, kept = 0.2 * m + 0.8 * elite.mean(0), 0.2 * s + 0.8 * elite.std(0), elite[:3]
        if values.max() > value:
            best, value = candidates[values.argmax()], values.max()
    for one, other in (
        (found.mean, m),
        (found.std, s),
        (found.best, best),
        (found.value, value),
        (found.kept_plans, kept),
        (history.plans[-1], best),
        (history.values[-1], value),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_the_noise_has_variance_1_and_the_power_asked_for(exponent):
    """The mean periodogram of 4000 samples, whose standard error is 1.6 %, falls as
    f^(−exponent)."""
    noise = np.asarray(noise_of(KEY, (4000, 20, 2), exponent), float)
    np.testing.assert_allclose((noise**2).mean(0), 1, rtol=0.12)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.08)
    power = (np.abs(np.fft.rfft(noise, axis=1)) ** 2).mean((0, 2))
    frequency = np.fft.rfftfreq(20)
    np.testing.assert_allclose(
        power[1:] * frequency[1:] ** exponent, power[1] * frequency[1] ** exponent, rtol=0.1
    )
    np.testing.assert_allclose(power[0], power[1], rtol=0.1)
    # two actions have nothing to do with each other
    assert abs((noise[:, :, 0] * noise[:, :, 1]).mean()) < 0.03


@pytest.mark.slow
def test_with_one_sample_and_one_iteration_the_samplers_agree():
    score, one = lambda plans: plans.sum((1, 2)), {"samples": 1, "iterations": 1}
    mean = jnp.full((3, 2), -1.0)  # any draw is better
    found = jax.jit(
        lambda key: [
            cem(score, key, mean, 0.5, **one, elites=1)[0],
            mppi(score, key, mean, 0.5, **one)[0],
            icem(score, key, mean, 0.5, **one, elites=1, exponent=0.0, smoothing=0.0)[0],
        ]
    )(KEY)
    assert (found[0].best > -1).any()
    for search in found:
        for plan in (search.best, search.mean):
            np.testing.assert_allclose(plan, found[0].best, atol=1e-6)
        np.testing.assert_allclose(search.value, found[0].value, rtol=1e-5)


# a block to be brought home
T, F, C = 8, np.float32([[1, 0.3, 0.0], [0, 1, 0.3]]), np.diag(np.float32([1, 0.2, 0.1]))
BLOCK = ControlProblem(
    lambda x, u: F @ jnp.append(x, u),
    lambda x, u, t: C.diagonal() @ jnp.append(x, u) ** 2 / 2,
    lambda x: 0.0,
)
START = np.float32([0.3, 0.1])


CERTAIN = LiftedModel(lambda state, action, key: model_step_of(BLOCK, state, action))


@pytest.mark.system
def test_the_searches_reach_the_optimum_of_linear_quadratic_control():
    problem = LinearQuadratic(np.tile(F, (T, 1, 1)), np.tile(C, (T, 1, 1)))
    regulator = lqr(problem)
    _, controls = simulate_regulator(problem, regulator, START)
    optimum = -jax.tree.map(lambda x: x[0], regulator.value)(START)
    assert (np.abs(controls) < 1).all()  # the box is in nobody's way

    @jax.jit
    def search(key):
        score, start = return_of_plans(CERTAIN, START[None, None], key), jnp.zeros((T, 1))
        sizes = {"samples": 150, "elites": 15}
        return (
            cem(score, key, start, 0.5, **sizes, iterations=25)[0],
            icem(score, key, start, 0.5, **sizes, iterations=10, exponent=0.5)[0],
            mppi(score, key, start, 0.1, samples=300, iterations=40, temperature=0.02)[0],
        )

    # nothing done: -0.68
    for found, short, off in zip(search(KEY), (1e-5, 2e-3, 1e-3), (0.01, 0.15, 0.08), strict=True):
        assert optimum - short < found.value <= optimum + 1e-6
        np.testing.assert_allclose(found.mean, controls, atol=off)


@pytest.mark.parametrize("elites", [0, 9])
def test_more_elites_than_samples_are_refused(elites):
    with pytest.raises(
        InvalidInput, match=f"elites is {elites}; of 8 samples there can be 1 to 8 of them"
    ):
        icem(
            lambda x: x.sum((1, 2)),
            KEY,
            np.zeros((3, 1), np.float32),
            1.0,
            samples=8,
            elites=elites,
            iterations=1,
        )
