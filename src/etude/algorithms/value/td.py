"""Temporal differences: TD(λ) judges a policy from its experience, in a table (Sutton, 1988)."""

import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude import spaces
from etude.data.transition import Transition
from etude.estimators import losses
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array


@struct
class TDState:
    value: Array  # [state]
    # [env, state]: how much each state of the episode so far has to do with what happens now
    traces: Array
    steps: Array  # int32: environment steps taken
    num_actions: int = static()


@struct
class TD:
    """The value of taking every action alike, learned online with eligibility traces: Discrete
    observations and actions."""

    learning_rate: float = traced(0.1, above=0, at_most=1)
    """α: the share of the way to the target that a value goes."""
    half_life_steps: float = traced(math.inf, above=0)
    """Environment steps h after which α is a half: α / (1 + steps / h)."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    trace_decay: float = traced(0.0, at_least=0, at_most=1)
    """λ: 0 trusts the next value (TD(0)), 1 the whole return."""
    initial_value: float = traced(0.0)
    """Of every state."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates."""

    default_num_envs: ClassVar[int] = 1

    def init(self, key: Array, spec: EnvironmentSpec) -> TDState:
        """The table before the first step; no randomness is in it."""
        states, actions = spaces.table_shape(spec, "td")
        value = jnp.full(states, self.initial_value, jnp.float32)
        return TDState(value, jnp.zeros((spec.num_envs, states)), jnp.int32(0), actions)

    def act(
        self, state: TDState, observation: Array, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """An action at random, exploring or not: that is the policy whose value is asked for."""
        return jax.random.randint(key, observation.shape, 0, state.num_actions), memory

    def update(
        self, state: TDState, experience: Transition, key: Array
    ) -> tuple[TDState, dict[str, Array]]:
        """One update for each moment of the experience, in the order lived; the copies' steps of
        one moment go together.

        The metrics are means over the steps learned from, and "updates" is their number.
        """
        # Σ α diverges, Σ α² does not
        rate = self.learning_rate / (1 + state.steps / self.half_life_steps)
        learn = partial(self.fit_value, rate=rate)
        (value, traces), metrics = jax.lax.scan(
            learn, (state.value, state.traces), replace(experience, memory=())
        )
        state = replace(
            state, value=value, traces=traces, steps=state.steps + experience.reward.size
        )
        return state, {**jax.tree.map(jnp.mean, metrics), "updates": experience.reward.size}

    def fit_value(
        self, learned: tuple[Array, Array], now: Transition, rate: Array
    ) -> tuple[tuple[Array, Array], dict]:
        """One moment, `now` being [env] (Sutton & Barto, 2018, section 12.2, with a table for
        features).

            δ = r + γ (1 - terminated) V(s') - V(s)
            z ← γ λ z + 1 at s,   V ← V + α δ z,   z ← 0 where the episode is over

        Several copies move a state by the mean of their errors, each weighed by its trace there and
        all times the largest of these, for their sum would overshoot. One copy is the textbook's.
        """
        value, traces = learned
        target = losses.td_target(
            now.reward, value[now.next_observation], now.terminated, self.discount
        )
        error = target - value[now.observation]  # δ, [env]
        traces = self.discount * self.trace_decay * traces
        traces = traces.at[jnp.arange(len(error)), now.observation].add(1)  # accumulating
        mean = (error[:, None] * traces).sum(0) / jnp.maximum(
            traces.sum(0), jnp.finfo(traces.dtype).tiny
        )
        moved = value + rate * traces.max(0) * mean
        metrics = {
            "value_loss": losses.l2_loss(error).mean(),
            "value": value[now.observation].mean(),
        }
        return (moved, jnp.where(now.done[:, None], 0, traces)), metrics


ALGORITHMS = {"td": (TD, "TD(λ) in a table: the value of the uniformly random policy")}
