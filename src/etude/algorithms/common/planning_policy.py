"""Acting by planning: search for a plan, follow it for some steps, and plan again.

replan_interval = 1           plan at every step (model-predictive control)
replan_interval = horizon     follow the whole plan (open loop)
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.model_problem import ModelProblem
from etude.planning.planners import GradientPlanner, SamplingPlanner
from etude.planning.plans import return_of_plans
from etude.planning.protocol import Model
from etude.planning.sampling.cem import CEM
from etude.spaces import Discrete, EnvironmentSpec, Space
from etude.struct import nested, replace, static, struct, traced
from etude.trees import where_done
from etude.types import Array


@struct
class PlanningFields:
    """The hyperparameters of a search for a plan."""

    planner: SamplingPlanner | GradientPlanner = nested(CEM())
    """Planner that searches for a plan; those with derivatives plan where no episode can end."""
    horizon: int = static(25, at_least=1)
    """Environment steps in a plan (25: Chua et al., 2018, on cart-pole)."""
    samples: int = static(100, at_least=1)
    """Plans sampled in each iteration, of icem in the first; no effect with derivatives."""
    iterations: int = static(4, at_least=1)
    """Iterations of the search for a plan; random shooting draws all their samples at once."""
    replan_interval: int = static(1, at_least=1)
    """Environment steps for which a plan is followed; 1 plans again at every step."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per environment step."""


@struct
class PlanMemory:
    """The plan that is followed in each environment, [env, ...]."""

    start: Any  # of the next search: a WarmStart, or controls [env, horizon, *element]
    # [env, replan_interval, *element], in [-1, 1]: what is followed until the next search
    actions: Array
    age: Array  # int32 [env]: steps since the search; replan_interval before the first one
    # bool [env]: every plan that the last search tried diverges, and zeros are followed: the middle
    # of the box, or the first of Discrete actions
    has_diverged: Array


def check_planning(algorithm: PlanningFields) -> None:
    """Raise InvalidInput for settings of a search that do not go together."""
    if isinstance(algorithm.planner, SamplingPlanner):
        algorithm.planner.check_samples(algorithm.samples)
    if algorithm.replan_interval > algorithm.horizon:
        raise InvalidInput(
            f"replan_interval is {algorithm.replan_interval}, more than the {algorithm.horizon} "
            f"steps of a plan; give --horizon {algorithm.replan_interval} or more"
        )


def element_shape(space: Space) -> tuple[int, ...]:
    """The shape of an element of a plan: that of an action, or a number for each Discrete one."""
    return (space.n,) if isinstance(space, Discrete) else space.shape


def action_of_element(space: Space, element: Array) -> Array:
    """The action [...] of an element of a plan, [..., *element].

    A Discrete action is the one whose number is the greatest, so planners of a box choose among
    actions too: random shooting chooses uniformly, and others move the numbers.
    """
    return element.argmax(-1) if isinstance(space, Discrete) else element


def empty_plans(algorithm: PlanningFields, spec: EnvironmentSpec) -> PlanMemory:
    """No plan, and the start of the first search around the middle of the box."""
    shape = element_shape(spec.action)
    plans = jnp.zeros((spec.num_envs, algorithm.horizon, *shape))
    is_sampling = isinstance(algorithm.planner, SamplingPlanner)
    start = jax.vmap(algorithm.planner.init)(plans) if is_sampling else plans
    age = jnp.full(spec.num_envs, algorithm.replan_interval, jnp.int32)
    actions = plans[:, : algorithm.replan_interval]
    return PlanMemory(start, actions, age, jnp.zeros(spec.num_envs, bool))


def follow_plan(
    algorithm: PlanningFields,
    model: Model,
    observation: Any,
    memory: PlanMemory,
    key: Array,
    space: Space,
    *,
    particles: int = 1,
    risk_aversion: float | Array = 0.0,
) -> tuple[Array, PlanMemory]:
    """The next action of each environment, of a new plan where the old one is at its end.

    The next search starts from this plan, shifted by one step at each call. With several
    `particles` a plan is scored as in `return_of_plans`.
    """
    is_due = memory.age >= algorithm.replan_interval

    def search(memory):
        def search_one(observation, start, key):
            return search_plan(
                algorithm, model, observation, start, key, space, particles, risk_aversion
            )

        keys = jax.random.split(key, len(is_due))
        searched = jax.vmap(search_one)(observation, memory.start, keys)
        return jax.tree.map(partial(where_done, is_due), searched, memory)

    # with an interval of 1 a plan is due in every environment
    memory = (
        search(memory)
        if algorithm.replan_interval == 1
        else jax.lax.cond(is_due.any(), search, lambda memory: memory, memory)
    )
    element = memory.actions[jnp.arange(len(is_due)), memory.age]
    shifted = jax.vmap(algorithm.planner.shift)(memory.start)
    return action_of_element(space, element), replace(memory, start=shifted, age=memory.age + 1)


def search_plan(
    algorithm: PlanningFields,
    model: Model,
    observation: Any,
    start: Any,
    key: Array,
    space: Space,
    particles: int,
    risk_aversion: float | Array,
) -> PlanMemory:
    """The memory after a search in one environment, whose leaves have no axis [env]."""
    key_search, key_model, key_begin = jax.random.split(key, 3)
    state = model.begin(jax.tree.map(lambda x: x[None, None], observation), (), key_begin)
    return_of = return_of_plans(
        model,
        state,
        key_model,
        discount=algorithm.discount,
        particles=particles,
        risk_aversion=risk_aversion,
    )

    def score(plans):
        return return_of(action_of_element(space, plans))

    if not isinstance(algorithm.planner, SamplingPlanner):
        problem = ModelProblem(model, key_model, algorithm.discount, start.shape[1:])
        return follow(algorithm, *optimize_trajectory(algorithm, problem, state[0, 0], start))
    result = algorithm.planner.plan(
        score, start, key_search, samples=algorithm.samples, iterations=algorithm.iterations
    )
    best, is_finite = result.history.plans[-1], result.value > -jnp.inf
    plan = best
    if getattr(algorithm.planner, "follow", "best") == "mean":
        # the mean of plans may diverge where the best of them does not
        plan = jnp.where(jnp.isfinite(score(result.plan[None])[0]), result.plan, best)
    return follow(algorithm, plan, result.start, is_finite)


def optimize_trajectory(
    algorithm: PlanningFields, problem: ModelProblem, state: Array, guess: Array
) -> tuple[Array, Array, Array]:
    """(plan, the same as the start of the next search, whether its cost is finite).

    A planner with derivatives finds it from a first guess, [horizon, *element].
    """
    controls = guess.reshape(algorithm.horizon, math.prod(guess.shape[1:]))
    solution = algorithm.planner.solve(problem, state, controls, iterations=algorithm.iterations)
    plan = jnp.reshape(solution.controls, guess.shape)
    return plan, plan, jnp.isfinite(solution.cost)


def follow(algorithm: PlanningFields, plan: Array, start: Any, is_finite: Array) -> PlanMemory:
    """The memory with which a plan begins; where it diverges, the middle of the box is taken."""
    actions = jnp.where(is_finite, plan[: algorithm.replan_interval], 0.0)
    return PlanMemory(start, actions, jnp.int32(0), ~is_finite)
