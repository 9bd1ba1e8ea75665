"""The planning problems, shared by etude and the peers written in JAX."""

import jax
import jax.numpy as jnp

from etude.environments.classic.acrobot import Acrobot
from etude.planning.tree.games import TIC_TAC_TOE

GAME = TIC_TAC_TOE
HORIZON = 50  # of the acrobot swing-up, an example of trajax
GOAL = (jnp.pi, 0.0, 0.0, 0.0)
MAX_TORQUE = 5.0  # of the acrobot, for planners that need bounds


def boards(roots: int) -> jax.Array:
    """Return empty boards, [root, row, column]."""
    return jnp.broadcast_to(GAME.initial_state(), (roots, GAME.rows, GAME.columns))


def acrobot_step(state: jax.Array, control: jax.Array) -> jax.Array:
    """Step the acrobot by 0.1 s with an explicit Euler step; returns the next state [4]."""
    return state + 0.1 * Acrobot().derivative(state, control)


def cost(state: jax.Array, control: jax.Array) -> jax.Array:
    """The running cost of the acrobot."""
    return 0.05 * squared_distance(state) + 0.005 * (control**2).sum()


def final_cost(state: jax.Array) -> jax.Array:
    """The final cost of the acrobot."""
    return 500 * squared_distance(state)


def squared_distance(state: jax.Array) -> jax.Array:
    """The squared distance to the goal."""
    return ((state - jnp.array(GOAL)) ** 2).sum()
