"""Environments as models to plan on: their true dynamics, from the state that an observation
tells."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from etude.data.transition import zeros_like_spec
from etude.environments.classic import PORTS
from etude.errors import InvalidInput
from etude.planning.protocol import ModelStep
from etude.spaces import EnvironmentSpec, to_environment_action
from etude.struct import static, struct
from etude.types import Array


class ObservedModel(Protocol):
    """A model, and the state to plan from."""

    def state_from_observation(self, observation: Any) -> Any: ...

    def step(self, state: Any, action: Array, key: Array) -> ModelStep: ...


def identity(observation: Any) -> Any:
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
STATE_FROM_OBSERVATION: dict[str, Callable[[Array], Array]] = {
    "CartPole-v1": identity,
    "Pendulum-v1": pendulum_state,
    "Acrobot-v1": acrobot_state,
    "MountainCar-v0": identity,
    "MountainCarContinuous-v0": identity,
}
USER_MODELS: dict[str, ObservedModel] = {}  # what `register_model` was given


@struct
class TrueModel:
    """An environment as a planner sees it: one state, actions as a policy chooses them, and no time
    limit."""

    port: Any
    state_from_observation: Callable[[Any], Any] = static()  # observation -> state

    def step(self, state: Any, action: Array, key: Array) -> ModelStep:
        """Where `action`, in [-1, 1] for a bounded Box and counted from 0 for choices, leads from
        `state`."""
        state, outcome = self.port.step(
            state, to_environment_action(self.port.action_space, action), key
        )
        return ModelStep(state, outcome.reward, outcome.terminated)


@struct
class UserModel:
    """A user's functions as a model."""

    step: Callable[[Any, Array, Array], ModelStep] = static()
    state_from_observation: Callable[[Any], Any] = static()


def register_model(
    environment: str,
    step: Callable[[Any, Array, Array], ModelStep],
    state_of: Callable[[Any], Any] = identity,
) -> None:
    """Plan on your own model of the environment with that id: `etude train mpc ID`, `etude train
    mcts ID`.

    step      (state, action, key) -> etude.planning.protocol.Step, in JAX. Actions are as a policy
              chooses them: in [-1, 1] for
              a bounded Box, and counted from 0 for Discrete. What chance there is comes from the
              key
    state_of  (observation) -> state; the observation itself when left out

    It goes before a model of etude's own. A module that registers an environment may register its
    model too.
    """
    USER_MODELS[environment] = UserModel(step, state_of)


def true_model(environment: str) -> ObservedModel:
    """The model of the environment with that id: a user's own, or the port's.

    Raises InvalidInput where there is none.
    """
    if environment in USER_MODELS:
        return USER_MODELS[environment]
    if environment not in STATE_FROM_OBSERVATION:
        raise InvalidInput(
            f"the true model of {environment!r} is not at hand; it is of "
            f"{', '.join(STATE_FROM_OBSERVATION)}. "
            "Give your own with etude.register_model"
        )
    return TrueModel(PORTS[environment]().environment, STATE_FROM_OBSERVATION[environment])


def model_for(environment: str, spec: EnvironmentSpec) -> ObservedModel:
    """The true model of `environment`, to act where observations and actions are those of `spec`.

    Raises InvalidInput when its spaces are others, and when a step leads to another kind of state
    than it began in.
    """
    model = true_model(environment)
    if isinstance(model, TrueModel):
        if (spec.observation, spec.action) != (
            model.port.observation_space,
            model.port.action_space,
        ):
            raise InvalidInput(
                f"model is {environment!r}, whose spaces are not those of the environment to act "
                "in; plan on the "
                "one to act in"
            )
        return model
    kind = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    seen = zeros_like_spec(spec)
    state = jax.eval_shape(model.state_from_observation, seen.observation)
    after = jax.eval_shape(model.step, state, seen.action, jax.random.key(0))
    if not isinstance(after, ModelStep) or kind(after.state) != kind(state):
        raise InvalidInput(
            f"the model registered for {environment!r} steps from a state of {state} to {after}; "
            "make it a Step "
            "whose state is of the same kind"
        )
    return model
