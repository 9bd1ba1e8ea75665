"""The ring against lists of everything lived: what it holds, what follows it, and pictures of which
none is stored twice."""

import collections
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import Lives, example, number_of, picture

from etude.data.replay import ring_buffer, windows
from etude.data.replay.ring_buffer import Indices
from etude.data.transition import Transition
from etude.errors import InvalidInput

init = jax.jit(ring_buffer.init, static_argnames=("capacity", "num_envs", "rollout_length"))
insert, truncate_newest = jax.jit(ring_buffer.insert), jax.jit(ring_buffer.truncate_newest)
at = jax.jit(ring_buffer.gather)
window = jax.jit(windows.window, static_argnames="n")
n_step = jax.jit(windows.n_step_transitions, static_argnames="n")

NUMBER = {"step": np.int32(0), "env": np.int32(0)}
SIZES = [(24, 2, 3), (25, 2, 4), (6, 6, 1), (300, 2, 2)]  # capacity, num_envs, rollout_length
quick = settings(deadline=None, max_examples=25)
shares = st.sampled_from([0.0, 0.05, 0.3, 1.0])


def numbered(start, rows, num_envs):
    """A rollout [rows, env] that counts time in `step` and names its copy in `env`."""
    step = jnp.arange(start, start + rows)
    return {
        "step": jnp.broadcast_to(step[:, None], (rows, num_envs)),
        "env": jnp.broadcast_to(jnp.arange(num_envs), (rows, num_envs)),
    }


@pytest.mark.parametrize(
    "capacity, num_envs, rows",
    [(13, 2, 3), (4, 1, 4), pytest.param(40, 3, 2, marks=pytest.mark.slow)],
)
def test_the_ring_holds_the_latest_as_a_deque_does(capacity, num_envs, rows):
    ring = ring_buffer.init(NUMBER, capacity, num_envs, rows)
    time = ring_buffer.length(ring)
    assert (
        capacity - rows * num_envs < time * num_envs <= capacity
        and time % rows == 0
        and ring_buffer.num_valid(ring) == 0
    )
    deque = collections.deque(maxlen=time)
    for i in range(3 * time // rows + 2):  # round more than three times
        ring = insert(ring, numbered(i * rows, rows, num_envs))
        deque.extend(range(i * rows, i * rows + rows))
        assert (
            ring.inserted == (i + 1) * rows
            and ring_buffer.num_valid(ring) == len(deque)
            and ring_buffer.oldest(ring) == deque[0]
        )
        order = Indices(
            (int(ring_buffer.oldest(ring)) + np.arange(len(deque)))[:, None] % time,
            np.arange(num_envs)[None],
        )
        drawn = at(ring, order)
        np.testing.assert_array_equal(drawn["step"], np.tile(np.array(deque)[:, None], num_envs))
        np.testing.assert_array_equal(drawn["env"], np.tile(np.arange(num_envs), (len(deque), 1)))


def filled(seed, size, inserts, cut=0.0, **chances):
    """A ring after so many inserts, the lives it was filled with, and the times of the rows that it
    should hold. After an insert, each copy is cut off with the chance `cut`."""
    capacity, num_envs, rows = size
    lives = Lives(seed, num_envs, **chances)
    ring = init(example(lives.images), capacity, num_envs, rows)
    for _ in range(inserts):
        ring = insert(ring, lives.live(rows))
        if cut:
            is_cut = lives.rng.random(num_envs) < cut
            lives.cut(is_cut)
            ring = truncate_newest(ring, is_cut)
    places = ring.boundary.row.size if ring.boundary else 0
    return ring, lives, range(lives.oldest(ring_buffer.length(ring), places), inserts * rows)


def everything(ring, lives, held):
    """All the rows that should be held, [row], and the time and copy of each in a list; the oldest
    ones, of equal number."""
    where = [(t, env) for t in held for env in range(ring_buffer.num_envs(ring))]
    full = ring_buffer.length(ring) * ring_buffer.num_envs(ring)
    padded = np.array(where + where[:1] * (full - len(where)))  # of one shape, to compile once
    return Indices(np.int32(padded[:, 0] % ring_buffer.length(ring)), np.int32(padded[:, 1])), where


@quick
@given(
    st.integers(0, 2**31),
    st.sampled_from(SIZES),
    st.integers(1, 14),
    shares,
    shares,
    st.sampled_from([0.0, 0.5]),
)
def test_every_row_held_has_its_true_successor(seed, size, inserts, terminated, truncated, cut):
    """Wherever value may be asked for, in pictures as in numbers, and where a newest row was
    truncated after it was inserted."""
    ring, lives, held = filled(seed, size, inserts, cut, terminated=terminated, truncated=truncated)
    assert (
        ring_buffer.oldest(ring) == held[0] and ring_buffer.num_valid(ring) == len(held) >= size[2]
    )
    rows, where = everything(ring, lives, held)
    drawn = jax.tree.map(lambda x: np.asarray(x)[: len(where)], at(ring, rows))
    lived = {
        name: np.array([lives.rows[t][env][name] for t, env in where]) for name in lives.rows[0][0]
    }
    eye, after = drawn.observation["eye"], drawn.next_observation["eye"]
    assert eye.dtype == after.dtype == np.uint8 and eye.shape == after.shape == (len(where), 2, 2)
    np.testing.assert_array_equal(number_of(eye), lived["observation"])
    np.testing.assert_array_equal(drawn.observation["number"], lived["observation"])
    np.testing.assert_array_equal(drawn.next_observation["number"], lived["after"])
    np.testing.assert_array_equal(
        number_of(after)[~lived["terminated"]], lived["after"][~lived["terminated"]]
    )
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(drawn, name), lived[name])


