"""An action-dependent control variate of the policy gradient, after Q-Prop.

    ∇J = E[∇log π(a|s) (A - Ã(s, a))] + E[∇ E_{a~π} Q(s, a)],   Ã(s, a) = Q(s, a) - E_{a~π} Q(s, a)

The better Q predicts the effect of an action, the smaller the variance of the first term; the
second term corrects for the subtracted baseline (Gu et al., 2017). The gradient is unbiased as long
as Q was not fitted to the actions it is subtracted from.
"""

from typing import Any

import jax
import optax

from etude import spaces
from etude.errors import InvalidInput
from etude.estimators import losses
from etude.nn.custom_torso import TorsoMaker
from etude.nn.distributions import Distribution
from etude.nn.networks import Activation, Network, make_network
from etude.spaces import Composite, EnvironmentSpec, Space
from etude.struct import replace, static, struct
from etude.trees import batched_index
from etude.types import Array


@struct
class ControlVariate:
    """Q(s, a): one output per Discrete action, or a network of observation and Box action."""

    critic: Network
    opt_state: optax.OptState
    action_space: Space = static()

    def q_value(self, observation: Any, action: Array) -> Array:
        """Return Q(s, a)."""
        if isinstance(self.action_space, spaces.Discrete):
            return batched_index(self.critic(observation), action)
        return self.critic((observation, action))[..., 0]

    def expected_q(self, pi: Distribution, observation: Any, key: Array) -> Array:
        """Return E_{a~π} Q(s, a), differentiable in π.

        Exact for Discrete actions; from one reparameterized sample for a Box.
        """
        if isinstance(self.action_space, spaces.Discrete):
            return (jax.nn.softmax(pi.logits) * self.critic(observation)).sum(-1)
        return self.q_value(observation, pi.sample(key))

    def advantage(self, pi: Distribution, observation: Any, action: Array) -> Array:
        """Return Ã(s, a); for a Box, Q at the policy's mode stands in for the expectation.

        Such a baseline differs from Ã by a function of the state, which adds no bias.
        """
        if isinstance(self.action_space, spaces.Discrete):
            q = self.q_value(observation, action)
            return q - self.expected_q(pi, observation, jax.random.key(0))
        return self.q_value(observation, action) - self.q_value(observation, pi.mode())

    def fit(
        self,
        observation: Any,
        action: Array,
        target: Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple["ControlVariate", Array]:
        """Take one gradient step on E[½ (target - Q(s, a))²]; return the loss too."""

        def loss_fn(critic):
            q = replace(self, critic=critic).q_value(observation, action)
            losses.check_target("compute_advantages", target, q)
            return ((target - q) ** 2).mean() / 2

        loss, gradient = jax.value_and_grad(loss_fn)(self.critic)
        updates, opt_state = optimizer.update(gradient, self.opt_state)
        critic = optax.apply_updates(self.critic, updates)
        return replace(self, critic=critic, opt_state=opt_state), loss


def make_control_variate(
    key: Array,
    spec: EnvironmentSpec,
    hidden: tuple[int, ...],
    activation: Activation,
    optimizer: optax.GradientTransformation,
    torso: TorsoMaker | None = None,
) -> ControlVariate:
    """Return a control variate with initial weights.

    Raises InvalidInput for actions that are neither Discrete nor a Box.
    """
    match spec.action:
        case spaces.Discrete(n=n):
            critic = make_network(key, spec.observation, hidden, n, activation, torso=torso)
        case spaces.Box():
            inputs = Composite((spec.observation, replace(spec.action, dtype="float32")))
            critic = make_network(key, inputs, hidden, 1, activation, torso=torso)
        case _:
            raise InvalidInput(
                "control_variate takes Discrete actions or a Box, and this environment's are "
                f"{spec.action}; leave it off"
            )
    return ControlVariate(critic, optimizer.init(critic), spec.action)
