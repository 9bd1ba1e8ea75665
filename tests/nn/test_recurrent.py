"""Recurrent layers against loops over their equations, and a stretch of time against its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled
from scipy.special import expit

from etude.nn.recurrent import GRU, LSTM, initial_carry, step_cell, unroll_cell

KEY = jax.random.key(0)
INPUTS, SIZE, TIME, ENVS = 3, 4, 7, 5
PARTS = {"gru": 1, "lstm": 2}
KINDS = {"gru": GRU(SIZE), "lstm": LSTM(SIZE)}
every_kind = pytest.mark.parametrize("kind", PARTS)


def layer(kind):
    return filled(lambda: KINDS[kind].make(KEY, INPUTS), scale=0.7)


def drawn(kind, seed=0):
    """(inputs [time, env, inputs], memory [env, size], where an episode begins [time, env]); some
    begin at the first step."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(TIME, ENVS, INPUTS)).astype(np.float32)
    memory = tuple(rng.normal(size=(ENVS, SIZE)).astype(np.float32) for _ in range(PARTS[kind]))
    fresh = rng.random((TIME, ENVS)) < 0.3
    assert fresh[0].any() and not fresh[0].all() and fresh[1:].any()
    return x, memory, fresh


def slow_step(kind, core, x, memory):
    """The memory after one input [inputs], unit by unit in float64."""
    w, b, u, c = (
        np.asarray(a, float)
        for a in (
            core.input_projection.weight,
            core.input_projection.bias,
            core.recurrent_projection.weight,
            core.recurrent_projection.bias,
        )
    )
    gates = len(w) // SIZE

    def parts(i):
        """(drive, own) of each gate of unit i."""
        return [
            (
                w[gate * SIZE + i] @ x + b[gate * SIZE + i],
                u[gate * SIZE + i] @ memory[0] + c[gate * SIZE + i],
            )
            for gate in range(gates)
        ]

    after = np.zeros((PARTS[kind], SIZE))
    for i in range(SIZE):
        if kind == "gru":
            reset, update, new = parts(i)
            r, z = expit(sum(reset)), expit(sum(update))
            after[0, i] = (1 - z) * np.tanh(new[0] + r * new[1]) + z * memory[0][i]
        else:
            let_in, keep, cell, let_out = (sum(pair) for pair in parts(i))
            after[1, i] = expit(keep) * memory[1][i] + expit(let_in) * np.tanh(cell)
            after[0, i] = expit(let_out) * np.tanh(after[1, i])
    return tuple(after)


def slow_unroll(kind, core, x, memory, fresh):
    told = np.zeros((PARTS[kind], TIME, ENVS, SIZE))
    for i in range(ENVS):
        now = tuple(np.asarray(part[i], float) for part in memory)
        for t in range(TIME):
            if fresh[t, i]:
                now = tuple(np.zeros(SIZE) for _ in memory)
            now = slow_step(kind, core, x[t, i], now)
            told[:, t, i] = now
    return tuple(told)


@jax.jit
def told(core, x, memory, fresh):
    """A stretch of time at once, and one step after another."""
    now, steps = memory, []
    for t in range(TIME):
        now = step_cell(
            core, x[t], jax.tree.map(lambda h, t=t: jnp.where(fresh[t][:, None], 0, h), now)
        )
        steps.append(now)
    return unroll_cell(core, x, memory, fresh), jax.tree.map(
        lambda *parts: jnp.stack(parts), *steps
    )


@every_kind
def test_a_stretch_of_time_is_its_steps_and_those_of_a_loop(kind):
    """Where an episode begins, what was before is forgotten, also what was before the first
    step."""
    x, memory, fresh = drawn(kind)
    together, steps = told(layer(kind), x, memory, fresh)
    assert len(together) == PARTS[kind]
    for ours, stepped, loop in zip(
        together, steps, slow_unroll(kind, layer(kind), x, memory, fresh), strict=True
    ):
        assert ours.shape == (TIME, ENVS, SIZE)
        np.testing.assert_allclose(ours, loop, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stepped, ours, rtol=1e-5, atol=1e-6)


@every_kind
def test_a_step_is_one_for_any_leading_axes(kind):
    """None, many, and those of a vmap: each row goes on from its own memory."""
    net, (x, _, _) = layer(kind), drawn(kind)
    rng = np.random.default_rng(1)
    memory = tuple(
        rng.normal(size=(TIME, ENVS, SIZE)).astype(np.float32) for _ in range(PARTS[kind])
    )

    @jax.jit
    def steps(net):
        mapped = jax.vmap(jax.vmap(lambda x, memory: step_cell(net, x, memory)))
        return (
            step_cell(net, x, memory),
            mapped(x, memory),
            step_cell(net, x[2, 3], jax.tree.map(lambda h: h[2, 3], memory)),
        )

    many, mapped, one = steps(net)
    for part, same, alone, loop in zip(
        many, mapped, one, slow_step(kind, net, x[2, 3], [h[2, 3] for h in memory]), strict=True
    ):
        np.testing.assert_allclose(part, same, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(part[2, 3], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone, loop, rtol=1e-4, atol=1e-5)


@every_kind
def test_an_episode_starts_with_zeros(kind):
    memory = initial_carry(layer(kind), (TIME, ENVS))
    assert len(memory) == PARTS[kind] and all(
        h.shape == (TIME, ENVS, SIZE) and not h.any() for h in memory
    )
    assert initial_carry(layer(kind), ())[0].shape == (SIZE,)


@pytest.mark.parametrize("kind", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_the_gradient_goes_through_time_and_stops_where_an_episode_begins(kind):
    """Against differences along a random direction, in float64."""
    x, memory, fresh = drawn(kind)
    weights = np.random.default_rng(2).normal(size=(TIME, ENVS, SIZE))

    def loss(variables):
        core, x, memory = variables
        return (weights * unroll_cell(core, x, memory, fresh)[0]).sum()

    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        point = jax.tree.map(lambda x: np.asarray(x, np.float64), (layer(kind), x, memory))
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), point)
        value, gradient = jax.jit(lambda point: (loss(point), jax.grad(loss)(point)))(point)
        moved = jax.jit(
            lambda size: loss(jax.tree.map(lambda x, d: x + size * d, point, direction))
        )
        slope = sum(
            (g * d).sum() for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
        )
        assert np.isfinite(value) and slope == pytest.approx(
            float(moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-6
        )
    of_memory = np.abs(gradient[2][0]).max(-1)
    assert (of_memory[fresh[0]] == 0).all() and (of_memory[~fresh[0]] > 1e-3).all()


@pytest.mark.slow
def test_layers_are_drawn_by_their_key():
    """Equinox's uniform ±1/√inputs, each matrix its own."""
    net = GRU(4).make(KEY, 4)
    assert net.input_projection.weight.shape == net.recurrent_projection.weight.shape == (12, 4)
    assert (net.input_projection.weight != net.recurrent_projection.weight).any()
    for x in jax.tree.leaves(net):
        assert 0.4 < abs(x).max() <= 0.5
    long = jax.eval_shape(lambda: LSTM(SIZE).make(KEY, INPUTS))
    assert long.input_projection.weight.shape == (
        4 * SIZE,
        INPUTS,
    ) and long.recurrent_projection.weight.shape == (4 * SIZE, SIZE)
