"""Prioritized replay against NumPy: what is held and for how much, draws in proportion, and weights
by the formula."""

import math
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import Lives, example

from etude.data.replay import prioritized, ring_buffer
from etude.data.replay.prioritized import Priorities, Prioritized
from etude.data.replay.ring_buffer import Indices, RingBuffer

NUMBER = {"x": np.float32(0)}
KEY = jax.random.key(0)


class Replay(NamedTuple):
    """A ring buffer and the priorities of its rows."""

    buffer: RingBuffer
    priorities: Priorities


def init_replay(example, capacity, num_envs, rollout_length):
    buffer = ring_buffer.init(example, capacity, num_envs, rollout_length)
    return Replay(buffer, Prioritized().init_priorities(buffer))


def insert_rollout(replay, rollout):
    buffer, rows = ring_buffer.insert(replay.buffer, rollout), len(jax.tree.leaves(rollout)[0])
    return Replay(buffer, Prioritized().insert(replay.priorities, replay.buffer, buffer, rows))


def sample_indices(replay, key, batch_size, beta):
    return prioritized.sample_indices(replay.priorities, replay.buffer, key, batch_size, beta)


def update_priorities(replay, indices, td_error, alpha):
    return Replay(
        replay.buffer,
        Prioritized(alpha).update_priorities(replay.priorities, replay.buffer, indices, td_error),
    )


init = jax.jit(init_replay, static_argnames=("capacity", "num_envs", "rollout_length"))
insert = jax.jit(insert_rollout)
draw = jax.jit(sample_indices, static_argnames="batch_size")
update = jax.jit(update_priorities)
draws = jax.jit(
    lambda replay, keys, batch_size, beta: jax.vmap(
        lambda key: sample_indices(replay, key, batch_size, beta)
    )(keys),
    static_argnums=2,
)


def rollout(rows, num_envs):
    return {"x": jnp.zeros((rows, num_envs))}


def flat(rows, num_envs):
    return np.asarray(rows.time * num_envs + rows.env)


def priorities(replay):
    """Of every row, [time * env]."""
    ring = replay.buffer
    return np.asarray(replay.priorities.tree[0]).ravel()[
        : ring_buffer.length(ring) * ring_buffer.num_envs(ring)
    ]


def assert_sums_are_right(replay):
    """Every node holds the sum of its children, and the root that of all priorities, as NumPy adds
    them up in float64."""
    for below, level in zip(replay.priorities.tree[:-1], replay.priorities.tree[1:], strict=True):
        sums, level = np.asarray(below, float).sum(-1), np.asarray(level)
        np.testing.assert_allclose(level.ravel()[: len(sums)], sums, rtol=1e-6)
        assert not level.ravel()[len(sums) :].any()
    assert len(replay.priorities.tree[-1]) == 1
    assert replay.priorities.tree[-1].sum() == pytest.approx(
        math.fsum(priorities(replay)), rel=1e-6
    )


def everything(n, num_envs):
    return Indices(*map(np.int32, divmod(np.arange(n), num_envs)))


def with_priorities(values, num_envs=1):
    """A full replay with these priorities, [time * env]."""
    values = np.asarray(values, np.float32)
    time = len(values) // num_envs
    replay = insert(init(NUMBER, len(values), num_envs, time), rollout(time, num_envs))
    return update(
        replay,
        everything(len(values), num_envs),
        jnp.asarray(values) - prioritized.PRIORITY_EPSILON,
        1.0,
    )


SIZES = [(24, 2, 3), (6, 6, 1), (300, 2, 5)]  # capacity, num_envs, rollout_length


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(SIZES), st.sampled_from([0.0, 0.6, 1.0]))
def test_priorities_are_those_of_a_list(seed, size, exponent):
    """In any order of inserts and updates, with rows drawn twice; the empty ones have none."""
    rng = np.random.default_rng(seed)
    capacity, num_envs, rows = size
    replay, inserted, largest = init(NUMBER, capacity, num_envs, rows), 0, 1.0
    time = capacity // num_envs // rows * rows
    expected = np.zeros((time, num_envs))
    for step in range(12):
        if step == 0 or rng.random() < 0.5:
            replay = insert(replay, rollout(rows, num_envs))
            expected[inserted % time : inserted % time + rows] = largest
            inserted += rows
        else:
            drawn = rng.integers(min(inserted, time), size=8), rng.integers(num_envs, size=8)
            # the same for a row drawn twice
            error = np.float32(rng.normal(size=(time, num_envs)))[drawn]
            replay = update(replay, Indices(*map(jnp.int32, drawn)), error, exponent)
            expected[drawn] = (abs(error.astype(float)) + 1e-6) ** exponent
            largest = max(largest, expected[drawn].max())
        np.testing.assert_allclose(priorities(replay), expected.ravel(), rtol=1e-5)
        assert replay.priorities.max_priority == pytest.approx(largest, rel=1e-5)
    assert_sums_are_right(replay)


