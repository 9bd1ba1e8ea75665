"""Evaluations of the leaves of a search tree: rollouts of the model, or any function.

An evaluation is called as `evaluate(state, key, steps_left)` and returns prior logits [action] and
a value [] to the player to move. A network in its place is a function of a state [1, 1, ...]:

    def evaluate(state, key, steps_left):
        logits, value = network(model.observe(state))
        return logits[0, 0], value[0, 0]
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from etude.planning.protocol import Model
from etude.planning.tree.tree import SearchSettings, sample_legal
from etude.struct import replace, static, struct
from etude.types import Array

# prior logits [action] and a value [] of a state [1, 1, ...], a key, and the number of steps from
# it to the horizon, int32 []; the value counts nothing beyond them if it is to be a rollout's
Evaluate = Callable[[Any, Array, Array], tuple[Array, Array]]


@runtime_checkable
class NeedsUniforms(Protocol):
    """An evaluation for which the search draws numbers ahead, for all its simulations at once.

    To draw a few numbers in each simulation takes longer than the rest of it.
    """

    def with_uniforms(self, uniforms: Array) -> Evaluate:
        """The evaluation of one simulation by `uniforms` in [0, 1), [horizon]."""
        ...


@struct
class Rollout:
    """The return of a rollout of the model to the end of the episode or the horizon.

    UCT's evaluation, the "default policy" of Browne et al. (2012); the prior logits are 0.
    """

    model: Model  # that it steps
    settings: SearchSettings  # of the search: horizon and discount
    # state [1, 1, ...] and key to the action []; None takes legal actions uniformly at random
    policy: Callable[[Any, Array], Array] | None = static(None)
    uniforms: Array | None = None  # in [0, 1), [horizon]; drawn by the key if None

    def with_uniforms(self, uniforms: Array) -> "Rollout":
        """The rollout whose actions are sampled by `uniforms` in [0, 1), [horizon]."""
        return replace(self, uniforms=uniforms)

    def __call__(self, state: Any, key: Array, steps_left: Array) -> tuple[Array, Array]:
        """Prior logits [action], zeros, and the return []."""
        uniforms, horizon = self.uniforms, self.settings.horizon
        if uniforms is None:
            key_uniforms, key = jax.random.split(key)
            uniforms = jax.random.uniform(key_uniforms, (horizon,))

        def rollout_step(rollout):
            state, depth, discount, discounted_return = rollout
            key_policy, key_step = jax.random.split(jax.random.fold_in(key, depth))
            action = (
                sample_legal(self.model.legal(state)[0, 0], uniforms[depth])
                if self.policy is None
                else self.policy(state, key_policy)
            )
            step = self.model.step(state, jnp.reshape(action, (1, 1)), key_step)
            continues = step.continues[0, 0]
            return _RolloutState(
                step.state,
                jnp.where(continues > 0, depth + 1, horizon),
                discount * self.settings.bootstrap_discount * continues,
                discounted_return + discount * step.reward[0, 0],
            )

        rollout = _RolloutState(state, horizon - steps_left, jnp.ones(()), jnp.zeros(()))
        goes_on = lambda rollout: rollout.depth < horizon
        result = jax.lax.while_loop(goes_on, rollout_step, rollout).discounted_return
        return jnp.zeros(self.model.legal(state).shape[-1]), result


class _RolloutState(NamedTuple):
    """Carry of the rollout from a leaf."""

    state: Any
    depth: Array  # int32, []: steps from the root; the horizon where the episode is over
    discount: Array  # of the next reward
    discounted_return: Array
