"""The number of threads that XLA computes with on a CPU, which is decided as JAX starts.

Threads share a matrix product that is large; at a small one they cost more than they gain, for they
hand it over to each other. Results depend, in their last bits, on this number, and not on the
number of cores.
"""

import itertools
import math
import os
import re
from typing import Any

import jax

from etude.cores import num_cores
from etude.environments.backends import envpool_envs
from etude.errors import InvalidInput
from etude.nn.networks import encode_leaf, is_image
from etude.spaces import EnvironmentSpec, leaves_with_path

VARIABLES = "PJRT_NPROC", "NPROC"  # that XLA reads as it starts; the first takes precedence
LARGE_PRODUCT = 8_000_000  # multiplications in a matrix product from which on sharing it pays

_running: int | None = None  # the threads that JAX runs with, once they are known


def choose_threads(
    asked: int | None,
    algorithm: Any,
    spec: EnvironmentSpec,
    backend: str,
    seeds: int,
    in_one_program: bool,
) -> int:
    """The threads to train with: those asked for, the user's variable, or a choice by size.

    Where EnvPool steps costly environments with a thread a core, XLA has as many: PPO on
    LunarLander-v3 is 7 % slower with one.

    Args:
        asked: the option, None for none.
        algorithm: what is trained, on environments with `spec` that `backend` steps.
        seeds: the number of agents that are trained.
        in_one_program: whether all seeds train in one program; otherwise, if there are several,
            each trains in a process that is pinned to one core.

    Raises:
        InvalidInput: where another number is asked for than JAX already runs with in this process,
            which trains.
    """
    trains_here = seeds == 1 or in_one_program
    if trains_here and is_started():
        if asked not in (None, threads_in_use()):
            raise InvalidInput(
                f"threads is {asked}, and JAX already runs with {threads_in_use()} for good; leave "
                "it out, or train in a new process"
            )
        return threads_in_use()
    if chosen := asked or threads_of_user():
        return chosen
    is_large = largest_product(algorithm, spec, seeds) >= LARGE_PRODUCT
    has_pool = backend == "envpool" and not envpool_envs.is_cheap(spec.id)
    return num_cores() if trains_here and (is_large or has_pool) else 1


def largest_product(algorithm: Any, spec: EnvironmentSpec, seeds: int = 1) -> float:
    """The multiplications of the largest product of an update: rows · inputs · outputs of a layer.

    Those of all seeds in one program count together. It is infinite where the layers are not known:
    those of images, of a network of one's own, and of an algorithm of one's own without the field
    `hidden`. The algorithms of etude without that field have no layers: 0. An algorithm in the
    field `agent` counts too.
    """
    agent = getattr(algorithm, "agent", None)
    return max(own_product(algorithm, spec, seeds), own_product(agent, spec, seeds) if agent else 0)


def own_product(algorithm: Any, spec: EnvironmentSpec, seeds: int) -> float:
    """The `largest_product`, without that of an algorithm in the field `agent`."""
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


def start_with(threads: int) -> None:
    """Start JAX with this number of threads, unless it has started before."""
    global _running
    if is_started():
        return
    before = os.environ.get(VARIABLES[0])
    os.environ[VARIABLES[0]] = str(threads)
    try:
        jax.devices()
        _running = threads
    finally:  # a process that starts from here decides for itself
        if before is None:
            del os.environ[VARIABLES[0]]
        else:
            os.environ[VARIABLES[0]] = before


def is_started() -> bool:
    """Whether JAX has started, so that the number of threads is decided."""
    return jax._src.xla_bridge.backends_are_initialized()


def threads_in_use() -> int:
    """The number of threads that JAX runs with, or will start with by itself.

    Where it has been started by others, that is what the environment said when etude first asked.
    """
    global _running
    threads = _running or threads_of_user() or num_cores()
    if is_started():
        _running = threads
    return threads


def threads_of_user() -> int | None:
    """The number in the first variable that holds one, read as XLA does; None where none does."""
    for name in VARIABLES:
        if re.fullmatch(r"[+-]?[0-9]+", text := os.environ.get(name, "").strip()):
            return max(1, int(text))
    return None
