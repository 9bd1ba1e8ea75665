"""Replay of sequences, for agents with a memory (Hausknecht & Stone, 2015; Kapturowski et al.,
2019)."""

from typing import Any

from etude.data.replay import uniform
from etude.data.replay.ring_buffer import RingBuffer, init, insert, num_valid, window
from etude.errors import InvalidInput
from etude.types import Array

ReplayBuffer = RingBuffer

__all__ = ["ReplayBuffer", "init", "insert", "num_valid", "sample"]


def sample(replay: ReplayBuffer, key: Array, batch_size: int, length: int) -> Any:
    """Sequences [length, batch, ...] of consecutive transitions of one copy, their starts drawn
    uniformly with replacement.

    They go on over the ends of episodes, where an agent's memory starts again at zero, and never
    from the newest row to the oldest. `memory` is what the policy noted as it lived through a row:
    that of row 0 is the state from which to go on at row 1 (the stored state of Kapturowski et al.,
    2019), unless row 0 is done.

    `held(replay) >= length` rows must be there before the first. Raises InvalidInput when they
    never can be.
    """
    if length > uniform.length(replay):
        raise InvalidInput(
            f"a sequence of {length} steps is longer than the {uniform.length(replay)} that the "
            "replay buffer "
            "holds of each copy; give shorter sequences, a larger buffer or fewer environments"
        )
    return window(
        replay, uniform.sample_indices(replay, key, batch_size, followers=length - 1), length
    )
