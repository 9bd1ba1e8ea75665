"""Recurrent encoders against their own single steps, one after another, in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled

from etude.nn import history
from etude.nn.critics import critic_values, make_critics
from etude.nn.history import History, RecurrentEncoder
from etude.nn.networks import make_network, make_network_encoder
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace

KEY = jax.random.key(0)
SPACE = Box((3,))
TIME, BATCH = 5, 4


def cell_encoder(kind):
    return make_network_encoder(KEY, SPACE, recurrent=kind)[0]


def past_of(kind, burn_in=0, slots=1):
    """Random observations, ends of episodes and carries."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    arrays = 1 if isinstance(kind, GRU) else 2
    carries = tuple(tuple(draw(BATCH, 2) for _ in range(arrays)) for _ in range(slots))
    return History(draw(TIME, BATCH, 3), carries, rng.random((TIME, BATCH)) < 0.3, burn_in=burn_in)


def by_steps(encoder, past):
    """The carries [time] after each observation, by one step after another."""
    carry, carries = past.carries[encoder.carry_index], []
    for observation, is_first in zip(past.observation, past.is_first, strict=True):
        carry = jax.tree.map(lambda h, is_first=is_first: jnp.where(is_first[:, None], 0, h), carry)
        carry = step(encoder, History(observation, (carry,) * (encoder.carry_index + 1)))
        carries.append(carry)
    return carries


step = jax.jit(lambda encoder, past: encoder.next_carry(past))


@pytest.mark.parametrize(
    "kind, burn_in", [(GRU(2), 2), (LSTM(2), 0)], ids=["gru after a burn-in", "lstm"]
)
def test_a_sequence_is_its_steps_one_after_another(kind, burn_in):
    """The features after each observation, and after each next observation in its place, which may
    be that of a later row."""
    encoder, past = (filled(lambda: cell_encoder(kind)), past_of(kind, burn_in))
    carries = by_steps(encoder, past)
    expected = [carry[0] for carry in carries[burn_in:]]
    np.testing.assert_allclose(call(encoder, past), expected, rtol=1e-4, atol=1e-6)
    following = np.random.default_rng(2).normal(size=(TIME, BATCH, 3)).astype(np.float32)
    ahead = [
        step(encoder, History(x, (carry,)))[0] for x, carry in zip(following, carries, strict=True)
    ][burn_in:]
    past = replace(past, next_observation=following)
    np.testing.assert_allclose(call(encoder, past), ahead, rtol=1e-4, atol=1e-6)
    row = np.random.default_rng(3).integers(0, TIME - burn_in, (TIME - burn_in, BATCH))
    told = call(encoder, replace(past, bootstrap_row=row.astype(np.int32)))
    later = [[ahead[row[t, i]][i] for i in range(BATCH)] for t in range(len(row))]
    np.testing.assert_allclose(told, later, rtol=1e-4, atol=1e-6)


def test_without_carries_a_history_begins_at_zero():
    encoder, past = (filled(lambda: cell_encoder(GRU(2))), past_of(GRU(2)))
    zeros = replace(past, carries=((jnp.zeros((BATCH, 2)),),))
    np.testing.assert_array_equal(call(encoder, replace(past, carries=())), call(encoder, zeros))


def test_no_gradient_passes_through_the_burn_in():
    encoder, past = (filled(lambda: cell_encoder(GRU(2))), past_of(GRU(2), 2))
    past = replace(past, is_first=np.zeros((TIME, BATCH), bool))

    slope = jax.jit(jax.grad(lambda x: encoder(replace(past, observation=x)).sum()))(
        past.observation
    )
    assert (slope[:2] == 0).all() and (slope[2:] != 0).all()


def test_each_network_has_its_own_carry():
    """A policy's and two critics': in the order of their slots, read and stepped apart."""
    spec = EnvironmentSpec(SPACE, Box((2,), low=-1.0, high=1.0))
    policy = filled(lambda: make_network(KEY, SPACE, (), 2, recurrent=GRU(2)))
    critics = filled(lambda: make_critics(KEY, spec, (4,), recurrent=GRU(2)), 1)
    networks = critics, policy
    encoders = history.recurrent_encoders(networks)
    assert [encoder.carry_index for encoder in encoders] == [0, 1, 2]
    assert all(isinstance(encoder, RecurrentEncoder) for encoder in encoders)
    blank = history.initial_carries(networks, (BATCH,))
    assert [carry[0].shape for carry in blank] == [(BATCH, 2)] * 3
    past = past_of(GRU(2), slots=3)
    observation, carries = past.observation[0], past.carries
    read, after = jax.jit(history.read_history)(networks, observation, carries)
    assert isinstance(read, History)
    for encoder, carry in zip(encoders, after, strict=True):
        np.testing.assert_allclose(
            carry[0], step(encoder, History(observation, carries))[0], rtol=1e-5
        )
    alone = jax.jit(history.read_history)(policy, observation, carries)[1]
    np.testing.assert_allclose(alone[0][0], after[0][0], rtol=1e-6)
    np.testing.assert_array_equal(alone[1:], carries[1:])
    # a critic reads the history by its own cell, and the action
    action = np.random.default_rng(0).uniform(-1, 1, (TIME, BATCH, 2)).astype(np.float32)
    values = jax.jit(critic_values)(critics, past, action)
    for critic, value in zip(critics, values, strict=True):
        features = jnp.stack([c[0] for c in by_steps(critic.encoder.history_encoder, past)])
        expected = call(critic.head, jnp.concatenate([features, action], -1))[..., 0]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_what_is_not_recurrent_reads_the_observation():
    network = filled(lambda: make_network(KEY, SPACE, (), 2))
    observation = jnp.zeros((BATCH, 3))
    read, carries = history.read_history(network, observation, ())
    assert read is observation and carries == ()
    assert history.initial_carries(network, (BATCH,)) == ()
