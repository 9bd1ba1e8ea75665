"""Optimal control problems: swing-up, parking, hovering and the double integrator.

Each implements `etude.planning.protocol.Problem` and adds:

    derivative(x, u)       dx/dt, the continuous dynamics that `dynamics` integrates over
                           `time_step` seconds
    running_cost(x, u)     cost per second; `cost` is `time_step` times it; zero at the goal
    initial_state(key)     a random initial state
    horizon                number of steps, ample to reach the goal
    solved(states)         bool: whether the trajectory [time, n] ends at the goal without a
                           collision
    clearance(x)           distance to the nearest obstacle (m), negative inside one; only of
                           problems with obstacles

so that one problem serves shooting, collocation and sampling. Units are SI: m, s, kg, N, rad.
"""

from etude.planning.problems.acrobot import AcrobotSwingUp
from etude.planning.problems.car import Car
from etude.planning.problems.cart_pole import CartPoleSwingUp
from etude.planning.problems.double_integrator import DoubleIntegrator
from etude.planning.problems.pendulum import PendulumSwingUp
from etude.planning.problems.quadrotor import Quadrotor

__all__ = [
    "AcrobotSwingUp",
    "Car",
    "CartPoleSwingUp",
    "DoubleIntegrator",
    "PendulumSwingUp",
    "Quadrotor",
]
