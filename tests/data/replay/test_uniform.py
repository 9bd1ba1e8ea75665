"""Draws that are uniform over what is held, and the loop of training that never copies the
buffer."""

import re
from functools import partial

import jax
import numpy as np
import pytest
import scipy.stats
from batches import sample
from lives import Lives, example

from etude.data.replay import ring_buffer, uniform

insert = jax.jit(ring_buffer.insert)
at = jax.jit(ring_buffer.gather)
draw = jax.jit(uniform.sample_indices, static_argnames="batch_size")


def filled(inserts, **chances):
    """Rollouts of 2 steps of 3 copies in a ring of 10 rows, and the lives they are from."""
    lives = Lives(inserts, 3, **chances)
    ring = ring_buffer.init(example(lives.images), 30, 3, 2)
    for _ in range(inserts):
        ring = insert(ring, lives.live(2))
    return ring, lives


@pytest.mark.parametrize("inserts", [1, 3, 12])
def test_draws_are_uniform_over_what_is_held(inserts):
    """Nothing empty is drawn before the ring is full, and everything held after."""
    ring, _ = filled(inserts, images=False)
    rows = draw(ring, jax.random.key(inserts), 20_000)
    kept = min(2 * inserts, 10)
    age = (rows.time - (2 * inserts - kept)) % 10
    assert age.min() == 0 and age.max() == kept - 1
    counts = np.bincount(age * 3 + rows.env, minlength=3 * kept)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert not np.array_equal(rows.env, draw(ring, jax.random.key(99), 20_000).env)


@pytest.mark.slow
def test_draws_are_uniform_over_what_is_held_though_it_be_less_than_there_is_room_for():
    """Every step is cut off, so that the six successors there are places for are those of the last
    two rows."""
    ring, lives = filled(9, truncated=1.0)
    assert ring_buffer.num_valid(ring) == 2 and lives.oldest(10, 6) == 16
    rows = draw(ring, jax.random.key(0), 5_000)
    counts = np.bincount((rows.time - 16 % 10) * 3 + rows.env)
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_many_buffers_in_one_program_are_each_buffer_alone():
    two, keys = [filled(inserts)[0] for inserts in (2, 8)], jax.random.split(jax.random.key(0), 2)
    many = jax.jit(jax.vmap(partial(sample, count=20)))(
        jax.tree.map(lambda *x: np.stack(x), *two), keys
    )
    for i in range(2):
        drawn = at(two[i], draw(two[i], keys[i], 20))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], many), drawn)


@pytest.mark.slow
def test_the_whole_loop_of_dqn_never_copies_its_replay():
    """Inserts, draws and the wait for the warmup, as training compiles them."""
    from etude.algorithms.value.dqn import DQN
    from etude.environments.backends.jax_envs import JaxEnvs
    from etude.environments.probes import Counter
    from etude.training import compile_chunk, init_train_state

    capacity = 1_000_000
    dqn, environment = (
        DQN(capacity=capacity, hidden=(4,), rollout_length=1, gradient_steps=1),
        JaxEnvs(Counter(), 1),
    )
    training = jax.eval_shape(partial(init_train_state, dqn, environment), jax.random.key(0))
    assert training.algorithm_state.replay.storage.reward.shape == (capacity, 1)
    compiled = compile_chunk(dqn, environment, training, jax.random.key(0), 10)
    assert not re.findall(rf"= \w+\[{capacity},[^=]* (?:copy|copy-start)\(", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < capacity
