"""Sequences of a dataset, from which a recurrent policy is cloned.

Each gradient step reads the next `sequence_length` steps of each sequence, and begins with what the
cell remembers after the steps before.
"""

from typing import Any

from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.cloning import Cloner
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.nn.recurrent import Carry
from etude.struct import struct
from etude.types import Array


@struct
class Sequences:
    """The next rows that a recurrent network reads, and its carries before; else empty."""

    readers: Any = ()  # EpisodeReaders
    carry: Carry = ()  # before the steps that are read next, [reader, ...]


def init_sequences(
    algorithm: Any, key: Array, learner: Cloner, dataset: Dataset, chosen: Array
) -> Sequences:
    """Sequences that begin at random steps of the chosen episodes; empty without a recurrent cell.

    Reads `recurrent`, `sequence_length` and `batch_size` of the algorithm.
    """
    if not algorithm.recurrent:
        return Sequences()
    count = algorithm.batch_size // algorithm.sequence_length
    readers = dataset_sampling.init_readers(key, dataset, chosen, count)
    return Sequences(readers, cloning.start_carry(learner, count))
