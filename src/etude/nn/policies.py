"""Policies and value functions of states: what on-policy algorithms learn, with a memory or
without.

    observation --Body--> features --Policy--> a distribution over actions
                                   --Value-->  a number
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude import spaces
from etude.errors import InvalidInput
from etude.nn import distributions
from etude.nn.distributions import Distribution, StateDependentNormal
from etude.nn.linear import affine
from etude.nn.networks import Activation, Torso, make_torso
from etude.nn.recurrent import Carry, CellType, initial_carry
from etude.spaces import ACTION_MASK, Composite, EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array

# of the policy's body and of the value's, () each where there is none
Carries = tuple[Carry, Carry]
NO_CARRIES: Carries = ((), ())


@struct
class Policy:
    """An observation tree [..., *shape] to a distribution over actions."""

    torso: Torso
    head: eqx.nn.Linear
    # of a Box: [n], whatever the observation, or [feature, n] of state-dependent noise; else empty
    log_std: Array
    action_space: Space = static()
    observation_space: Space = static()  # what observations are like

    def __call__(
        self, observation: Any, memory: Carry = (), fresh: Array | None = None
    ) -> Distribution:
        """Arguments are those of a Body."""
        return self.distribution_from_features(
            self.torso(observation, memory, fresh)[0], observation
        )

    def distribution_from_features(self, features: Array, observation: Any) -> Distribution:
        parameters = affine(self.head, features)
        if self.log_std.ndim == 2:
            return StateDependentNormal(
                parameters, jax.lax.stop_gradient(features), self.log_std, self.action_space.shape
            )
        choice = distributions.distribution_for(self.action_space, parameters, self.log_std)
        allowed = action_mask(self.observation_space, self.action_space, observation)
        return choice if allowed is None else distributions.masked(choice, allowed)


@struct
class ValueNetwork:
    """An observation tree [..., *shape] to what is to come, [...]; without a body, of the features
    of another's."""

    torso: Torso | None
    head: eqx.nn.Linear

    def __call__(self, observation: Any, memory: Carry = (), fresh: Array | None = None) -> Array:
        """Of one that has a body, whose arguments these are."""
        assert self.torso is not None
        return self.value_from_features(self.torso(observation, memory, fresh)[0])

    def value_from_features(self, features: Array) -> Array:
        return affine(self.head, features)[..., 0]


@struct
class ActorCriticNetworks:
    """A policy and a value, of networks of their own or with one body between them."""

    policy: Policy
    value: ValueNetwork

    def __call__(
        self, observation: Any, memory: Carries = NO_CARRIES, fresh: Array | None = None
    ) -> tuple[Distribution, Array, Carries]:
        """(distribution over actions, value, memories to go on with); arguments as those of a
        Body."""
        features, of_policy = self.policy.torso(observation, memory[0], fresh)
        others, of_value = (
            self.value.torso(observation, memory[1], fresh) if self.value.torso else (features, ())
        )
        return (
            self.policy.distribution_from_features(features, observation),
            self.value.value_from_features(others),
            (of_policy, of_value),
        )

    def initial_carries(self, leading: tuple[int, ...]) -> Carries:
        """The memories at the start of an episode."""
        of_policy, of_value = (
            initial_carry(body.cell, leading) if body and body.cell else ()
            for body in (self.policy.torso, self.value.torso)
        )
        return of_policy, of_value


def make_actor_critic(
    key: Array,
    spec: EnvironmentSpec,
    hidden: tuple[int, ...],
    activation: Activation = "tanh",
    *,
    initial_std: float | Array = 1.0,
    shared: bool = False,
    recurrent: CellType = "none",
    memory_size: int = 64,
    state_noise: bool = False,
) -> ActorCriticNetworks:
    """An agent for observations and actions of `spec`, its policy near the middle at first and
    indifferent between choices.

    With `state_noise` the noise of a Box action depends on the state's features, else on nothing;
    `initial_std` is its standard deviation in units of the policy's [-1, 1], or of the noise that a
    feature adds.

    Raises InvalidInput where state-dependent noise is asked for choices.
    """
    key_policy, key_value = jax.random.split(key)
    build = lambda key, outputs, scale: make_torso(
        key, spec.observation, hidden, outputs, activation, scale, recurrent, memory_size
    )
    outputs = distributions.num_parameters(spec.action)
    see, head = build(key_policy, outputs, 0.01)
    judge, judge_head = build(key_value, 1, 1.0)
    continuous = isinstance(spec.action, spaces.Box)
    if state_noise and not continuous:
        raise InvalidInput(
            f"state_noise is for actions of a Box, and this environment's are {spec.action}; "
            "leave it off"
        )
    sizes = (head.weight.shape[1], outputs) if state_noise else (outputs if continuous else 0,)
    policy = Policy(see, head, jnp.full(sizes, jnp.log(initial_std)), spec.action, spec.observation)
    return ActorCriticNetworks(policy, ValueNetwork(None if shared else judge, judge_head))


def action_mask(seen: Space, action: Space, observation: Any) -> Array | None:
    """Which choices an observation [...] allows, bool [..., n] in the order of the logits; None
    where it does not say.

    It says so in the part called action_mask of a Dict, zeros and ones, one for each of Discrete or
    MultiDiscrete choices. Raises InvalidInput where there is not one for each.
    """
    parts = (
        dict(zip(seen.names or (), seen.parts, strict=False)) if isinstance(seen, Composite) else {}
    )
    if ACTION_MASK not in parts or not isinstance(action, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    shape = getattr(parts[ACTION_MASK], "shape", ())
    if math.prod(shape) != distributions.num_parameters(action):
        raise InvalidInput(
            f"the observation's {ACTION_MASK} has shape {shape}, and there are "
            f"{distributions.num_parameters(action)} "
            "choices to allow or not; give one number for each"
        )
    allowed = observation[ACTION_MASK]
    return allowed.reshape(*allowed.shape[: allowed.ndim - len(shape)], -1) > 0
