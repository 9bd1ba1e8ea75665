"""The loop: budgets, rows, chunks, keys, seeds and going on, with an algorithm small enough to
compile at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_probes import Counter as GymnasiumCounter

from etude.algorithms.protocol import NOTHING, algorithm
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.probes import Counter
from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.rollout import EpisodeSums
from etude.struct import static, traced
from etude.training import (
    MetricSums,
    accumulate,
    average_metrics,
    compile_chunk,
    init_train_state,
    progress,
    pure_train,
    run_compiled,
    vmap_over_seeds,
)


@algorithm
class Walk:
    """A random walk in place of learning: its state depends on every key, transition and iteration
    before it."""

    step_size: float = traced(0.1, above=0)
    fuse: float = traced(float("inf"))  # the loss is infinite once the walk is past this
    rollout_length: int = static(3, at_least=1)
    wait: int = static(0)  # iterations without a gradient step

    def init(self, key, spec):
        return {
            "place": jax.random.normal(key, (2,)),
            "iterations": jnp.int32(0),
            "seen": jnp.zeros(()),
        }

    def initial_memory(self, state, spec, key):
        return state["place"][0] + jax.random.uniform(key, (spec.num_envs,))

    def act(self, state, observation, memory, key, explore):
        return jax.random.randint(key, (observation.shape[0],), 0, 2), memory

    def update(self, state, experience, key):
        place = state["place"] * 0.99 + self.step_size * (
            jax.random.normal(key, (2,))
            + (experience.observation.mean() + experience.memory.mean())
        )
        iterations = state["iterations"] + 1
        seen = state["seen"] + experience.truncated.sum() + 100 * experience.action.sum()
        loss = jnp.where(place[0] > self.fuse, jnp.inf, iterations)
        updates = jnp.where(iterations > self.wait, iterations, 0)
        return {"place": place, "iterations": iterations, "seen": seen}, {
            "loss": loss,
            "updates": updates,
        }


ENVIRONMENT = JaxEnvs(Counter(5), 2)
KEY = jax.random.key(3)
LARGE, TINY = 1e9, 1e-9  # seconds that a chunk should take: all of a row, one iteration


def on_host(tree):
    """Copies that outlive the buffers, keys as their words."""
    return jax.tree.map(
        lambda x: (
            np.array(jax.random.key_data(x))
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else np.array(x)
        ),
        jax.device_get(tree),
    )


def reports_of(algorithm=None, environment=ENVIRONMENT, key=KEY, steps=100, **options):
    return [
        report._replace(train_state=on_host(report.train_state))
        for report in progress(algorithm or Walk(), environment, key, steps, **options)
    ]


def assert_equal(one, other):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_once(tmp_path_factory):
    """`progress` compiles its program anew at every call, and many tests here call it with the same
    one."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def uninterrupted():
    """16 iterations of 6 steps, in rows of 5."""
    return reports_of(row_every=5, chunk_seconds=LARGE)


def test_the_budget_is_never_overshot_and_what_was_taken_is_reported(uninterrupted):
    assert uninterrupted[-1].iterations == 16 and uninterrupted[-1].steps == 96
    assert uninterrupted[-1].train_state.algorithm_state["iterations"] == 16
    for report in uninterrupted:
        assert report.steps == 6 * report.iterations
    assert [report.iterations for report in uninterrupted] == sorted(
        {report.iterations for report in uninterrupted}
    )


@pytest.mark.parametrize(
    "steps, iterations", [pytest.param(6, 1, marks=pytest.mark.slow), (11, 1), (12, 2)]
)
def test_only_whole_iterations_are_taken(steps, iterations):
    assert reports_of(steps=steps)[-1].iterations == iterations


def test_a_budget_below_one_iteration_is_refused():
    with pytest.raises(
        InvalidInput,
        match=r"steps is 5, less than one iteration of 6 \(rollout_length 3 × num_envs 2",
    ):
        next(progress(Walk(), ENVIRONMENT, KEY, 5))


def test_hyperparameters_out_of_bounds_are_refused_first():
    with pytest.raises(InvalidInput, match="step_size is -1.0; it must be above 0"):
        next(progress(Walk(step_size=-1.0), ENVIRONMENT, KEY, 100))


def test_many_seeds_need_a_pure_environment():
    environment = GymnasiumEnvs(GymnasiumCounter, 2)
    with pytest.raises(
        InvalidInput, match="only environments written in JAX train many seeds in one program"
    ):
        next(progress(Walk(), environment, jax.random.split(KEY, 2), 100))


