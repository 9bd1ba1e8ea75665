"""Replay that draws every transition equally often (Lin, 1992; Mnih et al., 2015)."""
from typing import Any

import jax

from etude.replay.ring import Ring, Rows, at, copies, held, init, insert, length, oldest

Array = jax.Array
Replay = Ring

__all__ = ["Replay", "draw", "init", "insert", "length", "sample"]


def draw(replay: Replay, key: Array, batch_size: int, followers: int = 0) -> Rows:
    """Rows [batch], drawn uniformly with replacement from those that at least `followers` rows of their copy follow.

    There must be one: `held(replay) > followers`.
    """
    n = copies(replay)
    number = jax.random.randint(key, (batch_size,), 0, n * (held(replay) - followers))
    return Rows((oldest(replay) + number // n) % length(replay), number % n)


def sample(replay: Replay, key: Array, batch_size: int) -> Any:
    """Transitions [batch, ...], drawn uniformly with replacement from those held, of which there must be one."""
    return at(replay, draw(replay, key, batch_size))
