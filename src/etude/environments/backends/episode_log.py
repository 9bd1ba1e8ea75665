"""What the running episodes of Python environments are replayed from when a run is resumed.

A simulator in Python cannot be saved. Each of its episodes begins with a seed that follows from the
run, the copy and the number of the episode. So the seed and the actions since lead to the same
state again, in an environment that is deterministic given its seed. A digest of each step shows
whether they did. The log of an episode takes the bytes of its actions and 4 bytes a step.

This module needs NumPy alone, so that worker processes start without JAX.
"""

from typing import NamedTuple

import numpy as np

SEED_BLOCK = 64  # seeds that are drawn at once
DIGEST_BYTES = 4


class EpisodeLog(NamedTuple):
    """The running episode of each copy. Arrays are [copy], or have the rows of one copy after
    those of another."""

    seed: np.ndarray  # uint32 [copy]: that of the run, the same for all
    episode: np.ndarray  # int64: number of the running episode
    steps: np.ndarray  # int64: taken since the start of the run
    length: np.ndarray  # int64: steps of the running episode
    logged: np.ndarray  # int64: of them in the log: all, or none of a longer episode than is logged
    actions: np.ndarray  # uint8 [byte]
    digests: np.ndarray  # uint32 [row]: of the first observation of a logged episode, and each step

    def to_bytes(self) -> bytes:
        """The log in bytes, for another process: the three sizes of its arrays, and the arrays."""
        sizes = np.array([len(self.seed), len(self.actions), len(self.digests)], np.int64)
        return sizes.tobytes() + b"".join(array.tobytes() for array in self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "EpisodeLog":
        """The log whose bytes these are."""
        sizes = np.frombuffer(data, np.int64, 3)
        arrays, start = [], sizes.nbytes
        for size, dtype in array_shapes(*sizes.tolist()):
            arrays.append(np.frombuffer(data, dtype, size, start))
            start += arrays[-1].nbytes
        return cls(*arrays)

    @property
    def num_digests(self) -> np.ndarray:
        """The number of digests of each copy, int64 [copy]."""
        return np.where(self.logged == self.length, self.logged + 1, 0)


def join_logs(logs: list[EpisodeLog]) -> EpisodeLog:
    """The log of all copies, from those of the first ones, the next ones and so on."""
    return EpisodeLog(*(np.concatenate(arrays) for arrays in zip(*logs, strict=True)))


def split_log(log: EpisodeLog, slices: list[slice], action_bytes: int) -> list[EpisodeLog]:
    """The logs of the copies in each of `slices`, which follow one another."""
    rows, sizes = log.num_digests, log.logged * action_bytes
    parts = []
    for copies in slices:
        begin = int(sizes[: copies.start].sum()), int(rows[: copies.start].sum())
        end = begin[0] + int(sizes[copies].sum()), begin[1] + int(rows[copies].sum())
        parts.append(
            EpisodeLog(
                log.seed[copies],
                log.episode[copies],
                log.steps[copies],
                log.length[copies],
                log.logged[copies],
                log.actions[begin[0] : end[0]],
                log.digests[begin[1] : end[1]],
            )
        )
    return parts


def array_shapes(copies: int, action_bytes: int, digests: int) -> list[tuple[int, np.dtype]]:
    """The size and the dtype of each array of a log with these sizes."""
    sizes = [copies] * 5 + [action_bytes, digests]
    dtypes = [np.uint32, *[np.int64] * 4, np.uint8, np.uint32]
    return [(size, np.dtype(dtype)) for size, dtype in zip(sizes, dtypes, strict=True)]


class EpisodeSeeds:
    """The seeds of one copy's episodes, from the seed of the run and the number of the copy."""

    def __init__(self, seed: int, copy: int):
        self.seed, self.copy = seed, copy
        self.block, self.seeds = -1, []

    def __call__(self, episode: int) -> int:
        """The seed of an episode, below 2³¹, which environments of 32 bits can take too."""
        block, index = divmod(episode, SEED_BLOCK)
        if block != self.block:
            sequence = np.random.SeedSequence([self.seed, self.copy, block])
            self.block, self.seeds = block, (sequence.generate_state(SEED_BLOCK) >> 1).tolist()
        return self.seeds[index]
