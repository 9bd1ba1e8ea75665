"""Numerical integration of dx/dt over one step with a constant control."""

from collections.abc import Callable

from etude.types import Array


def runge_kutta(
    derivative: Callable[[Array, Array], Array],
    state: Array,
    control: Array,
    time_step: float | Array,
) -> Array:
    """Take one step of the classical fourth-order method, RK4 (Kutta, 1901), [n]."""
    k1 = derivative(state, control)
    k2 = derivative(state + time_step / 2 * k1, control)
    k3 = derivative(state + time_step / 2 * k2, control)
    k4 = derivative(state + time_step * k3, control)
    return state + time_step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
