"""Recurrent cells, GRU and LSTM: one step, or a whole sequence with resets between episodes.

A carry is the recurrent state, a tuple of arrays [..., size], zeros at the start of an episode. Its
first array is the cell's output.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.nn.linear import affine
from etude.struct import static, struct
from etude.types import Array

Carry = tuple[Array, ...]


@struct
class GRU:
    """A GRU as a setting of an algorithm."""

    units: int = static(64, at_least=1)
    """Units of the recurrent cell."""

    def make(self, key: Array, inputs: int) -> "GRUCell":
        """A cell from `inputs` numbers, with random weights."""
        return GRUCell(*make_projections(key, inputs, self.units, gates=3))


@struct
class LSTM:
    """An LSTM as a setting of an algorithm."""

    units: int = static(64, at_least=1)
    """Units of the recurrent cell."""

    def make(self, key: Array, inputs: int) -> "LSTMCell":
        """A cell from `inputs` numbers, with random weights."""
        return LSTMCell(*make_projections(key, inputs, self.units, gates=4))


@struct
class GRUCell:
    """Gated recurrent unit (Cho et al., 2014), with the reset gate applied after the product.

    r = σ(W_r x + U_r h),   z = σ(W_z x + U_z h),   n = tanh(W_n x + r U_n h)
    h' = (1 - z) n + z h
    """

    # W and biases of r, z and n in turn: [..., inputs] to [..., 3 size]
    input_projection: eqx.nn.Linear
    recurrent_projection: eqx.nn.Linear  # U and biases: [..., size] to [..., 3 size]
    carry_length = 1

    def next_carry(self, projected_input: Array, carry: Carry) -> Carry:
        (h,) = carry
        (input_r, input_z, input_n), (recurrent_r, recurrent_z, recurrent_n) = (
            jnp.split(x, 3, -1) for x in (projected_input, affine(self.recurrent_projection, h))
        )
        r, z = jax.nn.sigmoid(input_r + recurrent_r), jax.nn.sigmoid(input_z + recurrent_z)
        n = jnp.tanh(input_n + r * recurrent_n)
        return ((1 - z) * n + z * h,)


@struct
class LSTMCell:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate: Gers et al., 2000).

    i, f, o = σ(W x + U h) each,   g = tanh(W_g x + U_g h),   c' = f c + i g,   h' = o tanh(c')
    """

    # W and biases of i, f, g and o in turn: [..., inputs] to [..., 4 size]
    input_projection: eqx.nn.Linear
    recurrent_projection: eqx.nn.Linear  # U and biases: [..., size] to [..., 4 size]
    carry_length = 2

    def next_carry(self, projected_input: Array, carry: Carry) -> Carry:
        h, c = carry
        i, f, g, o = jnp.split(projected_input + affine(self.recurrent_projection, h), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


RecurrentCell = GRUCell | LSTMCell


def make_projections(
    key: Array, inputs: int, units: int, gates: int
) -> tuple[eqx.nn.Linear, eqx.nn.Linear]:
    """The projections of the input and of the recurrent state to `gates` gates."""
    key_input, key_recurrent = jax.random.split(key)
    return (
        eqx.nn.Linear(inputs, gates * units, key=key_input),
        eqx.nn.Linear(units, gates * units, key=key_recurrent),
    )


def initial_carry(cell: RecurrentCell, batch_shape: tuple[int, ...]) -> Carry:
    """The carry at the start of an episode: zeros [*batch_shape, size]."""
    return (
        jnp.zeros((*batch_shape, cell.recurrent_projection.weight.shape[1])),
    ) * cell.carry_length


def step_cell(cell: RecurrentCell, x: Array, carry: Carry) -> Carry:
    """The carry after the input x [..., inputs], over any leading axes."""
    return cell.next_carry(affine(cell.input_projection, x), carry)


def unroll_cell(cell: RecurrentCell, x: Array, carry: Carry, is_first: Array) -> Carry:
    """The carries [time, n, size] after each of the inputs x [time, n, inputs].

    `carry` [n, size] precedes the first input. Where `is_first` [time, n] is true, an episode
    begins and the carry is reset to zero. The projections of all inputs are one product; only those
    of the carry are sequential.
    """

    def step(carry, inputs):
        projected_input, is_first = inputs
        carry = cell.next_carry(
            projected_input, jax.tree.map(lambda h: jnp.where(is_first[:, None], 0, h), carry)
        )
        return carry, carry

    return jax.lax.scan(step, carry, (affine(cell.input_projection, x), is_first))[1]
