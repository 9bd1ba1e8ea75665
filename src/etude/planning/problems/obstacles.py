"""Round obstacles in the plane, (x, y, radius) in meters: distance and penalty."""

import jax.numpy as jnp

from etude.types import Array

Obstacles = tuple[tuple[float, float, float], ...]


def distance_to_nearest(position: Array, obstacles: Obstacles) -> Array:
    """Return the distance from `position` [2] to the nearest obstacle, []; negative inside.

    Without obstacles it is infinite.
    """
    nearest = jnp.full((), jnp.inf, position.dtype)
    for x, y, radius in obstacles:
        nearest = jnp.minimum(nearest, jnp.hypot(position[0] - x, position[1] - y) - radius)
    return nearest


def obstacle_penalty(position: Array, obstacles: Obstacles, margin: float | Array) -> Array:
    """Sum (1 − (distance / (radius + margin))²)² over the obstacles within their margin, [].

    The distance is to the center. The penalty is zero beyond the margin and smooth at its edge.
    """
    total = jnp.zeros((), position.dtype)
    for x, y, radius in obstacles:
        squared_distance = (position[0] - x) ** 2 + (position[1] - y) ** 2
        total += jnp.maximum(1 - squared_distance / (radius + margin) ** 2, 0) ** 2
    return total
