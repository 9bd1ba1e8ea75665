"""Environments of every backend under one protocol.

`make` loads on first use, so that worker processes start without JAX.
"""

from typing import Any

__all__ = ["make"]


def __getattr__(name: str) -> Any:
    if name != "make":
        raise AttributeError(f"module 'etude.environments' has no attribute {name!r}")
    from etude.environments.sources import make

    return make
