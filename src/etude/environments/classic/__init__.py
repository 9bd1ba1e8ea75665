"""Gymnasium's classic control in JAX: pure, differentiable and equal to the original step by step.

The cart-pole under a continuous force stands beside them; its Gymnasium version is etude's own.

Physical constants are floats of the pytree, so `vmap` can sweep them; the fields that shape a space
are static. The defaults are Gymnasium's. Besides `reset` and `step`, whose actions are those of the
environment, every port has

    dynamics(state, control) -> state      # arrays [state] and [control]

for planners: controls are continuous, and no state terminates. What a step is worth and whether it
ends the episode stand alone, for learned models of the rest:

    reward(state, action, next_state) -> []
    terminates(next_state) -> [], bool
"""

from etude.environments.classic.acrobot import Acrobot
from etude.environments.classic.cart_pole import CartPole, ContinuousCartPole
from etude.environments.classic.mountain_car import ContinuousMountainCar, MountainCar
from etude.environments.classic.pendulum import Pendulum
from etude.environments.classic.without_velocity import WithoutVelocity
from etude.environments.tasks.continuous_cart_pole_env import MAX_STEPS
from etude.environments.wrappers.hide_velocity import POSITIONS
from etude.environments.wrappers.time_limit import TimeLimit
from etude.struct import replace

__all__ = [
    "PARTIALLY_OBSERVED_PORTS",
    "PORTS",
    "Acrobot",
    "CartPole",
    "ContinuousCartPole",
    "ContinuousMountainCar",
    "MountainCar",
    "Pendulum",
    "WithoutVelocity",
]


def _with_time_limit(port, limit: int):
    return lambda **parameters: TimeLimit(port(**parameters), limit)


def _without_velocity(env_id: str):
    def make(**parameters):
        limited = PORTS[env_id](**parameters)
        return replace(limited, environment=WithoutVelocity(limited.environment, POSITIONS[env_id]))

    return make


# Gymnasium id -> function of the port's parameters that returns the environment with the time limit
# of its registration
PORTS = {
    "CartPole-v1": _with_time_limit(CartPole, 500),
    "Pendulum-v1": _with_time_limit(Pendulum, 200),
    "Acrobot-v1": _with_time_limit(Acrobot, 500),
    "MountainCar-v0": _with_time_limit(MountainCar, 200),
    "MountainCarContinuous-v0": _with_time_limit(ContinuousMountainCar, 999),
    "etude/CartPoleContinuous-v0": _with_time_limit(ContinuousCartPole, MAX_STEPS),
}

# the same for partially observed environments, whose Gymnasium versions are in
# `etude.environments.wrappers.hide_velocity`
PARTIALLY_OBSERVED_PORTS = {
    "etude/CartPoleWithoutVelocity-v1": _without_velocity("CartPole-v1"),
    "etude/PendulumWithoutVelocity-v1": _without_velocity("Pendulum-v1"),
}
