"""A car on a winding road, in JAX: cameras at its sides show the way back to the middle.

It is after the car of Bojarski et al., "End to End Learning for Self-Driving Cars" (2016), which
learned from three cameras; Pomerleau, "Efficient Training of Artificial Neural Networks for
Autonomous Navigation" (1991), derives the steering for a view from the side in the same way. The
side views and their correction are in `etude.environments.tasks.lanes_env`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.lanes_env import (
    AMPLITUDES,
    COLUMNS,
    DISTANCES,
    GUST,
    GUST_PROBABILITY,
    HALF_WIDTH,
    MAX_CURVATURE,
    MAX_STEPS,
    NEWTON_STEPS,
    SPEED,
    WAVELENGTHS,
)
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box
from etude.struct import struct
from etude.types import Array


@struct
class LanesState:
    """The road, and where the car is on it."""

    phases: Array  # [wave], rad
    position: Array  # [2], m
    heading: Array  # [], rad to the left of the x axis


@struct
class Lanes:
    """Keep a car in its lane, by what the camera in its middle sees.

    Observation: a picture of the two lines of the lane, [9, 20], of brightness 0 to 1 (floats, not
    uint8, so that networks flatten it in place of convolving it). Row i shows what is D = 2 + i m
    ahead, across the car's axis, from D m to the left (first column) to D m to the right. The
    action, [1] in [-1, 1], steers: the curvature of the car's way in units of 0.15/m, left is
    positive. The car drives 1 m a step. The lane is 3 m wide; its middle is a sum of two waves, of
    wavelengths 60 and 31 m and amplitudes 2 and 1 m, whose phases are drawn for each episode and
    not observed. With probability 0.01 a step, a gust displaces the car to a side, by up to 1 m.

    Reward is 1, the way of a step in m, for each step that ends in the lane. An episode begins in
    the middle of the lane, along it. It ends, with reward 0, where the car leaves the lane: the
    lane's middle is more than 1.5 m straight to its left or right. It is cut off after 200 steps.
    """

    gust_probability: float = GUST_PROBABILITY

    @property
    def observation_space(self) -> Box:
        return Box((len(DISTANCES), COLUMNS), low=0.0, high=1.0)

    @property
    def action_space(self) -> Box:
        return Box((1,), low=-1.0, high=1.0)

    def reset(self, key: Array) -> tuple[LanesState, Array]:
        phases = jax.random.uniform(key, (len(WAVELENGTHS),), maxval=2 * jnp.pi)
        y, slope = winding_road(phases, jnp.zeros(()))
        state = LanesState(phases, jnp.stack([0.0, y]), jnp.arctan(slope))
        return state, self.observe(state)

    def step(self, state: LanesState, action: Array, key: Array) -> tuple[LanesState, StepResult]:
        key_size, key_gust = jax.random.split(key)
        is_gust = jax.random.bernoulli(key_gust, self.gust_probability)
        gust = is_gust * GUST * jax.random.uniform(key_size, minval=-1, maxval=1)
        turn = SPEED * MAX_CURVATURE * jnp.clip(action[0], -1, 1)
        along, heading = state.heading + turn / 2, state.heading + turn
        position = state.position + SPEED * jnp.stack([jnp.cos(along), jnp.sin(along)])
        position = position + gust * jnp.stack([-jnp.sin(heading), jnp.cos(heading)])
        state = LanesState(state.phases, position, heading)
        is_out = jnp.abs(middle_ahead(state, jnp.zeros(1)))[0] > HALF_WIDTH
        reward = jnp.where(is_out, 0.0, SPEED)
        return state, StepResult(self.observe(state), reward, is_out, jnp.bool_(False))

    def observe(self, state: LanesState) -> Array:
        """The picture, [row, column]: each line lights the two pixels that it is between."""
        distances = jnp.array(DISTANCES)
        middle = middle_ahead(state, distances)[:, None]
        pixel = 2 * distances[:, None] / COLUMNS  # m, its width
        position = ((COLUMNS - 1) / 2 - jnp.arange(COLUMNS)) * pixel  # m to the left
        lines = middle - HALF_WIDTH, middle + HALF_WIDTH
        right, left = (jnp.maximum(1 - jnp.abs(position - line) / pixel, 0) for line in lines)
        return right + left


def winding_road(phases: Array, x: Array) -> tuple[Array, Array]:
    """The y of the lane's middle at x, and its slope, [...] each; phases are [wave]."""
    angular, amplitudes = 2 * jnp.pi / jnp.array(WAVELENGTHS), jnp.array(AMPLITUDES)
    angles = angular * x[..., None] + phases
    slope = (amplitudes * angular * jnp.cos(angles)).sum(-1)
    return (amplitudes * jnp.sin(angles)).sum(-1), slope


def middle_ahead(state: LanesState, distances: Array) -> Array:
    """How far to the left of the car's axis the lane's middle is, m, at distances ahead.

    Newton's method finds where the line across meets the road.
    """
    x, y = state.position
    cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
    lateral = jnp.zeros_like(distances)
    for _ in range(NEWTON_STEPS):
        middle, slope = winding_road(state.phases, x + distances * cos - lateral * sin)
        error = y + distances * sin + lateral * cos - middle
        lateral = lateral - error / (cos + slope * sin)
    return lateral


def limited_lanes(**parameters: Any) -> TimeLimit:
    """The road with the time limit of its registration."""
    return TimeLimit(Lanes(**parameters), MAX_STEPS)
