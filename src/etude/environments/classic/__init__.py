"""Gymnasium's classic control, written in JAX: pure, differentiable and held to the original step
by step by the tests.

Physics are floats of the pytree, so `vmap` can sweep them; what shapes a space is static. Every
port has

    dynamics(state, control) -> state      # arrays [state] and [control], the planners' view: continuous, nothing ends

next to `reset` and `step`, whose actions are the environment's own. The fields' defaults are
Gymnasium's.
"""

from etude.environments.classic.acrobot import Acrobot
from etude.environments.classic.cart_pole import CartPole, CartPoleWithoutVelocity
from etude.environments.classic.mountain_car import ContinuousMountainCar, MountainCar
from etude.environments.classic.pendulum import Pendulum
from etude.environments.wrappers.time_limit import TimeLimit

__all__ = [
    "PARTIALLY_OBSERVED_PORTS",
    "PORTS",
    "Acrobot",
    "CartPole",
    "CartPoleWithoutVelocity",
    "ContinuousMountainCar",
    "MountainCar",
    "Pendulum",
]


def _with_time_limit(port, limit: int):
    return lambda **parameters: TimeLimit(port(**parameters), limit)


# Gymnasium id -> a function from the port's own parameters to the environment, with the time limit
# of its registration
PORTS = {
    "CartPole-v1": _with_time_limit(CartPole, 500),
    "Pendulum-v1": _with_time_limit(Pendulum, 200),
    "Acrobot-v1": _with_time_limit(Acrobot, 500),
    "MountainCar-v0": _with_time_limit(MountainCar, 200),
    "MountainCarContinuous-v0": _with_time_limit(ContinuousMountainCar, 999),
}

# ours of the same kind, of which a part is not seen (`etude.environments.wrappers.hide_velocity`
# has Gymnasium's side of them)
PARTIALLY_OBSERVED_PORTS = {
    "etude/CartPoleWithoutVelocity-v1": _with_time_limit(CartPoleWithoutVelocity, 500)
}
