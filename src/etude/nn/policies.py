"""Actor and critic networks of on-policy algorithms, feed-forward or recurrent.

observation --Torso--> features --PolicyNetwork--> distribution over actions
                                --ValueNetwork--> state value
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude import spaces
from etude.errors import InvalidInput
from etude.nn import distributions
from etude.nn.action_masks import action_mask
from etude.nn.custom_torso import TorsoMaker
from etude.nn.distributions import Distribution, StateDependentNormal
from etude.nn.linear import affine
from etude.nn.networks import Activation, Torso, make_torso
from etude.nn.recurrent import GRU, LSTM, Carry, initial_carry
from etude.spaces import EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array

# of the policy's torso and of the value's, () for one without a recurrent cell
Carries = tuple[Carry, Carry]
NO_CARRIES: Carries = ((), ())


@struct
class PolicyNetwork:
    """Policy network: observations [..., *shape] to a distribution over actions."""

    torso: Torso
    head: eqx.nn.Linear
    # of a Box: [n], equal in all states, or [feature, n] of state-dependent noise; else empty
    log_std: Array
    action_space: Space = static()
    observation_space: Space = static()

    def __call__(
        self, observation: Any, carry: Carry = (), is_first: Array | None = None
    ) -> Distribution:
        """The distribution over actions; for the arguments see Torso."""
        return self.distribution_from_features(
            self.torso(observation, carry, is_first)[0], observation
        )

    def distribution_from_features(self, features: Array, observation: Any) -> Distribution:
        """The distribution over the actions that are legal in `observation`."""
        parameters = affine(self.head, features)
        if self.log_std.ndim == 2:
            return StateDependentNormal(
                parameters, jax.lax.stop_gradient(features), self.log_std, self.action_space.shape
            )
        pi = distributions.distribution_for(self.action_space, parameters, self.log_std)
        mask = action_mask(self.observation_space, self.action_space, observation)
        return pi if mask is None else distributions.masked_distribution(pi, mask)


@struct
class ValueNetwork:
    """State-value network; with `torso=None` it reads the features of the policy's torso."""

    torso: Torso | None
    head: eqx.nn.Linear

    def __call__(self, observation: Any, carry: Carry = (), is_first: Array | None = None) -> Array:
        """V(s), [...], by a network with its own torso; for the arguments see Torso."""
        assert self.torso is not None
        return self.value_from_features(self.torso(observation, carry, is_first)[0])

    def value_from_features(self, features: Array) -> Array:
        """V(s), [...], from features [..., n]."""
        return affine(self.head, features)[..., 0]


@struct
class ActorCriticNetworks:
    """A policy and a state-value network, with separate torsos or a shared one."""

    policy: PolicyNetwork
    value: ValueNetwork

    def __call__(
        self, observation: Any, carries: Carries = NO_CARRIES, is_first: Array | None = None
    ) -> tuple[Distribution, Array, Carries]:
        """(distribution over actions, state value, next carries); for the arguments see Torso."""
        features, policy_carry = self.policy.torso(observation, carries[0], is_first)
        value_features, value_carry = (
            self.value.torso(observation, carries[1], is_first)
            if self.value.torso
            else (features, ())
        )
        return (
            self.policy.distribution_from_features(features, observation),
            self.value.value_from_features(value_features),
            (policy_carry, value_carry),
        )

    def initial_carries(self, batch_shape: tuple[int, ...]) -> Carries:
        """The carries at the start of an episode."""
        policy_carry, value_carry = (
            initial_carry(torso.cell, batch_shape) if torso and torso.cell else ()
            for torso in (self.policy.torso, self.value.torso)
        )
        return policy_carry, value_carry


def make_actor_critic(
    key: Array,
    spec: EnvironmentSpec,
    hidden: tuple[int, ...],
    activation: Activation = "tanh",
    *,
    initial_std: float | Array = 1.0,
    shared: bool = False,
    recurrent: GRU | LSTM | None = None,
    state_noise: bool = False,
    torso: TorsoMaker | None = None,
) -> ActorCriticNetworks:
    """Networks for observations and actions of `spec`.

    The policy's head starts near zero: the mean action near 0, and discrete actions almost equally
    likely. With `state_noise` the noise of a Box action depends on the features of the state;
    otherwise it is the same in all states. `initial_std` is its standard deviation in units of the
    policy's [-1, 1], or of the noise that one feature adds. With `torso`, the networks that
    it makes stand in for the hidden layers.

    Raises InvalidInput for state-dependent noise of actions that are not a Box.
    """
    key_policy, key_value = jax.random.split(key)
    policy = make_policy(
        key_policy,
        spec,
        hidden,
        activation,
        initial_std=initial_std,
        recurrent=recurrent,
        state_noise=state_noise,
        torso=torso,
    )
    value_torso, value_head = make_torso(
        key_value, spec.observation, hidden, 1, activation, 1.0, recurrent, torso
    )
    return ActorCriticNetworks(policy, ValueNetwork(None if shared else value_torso, value_head))


def make_policy(
    key: Array,
    spec: EnvironmentSpec,
    hidden: tuple[int, ...],
    activation: Activation = "tanh",
    *,
    initial_std: float | Array = 1.0,
    recurrent: GRU | LSTM | None = None,
    state_noise: bool = False,
    torso: TorsoMaker | None = None,
) -> PolicyNetwork:
    """The policy network of `make_actor_critic`, by itself.

    Raises InvalidInput for state-dependent noise of actions that are not a Box.
    """
    num_parameters = distributions.num_parameters(spec.action)
    policy_torso, head = make_torso(
        key, spec.observation, hidden, num_parameters, activation, 0.01, recurrent, torso
    )
    is_box = isinstance(spec.action, spaces.Box)
    if state_noise and not is_box:
        raise InvalidInput(
            f"state_noise is for actions of a Box, and this environment's are {spec.action}; "
            "leave it off"
        )
    log_std_shape = (
        (head.weight.shape[1], num_parameters)
        if state_noise
        else (num_parameters if is_box else 0,)
    )
    log_std = jnp.full(log_std_shape, jnp.log(initial_std))
    return PolicyNetwork(policy_torso, head, log_std, spec.action, spec.observation)
