"""The keys of a run's parts: each use of a seed has episodes of its own.

Training splits the key of a seed. All else folds a role into that key, and the episodes then begin
with what follows from both. So training, evaluation in it, the final evaluation, a recording and a
video never share the start of an episode where they have the same seed, but by chance: an agent is
not judged on what it has learned from. A person's episodes begin with the seed itself and those
that follow it.

`split(key, n)[i]` is `fold_in(key, i)`; so a role is a number that no split and no counter of
iterations reaches.
"""

import jax

from etude.types import Array

INITIAL_MEMORY = 2**31  # an initial memory, from the key of a reset or a step
FINAL_EVALUATION = 2**31 + 1
PERIODIC_EVALUATION = 2**31 + 2
RENDERING = 2**31 + 3
RECORDING = 2**31 + 4


def final_evaluation_key(seed: int, number: int) -> Array:
    """The key of the episodes of the policy `number` in `Run.evaluate` with this seed."""
    return jax.random.fold_in(_key_of(seed, FINAL_EVALUATION), number)


def periodic_evaluation_key(seed: int) -> Array:
    """The key of every evaluation of a seed during training: the episodes begin the same."""
    return _key_of(seed, PERIODIC_EVALUATION)


def rendering_key(seed: int) -> Array:
    """The key of the episodes of a video, and of a policy in a window."""
    return _key_of(seed, RENDERING)


def recording_key(seed: int) -> Array:
    """The key of the episodes of `etude.record`."""
    return _key_of(seed, RECORDING)


def _key_of(seed: int, role: int) -> Array:
    return jax.random.fold_in(jax.random.key(seed), role)