@quick
@given(
    st.integers(0, 2**31),
    st.sampled_from([*zip(SIZES, (2, 9, 1, 3), strict=True)]),
    st.integers(1, 14),
    shares,
    shares,
    st.booleans(),
)
def test_n_steps_stay_in_the_episode_and_before_the_newest_row(
    seed, kind, inserts, terminated, truncated, pictures
):
    size, n = kind
    ring, lives, held = filled(
        seed, size, inserts, terminated=terminated, truncated=truncated, images=pictures
    )
    rows, where = everything(ring, lives, held)
    folded, bootstrap = jax.tree.map(
        lambda x: np.asarray(x)[: len(where)], n_step(ring, rows, n=n, discount=0.9)
    )
    told = zip(*(lives.n_step(t, env, n, 0.9) for t, env in where), strict=True)
    reward, after, ended, cut, discount = map(np.array, told)
    np.testing.assert_allclose(folded.reward, reward, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bootstrap, discount, rtol=1e-5)
    np.testing.assert_array_equal(folded.terminated, ended)
    np.testing.assert_array_equal(folded.truncated, cut)
    np.testing.assert_array_equal(
        folded.action, [lives.rows[t][env]["observation"] for t, env in where]
    )
    numbers = number_of(folded.next_observation["eye"]) if pictures else folded.next_observation
    np.testing.assert_array_equal(numbers[~ended], after[~ended])


@pytest.mark.slow
@quick
@given(
    st.integers(0, 2**31),
    st.sampled_from([*zip(SIZES, (9, 1, 2, 4), strict=True)]),
    st.integers(1, 14),
)
def test_a_window_is_what_followed_and_is_cut_at_the_newest_row(seed, kind, inserts):
    size, n = kind
    ring, lives, held = filled(seed, size, inserts)
    rows, where = everything(ring, lives, held)
    seen = jax.tree.map(lambda x: np.asarray(x)[:, : len(where)], window(ring, rows, n=n))
    for column, (t, env) in enumerate(where):
        for k in range(min(n, held.stop - t)):
            row = lives.rows[t + k][env]
            assert number_of(seen.observation["eye"][k, column]) == row["observation"]
            overrun = t + k == held.stop - 1 and k < n - 1 and not row["terminated"]
            assert seen.truncated[k, column] == (row["truncated"] or overrun)
            assert seen.terminated[k, column] == row["terminated"]


def test_one_step_is_the_row_itself():
    ring, lives, held = filled(0, SIZES[0], 9)
    rows, _ = everything(ring, lives, held)
    folded, bootstrap = n_step(ring, rows, n=1, discount=0.9)
    jax.tree.map(np.testing.assert_array_equal, folded, at(ring, rows))
    np.testing.assert_array_equal(bootstrap, np.full(rows.time.shape, np.float32(0.9)))


@pytest.mark.slow
def test_what_is_no_transition_is_stored_as_it_is():
    like = {
        "observation": np.zeros((3, 3), np.uint8),
        "next_observation": np.zeros((3, 3), np.uint8),
    }
    ring = ring_buffer.init(like, 4, 1, 2)
    rollout = {
        "observation": np.ones((2, 1, 3, 3), np.uint8),
        "next_observation": jnp.full((2, 1, 3, 3), 7, jnp.uint8),
    }
    drawn = at(insert(ring, rollout), Indices(np.int32([0]), np.int32([0])))
    assert (
        ring.boundary == ()
        and (drawn["next_observation"] == 7).all()
        and drawn["next_observation"].shape == (1, 3, 3)
    )
    seen = window(insert(ring, rollout), Indices(np.int32([0]), np.int32([0])), n=2)
    assert seen["observation"].shape == (2, 1, 3, 3)


def test_rewards_of_another_dtype_are_kept_in_that_of_the_ring():
    ring = insert(
        ring_buffer.init({"reward": np.float32(0)}, 2, 1, 1),
        {"reward": jnp.array([[3]], jnp.int32)},
    )
    assert ring.storage["reward"].dtype == jnp.float32 and ring.storage["reward"][0, 0] == 3


def test_rollouts_that_do_not_fit_are_refused():
    with pytest.raises(
        InvalidInput,
        match=r"capacity 7 cannot hold one rollout of 8 \(rollout_length 4 × num_envs 2\)",
    ):
        ring_buffer.init(NUMBER, 7, 2, 4)
    ring = ring_buffer.init(NUMBER, 16, 2, 4)
    with pytest.raises(
        InvalidInput,
        match="a rollout of 3 steps does not divide the 8 rows of the ring; give `init`",
    ):
        ring_buffer.insert(ring, numbered(0, 3, 2))


