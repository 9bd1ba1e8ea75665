"""Averages of weights over gradient steps."""

from typing import Any

import jax

from etude.struct import struct, traced
from etude.types import Array


@struct
class EMA:
    """Exponential moving average of weights, over a span that grows with the gradient steps.

        w̄ ← d w̄ + (1 - d) w,   d = 1 - (1 + k)^(-power)   after gradient step k = 1, 2, ...

    With a constant decay of 0.9999 the average would be nearly the initial weights for thousands of
    steps; with the power 0.75 their share is 5e-09 after 1,000 steps.
    """

    power: float = traced(0.75, above=0, at_most=1)
    """How fast the decay of the average goes to 1: larger values average over more steps."""

    def update(self, average: Any, weights: Any, step: Array) -> Any:
        """The next average, after gradient step `step`, which counts from 1."""
        share = (1.0 + step) ** -self.power
        return jax.tree.map(lambda mean, w: mean + share * (w - mean), average, weights)
