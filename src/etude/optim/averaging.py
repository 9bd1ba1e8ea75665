"""Averages of weights over gradient steps."""

from typing import Any

import jax

from etude.struct import struct, traced
from etude.types import Array


@struct
class EMA:
    """Moving average w̄ of weights w, whose decay d grows with the gradient steps.

        w̄ ← d w̄ + (1 - d) w,   d = 1 - (1 + k)^(-power)   after gradient step k = 1, 2, ...

    With a constant decay of 0.9999 the average would be nearly the initial weights for thousands of
    steps; with the power 0.75 the share of the initial weights is 5e-09 after 1,000 steps. So do
    the models of diffusion policies (Chi et al., 2023), which also bound d by 0.9999.
    """

    power: float = traced(0.75, above=0, at_most=1)
    """How fast the decay goes to 1. With 1 the average is nearly the plain mean of all steps;
    smaller values forget the earlier ones sooner."""

    def update(self, average: Any, weights: Any, step: Array) -> Any:
        """The next average, after gradient step `step`, which counts from 1."""
        share = (1.0 + step) ** -self.power
        return jax.tree.map(lambda mean, w: mean + share * (w - mean), average, weights)
