"""A baseline of the policy gradient that depends on the action, and the correction it takes.

    ∇J = E[∇log π(a|s) (A - Ã(s, a))] + E[∇ E_{a~π} Q(s, a)],   Ã(s, a) = Q(s, a) - E_{a~π} Q(s, a)

The first term varies less the better Q predicts what an action brings; the second puts back what
the baseline took (Gu et al., 2017). No bias is added as long as Q was not fitted to the very
actions it is subtracted from.
"""

from typing import Any

import jax
import optax

from etude import spaces
from etude.errors import InvalidInput
from etude.nn.distributions import Distribution
from etude.nn.networks import Activation, Network, make_network
from etude.spaces import Composite, EnvironmentSpec, Space
from etude.struct import replace, static, struct
from etude.trees import batched_index
from etude.types import Array


@struct
class ControlVariate:
    """Q(s, a): of discrete actions a number each, of a Box a network that takes the action too."""

    critic: Network
    optimizer: optax.OptState
    space: Space = static()

    def value(self, observation: Any, action: Array) -> Array:
        if isinstance(self.space, spaces.Discrete):
            return batched_index(self.critic(observation), action)
        return self.critic((observation, action))[..., 0]

    def expected(self, choice: Distribution, observation: Any, key: Array) -> Array:
        """E_{a~π} Q(s, a), with a gradient by the policy: exact over choices, by a reparameterized
        sample in a Box."""
        if isinstance(self.space, spaces.Discrete):
            return (jax.nn.softmax(choice.logits) * self.critic(observation)).sum(-1)
        return self.value(observation, choice.sample(key))

    def advantage(self, choice: Distribution, observation: Any, action: Array) -> Array:
        """Ã(s, a), where in a Box the policy's mean action stands for all: what depends on the
        state alone adds no bias."""
        if isinstance(self.space, spaces.Discrete):
            return self.value(observation, action) - self.expected(
                choice, observation, jax.random.key(0)
            )
        return self.value(observation, action) - self.value(observation, choice.mode())

    def fit(
        self, observation: Any, action: Array, target: Array, rule: optax.GradientTransformation
    ) -> tuple["ControlVariate", Array]:
        """After one step on E[½ (target - Q(s, a))²], and that."""

        def loss(critic):
            return (
                (target - replace(self, critic=critic).value(observation, action)) ** 2
            ).mean() / 2

        value, gradient = jax.value_and_grad(loss)(self.critic)
        step, optimizer = rule.update(gradient, self.optimizer)
        return replace(
            self, critic=optax.apply_updates(self.critic, step), optimizer=optimizer
        ), value


def make_control_variate(
    key: Array,
    spec: EnvironmentSpec,
    hidden: tuple[int, ...],
    activation: Activation,
    rule: optax.GradientTransformation,
) -> ControlVariate:
    """Before the first step.

    Raises InvalidInput for actions that are neither Discrete nor a Box.
    """
    match spec.action:
        case spaces.Discrete(n=n):
            critic = make_network(key, spec.observation, hidden, n, activation)
        case spaces.Box():
            critic = make_network(
                key,
                Composite((spec.observation, replace(spec.action, dtype="float32"))),
                hidden,
                1,
                activation,
            )
        case _:
            raise InvalidInput(
                "control_variate takes Discrete actions or a Box, and this environment's are "
                f"{spec.action}; "
                "leave it off"
            )
    return ControlVariate(critic, rule.init(critic), spec.action)
