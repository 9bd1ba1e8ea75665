"""Layers with a memory: what they say of an input depends on those before it.

A memory is a tuple of arrays [..., size], zeros at the start of an episode; the first is what the
layer says.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.nn.linear import affine
from etude.struct import struct
from etude.types import Array

Carry = tuple[Array, ...]
CellType = Literal["none", "gru", "lstm"]


@struct
class GRU:
    """Gated recurrent unit (Cho et al., 2014, with the reset gate behind the product).

    r = σ(W_r x + U_r h),   z = σ(W_z x + U_z h),   n = tanh(W_n x + r U_n h),   h' = (1 - z) n + z
                            h
    """

    # W and biases, of r, z and n in turn: [..., inputs] to [..., 3 size]
    input_projection: eqx.nn.Linear
    recurrent_projection: eqx.nn.Linear  # U and biases: [..., size] to [..., 3 size]
    carry_size = 1  # of the memory

    def advance(self, drive: Array, memory: Carry) -> Carry:
        (h,) = memory
        (drive_r, drive_z, drive_n), (own_r, own_z, own_n) = (
            jnp.split(x, 3, -1) for x in (drive, affine(self.recurrent_projection, h))
        )
        r, z = jax.nn.sigmoid(drive_r + own_r), jax.nn.sigmoid(drive_z + own_z)
        n = jnp.tanh(drive_n + r * own_n)
        return ((1 - z) * n + z * h,)


@struct
class LSTM:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997, with the forget gate of Gers et al.,
    2000).

        i, f, o = σ(W x + U h) each,   g = tanh(W_g x + U_g h),   c' = f c + i g,   h' = o tanh(c')
    """

    # W and biases, of i, f, g and o in turn: [..., inputs] to [..., 4 size]
    input_projection: eqx.nn.Linear
    recurrent_projection: eqx.nn.Linear  # U and biases: [..., size] to [..., 4 size]
    carry_size = 2

    def advance(self, drive: Array, memory: Carry) -> Carry:
        h, c = memory
        i, f, g, o = jnp.split(drive + affine(self.recurrent_projection, h), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


RecurrentCell = GRU | LSTM


def make_cell(key: Array, kind: CellType, inputs: int, size: int) -> RecurrentCell | None:
    """A recurrent layer from `inputs` to `size` numbers; None where the kind is "none"."""
    if kind == "none":
        return None
    gates = 3 if kind == "gru" else 4
    key_into, key_within = jax.random.split(key)
    into, within = (
        eqx.nn.Linear(inputs, gates * size, key=key_into),
        eqx.nn.Linear(size, gates * size, key=key_within),
    )
    return GRU(into, within) if kind == "gru" else LSTM(into, within)


def initial_carry(core: RecurrentCell, leading: tuple[int, ...]) -> Carry:
    """The memory at the start of an episode."""
    return (jnp.zeros((*leading, core.recurrent_projection.weight.shape[1])),) * core.carry_size


def step_cell(core: RecurrentCell, x: Array, memory: Carry) -> Carry:
    """The memory after x [..., inputs], over any leading axes."""
    return core.advance(affine(core.input_projection, x), memory)


def unroll_cell(core: RecurrentCell, x: Array, memory: Carry, fresh: Array) -> Carry:
    """The memories after each of x [time, n, inputs], [time, n, size].

    `memory` [n, size] is that before the first; where `fresh` [time, n], an episode begins and what
    was before is forgotten. The products with all inputs are taken at once, and only those with the
    memory one after the other.
    """

    def advance(memory, step):
        drive, fresh = step
        memory = core.advance(
            drive, jax.tree.map(lambda h: jnp.where(fresh[:, None], 0, h), memory)
        )
        return memory, memory

    return jax.lax.scan(advance, memory, (affine(core.input_projection, x), fresh))[1]
