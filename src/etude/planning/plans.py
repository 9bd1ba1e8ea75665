"""Plans [horizon, *action]: what they are worth, and the two ways to use them.

open loop           plan once, and do all of it, come what may
receding horizon    plan, do the first action, look, and plan again: closed loop, by an
                    open-loop planner
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.planning.protocol import Model
from etude.planning.sampling.random_shooting import Score
from etude.types import Array

PlannerFn = Callable[[Any, Array, Array], Array]  # state, a plan to start from and key -> plan


def return_of_plans(
    model: Model,
    state: Any,
    key: Array,
    *,
    discount: float | Array = 1.0,
    particles: int = 1,
    final_value: Callable[[Any], Array] | None = None,
) -> Score:
    """The expected return of plans from `state`: a function from [samples, horizon, *action] to
    [samples].

        E [ Σₜ γᵗ rₜ + γᵀ final_value(s_T) ],   nothing after termination

    The expectation is the mean over `particles` runs of the model; one is enough where it is
    certain. Every plan meets the same chances, so that plans are compared, not their luck.
    """

    def worth(plan, key):
        rewards, last, alive = execute_plan(model, state, plan, key)
        value = (discount ** jnp.arange(len(plan)) * rewards).sum()
        return (
            value
            if final_value is None
            else value + jnp.where(alive, discount ** len(plan) * final_value(last), 0)
        )

    def score(plans):
        over_particles = jax.vmap(worth, (None, 0))
        return jax.vmap(over_particles, (0, None))(plans, jax.random.split(key, particles)).mean(1)

    return score


def execute_plan(model: Model, state: Any, plan: Array, key: Array) -> tuple[Array, Any, Array]:
    """Do all of `plan`: the rewards [horizon], zero after termination, the last state, and whether
    it goes on from there."""

    def step(carry, at):
        state, alive = carry
        after = model.step(state, *at)
        return (after.state, alive & ~after.terminated), jnp.where(alive, after.reward, 0)

    (last, alive), rewards = jax.lax.scan(
        step, (state, jnp.bool_(True)), (plan, jax.random.split(key, len(plan)))
    )
    return rewards, last, alive


def open_loop_control(
    model: Model, planner: PlannerFn, state: Any, start: Array, key: Array
) -> Array:
    """The rewards, [horizon], of planning once from `start` [horizon, *action] and doing all of
    it."""
    key_plan, key_play = jax.random.split(key)
    return execute_plan(model, state, planner(state, start, key_plan), key_play)[0]


def receding_horizon_control(
    model: Model, planner: PlannerFn, state: Any, start: Array, key: Array, steps: int
) -> Array:
    """The rewards, [steps], of planning anew at each step, from what is left of the last plan; zero
    after termination.

    `start` [horizon, *action] is where the first search begins.
    """

    def step(carry, key):
        state, start, alive = carry
        key_plan, key_step = jax.random.split(key)
        plan = planner(state, start, key_plan)
        after = model.step(state, plan[0], key_step)
        return (after.state, shift_plan(plan), alive & ~after.terminated), jnp.where(
            alive, after.reward, 0
        )

    return jax.lax.scan(step, (state, start, jnp.bool_(True)), jax.random.split(key, steps))[1]


def shift_plan(plan: Array) -> Array:
    """What is left of a plan [horizon, *action] a step later, its last action repeated: a warm
    start for the next search."""
    return jnp.concatenate([plan[1:], plan[-1:]])
