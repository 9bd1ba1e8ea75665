"""Round obstacles in the plane: (x, y, radius) each, in metres."""

import jax.numpy as jnp

from etude.types import Array

Obstacles = tuple[tuple[float, float, float], ...]


def distance_to_nearest(position: Array, obstacles: Obstacles) -> Array:
    """How far `position` [2] is from the nearest of them, []: negative inside, infinite where there
    is none."""
    nearest = jnp.full((), jnp.inf, position.dtype)
    for x, y, radius in obstacles:
        nearest = jnp.minimum(nearest, jnp.hypot(position[0] - x, position[1] - y) - radius)
    return nearest


def penalty(position: Array, obstacles: Obstacles, margin: float | Array) -> Array:
    """A dome over each of them, []: (1 − (distance / (radius + margin))²)² within its margin, 0
    beyond, without an edge."""
    total = jnp.zeros((), position.dtype)
    for x, y, radius in obstacles:
        squared = (position[0] - x) ** 2 + (position[1] - y) ** 2
        total += jnp.maximum(1 - squared / (radius + margin) ** 2, 0) ** 2
    return total
