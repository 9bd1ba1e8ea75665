"""A course of discs, in JAX: 24 routes lead from one start past three rows of obstacles.

It is after an idea of D3IL (Jia et al., 2024): a task by which one can count how many routes of the
demonstrations a policy has learned. Its expert is `etude.algorithms.control.heuristic`.
`etude.environments.tasks.avoiding_env.avoiding_route` tells the route of an episode, and
`route_entropy` how evenly the routes are taken.
"""

import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.avoiding_env import DISCS, FINISH, MAX_STEPS, RADIUS, STEP_SIZE
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box
from etude.struct import struct
from etude.types import Array


@struct
class Avoiding:
    """Pass rows of one, two and three discs, to a finish line behind them.

    Observation: the position (x, y), [2], where x is forward and y to the left; it is the state
    too, and does not tell the route. An action, [2] in [-1, 1], is a displacement in units of 0.05;
    the walls at y = -1 and 1 and the line at x = 0 stop the point. The rows are at x = 0.5, 1.3 and
    2.1; the discs of a row are 0.4 apart, around y = 0, and have radius 0.1. So there are 2 · 3 · 4
    = 24 ways through the gaps. An episode begins at (0, 0). It ends where the point comes closer
    than 0.1 to the center of a disc on its way, with reward 0, or at x = 2.5, with reward 1; all
    other rewards are 0. It is cut off after 120 steps.
    """

    @property
    def observation_space(self) -> Box:
        return Box((2,), low=(0.0, -1.0), high=(FINISH, 1.0))

    @property
    def action_space(self) -> Box:
        return Box((2,), low=-1.0, high=1.0)

    def reset(self, key: Array) -> tuple[Array, Array]:
        return jnp.zeros(2), jnp.zeros(2)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        moved = state + STEP_SIZE * jnp.clip(action, -1, 1)
        position = jnp.clip(moved, jnp.array([0.0, -1.0]), jnp.array([FINISH, 1.0]))
        collides = (distance_to_discs(state, position) < RADIUS).any()
        finishes = (position[0] >= FINISH) & ~collides
        return position, StepResult(
            position, finishes.astype(float), collides | finishes, jnp.bool_(False)
        )


def distance_to_discs(start: Array, end: Array) -> Array:
    """The distance of the center of each disc from a step, [disc]; start and end are [2]."""
    along, to_disc = end - start, jnp.array(DISCS) - start
    share = jnp.clip(to_disc @ along / jnp.maximum((along**2).sum(), 1e-12), 0, 1)
    return jnp.linalg.norm(to_disc - share[:, None] * along, axis=-1)


def limited_avoiding() -> TimeLimit:
    """The course with the time limit of its registration."""
    return TimeLimit(Avoiding(), MAX_STEPS)
