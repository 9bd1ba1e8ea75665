"""The ring against a deque, draws that are uniform, and inserts that cost what is inserted, not what is held."""
import collections
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from etude.experience import Transition, example
from etude.replay import uniform as replay
from etude.spaces import Box, Discrete, MultiBinary, Spec, Tree

insert = jax.jit(replay.insert)
sample = jax.jit(replay.sample, static_argnames="batch_size")


def numbered(start, rows, num_envs):
    """A rollout [rows, env] that counts time in `step` and names its copy in `env`."""
    step = jnp.arange(start, start + rows)
    return {"step": jnp.broadcast_to(step[:, None], (rows, num_envs)),
            "env": jnp.broadcast_to(jnp.arange(num_envs), (rows, num_envs))}


NUMBER = {"step": jnp.int32(0), "env": jnp.int32(0)}


@pytest.mark.parametrize("capacity, num_envs, rows", [(12, 2, 3), (13, 2, 3), (4, 1, 1), (4, 1, 4), (40, 3, 2), (6, 6, 1)])
def test_the_ring_holds_the_latest_as_a_deque_does(capacity, num_envs, rows):
    ring = replay.init(NUMBER, capacity, num_envs, rows)
    time = replay.length(ring)
    assert capacity - rows * num_envs < time * num_envs <= capacity and time % rows == 0
    deque = collections.deque(maxlen=time)
    for i in range(3 * time // rows + 2):                                       # round more than three times
        ring = insert(ring, numbered(i * rows, rows, num_envs))
        deque.extend(range(i * rows, i * rows + rows))
        assert ring.inserted == (i + 1) * rows
        held = np.asarray(ring.storage["step"])[:len(deque)]
        assert sorted(held[:, 0]) == list(deque)
        assert (held == held[:, :1]).all() and (ring.storage["env"] == np.arange(num_envs)).all(1)[:len(deque)].all()
        if len(deque) == time:
            assert held[int(ring.inserted) % time, 0] == deque[0]               # the oldest is overwritten next
            np.testing.assert_array_equal(np.roll(held[:, 0], -(int(ring.inserted) % time)), deque)


def test_every_part_of_a_transition_stays_together_in_its_dtype():
    spec = Spec(Tree((Box((3, 3), "uint8", 0.0, 255.0), MultiBinary((2,))), ("eye", "touch")), Discrete(5), 2)
    rng = np.random.default_rng(0)

    def rollout(start):
        mark = (start + np.arange(4)).reshape(2, 2)
        eye = np.broadcast_to(mark[..., None, None], (2, 2, 3, 3))
        observation = {"eye": jnp.uint8(eye), "touch": jnp.int8(rng.integers(2, size=(2, 2, 2)))}
        successor = {"eye": jnp.uint8(eye + 1), "touch": observation["touch"]}
        return Transition(observation, jnp.int32(mark % 5), jnp.float32(mark), successor, jnp.bool_(mark % 2),
                          jnp.bool_(mark % 3 == 0))
    ring = replay.init(example(spec), 16, 2, 2)
    for start in range(0, 40, 4):
        ring = insert(ring, rollout(start))
    drawn = sample(ring, jax.random.key(0), 64)
    expected = jax.tree.map(lambda x: x.dtype, rollout(0))
    assert jax.tree.map(lambda x: x.dtype, drawn) == expected
    assert drawn.observation["eye"].dtype == jnp.uint8 and drawn.observation["eye"].shape == (64, 3, 3)
    mark = np.asarray(drawn.reward)
    assert set(mark) <= set(range(24, 40)) and len(set(mark)) > 8
    np.testing.assert_array_equal(drawn.observation["eye"][:, 1, 2], mark)
    np.testing.assert_array_equal(drawn.next_observation["eye"], drawn.observation["eye"] + 1)
    np.testing.assert_array_equal(drawn.action, mark % 5)
    np.testing.assert_array_equal(drawn.terminated, mark % 2 == 1)
    np.testing.assert_array_equal(drawn.truncated, mark % 3 == 0)


def test_rewards_of_another_dtype_are_kept_in_that_of_the_ring():
    ring = insert(replay.init({"reward": jnp.float32(0)}, 2, 1, 1), {"reward": jnp.array([[3]], jnp.int32)})
    assert ring.storage["reward"].dtype == jnp.float32 and ring.storage["reward"][0, 0] == 3


@pytest.mark.parametrize("inserts", [1, 3, 5, 12])
def test_draws_are_uniform_over_the_rows_that_are_filled(inserts):
    """Before the ring is full nothing empty is drawn; after it everything held is."""
    ring = replay.init(NUMBER, 30, 3, 2)
    for i in range(inserts):
        ring = insert(ring, numbered(1 + 2 * i, 2, 3))                          # step 0 would be an empty row
    drawn = sample(ring, jax.random.key(inserts), 20_000)
    kept = min(2 * inserts, 10)
    rows = np.asarray(drawn["step"]) - (2 * inserts - kept) - 1
    assert rows.min() == 0 and rows.max() == kept - 1
    seen = np.bincount(rows * 3 + np.asarray(drawn["env"]), minlength=3 * kept)
    assert scipy.stats.chisquare(seen).pvalue > 1e-4
    assert not np.array_equal(drawn["step"], sample(ring, jax.random.key(99), 20_000)["step"])


CAPACITY = 1_000_000
COPY = rf"= \w+\[{CAPACITY},[^=]* (?:copy|copy-start)\("


def copies_of_the_storage(update):
    """The copies of a ring of CAPACITY rows in the compiled loop of `update(i, (ring, sum))`, and its scratch bytes."""
    start = jax.eval_shape(lambda: (replay.init({"x": jnp.zeros(())}, CAPACITY, 1, 1), jnp.zeros(())))
    compiled = jax.jit(partial(jax.lax.fori_loop, 0, 100, update), donate_argnums=0).lower(start).compile()
    return len(re.findall(COPY, compiled.as_text())), compiled.memory_analysis().temp_size_in_bytes


def one(i):
    return {"x": jnp.full((1, 1), i, jnp.float32)}


def test_an_insert_inside_a_loop_writes_in_place():
    def update(i, carry):
        ring, total = carry
        ring = replay.insert(ring, one(i))
        drawn = replay.sample(ring, jax.random.fold_in(jax.random.key(0), i), 8)
        return ring, total + drawn["x"].mean()
    copies, scratch = copies_of_the_storage(update)
    assert copies == 0 and scratch < CAPACITY                                    # a copy would be four times that


def test_a_loop_that_copies_its_ring_is_noticed():
    """That the test above would fail if it should: here the ring is needed as it was before the insert."""
    def update(i, carry):
        ring, total = carry
        later = replay.insert(ring, one(i))
        return later, total + ring.storage["x"][(i * 7) % CAPACITY, 0] * later.storage["x"][(i * 5) % CAPACITY, 0]
    copies, scratch = copies_of_the_storage(update)
    assert copies > 0 and scratch >= 4 * CAPACITY


def test_the_whole_loop_of_dqn_never_copies_its_replay():
    """Inserts, draws and the wait for the warmup, as training compiles them."""
    from etude.algorithms.value.dqn import DQN
    from etude.environments.jax_backend import Jax
    from etude.environments.probes import Counter
    from etude.training import begin, compile_chunk
    dqn, environment = DQN(capacity=CAPACITY, hidden=(4,), rollout_length=1, gradient_steps=1), Jax(Counter(), 1)
    training = jax.eval_shape(partial(begin, dqn, environment), jax.random.key(0))
    assert training.state.replay.storage.reward.shape == (CAPACITY, 1)
    compiled = compile_chunk(dqn, environment, training, jax.random.key(0), 10, 0)
    assert not re.findall(COPY, compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < CAPACITY
