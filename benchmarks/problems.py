"""What planners are timed on, for etude and for the peers that are written in JAX too: theirs is
the same to the letter."""

import jax
import jax.numpy as jnp

from etude.environments.classic.acrobot import Acrobot
from etude.planning.tree.games import TIC_TAC_TOE

GAME = TIC_TAC_TOE
HORIZON = 50  # of the acrobot, which hangs and is to stand: an example of trajax's
GOAL = (jnp.pi, 0.0, 0.0, 0.0)
FORCE = 5.0  # of the acrobot's motor at most, where a planner needs a box


def boards(roots: int) -> jax.Array:
    """Empty ones, [root, row, column]."""
    return jnp.broadcast_to(GAME.initial_state(), (roots, GAME.rows, GAME.columns))


def swing(state: jax.Array, control: jax.Array) -> jax.Array:
    """The acrobot a tenth of a second later, by Euler's method."""
    return state + 0.1 * Acrobot().derivative(state, control)


def cost(state: jax.Array, control: jax.Array) -> jax.Array:
    return 0.05 * distance(state) + 0.005 * (control**2).sum()


def final_cost(state: jax.Array) -> jax.Array:
    return 500 * distance(state)


def distance(state: jax.Array) -> jax.Array:
    return ((state - jnp.array(GOAL)) ** 2).sum()
