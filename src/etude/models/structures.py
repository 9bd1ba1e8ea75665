"""Structures: the equations of a system as a JAX environment, whose constants can be replaced.

Built in are those of the JAX ports whose observation tells the state. Time steps, forces, torques
and limits are taken as known; the constants below are fitted.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import JaxEnvironment, StepResult
from etude.errors import InvalidInput
from etude.models.true_models import STATE_FROM_OBSERVATION, SWING_UP, port_of
from etude.planning.protocol import identity
from etude.spaces import Box, to_environment_action
from etude.struct import replace, static, struct
from etude.types import Array

CART_POLE = ("gravity", "cart_mass", "pole_mass", "half_length")
CONSTANTS: dict[str, tuple[str, ...]] = {
    "Pendulum-v1": ("gravity", "mass", "length"),
    "CartPole-v1": CART_POLE,
    "etude/CartPoleContinuous-v0": CART_POLE,
    SWING_UP: CART_POLE,
    "Acrobot-v1": (
        "gravity", "length", "mass_1", "mass_2", "center_1", "center_2", "inertia",
    ),
    "MountainCar-v0": ("gravity", "power"),
    "MountainCarContinuous-v0": ("gravity", "power"),
}  # fmt: skip


@struct
class Structure:
    """The equations of a system, and which of their constants are to be found."""

    port: Any = static()  # a JaxEnvironment without a time limit, with the constants of a guess
    constants: tuple[str, ...] = static()  # names of its fields, each above 0
    state_from_observation: Callable[[Array], Array] = static(identity)

    @property
    def guess(self) -> Array:
        """The constants of the structure as it is given, [constant]."""
        return jnp.float32([getattr(self.port, name) for name in self.constants])

    def step(self, constants: Array, state: Array, action: Array) -> tuple[Array, StepResult]:
        """One step from a state [n] by an action in the policy's units, without chance."""
        port = replace(self.port, **dict(zip(self.constants, constants, strict=True)))
        action = to_environment_action(port.action_space, action)
        return port.step(state, action, jax.random.key(0))

    def observe(self, state: Array) -> Array:
        """The observation of a state [n]."""
        is_observed = self.state_from_observation is identity
        return state if is_observed else self.port.observe(state)


STRUCTURES: dict[str, Structure] = {}  # by name: those of `register_structure`


def register_structure(
    name: str,
    environment: JaxEnvironment,
    constants: Sequence[str],
    state_from_observation: Callable[[Array], Array] = identity,
) -> None:
    """Register equations of motion, whose constants a model of the kind `physics` then fits.

    Args:
        name: of the structure, as `--model.structure` takes it; the id of an environment makes it
            the one of that environment. A second call replaces the first.
        environment: a struct with `step(state, action, key)`, `observe(state)` and its spaces, as
            an environment in JAX has them, but no time limit. Its states are vectors.
        constants: names of its traced fields to be fitted, which are above 0. Their values are the
            guess that the fit starts around.
        state_from_observation: (observation) -> state; by default the observation itself.

    Raises:
        InvalidInput: where there are no constants, or one is no number above 0.
    """
    values = {constant: getattr(environment, constant, None) for constant in constants}
    for constant, value in values.items():
        if not isinstance(value, int | float) or not value > 0:
            raise InvalidInput(
                f"the constant {constant!r} of {name!r} is {value!r}; name a field of "
                f"{type(environment).__name__} that is a number above 0"
            )
    if not values:
        raise InvalidInput(f"{name!r} has no constants; name the fields that are to be fitted")
    STRUCTURES[name] = Structure(environment, tuple(constants), state_from_observation)


def structure_for(name: str, environment: str) -> Structure:
    """The structure `name`, or that of an environment for "".

    Raises InvalidInput where there is none.
    """
    wanted = (name or environment).split(":")[-1]
    if wanted in STRUCTURES:
        return STRUCTURES[wanted]
    if wanted not in CONSTANTS:
        raise InvalidInput(
            f"the equations of {wanted!r} are not at hand; --model.structure takes "
            f"{', '.join([*CONSTANTS, *STRUCTURES])}. Give yours with etude.register_structure, or "
            "learn them by --model ensemble"
        )
    return built_in_structure(wanted)


@cache
def built_in_structure(environment: str) -> Structure:
    """The structure of an environment's JAX port."""
    port = port_of(environment)
    assert isinstance(port.observation_space, Box)  # as those of all ports of `CONSTANTS`
    return Structure(port, CONSTANTS[environment], STATE_FROM_OBSERVATION[environment])
