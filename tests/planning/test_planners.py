"""The planners as values: each equal to plain NumPy as a function, through `etude plan` and MPC."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy_planners as plain
import pytest
from filling import filled

from etude.algorithms.common.planning_policy import search_plan
from etude.algorithms.control.mpc import MPC
from etude.errors import InvalidInput
from etude.models.true_models import true_model
from etude.nn.networks import make_network
from etude.planning.planners import CEM, CMAES, ICEM, MPPI, RandomShooting
from etude.planning.plans import return_of_plans
from etude.planning.problems import DoubleIntegrator
from etude.planning.sampling.icem import colored_noise
from etude.planning.sampling.mppi import softmax_weights
from etude.planning.trajectory.ilqr import simulate_controls
from etude.spaces import Box
from etude.struct import replace
from etude.studies.plan import PROBLEMS, PlanSettings, find_path, zero_controls

KEY = jax.random.key(0)
SAMPLES, ITERATIONS, ELITES = 30, 4, 6
PLANNERS = {
    "random-shooting": RandomShooting(),
    "cem": CEM(elites=ELITES, std=0.6, smoothing=0.2),
    "icem": ICEM(elites=ELITES, std=0.6, smoothing=0.2, noise_exponent=1.5),
    "mppi": MPPI(std=0.6, temperature=0.2, noise_exponent=1.0),
    "cma-es": CMAES(std=0.4),
}
every_planner = pytest.mark.parametrize("name", PLANNERS)


def noise_of(name, key, shape, dtype):
    """The noise that the planner called `name` draws for plans of this shape."""
    keys = jax.random.split(key, ITERATIONS)
    exponent = getattr(PLANNERS[name], "noise_exponent", 0.0)
    match name:
        case "random-shooting":
            drawn = jax.random.uniform(key, (SAMPLES * ITERATIONS, *shape), minval=-1.0)
        case "cem":
            drawn = [jax.random.normal(key, (SAMPLES, *shape), dtype) for key in keys]
        case "cma-es":
            n = int(np.prod(shape))
            drawn = [jax.random.normal(key, (SAMPLES, n), dtype) for key in keys]
        case _:
            sizes = [SAMPLES] * ITERATIONS
            if name == "icem":
                sizes = plain.icem_populations(SAMPLES, ELITES, ITERATIONS)
                assert sizes == [30, 24, 19, 15]
            drawn = [
                colored_noise(key, (size, *shape), exponent, dtype)
                for key, size in zip(keys, sizes, strict=True)
            ]
    return jax.tree.map(partial(np.asarray, dtype=float), drawn)


def plain_search(name, score, key, mean, dtype, kept=None):
    """(mean, standard deviation, best plan, its value, kept plans) by plain NumPy."""
    planner, noise = PLANNERS[name], noise_of(name, key, mean.shape, dtype)
    mean = np.asarray(mean, float)
    match name:
        case "random-shooting":
            values = plain.evaluated(score, noise)
            best = noise[values.argmax()]
            return best, np.full(mean.shape, 3**-0.5), best, values.max(), None
        case "cem":
            sizes = dict(elites=ELITES, smoothing=planner.smoothing)
            return *plain.cem(score, noise, mean, planner.std, **sizes), None
        case "icem":
            kept = np.tile(mean, (2, 1, 1)) if kept is None else np.asarray(kept, float)
            sizes = dict(elites=ELITES, smoothing=planner.smoothing)
            return plain.icem(score, noise, mean, planner.std, **sizes, kept=kept)
        case "mppi":
            found = plain.mppi(score, noise, mean, planner.std, temperature=planner.temperature)
            return *found, None
    # eigenvectors have no sign, and the planner's own are taken
    eigh = lambda C: jax.tree.map(partial(np.asarray, dtype=float), jnp.linalg.eigh(C))
    return *plain.cma_es(score, np.array(noise), mean, planner.std, eigh), None


def precision(is_double):
    """(the context, the tolerance)"""
    if is_double:
        return jax.enable_x64(True), dict(rtol=1e-5, atol=1e-5)
    return contextlib.nullcontext(), dict(rtol=2e-3, atol=1e-3)


def score_of(problem, start):
    """Of plans in the box [-1, 1]: minus the costs."""
    low, high = np.asarray(problem.low), np.asarray(problem.high)

    def cost(plan):
        controls = (low + high) / 2 + (high - low) / 2 * plan
        return simulate_controls(problem, start, controls)[1].sum()

    return jax.jit(lambda plans: -jax.vmap(cost)(plans))


SHORT = replace(DoubleIntegrator(), horizon=6)


# the same program with fewer digits, which the tests of the functions have too
every_precision = pytest.mark.parametrize(
    "is_double",
    [pytest.param(True, id="float64"), pytest.param(False, id="float32", marks=pytest.mark.system)],
)


@every_planner
@every_precision
def test_as_a_function_and_in_etude_plan_it_is_plain_numpy(name, is_double):
    """`find_path` is what `etude plan` runs; the planner alone has the same plan."""
    context, close = precision(is_double)
    planner = PLANNERS[name]
    with context:
        dtype = jnp.zeros(()).dtype
        key_start, key_search = jax.random.split(KEY)
        start = SHORT.initial_state(key_start)
        score, mean = score_of(SHORT, start), jnp.zeros((6, 1))
        expected = plain_search(name, score, key_search, mean, dtype)
        search = partial(planner.plan, score, samples=SAMPLES, iterations=ITERATIONS)
        result = jax.jit(lambda key: search(planner.init(mean), key))(key_search)
        path = find_path(SHORT, PlanSettings(planner, ITERATIONS, SAMPLES), KEY)
    plan_mean, spread, best, value, kept = expected
    follows_mean = name == "mppi"
    np.testing.assert_allclose(result.plan, plan_mean if follows_mean else best, **close)
    np.testing.assert_allclose(result.value, value, **close)
    np.testing.assert_allclose(result.spread, spread, **close)
    np.testing.assert_allclose(result.start.mean, plan_mean, **close)
    if kept is not None:
        np.testing.assert_allclose(result.start.kept_plans, kept, **close)
    assert result.history.values.shape == (ITERATIONS,)
    assert (np.diff(result.history.values) >= 0).all()
    np.testing.assert_allclose(result.history.plans[-1], best, **close)
    np.testing.assert_allclose(path.controls, 2 * best, **close)  # forces within 2 N
    np.testing.assert_allclose(path.costs[-1], -value, **close)
    assert path.history.shape == (ITERATIONS + 1, 6, 1)


@every_planner
@every_precision
def test_in_mpc_it_is_plain_numpy(name, is_double):
    """Two steps, the second from what is left of the first."""
    context, close = precision(is_double)
    planner, model = PLANNERS[name], true_model("Pendulum-v1")
    mpc = MPC(
        model="Pendulum-v1", planner=planner, horizon=5, samples=SAMPLES, iterations=ITERATIONS
    )
    with context:
        dtype = jnp.zeros(()).dtype
        observation = jnp.asarray([np.cos(2.0), np.sin(2.0), 0.5])
        mean, kept = jnp.zeros((5, 1)), None
        start = planner.init(mean)

        @jax.jit
        def acted(observation, start, key):
            memory = search_plan(mpc, model, observation, start, key, Box((1,)), 1, 0.0)
            return memory.actions[0], planner.shift(memory.start)

        for key in jax.random.split(KEY):
            action, start = acted(observation, start, key)
            key_search, key_model, key_begin = jax.random.split(key, 3)
            state = model.begin(observation[None, None], (), key_begin)
            score = jax.jit(return_of_plans(model, state, key_model))
            expected = plain_search(name, score, key_search, mean, dtype, kept)
            plan = expected[0] if name == "mppi" else expected[2]
            np.testing.assert_allclose(action, plan[0], **close)
            mean, *_, kept = (
                None if x is None else np.concatenate([x[..., 1:, :], x[..., -1:, :]], -2)
                for x in (expected[0], expected[4])
            )
            np.testing.assert_allclose(start.mean, mean, **close)
            if kept is not None:
                np.testing.assert_allclose(start.kept_plans, kept, **close)


@every_planner
def test_plans_that_are_given_are_evaluated_in_every_iteration(name, watched):
    """The best plan of all is among them; for a mean that moves it is an elite."""
    target = np.linspace(-0.9, 0.9, 8, dtype=np.float32).reshape(4, 2)
    score, seen = watched(lambda plans: -((plans - target) ** 2).sum((1, 2)))
    given = np.stack([target, np.zeros_like(target)])
    planner = PLANNERS[name]
    result = jax.jit(
        lambda key: planner.plan(
            score,
            planner.init(jnp.zeros((4, 2))),
            key,
            samples=SAMPLES,
            iterations=2,
            candidates=given,
        )
    )(KEY)
    jax.effects_barrier()
    sizes = [len(plans) for plans in seen]
    assert sum((plans == target).all((1, 2)).sum() for plans in seen) >= (
        1 if name == "random-shooting" else 2
    ), sizes
    np.testing.assert_array_equal(result.history.plans[-1], target)
    assert result.value == 0


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "cma-es"])
def test_the_plan_to_follow_is_a_choice(name):
    score = lambda plans: -((plans - 0.3) ** 2).sum((1, 2))
    planner = PLANNERS[name]
    search = lambda follow: replace(planner, follow=follow).plan(
        score, planner.init(jnp.zeros((3, 1))), KEY, samples=8, iterations=2
    )
    best, mean = jax.jit(lambda: (search("best"), search("mean")))()
    np.testing.assert_array_equal(best.plan, best.history.plans[-1])
    np.testing.assert_array_equal(mean.plan, mean.start.mean)
    assert (best.plan != mean.plan).all()


@every_planner
def test_a_start_is_shifted_by_one_step(name):
    planner = PLANNERS[name]
    mean = np.arange(6.0).reshape(3, 2)
    start = planner.shift(planner.init(mean))
    np.testing.assert_array_equal(start.mean, [[2, 3], [4, 5], [4, 5]])
    assert len(start.kept_plans) == (2 if name == "icem" else 0)
    for plan in start.kept_plans:
        np.testing.assert_array_equal(plan, start.mean)


GRID = np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]


@pytest.mark.slow
@every_planner
def test_the_best_action_of_a_network_is_that_of_a_grid(name):
    """For every state of a batch at once; some of the best lie on the boundary, some inside."""
    keys = jax.random.split(KEY, 6)
    q = filled(lambda: make_network(keys[0], Box((3,)), (16,), 1), 1, 1.0)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)

    def value(state, action):
        both = jnp.concatenate([jnp.broadcast_to(state, (len(action), 2)), action], -1)
        return q(both)[:, 0] - action[:, 0] ** 2 / 2

    @jax.jit
    @jax.vmap
    def solve(state, key):
        planner = PLANNERS[name]
        result = planner.plan(
            lambda plans: value(state, plans[:, 0]),
            planner.init(jnp.zeros((1, 1))),
            key,
            samples=64,
            iterations=6,
        )
        return (result.history.plans[-1, 0], result.value), value(state, GRID)

    (best, found), values = solve(states, keys)
    exact = GRID[values.argmax(-1), 0]
    inside = np.abs(exact) < 1
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(found, values.max(-1), atol=0.05)
    np.testing.assert_allclose(best[:, 0], exact, atol=0.1)


@pytest.mark.parametrize(
    "planner, samples, message",
    [
        (CEM(elites=9), 8, "elites is 9; of 8 samples"),
        (ICEM(elites=9), 8, "elites is 9; of 8 samples"),
        (CMAES(), 1, "samples is 1; CMA-ES needs at least 2"),
    ],
    ids=["cem", "icem", "cma-es"],
)
def test_sizes_that_do_not_fit_are_refused(planner, samples, message):
    with pytest.raises(InvalidInput, match=message):
        planner.check_samples(samples)


@pytest.fixture(scope="module")
def effective_numbers():
    """Of each problem, by iteration of a search: the effective number of 100 plans, 1 / Σ w²."""
    numbers = {name: [] for name in PROBLEMS}

    @jax.jit
    def search_all(key):
        found = []
        for name, problem in PROBLEMS.items():
            low, high = np.asarray(problem.low), np.asarray(problem.high)
            first = (zero_controls(problem) - (low + high) / 2) / ((high - low) / 2)
            score = score_of(problem, problem.initial_state(key))

            def noted(plans, score=score, note=numbers[name].append):
                values = score(plans)
                weights = softmax_weights(values, MPPI().temperature)
                jax.debug.callback(lambda w: note(float(1 / (w**2).sum())), weights)
                return values

            search = partial(MPPI().plan, noted, samples=100, iterations=20)
            found.append(search(MPPI().init(first), key).value)
        return found

    jax.block_until_ready(search_all(KEY))
    jax.effects_barrier()
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_mppi_weighs_several_plans_whatever_the_scale_of_the_costs(effective_numbers, name):
    """Above 3 in the middle of a search."""
    numbers = effective_numbers[name]
    assert len(numbers) == 20 and np.median(numbers) > 3