@pytest.mark.slow
def test_many_rings_in_one_program_are_each_ring_alone():
    """Written and read, where few successors and where many are set aside."""
    capacity, num_envs, length = SIZES[0]
    rows = Indices(jnp.arange(12), jnp.arange(12) % 2)

    def live(rollouts):
        ring = ring_buffer.init(example(), capacity, num_envs, length)
        ring = jax.lax.scan(
            lambda ring, rollout: (ring_buffer.insert(ring, rollout), None), ring, rollouts
        )[0]
        return ring, ring_buffer.gather(ring, rows)

    lives = [
        Lives(seed, num_envs, truncated=truncated) for seed, truncated in enumerate((0.1, 1.0))
    ]
    rollouts = [
        jax.tree.map(lambda *x: np.stack(x), *(life.live(length) for _ in range(7)))
        for life in lives
    ]
    alone, together = (
        jax.jit(live),
        jax.jit(jax.vmap(live))(jax.tree.map(lambda *x: np.stack(x), *rollouts)),
    )
    for i in range(2):
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda x, i=i: x[i], together),
            alone(rollouts[i]),
        )


# What it costs

CAPACITY = 1_000_000
COPY = rf"= \w+\[{CAPACITY},[^=]* (?:copy|copy-start)\("
MANY = 2_000  # rows of pictures of 64 × 64


def compiled_loop(example, capacity, update):
    """The loop of `update(i, (ring, sum))`, the ring handed over: its text and its scratch
    bytes."""
    start = jax.eval_shape(lambda: (ring_buffer.init(example, capacity, 1, 1), jnp.zeros(())))
    compiled = (
        jax.jit(partial(jax.lax.fori_loop, 0, 100, update), donate_argnums=0).lower(start).compile()
    )
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


def draw(ring, i):
    """Eight rows somewhere among those held."""
    return at(
        ring,
        Indices(
            (i * jnp.arange(1, 9)) % jnp.minimum(ring.inserted, ring_buffer.length(ring)),
            jnp.zeros(8, jnp.int32),
        ),
    )


def one(i):
    return {"x": jnp.full((1, 1), i, jnp.float32)}


@pytest.mark.slow
def test_an_insert_inside_a_loop_writes_in_place():
    def update(i, carry):
        ring, total = carry
        ring = ring_buffer.insert(ring, one(i))
        return ring, total + draw(ring, i)["x"].mean()

    text, scratch = compiled_loop({"x": np.zeros((), np.float32)}, CAPACITY, update)
    assert not re.findall(COPY, text) and scratch < CAPACITY  # a copy would be four times that


@pytest.mark.slow
def test_a_loop_that_copies_its_ring_is_noticed():
    """That the test above would fail if it should: here the ring is needed as it was before the
    insert."""

    def update(i, carry):
        ring, total = carry
        after = ring_buffer.insert(ring, one(i))
        return after, total + ring.storage["x"][(i * 7) % CAPACITY, 0] * after.storage["x"][
            (i * 5) % CAPACITY, 0
        ]

    text, scratch = compiled_loop({"x": np.zeros((), np.float32)}, CAPACITY, update)
    assert re.findall(COPY, text) and scratch >= 4 * CAPACITY


def seen(i, size=64):
    """One step of a life in pictures, cut off now and then."""
    eye = jnp.full((1, 1, size, size), i, jnp.uint8)
    return Transition(
        eye,
        jnp.int32([[0]]),
        jnp.float32([[1]]),
        eye + jnp.uint8(1),
        jnp.bool_([[False]]),
        jnp.reshape(i % 100 == 99, (1, 1)),
    )


@pytest.mark.slow
def test_an_insert_of_pictures_inside_a_loop_writes_in_place():
    like = jax.tree.map(lambda x: x[0, 0], seen(0))

    def update(i, carry):
        ring, total = carry
        ring = ring_buffer.insert(ring, seen(i))
        drawn = draw(ring, i)
        return ring, total + drawn.next_observation.mean() + drawn.observation.mean()

    _, scratch = compiled_loop(like, MANY, update)
    assert scratch < MANY // 64 * 64 * 64  # not even the pictures set aside


@pytest.mark.slow
def test_n_steps_gather_two_pictures_and_not_a_window_of_them():
    ring = jax.eval_shape(
        lambda: ring_buffer.init(jax.tree.map(lambda x: x[0, 0], seen(0)), MANY, 1, 1)
    )
    rows = Indices(np.zeros(32, np.int32), np.zeros(32, np.int32))
    scratch = (
        n_step.lower(ring, rows, n=50, discount=0.9).compile().memory_analysis().temp_size_in_bytes
    )
    assert scratch < 10 * 32 * 64 * 64  # a window would take fifty times the 32
    assert picture(300).tolist() == [[1, 44], [1, 44]]
