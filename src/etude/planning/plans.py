"""Plans [horizon, *action]: their expected return, open-loop and receding-horizon control (MPC).

open loop           plan once and execute every action of the plan
receding horizon    plan, execute the first action, observe the state and plan again: closed-loop
                    control by an open-loop planner
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.planning.protocol import Model, Score
from etude.types import Array

PlannerFn = Callable[[Any, Array, Array], Array]  # state, initial plan and key -> plan


def return_of_plans(
    model: Model,
    state: Any,
    key: Array,
    *,
    discount: float | Array = 1.0,
    particles: int = 1,
    risk_aversion: float | Array = 0.0,
    final_value: Callable[[Any], Array] | None = None,
) -> Score:
    """Return a function that takes plans [samples, horizon, *action] to expected returns [samples].

        E [ Σₜ γᵗ reachₜ rₜ + γᵀ reach_T final_value(s_T) ],   reachₜ = Π continuesᵢ over i < t

    Every plan starts from `state`, whose leaves are [1, 1, ...], or [particles, 1, ...] where they
    differ. The expectation is the mean over the particles; one is enough for a deterministic model.
    With a `risk_aversion` c the value is mean − c·std over the particles, which shuns plans whose
    outcome is uncertain. All plans of a particle meet the same chances, so that the comparison
    depends on the plans alone. `final_value` takes states [particle, plan, ...] to values
    [particle, plan].
    """

    def score(plans):
        start = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (particles, len(plans), *x.shape[2:])), state
        )
        rewards, last_state, reach = execute_plans(model, start, jnp.moveaxis(plans, 1, 0), key)
        discounts = discount ** jnp.arange(len(rewards))[:, None, None]
        value = (discounts * rewards).sum(0)  # [particle, plan]
        if final_value is not None:
            end = discount ** len(rewards) * final_value(last_state)
            value += jnp.where(reach > 0, reach * end, 0)
        if particles == 1:
            return value[0]
        return value.mean(0) - risk_aversion * value.std(0)

    return score


def execute_plans(model: Model, state: Any, actions: Array, key: Array) -> tuple[Array, Any, Array]:
    """Execute actions [time, plan, *action] from `state` [particle, plan, ...].

    Returns the rewards [time, particle, plan], each times the probability that the episode has gone
    on until then, the last state, and that probability in the end.
    """

    def step(carry, action_and_key):
        (state, reach), (action, key) = carry, action_and_key
        outcome = model.step(state, jnp.broadcast_to(action, (len(reach), *action.shape)), key)
        if not model.ends:
            return (outcome.state, reach), outcome.reward
        # 0 times a reward that is not finite is not 0
        reward = jnp.where(reach > 0, reach * outcome.reward, 0)
        return (outcome.state, reach * outcome.continues), reward

    reach = jnp.ones(jax.tree.leaves(state)[0].shape[:2])
    (last_state, reach), rewards = jax.lax.scan(
        step, (state, reach), (actions, jax.random.split(key, len(actions)))
    )
    return rewards, last_state, reach


def open_loop_control(
    model: Model, planner: PlannerFn, state: Any, initial_plan: Array, key: Array
) -> Array:
    """Plan once and execute the whole plan from `state` [1, 1, ...]: rewards [horizon].

    `initial_plan` [horizon, *action] is where the search starts.
    """
    key_plan, key_execute = jax.random.split(key)
    plan = planner(state, initial_plan, key_plan)
    return execute_plans(model, state, plan[:, None], key_execute)[0][:, 0, 0]


def receding_horizon_control(
    model: Model, planner: PlannerFn, state: Any, initial_plan: Array, key: Array, steps: int
) -> Array:
    """Plan again at every step and execute the first action on the model: rewards [steps].

    The first search starts from `state` [1, 1, ...] and `initial_plan` [horizon, *action], each
    later one from the shifted last plan. Rewards are weighted as in `execute_plans`.
    """

    def step(carry, key):
        state, initial_plan, reach = carry
        key_plan, key_step = jax.random.split(key)
        plan = planner(state, initial_plan, key_plan)
        rewards, state, reach_after = execute_plans(model, state, plan[:1, None], key_step)
        reward = jnp.where(reach > 0, reach * rewards[0], 0)
        return (state, shift_plan(plan), reach * reach_after), reward

    carry = state, initial_plan, jnp.ones((1, 1))
    return jax.lax.scan(step, carry, jax.random.split(key, steps))[1][:, 0, 0]


def shift_plan(plan: Array) -> Array:
    """Drop the first action of a plan [horizon, *action] and repeat the last one."""
    return jnp.concatenate([plan[1:], plan[-1:]])
