"""Policies and value functions of states: what on-policy algorithms learn, with a memory or without.

    observation --Body--> features --Policy--> a distribution over actions
                                   --Value-->  a number
"""
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude import distributions, spaces
from etude.distributions import Distribution, StateDependentNormal
from etude.errors import InvalidInput
from etude.linear import affine
from etude.networks import Activation, Body, body
from etude.recurrent import Kind, Memory, blank
from etude.spaces import MASK, Space, Spec, Tree
from etude.struct import static, struct

Array = jax.Array
Memories = tuple[Memory, Memory]       # of the policy's body and of the value's, () each where there is none
BLANK: Memories = ((), ())


@struct
class Policy:
    """An observation tree [..., *shape] to a distribution over actions."""
    body: Body
    head: eqx.nn.Linear
    log_std: Array             # of a Box: [n], whatever the observation, or [feature, n] of state-dependent noise; else empty
    space: Space = static()
    seen: Space = static()     # what observations are like

    def __call__(self, observation: Any, memory: Memory = (), fresh: Array | None = None) -> Distribution:
        """Arguments are those of a Body."""
        return self.choice(self.body(observation, memory, fresh)[0], observation)

    def choice(self, features: Array, observation: Any) -> Distribution:
        parameters = affine(self.head, features)
        if self.log_std.ndim == 2:
            return StateDependentNormal(parameters, jax.lax.stop_gradient(features), self.log_std, self.space.shape)
        choice = distributions.over(self.space, parameters, self.log_std)
        allowed = mask(self.seen, self.space, observation)
        return choice if allowed is None else distributions.masked(choice, allowed)


@struct
class Value:
    """An observation tree [..., *shape] to what is to come, [...]; without a body, of the features of another's."""
    body: Body | None
    head: eqx.nn.Linear

    def __call__(self, observation: Any, memory: Memory = (), fresh: Array | None = None) -> Array:
        """Of one that has a body, whose arguments these are."""
        assert self.body is not None
        return self.judge(self.body(observation, memory, fresh)[0])

    def judge(self, features: Array) -> Array:
        return affine(self.head, features)[..., 0]


@struct
class Agent:
    """A policy and a value, of networks of their own or with one body between them (notes, lecture 6)."""
    policy: Policy
    value: Value

    def __call__(self, observation: Any, memory: Memories = BLANK,
                 fresh: Array | None = None) -> tuple[Distribution, Array, Memories]:
        """(distribution over actions, value, memories to go on with); arguments as those of a Body."""
        features, of_policy = self.policy.body(observation, memory[0], fresh)
        others, of_value = self.value.body(observation, memory[1], fresh) if self.value.body else (features, ())
        return self.policy.choice(features, observation), self.value.judge(others), (of_policy, of_value)

    def blank(self, leading: tuple[int, ...]) -> Memories:
        """The memories at the start of an episode."""
        of_policy, of_value = (blank(body.core, leading) if body and body.core else ()
                               for body in (self.policy.body, self.value.body))
        return of_policy, of_value


def agent(key: Array, spec: Spec, hidden: tuple[int, ...], activation: Activation = "tanh", *, initial_std: float | Array = 1.0,
          shared: bool = False, recurrent: Kind = "none", memory_size: int = 64, state_noise: bool = False) -> Agent:
    """An agent for observations and actions of `spec`, its policy near the middle at first and indifferent between choices.

    With `state_noise` the noise of a Box action depends on the state's features, else on nothing; `initial_std` is its
    standard deviation in units of the policy's [-1, 1], or of the noise that a feature adds.

    Raises InvalidInput where state-dependent noise is asked for choices.
    """
    key_policy, key_value = jax.random.split(key)
    build = lambda key, outputs, scale: body(key, spec.observation, hidden, outputs, activation, scale, recurrent, memory_size)
    outputs = distributions.num_parameters(spec.action)
    see, head = build(key_policy, outputs, 0.01)
    judge, judge_head = build(key_value, 1, 1.0)
    continuous = isinstance(spec.action, spaces.Box)
    if state_noise and not continuous:
        raise InvalidInput(f"state_noise is for actions of a Box, and this environment's are {spec.action}; leave it off")
    sizes = (head.weight.shape[1], outputs) if state_noise else (outputs if continuous else 0,)
    policy = Policy(see, head, jnp.full(sizes, jnp.log(initial_std)), spec.action, spec.observation)
    return Agent(policy, Value(None if shared else judge, judge_head))


def mask(seen: Space, action: Space, observation: Any) -> Array | None:
    """Which choices an observation [...] allows, bool [..., n] in the order of the logits; None where it does not say.

    It says so in the part called action_mask of a Dict, zeros and ones, one for each of Discrete or MultiDiscrete choices.
    Raises InvalidInput where there is not one for each.
    """
    parts = dict(zip(seen.names or (), seen.parts, strict=False)) if isinstance(seen, Tree) else {}
    if MASK not in parts or not isinstance(action, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    shape = getattr(parts[MASK], "shape", ())
    if math.prod(shape) != distributions.num_parameters(action):
        raise InvalidInput(f"the observation's {MASK} has shape {shape}, and there are {distributions.num_parameters(action)} "
                           "choices to allow or not; give one number for each")
    allowed = observation[MASK]
    return allowed.reshape(*allowed.shape[: allowed.ndim - len(shape)], -1) > 0
