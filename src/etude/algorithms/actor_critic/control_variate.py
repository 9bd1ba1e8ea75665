"""A baseline of the policy gradient that depends on the action, and the correction it takes (notes, lecture 6).

    ∇J = E[∇log π(a|s) (A - Ã(s, a))] + E[∇ E_{a~π} Q(s, a)],   Ã(s, a) = Q(s, a) - E_{a~π} Q(s, a)

The first term varies less the better Q predicts what an action brings; the second puts back what the baseline took (Gu et
al., 2017). No bias is added as long as Q was not fitted to the very actions it is subtracted from.
"""
from typing import Any

import jax
import optax

from etude import spaces
from etude.distributions import Distribution
from etude.errors import InvalidInput
from etude.networks import Activation, Network, network
from etude.spaces import Space, Spec, Tree
from etude.struct import replace, static, struct
from etude.trees import batched_index

Array = jax.Array


@struct
class Variate:
    """Q(s, a): of discrete actions a number each, of a Box a network that takes the action too."""
    critic: Network
    optimizer: optax.OptState
    space: Space = static()

    def value(self, observation: Any, action: Array) -> Array:
        if isinstance(self.space, spaces.Discrete):
            return batched_index(self.critic(observation), action)
        return self.critic((observation, action))[..., 0]

    def expected(self, choice: Distribution, observation: Any, key: Array) -> Array:
        """E_{a~π} Q(s, a), with a gradient by the policy: exact over choices, by a reparameterised sample in a Box."""
        if isinstance(self.space, spaces.Discrete):
            return (jax.nn.softmax(choice.logits) * self.critic(observation)).sum(-1)
        return self.value(observation, choice.sample(key))

    def advantage(self, choice: Distribution, observation: Any, action: Array) -> Array:
        """Ã(s, a), where in a Box the policy's mean action stands for all: what depends on the state alone adds no bias."""
        if isinstance(self.space, spaces.Discrete):
            return self.value(observation, action) - self.expected(choice, observation, jax.random.key(0))
        return self.value(observation, action) - self.value(observation, choice.mode())

    def fit(self, observation: Any, action: Array, target: Array, rule: optax.GradientTransformation) -> tuple["Variate", Array]:
        """After one step on E[½ (target - Q(s, a))²], and that."""
        def loss(critic):
            return ((target - replace(self, critic=critic).value(observation, action)) ** 2).mean() / 2
        value, gradient = jax.value_and_grad(loss)(self.critic)
        step, optimizer = rule.update(gradient, self.optimizer)
        return replace(self, critic=optax.apply_updates(self.critic, step), optimizer=optimizer), value


def control_variate(key: Array, spec: Spec, hidden: tuple[int, ...], activation: Activation,
                    rule: optax.GradientTransformation) -> Variate:
    """Before the first step.

    Raises InvalidInput for actions that are neither Discrete nor a Box.
    """
    match spec.action:
        case spaces.Discrete(n=n):
            critic = network(key, spec.observation, hidden, n, activation)
        case spaces.Box():
            critic = network(key, Tree((spec.observation, replace(spec.action, dtype="float32"))), hidden, 1, activation)
        case _:
            raise InvalidInput(f"control_variate takes Discrete actions or a Box, and this environment's are {spec.action}; "
                               "leave it off")
    return Variate(critic, rule.init(critic), spec.action)
