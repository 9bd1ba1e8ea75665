"""True models for planning: an environment's dynamics and its state from an observation."""

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
    """A model (`etude.planning.protocol.Model`) whose state an observation determines."""

    def state_from_observation(self, observation: Any) -> Any: ...

    def step(self, state: Any, action: Array, key: Array) -> ModelStep: ...


def identity(observation: Any) -> Any:
    """Return the observation as the state."""
    return observation


def pendulum_state(observation: Array) -> Array:
    """Return the pendulum's angle and rate, [2], from (cosine, sine, rate), [3]."""
    cosine, sine, rate = observation
    return jnp.stack([jnp.arctan2(sine, cosine), rate])


def acrobot_state(observation: Array) -> Array:
    """Return the acrobot's angles and rates, [4], from (cosine, sine) of each and rates, [6]."""
    return jnp.concatenate([jnp.arctan2(observation[1:4:2], observation[0:4:2]), observation[4:]])


# id of each JAX port of a Gymnasium environment whose observation determines its state
STATE_FROM_OBSERVATION: dict[str, Callable[[Array], Array]] = {
    "CartPole-v1": identity,
    "Pendulum-v1": pendulum_state,
    "Acrobot-v1": acrobot_state,
    "MountainCar-v0": identity,
    "MountainCarContinuous-v0": identity,
}
USER_MODELS: dict[str, ObservedModel] = {}  # environment id -> model of `register_model`


@struct
class TrueModel:
    """The JAX port of an environment as a model, without its time limit."""

    port: Any
    state_from_observation: Callable[[Any], Any] = static()

    def step(self, state: Any, action: Array, key: Array) -> ModelStep:
        """Step from `state`; actions are in [-1, 1] for a bounded Box, from 0 for Discrete."""
        state, outcome = self.port.step(
            state, to_environment_action(self.port.action_space, action), key
        )
        return ModelStep(state, outcome.reward, outcome.terminated)


@struct
class UserModel:
    """A model made of a user's functions."""

    step: Callable[[Any, Array, Array], ModelStep] = static()
    state_from_observation: Callable[[Any], Any] = static()


def register_model(
    environment: str,
    step: Callable[[Any, Array, Array], ModelStep],
    state_from_observation: Callable[[Any], Any] = identity,
) -> None:
    """Register your own model of an environment for `etude train mpc ID` and `etude train mcts ID`.

    step                      (state, action, key) -> etude.planning.protocol.ModelStep, in JAX.
                              Actions are in [-1, 1] for a bounded Box and from 0 for Discrete;
                              randomness comes from the key
    state_from_observation    (observation) -> state; by default the observation itself

    It takes precedence over etude's own model. A module that registers an environment may register
    its model too.
    """
    USER_MODELS[environment] = UserModel(step, state_from_observation)


def true_model(environment: str) -> ObservedModel:
    """Return the model of an environment: the user's if registered, else that of the JAX port.

    Raises InvalidInput where there is none.
    """
    if environment in USER_MODELS:
        return USER_MODELS[environment]
    if environment not in STATE_FROM_OBSERVATION:
        raise InvalidInput(
            f"the true model of {environment!r} is not at hand; it is of "
            f"{', '.join(STATE_FROM_OBSERVATION)}. Give your own with etude.register_model"
        )
    return TrueModel(PORTS[environment]().environment, STATE_FROM_OBSERVATION[environment])


def model_for(environment: str, spec: EnvironmentSpec) -> ObservedModel:
    """Return the true model of `environment`, checked against the spaces in `spec`.

    Raises InvalidInput where the model's spaces differ from the environment's, and where a step
    changes the shapes or types of the state.
    """
    model = true_model(environment)
    if isinstance(model, TrueModel):
        if (spec.observation, spec.action) != (
            model.port.observation_space,
            model.port.action_space,
        ):
            raise InvalidInput(
                f"model is {environment!r}, whose spaces are not those of the environment to act "
                "in; plan on the one to act in"
            )
        return model
    shapes_and_dtypes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    example = zeros_like_spec(spec)
    state = jax.eval_shape(model.state_from_observation, example.observation)
    outcome = jax.eval_shape(model.step, state, example.action, jax.random.key(0))
    if not isinstance(outcome, ModelStep) or shapes_and_dtypes(outcome.state) != shapes_and_dtypes(
        state
    ):
        raise InvalidInput(
            f"the model registered for {environment!r} steps from a state of {state} to "
            f"{outcome}; make it a ModelStep whose state is of the same kind"
        )
    return model
