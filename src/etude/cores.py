"""The processor cores that this process may use."""

import os


def usable_cores() -> list[int | None]:
    """The cores to pin processes to, or a None for each where the system does not pin."""
    if hasattr(os, "sched_getaffinity"):
        return [*sorted(os.sched_getaffinity(0))]
    return [None] * (os.cpu_count() or 1)


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(usable_cores())