def test_where_chunks_fall_makes_no_difference(uninterrupted):
    single = reports_of(row_every=5, chunk_seconds=TINY)
    assert [report.iterations for report in single] == list(range(1, 17))
    assert len(uninterrupted) < 16
    assert_equal(single[-1].train_state, uninterrupted[-1].train_state)
    rows = [
        [report for report in reports if report.end_of_row] for reports in (single, uninterrupted)
    ]
    for one, other in zip(*rows, strict=True):
        assert one.iterations == other.iterations
        assert_equal(one.metrics, other.metrics)


def test_rows_end_every_so_often_and_at_the_end(uninterrupted):
    assert [report.iterations for report in uninterrupted if report.end_of_row] == [5, 10, 15, 16]
    default = reports_of(steps=6 * 3)
    # fewer than 200 iterations
    assert all(report.end_of_row for report in default) and len(default) == 3


def test_a_row_sums_up_its_own_iterations_alone(uninterrupted):
    """An iteration that took i gradient steps counts i times in a mean."""
    first, second, third, last = (report.metrics for report in uninterrupted if report.end_of_row)
    for row, iterations in (
        (first, range(1, 6)),
        (second, range(6, 11)),
        (third, range(11, 16)),
        (last, [16]),
    ):
        weights = np.array(iterations)
        assert row["updates"] == weights.sum()
        assert row["loss"] == pytest.approx((weights * weights).sum() / weights.sum())
    assert (
        first["episodes"] == 2 * (5 * 3 // 5)
        and first["episode_return"] == first["episode_length"] == 5
    )
    assert last["episodes"] == 0  # from step 45 on, none has ended by step 48
    assert np.isnan(last["episode_return"]) and np.isnan(last["episode_length"])
    assert set(first) == {"episodes", "episode_return", "episode_length", "updates", "loss"}


def test_an_iteration_without_a_gradient_step_is_not_counted():
    rows = reports_of(Walk(wait=2), steps=6 * 4, row_every=2)
    first, second = (report.metrics for report in rows if report.end_of_row)
    assert first["updates"] == 0 and np.isnan(first["loss"])
    assert second["updates"] == 7 and second["loss"] == pytest.approx((9 + 16) / 7)


def test_compiling_is_reported_once(uninterrupted):
    assert uninterrupted[0].compile_seconds > 0 and uninterrupted[0].seconds > 0
    assert all(report.compile_seconds == 0 for report in uninterrupted[1:])


@pytest.mark.parametrize("stop", [pytest.param(5, marks=pytest.mark.slow), 8])
def test_going_on_is_never_having_stopped(uninterrupted, stop):
    """At the end of a row, and in the middle of one."""
    part = next(
        report
        for report in reports_of(row_every=5, chunk_seconds=TINY)
        if report.iterations == stop
    )
    rest = reports_of(row_every=5, chunk_seconds=LARGE, resumed=(part.train_state, stop))
    assert_equal(rest[-1].train_state, uninterrupted[-1].train_state)
    rows = [
        report.metrics for report in uninterrupted if report.end_of_row and report.iterations > stop
    ]
    for one, other in zip(
        rows, [report.metrics for report in rest if report.end_of_row], strict=True
    ):
        assert_equal(one, other)


def test_what_is_complete_has_nothing_to_go_on_with(uninterrupted):
    assert reports_of(resumed=(uninterrupted[-1].train_state, 16)) == []


@pytest.mark.slow
def test_a_larger_budget_goes_on_as_if_it_had_been_so_from_the_start(uninterrupted):
    longer = reports_of(steps=150, row_every=5, chunk_seconds=LARGE)
    rest = reports_of(
        steps=150, row_every=5, chunk_seconds=LARGE, resumed=(uninterrupted[-1].train_state, 16)
    )
    assert_equal(rest[-1].train_state, longer[-1].train_state)


@pytest.mark.slow
def test_keys_make_the_difference(uninterrupted):
    again = reports_of(row_every=5, chunk_seconds=LARGE)
    other = reports_of(key=jax.random.key(4))
    assert_equal(again[-1].train_state, uninterrupted[-1].train_state)
    assert (
        other[-1].train_state.algorithm_state["place"]
        != uninterrupted[-1].train_state.algorithm_state["place"]
    ).all()


@pytest.mark.slow
def test_seeds_in_one_program_are_the_seeds_alone(uninterrupted):
    keys = jnp.stack([KEY, jax.random.key(4)])
    together = reports_of(key=keys, row_every=5, chunk_seconds=LARGE)
    # of each seed
    assert [report.steps for report in together if report.end_of_row] == [30, 60, 90, 96]
    last = together[-1].train_state
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-5),
        last,
        uninterrupted[-1].train_state,
    )
    assert (last.algorithm_state["place"][0] != last.algorithm_state["place"][1]).all()
    for name, value in together[0].metrics.items():
        assert np.shape(value) == (2,), name


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(Diverged, match="^loss stopped being finite"):
        reports_of(Walk(fuse=-100.0))


