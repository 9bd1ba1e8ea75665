"""A person as the expert of a run: a policy whose action is whatever the hands hold just now.

A person cannot act inside a compiled program. So the action is an argument of it, the state of the
expert, and `etude.runs.interventions` plays the rounds of training step by step with it.
"""

from typing import Any

import jax.numpy as jnp

from etude.algorithms.protocol import Expert
from etude.data.transition import zeros_like_spec
from etude.spaces import EnvironmentSpec
from etude.struct import static, struct
from etude.types import Array


@struct
class PersonPolicy:
    """Acts as its state says: the person's action in the policy's units, [env, *action]."""

    needs: tuple[str, ...] = static(())

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> Any:
        """(): what a person remembers is the person's own."""
        return ()

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The person's action of each copy."""
        return state, memory


def person_expert(spec: EnvironmentSpec) -> Expert:
    """The expert that is a person, who has not taken over."""
    action = zeros_like_spec(spec).action
    blank = jnp.zeros((spec.num_envs, *action.shape), action.dtype)
    policy: Any = PersonPolicy()
    return Expert(blank, policy, jnp.zeros(spec.num_envs, bool))
