"""Plans [horizon, *action]: their expected return, open-loop and receding-horizon control (MPC).

open loop           plan once and execute every action of the plan
receding horizon    plan, execute the first action, observe the state and plan again: closed-loop
                    control by an open-loop planner
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.planning.protocol import Model
from etude.planning.sampling.random_shooting import Score
from etude.types import Array

PlannerFn = Callable[[Any, Array, Array], Array]  # state, initial plan and key -> plan


def return_of_plans(
    model: Model,
    state: Any,
    key: Array,
    *,
    discount: float | Array = 1.0,
    particles: int = 1,
    final_value: Callable[[Any], Array] | None = None,
) -> Score:
    """Return a function that takes plans [samples, horizon, *action] to expected returns [samples].

        E [ Σₜ γᵗ rₜ + γᵀ final_value(s_T) ],   nothing after termination

    Every plan starts from `state`. The expectation is the mean over `particles` runs of the model;
    one is enough for a deterministic model. All plans share the same random keys (common random
    numbers), so that the comparison depends on the plans alone.
    """

    def discounted_return(plan, key):
        rewards, last_state, alive = execute_plan(model, state, plan, key)
        value = (discount ** jnp.arange(len(plan)) * rewards).sum()
        return (
            value
            if final_value is None
            else value + jnp.where(alive, discount ** len(plan) * final_value(last_state), 0)
        )

    def score(plans):
        returns = jax.vmap(discounted_return, (None, 0))  # of one plan, [particles]
        return jax.vmap(returns, (0, None))(plans, jax.random.split(key, particles)).mean(1)

    return score


def execute_plan(model: Model, state: Any, plan: Array, key: Array) -> tuple[Array, Any, Array]:
    """Execute `plan` from `state`: rewards [horizon], the last state and whether it is alive.

    Rewards are zero after termination.
    """

    def step(carry, action_and_key):
        state, alive = carry
        outcome = model.step(state, *action_and_key)
        return (outcome.state, alive & ~outcome.terminated), jnp.where(alive, outcome.reward, 0)

    (last_state, alive), rewards = jax.lax.scan(
        step, (state, jnp.bool_(True)), (plan, jax.random.split(key, len(plan)))
    )
    return rewards, last_state, alive


def open_loop_control(
    model: Model, planner: PlannerFn, state: Any, initial_plan: Array, key: Array
) -> Array:
    """Plan once and execute the whole plan: rewards [horizon].

    `initial_plan` [horizon, *action] is where the search starts.
    """
    key_plan, key_execute = jax.random.split(key)
    return execute_plan(model, state, planner(state, initial_plan, key_plan), key_execute)[0]


def receding_horizon_control(
    model: Model, planner: PlannerFn, state: Any, initial_plan: Array, key: Array, steps: int
) -> Array:
    """Plan again at every step and execute the first action: rewards [steps].

    The first search starts from `initial_plan` [horizon, *action], each later one from the shifted
    last plan. Rewards are zero after termination.
    """

    def step(carry, key):
        state, initial_plan, alive = carry
        key_plan, key_step = jax.random.split(key)
        plan = planner(state, initial_plan, key_plan)
        outcome = model.step(state, plan[0], key_step)
        return (outcome.state, shift_plan(plan), alive & ~outcome.terminated), jnp.where(
            alive, outcome.reward, 0
        )

    return jax.lax.scan(step, (state, initial_plan, jnp.bool_(True)), jax.random.split(key, steps))[
        1
    ]


def shift_plan(plan: Array) -> Array:
    """Drop the first action of a plan [horizon, *action] and repeat the last one: a warm start."""
    return jnp.concatenate([plan[1:], plan[-1:]])