def test_the_seed_that_diverged_is_named():
    none = np.zeros(3, np.int32)
    loss = {"loss": np.float32([1, np.inf, 1])}
    sums = MetricSums(EpisodeSums(none, np.zeros(3, np.float32), none), none + 1, loss)
    with pytest.raises(Diverged, match=r"^loss stopped being finite in the seeds numbered \[1\]"):
        average_metrics(sums)


def test_a_tally_of_nan_is_diverged_too():
    zero = EpisodeSums(np.int32(0), np.zeros((), np.float32), np.int32(0))
    with pytest.raises(Diverged, match="^q stopped being finite"):
        average_metrics(
            MetricSums(zero, np.int32(1), {"p": np.ones((), np.float32), "q": np.float32(np.nan)})
        )


def test_a_tally_adds_up():
    zero = MetricSums(
        EpisodeSums(np.int32(0), np.zeros((), np.float32), np.int32(0)),
        np.int32(0),
        {"loss": np.zeros((), np.float32)},
    )
    one = accumulate(
        zero,
        EpisodeSums(np.int32(2), np.float32(30), np.int32(20)),
        {"loss": np.float32(1), "updates": np.int32(1)},
    )
    two = accumulate(
        one,
        EpisodeSums(np.int32(1), np.float32(60), np.int32(10)),
        {"loss": np.float32(4), "updates": np.int32(3)},
    )
    told = average_metrics(jax.device_get(two))
    assert told == {
        "episodes": 3,
        "episode_return": 30,
        "episode_length": 10,
        "updates": 4,
        "loss": (1 + 12) / 4,
    }


@pytest.mark.slow
def test_train_is_the_same_loop_in_one_program(uninterrupted):
    training, tallies = jax.jit(lambda key: pure_train(Walk(), ENVIRONMENT, key, 16))(KEY)
    assert_equal(on_host(training.algorithm_state), uninterrupted[-1].train_state.algorithm_state)
    np.testing.assert_array_equal(tallies.updates, np.arange(1, 17))
    assert tallies.episodes.count.sum() == 2 * (48 // 5)


def test_chunks_may_be_any_stretch_of_iterations(uninterrupted):
    training = jax.jit(partial(init_train_state, Walk(), ENVIRONMENT))(KEY)
    run = compile_chunk(Walk(), ENVIRONMENT, training, KEY, 5)
    for start, stop in ((0, 1), (1, 1), (1, 9), (9, 16)):
        training = run(training, KEY, start, stop, NOTHING)
    assert_equal(on_host(training.algorithm_state), uninterrupted[-1].train_state.algorithm_state)


def test_over_seeds():
    assert vmap_over_seeds(jax.random.uniform, KEY)(KEY).shape == ()
    assert vmap_over_seeds(jax.random.uniform, jax.random.split(KEY, 3))(
        jax.random.split(KEY, 3)
    ).shape == (3,)


class Breaks(GymnasiumCounter):
    def step(self, action):
        if self.count == 3:
            raise ZeroDivisionError("the simulator broke")
        return super().step(action)


def test_what_an_environment_raises_comes_out_as_it_was_raised():
    environment = GymnasiumEnvs(Breaks, 2)
    with pytest.raises(
        EnvironmentFault, match="copy 0 of Breaks failed at its step 4: it raised ZeroDivisionError"
    ) as fault:
        reports_of(environment=environment)
    assert isinstance(fault.value.__cause__, ZeroDivisionError)
    assert fault.value.__suppress_context__  # nothing of JAX's machinery in the traceback


def test_other_errors_of_a_program_are_let_through():
    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_compiled(fail)

    def broken(x):
        return jax.pure_callback(lambda x: 1 / 0, x, x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="ZeroDivision"):
        run_compiled(jax.jit(broken), np.zeros((), np.float32))


def test_ctrl_c_stops_a_chunk_at_its_next_step():
    environment = GymnasiumEnvs(GymnasiumCounter, 2)
    reports = progress(Walk(), environment, KEY, 10_000)
    next(reports)
    environment.cancelled.set()
    with pytest.raises(KeyboardInterrupt):
        next(reports)
