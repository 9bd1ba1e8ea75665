"""True models for planning: an environment's dynamics and its state from an observation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.data.transition import zeros_like_spec
from etude.environments.classic import PORTS
from etude.environments.protocol import JaxEnvironment
from etude.environments.tasks.cart_pole_swing_up import limited_cart_pole_swing_up
from etude.errors import InvalidInput
from etude.nn.action_masks import mask_space
from etude.planning.protocol import LiftedModel, Model, ModelStep, identity
from etude.spaces import ACTION_MASK, Discrete, EnvironmentSpec, to_environment_action
from etude.struct import replace, static, struct
from etude.types import Array


def pendulum_state(observation: Array) -> Array:
    """Return the pendulum's angle and rate, [2], from (cosine, sine, rate), [3]."""
    cosine, sine, rate = observation
    return jnp.stack([jnp.arctan2(sine, cosine), rate])


def acrobot_state(observation: Array) -> Array:
    """Return the acrobot's angles and rates, [4], from (cosine, sine) of each and rates, [6]."""
    return jnp.concatenate([jnp.arctan2(observation[1:4:2], observation[0:4:2]), observation[4:]])


def cart_pole_state(observation: Array) -> Array:
    """Return the cart-pole's state, [4], from an observation with cosine and sine, [5]."""
    position, velocity, cosine, sine, rate = observation
    return jnp.stack([position, velocity, jnp.arctan2(sine, cosine), rate])


SWING_UP = "etude/CartPoleSwingUp-v0"
# id of each environment in JAX whose observation determines its state
STATE_FROM_OBSERVATION: dict[str, Callable[[Array], Array]] = {
    "CartPole-v1": identity,
    "Pendulum-v1": pendulum_state,
    "Acrobot-v1": acrobot_state,
    "MountainCar-v0": identity,
    "MountainCarContinuous-v0": identity,
    "etude/CartPoleContinuous-v0": identity,
    SWING_UP: cart_pole_state,
}
ENDLESS = {"Pendulum-v1", SWING_UP}  # of these, those whose episodes only a time limit ends
USER_MODELS: dict[str, LiftedModel] = {}  # environment id -> model of `register_model`


# Two models are equal if their functions are: structs are, methods of two objects are not.


@struct
class StepOfPort:
    """A step of the JAX port of an environment, without its time limit."""

    port: Any = static()

    def __call__(self, state: Any, action: Array, key: Array) -> ModelStep:
        """Step from `state`; actions are in [-1, 1] for a bounded Box, from 0 for Discrete."""
        action = to_environment_action(self.port.action_space, action)
        state, outcome = self.port.step(state, action, key)
        return ModelStep(state, outcome.reward, 1.0 - outcome.terminated)


@struct
class ObservationOfPort:
    """What the JAX port of an environment observes of a state."""

    port: Any = static()

    def __call__(self, state: Any) -> Any:
        return self.port.observe(state)


@struct
class EveryAction:
    """The mask of legal actions where all are."""

    num_actions: int = static()

    def __call__(self, state: Any) -> Array:
        return jnp.ones(self.num_actions, bool)


def register_model(
    environment: str,
    step: Callable[[Any, Array, Array], ModelStep],
    state_from_observation: Callable[[Any], Any] = identity,
    legal: Callable[[Any], Array] | None = None,
    ends: bool = True,
) -> None:
    """Register your own model of an environment for `etude train mpc ID` and `etude train mcts ID`.

    Args:
        environment: id of the environment.
        step: (state, action, key) -> etude.planning.protocol.ModelStep, of one state, in JAX.
            Actions are in [-1, 1] for a bounded Box and from 0 for Discrete; randomness comes from
            the key.
        state_from_observation: (observation) -> state; by default the observation itself.
        legal: (state) -> mask of the legal actions, bool [action]; by default all are.
        ends: whether an episode can end. Where it cannot, `continues` of a step is not read, and
            planners with derivatives can plan.

    It takes precedence over etude's own model. A module that registers an environment may register
    its model too.
    """
    USER_MODELS[environment] = LiftedModel(step, state_from_observation, legal_one=legal, ends=ends)


def true_model(environment: str) -> LiftedModel:
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
    port, begin = port_of(environment), STATE_FROM_OBSERVATION[environment]
    observe = identity if begin is identity else ObservationOfPort(port)
    action = port.action_space
    legal = EveryAction(action.n) if isinstance(action, Discrete) else None
    return LiftedModel(StepOfPort(port), begin, observe, legal, environment not in ENDLESS)


def port_of(environment: str) -> JaxEnvironment:
    """The JAX port of an environment without its time limit."""
    ports = {**PORTS, SWING_UP: limited_cart_pole_swing_up}
    return ports[environment]().environment


def model_for(environment: str, spec: EnvironmentSpec) -> Model:
    """Return the true model of `environment`, checked against the spaces in `spec`.

    Raises InvalidInput where the model's spaces differ from the environment's, where a step changes
    the shapes or types of the state, and where observations have a mask of legal actions and a
    registered model has none.
    """
    model = true_model(environment)
    if environment not in USER_MODELS:
        port = port_of(environment)
        if (spec.observation, spec.action) != (port.observation_space, port.action_space):
            raise InvalidInput(
                f"model is {environment!r}, whose spaces are not those of the environment to act "
                "in; plan on the one to act in"
            )
        return model
    example = zeros_like_spec(spec)
    state = jax.eval_shape(model.begin_one, example.observation)
    step = jax.eval_shape(model.step_one, state, example.action, jax.random.key(0))
    wanted = (shapes_of(state), (), ())
    if not isinstance(step, ModelStep) or wanted != (
        shapes_of(step.state),
        *(jnp.shape(x) for x in (step.reward, step.continues)),
    ):
        raise InvalidInput(
            f"the model registered for {environment!r} steps from a state of {state} to {step}; "
            "make it a ModelStep whose state is of the same kind, with one reward and one continues"
        )
    if isinstance(spec.action, Discrete) and model.legal_one is None:
        if mask_space(spec.observation) is not None:
            raise InvalidInput(
                f"the model registered for {environment!r} does not say which actions are legal, "
                f"and observations have an {ACTION_MASK}; give register_model a function `legal` "
                "of the state"
            )
        return replace(model, legal_one=EveryAction(spec.action.n))
    return model


def shapes_of(tree: Any) -> Any:
    """The shape and the dtype of each array of a tree."""
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)
