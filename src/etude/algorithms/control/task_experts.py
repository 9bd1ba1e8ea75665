"""Experts of tasks of etude that have a geometry: avoiding discs, pushing one, keeping a lane.

Each is the `act` of a `Controller` of `etude.algorithms.control.heuristic`, or its action.
"""

import jax
import jax.numpy as jnp

from etude.environments.tasks import avoiding_env, lanes_env, push_env
from etude.types import Array

# of the way past the discs: straight up to this distance from a row, and turning in between
BESIDE, TURNS = 0.15, (0.35, 0.5, 0.5)
# of the way around the block: distance of the centers, and the angles from which on a side is
# chosen and the pusher is behind the block
AROUND, SIDE_ANGLE, BEHIND_ANGLE = push_env.CONTACT + 0.07, 0.6, 0.3


def avoiding(observation: Array, memory: Array) -> tuple[Array, Array]:
    """Avoiding's action, float32 [env, 2], and the gap of each row to pass, int32 [env, 3].

    The point follows a smooth way through the gaps that were drawn: straight on beside the discs,
    half a cosine between the rows. Between two discs there is one way, whatever was drawn, so the
    gap there is the one that the point is in.
    """
    x, y = observation[..., 0], observation[..., 1]
    rows, turns = jnp.array(avoiding_env.ROWS), jnp.array(TURNS)
    row = jnp.arange(len(rows))
    here = jnp.clip(
        jnp.round(y[..., None] / avoiding_env.SPACING + (row + 1) / 2), 0, row + 1
    ).astype(jnp.int32)
    is_beside = jnp.abs(x[..., None] - rows) < BESIDE
    gaps = jnp.where(is_beside, here, memory)
    heights = avoiding_env.SPACING * (gaps - (row + 1) / 2)  # of the middle of the gaps, [..., row]
    starts = jnp.concatenate([jnp.zeros_like(heights[..., :1]), heights[..., :-1]], -1)

    def way(x: Array) -> tuple[Array, Array]:
        """The height of the way at x, and its slope, [...] each."""
        begin = rows - BESIDE - turns
        share = jnp.clip((x[..., None] - begin) / turns, 0, 1)
        rise = heights - starts
        height = (rise * (1 - jnp.cos(jnp.pi * share)) / 2).sum(-1)
        return height, (rise * jnp.pi / turns * jnp.sin(jnp.pi * share) / 2).sum(-1)

    _, slope = way(x)
    ahead = 1 / jnp.maximum(1, jnp.abs(slope))  # in units of a step
    height, _ = way(x + avoiding_env.STEP_SIZE * ahead)
    action = jnp.stack([ahead, (height - y) / avoiding_env.STEP_SIZE], -1)
    return jnp.clip(action, -1, 1), gaps


def draw_route(num_envs: int, key: Array) -> Array:
    """The gap of each row, counted from the right, for each episode, int32 [env, 3]."""
    return jax.random.randint(
        key, (num_envs, len(avoiding_env.ROWS)), 0, 2 + jnp.arange(len(avoiding_env.ROWS))
    )


def push_block(observation: Array, memory: Array) -> tuple[Array, Array]:
    """Push's action, float32 [env, 2], and the side to go around the block on, float32 [env].

    The pusher goes around the block at a distance, until it is behind it as seen from the target,
    and then to the point from which the next step pushes the block straight to the target. The side
    is the one that was drawn until the pusher is on one.
    """
    pusher, block = observation[..., :2], observation[..., 2:]
    to_target, to_pusher = jnp.array(push_env.TARGET) - block, pusher - block
    direction = jnp.arctan2(to_target[..., 1], to_target[..., 0])
    angle = jnp.arctan2(to_pusher[..., 1], to_pusher[..., 0]) - direction
    angle = jnp.arctan2(jnp.sin(angle), jnp.cos(angle))  # 0 before the block, ±π behind it
    is_behind = jnp.abs(angle) > jnp.pi - BEHIND_ANGLE
    is_on_side = (jnp.abs(angle) > SIDE_ANGLE) & ~is_behind
    side = jnp.where(is_on_side, jnp.sign(angle), memory)
    around = direction + jnp.where(is_behind, jnp.pi, angle + side * push_env.STEP_SIZE / AROUND)
    distance = jnp.where(is_behind, push_env.CONTACT - push_env.STEP_SIZE, AROUND)[..., None]
    goal = block + distance * jnp.stack([jnp.cos(around), jnp.sin(around)], -1)
    return jnp.clip((goal - pusher) / push_env.STEP_SIZE, -1, 1), side


def lanes(observation: Array) -> Array:
    """Lanes' action, float32 [env, 1]: the arc to the middle of the lane 5 m ahead (pure pursuit).

        κ = 2 ℓ / (ℓ² + 5²),    action = κ / 0.15

    ℓ, how far the middle is to the left, is the middle of the two lines in that row of the picture.
    Where the picture shows only one of them, the lane lies beyond it, so the other is outside.

    Source: Coulter, "Implementation of the Pure Pursuit Path Tracking Algorithm" (1992).
    """
    row = observation[..., lanes_env.DISTANCES.index(lanes_env.LOOK_AHEAD), :]
    pixel = 2 * lanes_env.LOOK_AHEAD / lanes_env.COLUMNS
    position = ((lanes_env.COLUMNS - 1) / 2 - jnp.arange(lanes_env.COLUMNS)) * pixel
    light = row.sum(-1)  # 1 of each line
    seen = (row * position).sum(-1) / jnp.maximum(light, 1e-6)
    lateral = seen + jnp.where(light < 1.5, jnp.sign(seen) * lanes_env.HALF_WIDTH, 0)
    curvature = 2 * lateral / (lateral**2 + lanes_env.LOOK_AHEAD**2)
    return jnp.clip(curvature / lanes_env.MAX_CURVATURE, -1, 1)[..., None]
