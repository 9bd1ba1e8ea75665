"""Replay of sequences for recurrent agents (Hausknecht & Stone, 2015; Kapturowski et al., 2019)."""

from typing import Any

from etude.data.replay import uniform
from etude.data.replay.ring_buffer import RingBuffer, init, insert, num_valid
from etude.data.replay.windows import window
from etude.errors import InvalidInput
from etude.types import Array

ReplayBuffer = RingBuffer

__all__ = ["ReplayBuffer", "init", "insert", "num_valid", "sample"]


def sample(replay: ReplayBuffer, key: Array, batch_size: int, length: int) -> Any:
    """Sequences [length, batch, ...] of consecutive transitions, starts uniform with replacement.

    Each is of one environment. Sequences cross the ends of episodes, where an agent resets its
    memory to zero, but never go from the newest row to the oldest. `memory` of a row is the
    policy's memory after that step: that of row 0 is the initial memory for row 1 (the stored state
    of Kapturowski et al., 2019), unless row 0 is done.

    Before the first call, `num_valid(replay) >= length` must hold. Raises InvalidInput where it
    never can.
    """
    if length > uniform.length(replay):
        raise InvalidInput(
            f"a sequence of {length} steps is longer than the {uniform.length(replay)} that the "
            "replay buffer holds of each copy; give shorter sequences, a larger buffer or fewer "
            "environments"
        )
    return window(
        replay, uniform.sample_indices(replay, key, batch_size, successors=length - 1), length
    )
