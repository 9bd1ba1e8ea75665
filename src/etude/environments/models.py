"""The classic environments as models to plan on: their true dynamics, from the state that an observation tells."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.classic import PORTS
from etude.errors import InvalidInput
from etude.planning.model import Step
from etude.spaces import to_environment
from etude.struct import static, struct

Array = jax.Array


def itself(observation: Array) -> Array:
    """The state, where it is what is observed."""
    return observation


def pendulum_state(observation: Array) -> Array:
    """The angle and its rate, [2], from its cosine and sine and the rate, [3]."""
    cosine, sine, rate = observation
    return jnp.stack([jnp.arctan2(sine, cosine), rate])


def acrobot_state(observation: Array) -> Array:
    """Two angles and their rates, [4], from cosine and sine of each and the rates, [6]."""
    return jnp.concatenate([jnp.arctan2(observation[1:4:2], observation[0:4:2]), observation[4:]])


# Gymnasium id of the ports whose observation tells the state -> a function that tells it
STATE_OF: dict[str, Callable[[Array], Array]] = {
    "CartPole-v1": itself,
    "Pendulum-v1": pendulum_state,
    "Acrobot-v1": acrobot_state,
    "MountainCar-v0": itself,
    "MountainCarContinuous-v0": itself,
}


@struct
class TrueModel:
    """A port as a planner sees it: one state, actions as a policy chooses them, and no time limit."""
    port: Any
    state_of: Callable[[Array], Array] = static()      # observation -> state

    def step(self, state: Array, action: Array, key: Array) -> Step:
        """Where `action`, in [-1, 1] for a bounded Box and counted from 0 for choices, leads from `state`."""
        state, outcome = self.port.step(state, to_environment(self.port.action_space, action), key)
        return Step(state, outcome.reward, outcome.terminated)


def true_model(environment: str) -> TrueModel:
    """The model of the port with that Gymnasium id.

    Raises InvalidInput where there is no port, or its observation does not tell the state.
    """
    if environment not in STATE_OF:
        raise InvalidInput(f"the true model of {environment!r} is not at hand; it is of {', '.join(STATE_OF)}")
    return TrueModel(PORTS[environment]().environment, STATE_OF[environment])
