"""The number of threads that XLA computes with on a CPU, which is decided before JAX starts.

Threads share a matrix product that is large; at a small one they cost more than they gain, for they
hand it over to each other. The number decides the last bits of results, and the number of cores
does not: with as many threads a run is the same on another number of cores.
"""

import itertools
import math
import os
from typing import Any

import jax

from etude.errors import InvalidInput
from etude.nn.networks import encode_leaf, is_image
from etude.spaces import EnvironmentSpec, leaves_with_path

VARIABLES = "PJRT_NPROC", "NPROC"  # that XLA reads where it starts; the first comes first
LARGE_PRODUCT = 8_000_000  # multiplications in a matrix product that threads share with a gain

_chosen: str | None = None  # the value that `start_with` gave the first of the variables


def choose_threads(
    asked: int | None, algorithm: Any, spec: EnvironmentSpec, seeds: int, in_one_program: bool
) -> int:
    """The threads to train with: those asked for, the user's variable, or a choice by size.

    Args:
        asked: the option, None for none.
        algorithm: what is trained, on environments with `spec`.
        seeds: the number of agents that are trained.
        in_one_program: whether all seeds train in one program; otherwise each has a core.

    Raises:
        InvalidInput: where another number is asked for than JAX already runs with.
    """
    if is_started():
        if asked not in (None, threads_in_use()):
            raise InvalidInput(
                f"threads is {asked}, and JAX already runs with {threads_in_use()} for good; leave "
                "it out, or train in a new process"
            )
        return threads_in_use()
    if chosen := asked or _threads_of_user():
        return chosen
    is_alone = seeds == 1 or in_one_program
    is_large = largest_product(algorithm, spec, seeds) >= LARGE_PRODUCT
    return num_cores() if is_alone and is_large else 1


def largest_product(algorithm: Any, spec: EnvironmentSpec, seeds: int = 1) -> float:
    """The multiplications of the largest product of an update: rows · inputs · outputs of a layer.

    Of all seeds in one program. It is infinite where the layers are not known: those of images, of
    a network of one's own, and of an algorithm of one's own without `hidden`; an algorithm of
    etude's without has no layers.
    """
    if not hasattr(algorithm, "hidden"):
        return 0 if type(algorithm).__module__.startswith("etude.") else math.inf
    observed = [leaf for _, leaf in leaves_with_path(spec.observation)]
    if getattr(algorithm, "torso", None) is not None or any(map(is_image, observed)):
        return math.inf
    features = [
        jax.eval_shape(lambda leaf=leaf: encode_leaf(leaf, leaf.zeros())) for leaf in observed
    ]
    sizes = [sum(x.size for x in features), *algorithm.hidden]
    layers = [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]
    if cell := getattr(algorithm, "recurrent", None):
        layers.append(4 * cell.units * max(cell.units, *sizes))
    rows = getattr(algorithm, "batch_size", algorithm.steps_per_update(spec.num_envs))
    return seeds * rows * max(layers, default=0)


def start_with(threads: int) -> int:
    """Let JAX start with this number of threads; return the number that it runs with.

    They differ where JAX has started already.
    """
    global _chosen
    if not is_started():
        os.environ[VARIABLES[0]] = _chosen = str(threads)
    return threads_in_use()


def is_started() -> bool:
    """Whether JAX has started, so that the number of threads is decided."""
    return jax._src.xla_bridge.backends_are_initialized()


def threads_in_use() -> int:
    """The number of threads that JAX runs with, or will start with, as far as it is known."""
    return _variable() or num_cores()


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads_of_user() -> int | None:
    is_ours = _chosen is not None and os.environ.get(VARIABLES[0]) == _chosen
    return None if is_ours else _variable()


def _variable() -> int | None:
    for name in VARIABLES:
        if (text := os.environ.get(name, "").strip()).isdecimal() and int(text):
            return int(text)
    return None
