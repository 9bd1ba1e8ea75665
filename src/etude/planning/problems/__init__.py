"""Problems to plan on, small and named.

Each is a problem of optimal control (`etude.planning.protocol.Problem`) with, beyond that:

    derivative(x, u)       dx/dt: the continuous dynamics, which `dynamics` follows for `time_step`
                           seconds
    running_cost(x, u)     what a second costs, of which `cost` is `time_step` times as much; zero
                           at the goal
    initial(key)           a random first state
    horizon                steps from there to the goal, with time to spare
    solved(states)         bool: whether the path [time, n] ends at the goal, and no obstacle was
                           hit on the way
    clearance(x)           m to the nearest obstacle, negative inside one, where there are obstacles

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