@pytest.mark.slow
def test_of_several_priorities_for_one_row_one_stays():
    replay = with_priorities(np.ones(400), 2)
    error = jnp.where(jnp.arange(400) == 30, 4, jnp.arange(400) + 1.0)
    replay = update(
        replay, Indices(jnp.full(400, 3).at[30].set(12), np.ones(400, np.int32)), error, 1.0
    )
    assert priorities(replay)[25] == pytest.approx(4)
    kept = priorities(replay)[7]
    assert (
        kept == pytest.approx(round(float(kept))) and 1 <= kept <= 400 and round(float(kept)) != 31
    )
    assert (np.delete(priorities(replay), [7, 25]) == 1).all()
    assert_sums_are_right(replay)


@pytest.mark.slow
def test_sums_stay_right_over_many_updates_of_very_unlike_priorities():
    """10⁵ of them in batches of 100, over 10 orders of magnitude: adding the differences up would
    drift."""

    def step(carry, key):
        replay, latest = carry
        key_row, key_error = jax.random.split(key)
        row = jax.random.randint(key_row, (100,), 0, 400)
        error = (10 ** jax.random.uniform(key_error, (400,), minval=-5, maxval=5))[row]
        return (
            update_priorities(replay, Indices(row // 2, row % 2), error, 1.0),
            latest.at[row].set(error),
        ), None

    start = with_priorities(np.ones(400), 2), np.ones(400, np.float32)
    replay, latest = jax.jit(
        lambda start: jax.lax.scan(step, start, jax.random.split(KEY, 1_000))[0]
    )(start)
    np.testing.assert_allclose(priorities(replay), np.asarray(latest, float) + 1e-6, rtol=1e-5)
    assert_sums_are_right(replay)


@pytest.mark.parametrize("n, num_envs", [pytest.param(7, 1, marks=pytest.mark.slow), (400, 2)])
def test_draws_are_in_proportion(n, num_envs):
    """A row without priority never, however many it lies among."""
    rng = np.random.default_rng(n)
    values = rng.gamma(0.5, size=n) * (rng.random(n) < 0.7) + (np.arange(n) == 0)
    replay = with_priorities(np.where(values > 0, values, -1), num_envs)
    tree = prioritized.set_priorities(replay.priorities.tree, jnp.arange(n), np.float32(values))
    rows, _ = draws(
        Replay(replay.buffer, Priorities(tree, replay.priorities.max_priority)),
        jax.random.split(KEY, 1_000),
        32,
        0.4,
    )
    counts = np.bincount(flat(rows, num_envs).ravel(), minlength=n)
    assert not counts[values == 0].any()
    expected = (values / values.sum() * counts.sum())[values > 0]
    assert scipy.stats.chisquare(counts[values > 0], expected).pvalue > 1e-4


def test_each_draw_is_from_its_own_part_of_the_sum():
    values = np.random.default_rng(0).gamma(0.5, size=400) + 1e-3
    rows, _ = draws(with_priorities(values, 2), jax.random.split(KEY, 1_000), 32, 0.4)
    ends = np.cumsum(values) / values.sum() * 32
    drawn = flat(rows, 2)
    starts = np.concatenate([[0], ends])[drawn]
    assert (starts < np.arange(32) + 1 + 1e-4).all() and (ends[drawn] > np.arange(32) - 1e-4).all()


@pytest.mark.slow
def test_rounding_never_draws_a_row_without_priority(monkeypatch):
    """Sums that are not added up from left to right, as on a GPU, need not rise from one to the
    next; here by far."""
    exact = jnp.cumsum
    monkeypatch.setattr(
        prioritized.jnp, "cumsum", lambda x, axis: exact(x, axis) * (1 + 0.1 * (jnp.arange(16) % 3))
    )
    values = np.arange(400) % 4 == 0
    replay = with_priorities(np.ones(400), 2)
    tree = prioritized.set_priorities(replay.priorities.tree, jnp.arange(400), np.float32(values))
    replay = Replay(replay.buffer, Priorities(tree, np.float32(1)))
    rows, _ = jax.jit(partial(sample_indices, batch_size=5_000))(replay, KEY, beta=0.4)
    assert values[flat(rows, 2)].all()


@pytest.mark.slow
@pytest.mark.parametrize("giant", [pytest.param(False, marks=pytest.mark.system), True])
def test_a_million_rows_are_drawn_each_as_often_as_the_others(giant):
    """Also where they share a 64th of the sum: 2²⁶ of them would fill it, of which float32 can tell
    2²⁴ apart at best."""
    n = 1_000_000
    replay = insert(init(NUMBER, n, 1, n), rollout(n, 1))
    if giant:
        replay = update(replay, Indices(np.int32([0]), np.int32([0])), np.float32([63 * n]), 1.0)
    assert replay.priorities.tree[-1].sum() == pytest.approx(n * (64 if giant else 1), rel=1e-6)
    rows = np.asarray(draws(replay, jax.random.split(KEY, 1_000), 256, 0.4)[0].time).ravel()
    rows = rows[rows > 0]
    assert len(rows) == pytest.approx(256_000 / (64 if giant else 1), rel=0.05)
    for counts in (np.bincount(rows % 16), np.bincount(rows % 100), np.bincount(rows // 10_000)):
        assert len(counts) in (16, 100) and scipy.stats.chisquare(counts).pvalue > 1e-4
    assert len(np.unique(rows)) == pytest.approx(n * (1 - math.exp(-len(rows) / n)), rel=0.01)


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_weights_are_those_of_the_formula(exponent):
    """wᵢ = (N Pᵢ)⁻ᵝ / maxⱼ wⱼ over the batch, in float64."""
    values = np.random.default_rng(0).gamma(1, size=400) + 0.01
    rows, weights = draw(with_priorities(values, 2), KEY, 32, exponent)
    expected = (400 * values[flat(rows, 2)] / values.sum()) ** -exponent
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-4)
    assert weights.max() == 1 and weights.shape == (32,)


def test_with_exponent_zero_draws_are_uniform():
    """Whatever the errors, zero among them."""
    replay = update(
        with_priorities(np.arange(400.0), 2), everything(400, 2), jnp.arange(400.0), 0.0
    )
    rows, weights = draws(replay, jax.random.split(KEY, 1_000), 32, 1.0)
    assert scipy.stats.chisquare(np.bincount(flat(rows, 2).ravel(), minlength=400)).pvalue > 1e-4
    np.testing.assert_array_equal(weights, 1)


def test_new_rows_come_first():
    """They get the largest priority ever given, also when its row is gone."""
    replay = update(
        with_priorities(np.ones(400), 2), everything(400, 2), jnp.arange(400.0) - 340, 0.5
    )
    assert replay.priorities.max_priority == pytest.approx(math.sqrt(340))
    replay = insert(replay, rollout(200, 2))
    np.testing.assert_allclose(priorities(replay), math.sqrt(340), rtol=1e-5)


@pytest.mark.parametrize("truncated", [0.1, 0.5, 1.0])
def test_what_the_ring_forgets_is_never_drawn_again(truncated):
    """As it does with pictures whose successors it has no place for."""
    lives = Lives(0, 2, truncated=truncated)
    replay = init(example(), 60, 2, 3)
    for _ in range(25):
        replay = insert(replay, lives.live(3))
        ring = replay.buffer
        held = np.arange(ring_buffer.oldest(ring), ring.inserted) % 30
        assert set(np.flatnonzero(priorities(replay).reshape(30, 2).all(1))) == set(held)
        assert (priorities(replay) > 0).sum() == 2 * len(held)
        rows = Indices(jnp.arange(30), np.zeros(30, np.int32))  # also those that are forgotten
        replay = update(replay, rows, jnp.arange(30.0), 1.0)
        assert (priorities(replay) > 0).sum() == 2 * len(held)
    assert truncated < 0.5 or len(held) < 30
    assert_sums_are_right(replay)


@pytest.mark.slow
def test_many_replays_in_one_program_are_each_replay_alone():
    """Inserts, draws and updates, where the ring forgets and where it does not."""

    def step(replay, experience):
        replay = insert(replay, experience)
        rows, weights = draw(replay, KEY, 30, 0.4)
        return update(replay, rows, rows.time + weights, 0.6), (rows, weights)

    lives = [Lives(seed, 2, truncated=truncated) for seed, truncated in enumerate((0.05, 0.6))]
    alone = [init(example(), 60, 2, 3)] * 2
    together, many = jax.tree.map(lambda x: np.stack([x, x]), alone[0]), jax.jit(jax.vmap(step))
    for _ in range(15):
        rollouts = [jax.device_get(life.live(3)) for life in lives]
        alone, drawn = zip(*map(step, alone, rollouts), strict=True)
        together, told = many(together, jax.tree.map(lambda *x: np.stack(x), *rollouts))
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-6),
            told,
            jax.tree.map(lambda *x: np.stack(x), *drawn),
        )
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-6),
        together,
        jax.tree.map(lambda *x: np.stack(x), *alone),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "like",
    [NUMBER, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), example())],
    ids=["numbers", "pictures"],
)
def test_a_draw_and_an_update_inside_a_loop_copy_nothing(like):
    capacity = 1_000_000
    rollout = jax.tree.map(lambda x: np.zeros((1, 1, *x.shape), x.dtype), like)

    def step(i, replay):
        replay = insert_rollout(replay, rollout)
        rows, weights = sample_indices(replay, jax.random.fold_in(KEY, i), 32, 0.4)
        batch = ring_buffer.gather(replay.buffer, rows)
        return update_priorities(replay, rows, weights + jax.tree.leaves(batch)[0].sum(), 0.6)

    start = jax.eval_shape(lambda: init_replay(like, capacity, 1, 1))
    compiled = (
        jax.jit(partial(jax.lax.fori_loop, 0, 100, step), donate_argnums=0).lower(start).compile()
    )
    rows = rf"= \w+\[(?:{capacity}|{capacity // prioritized.CHILDREN}),[^=]* (?:copy|copy-start)\("
    assert not re.findall(rows, compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < capacity // 4
