"""Tabular TD(λ) policy evaluation with eligibility traces (Sutton, 1988)."""

import math
from functools import partial
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.exploration import random_choice
from etude.algorithms.protocol import algorithm
from etude.counters import count_up
from etude.data.transition import Transition
from etude.estimators import losses
from etude.nn.action_masks import beside_mask, legal_actions, space_beside_mask
from etude.spaces import Discrete, EnvironmentSpec, Space
from etude.struct import replace, static, struct, traced
from etude.types import Array


@struct
class TDState:
    value: Array  # [state]
    traces: Array  # [env, state]: eligibility, the credit of each state for the next TD error
    steps: Array  # int32: environment steps taken, summed over all environment copies
    observation_space: Space = static()  # Discrete, or a Dict of that and an action mask
    num_actions: int = static()


@algorithm
class TD:
    """State values of the uniformly random policy, learned online: Discrete spaces only."""

    learning_rate: float = traced(0.1, above=0, at_most=1)
    """Initial step size α₀: the fraction of the TD error that one update adds to the value."""
    harmonic_decay_steps: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, h after which α is halved: α = α₀ / (1
    + steps / h); inf: constant."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    trace_decay: float = traced(0.0, at_least=0, at_most=1)
    """Trace decay λ: 0 bootstraps from the next value (TD(0)), 1 uses the full return."""
    initial_value: float = traced(0.0)
    """Initial value of every state, in units of the return."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each environment copy per update."""

    assumes: ClassVar[Assumptions] = Assumptions(
        ("Discrete",), discrete_observations=True, action_masks=True
    )

    def init(self, key: Array, spec: EnvironmentSpec) -> TDState:
        """Return a table full of `initial_value` and traces of zero; the key is not used."""
        states = cast(Discrete, space_beside_mask(spec.observation))
        value = jnp.full(states.n, self.initial_value, jnp.float32)
        traces = jnp.zeros((spec.num_envs, *value.shape))
        return TDState(value, traces, jnp.int32(0), spec.observation, spec.action.n)

    def act(
        self, state: TDState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return a random action, also without `explore`: TD learns the value of this policy."""
        legal = legal_actions(state.observation_space, Discrete(state.num_actions), observation)
        shape = beside_mask(state.observation_space, observation).shape
        return random_choice(key, shape, state.num_actions, legal), memory

    def update(
        self, state: TDState, experience: Transition, key: Array
    ) -> tuple[TDState, dict[str, Array]]:
        """Update the table once for each time step of the experience [time, env], in order.

        The transitions of all environment copies at one time step update the table together. The
        metrics are means over the transitions, and "updates" is their number; "value_loss" is half
        the squared TD error.
        """
        # Harmonic decay, with h harmonic_decay_steps: for finite h, Σ α diverges and Σ α² does not
        # (Robbins & Monro, 1951).
        learning_rate = self.learning_rate / (1 + state.steps / self.harmonic_decay_steps)
        learn_step = partial(self.learn_step, learning_rate=learning_rate)
        transitions = replace(
            experience,
            observation=beside_mask(state.observation_space, experience.observation),
            next_observation=beside_mask(state.observation_space, experience.next_observation),
            memory=(),
        )
        (value, traces), metrics = jax.lax.scan(
            learn_step, (state.value, state.traces), transitions
        )
        steps = count_up(state.steps, experience.reward.size)
        state = replace(state, value=value, traces=traces, steps=steps)
        return state, {**jax.tree.map(jnp.mean, metrics), "updates": experience.reward.size}

    def truncate_episodes(self, state: TDState, is_cut: Array) -> TDState:
        """Forget the traces of the episodes that were cut off."""
        return replace(state, traces=jnp.where(is_cut[:, None], 0, state.traces))

    def learn_step(
        self, carry: tuple[Array, Array], transition: Transition, learning_rate: Array
    ) -> tuple[tuple[Array, Array], dict]:
        """Learn from the transitions [env] of one time step; `carry` is (value, traces).

        This is Sutton & Barto, 2018, section 12.2, with one feature for each state:

            δ = r + γ (1 - terminated) V(s') - V(s)
            z ← γ λ z + 1 at s,   V ← V + α δ z,   z ← 0 where the episode is over

        Several environment copies move V(s) by α times the mean of their TD errors, weighted by
        their traces, times the largest trace, because the sum would overshoot. With one copy it is
        the equation above.
        """
        value, traces = carry
        next_value = value[transition.next_observation]
        target = losses.td_target(
            transition.reward, next_value, transition.terminated, self.discount
        )
        td_error = target - value[transition.observation]  # δ, [env]
        traces = self.discount * self.trace_decay * traces
        # accumulating traces, not replacing ones
        traces = traces.at[jnp.arange(len(td_error)), transition.observation].add(1)
        mean_error = (td_error[:, None] * traces).sum(0) / jnp.maximum(
            traces.sum(0), jnp.finfo(traces.dtype).tiny
        )
        new_value = value + learning_rate * traces.max(0) * mean_error
        metrics = {
            "value_loss": losses.l2_loss(td_error).mean(),
            "value": value[transition.observation].mean(),
        }
        return (new_value, jnp.where(transition.done[:, None], 0, traces)), metrics


# Name on the command line: (constructor, description).
ALGORITHMS = {"td": (TD, "TD(λ) in a table: the value of the uniformly random policy")}
