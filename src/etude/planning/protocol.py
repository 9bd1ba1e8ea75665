"""Protocols of planning: models, problems, and the two kinds of planner.

    Model              known or learned dynamics: for sampling planners and tree search
    Problem            differentiable dynamics and costs: for trajectory optimizers
    Planner            maximizes a score over sampled plans
    TrajectoryOptimizer    minimizes the cost of a problem by its derivatives

`LiftedModel` makes a model from functions of one state, `model_step_of` such a function from a
problem, and `etude.planning.model_problem` a problem from a model.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.struct import static, struct
from etude.types import Array

Values = Array | np.ndarray
# plans [sample, horizon, *action] -> values [sample]
Score = Callable[[Array], Array]


@struct
class ModelStep:
    """One step of a model: the next state, the reward, and how likely the episode goes on.

    In a `Model` leaves are [particle, plan, ...], in a function of one state [...].
    """

    state: Any  # the next state
    reward: Array  # float32
    continues: Array  # float32: probability that the episode goes on; 1 or 0 where it is known


class Model(Protocol):
    """A transition model, known or learned, of many states at once: leaves [particle, plan, ...].

    A particle is one course of chance, which all its plans share, so that they are compared under
    the same conditions; a learned model may draw a member of its ensemble for each. A node of a
    search tree is a state [1, 1, ...], the states of imagined rollouts are [branch, 1, ...].
    """

    @property
    def ends(self) -> bool:
        """Whether an episode can end; where it cannot, `continues` is 1 and need not be read."""
        ...

    def begin(self, observation: Any, memory: Any, key: Array) -> Any:
        """The state after an observation and the policy's memory, both [particle, plan, ...]."""
        ...

    def step(self, state: Any, action: Array, key: Array) -> ModelStep:
        """Step by actions [particle, plan, *action], in the policy's units."""
        ...

    def observe(self, state: Any) -> Any:
        """What a policy or a value function reads of a state: an observation, or features."""
        ...

    def legal(self, state: Any) -> Array:
        """The mask of legal actions, bool [particle, plan, action]; of Discrete actions alone."""
        ...


def identity(x: Any) -> Any:
    """Return the argument."""
    return x


@struct
class LiftedModel:
    """A `Model` made from functions of one state, which it maps over particles and plans.

    A state begins with the observation alone; the policy's memory is not read.
    """

    # state, action, key -> ModelStep
    step_one: Callable[[Any, Array, Array], ModelStep] = static()
    begin_one: Callable[[Any], Any] = static(identity)  # observation -> state
    observe_one: Callable[[Any], Any] = static(identity)  # state -> observation
    legal_one: Callable[[Any], Array] | None = static(None)  # state -> bool [action]
    ends: bool = static(True)

    def begin(self, observation: Any, memory: Any, key: Array) -> Any:
        return jax.vmap(jax.vmap(self.begin_one))(observation)

    def step(self, state: Any, action: Array, key: Array) -> ModelStep:
        keys = jax.random.split(key, len(action))
        return jax.vmap(jax.vmap(self.step_one, (0, 0, None)))(state, action, keys)

    def observe(self, state: Any) -> Any:
        return jax.vmap(jax.vmap(self.observe_one))(state)

    def legal(self, state: Any) -> Array:
        if self.legal_one is None:
            raise InvalidInput("the model does not say which actions are legal; give it legal_one")
        return jax.vmap(jax.vmap(self.legal_one))(state)


@struct
class SearchHistory:
    """How a search went: the best plan so far after each of its iterations."""

    plans: Array  # [iteration, horizon, *action]
    values: Array  # [iteration]


@struct
class WarmStart:
    """What a search starts from: a plan to search around, and plans to evaluate again."""

    mean: Array  # [horizon, *action]
    kept_plans: Array  # [kept, horizon, *action]; kept is 0 for a planner that keeps none


@struct
class PlanResult:
    """What a planner found."""

    plan: Array  # [horizon, *action]: the plan to follow, the best one or the mean
    value: Array  # []: that of the best plan evaluated
    spread: Array  # [horizon, *action]: standard deviation of the sampling distribution in the end
    start: WarmStart  # of a search that goes on; `shift` makes it that of the next step
    history: SearchHistory


class Planner(Protocol):
    """Maximizes a score over plans, whose actions are in [-1, 1] as those of policies are.

    A call is one search; `vmap` searches for several states at once.
    """

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for too few samples in an iteration."""
        ...

    def init(self, mean: Array) -> WarmStart:
        """The start of a search around a plan, [horizon, *action]."""
        ...

    def plan(
        self,
        score: Score,
        start: WarmStart,
        key: Array,
        *,
        samples: int,
        iterations: int,
        candidates: Array | None = None,
    ) -> PlanResult:
        """Search with `samples` new plans in an iteration; iCEM draws fewer after the first.

        `candidates` [candidate, horizon, *action], such as the plans of a policy, are evaluated
        beside them in every iteration.
        """
        ...

    def shift(self, start: WarmStart) -> WarmStart:
        """The start of the search one step later."""
        ...


class Problem(Protocol):
    """The problem min over u of Σₜ cost(xₜ, uₜ, t) + final_cost(x_T), xₜ₊₁ = dynamics(xₜ, uₜ).

    States are [n], controls [m], times integers, costs []. `low` and `high` bound each control;
    ±inf leaves it unbounded.
    """

    @property
    def low(self) -> Any: ...

    @property
    def high(self) -> Any: ...

    def dynamics(self, state: Array, control: Array) -> Array: ...

    def cost(self, state: Array, control: Array, time: Array) -> Array: ...

    def final_cost(self, state: Array) -> Array: ...


class ContinuousTimeProblem(Problem, Protocol):
    """A problem that is the discrete form of one in continuous time, for collocation."""

    time_step: Any  # s

    def derivative(self, state: Array, control: Array) -> Array:
        """dx/dt"""
        ...

    def running_cost(self, state: Array, control: Array) -> Array:
        """The cost per second."""
        ...


@struct
class ControlProblem:
    """An optimal control problem (`Problem`) made of plain functions."""

    dynamics: Callable[[Array, Array], Array] = static()
    cost: Callable[[Array, Array, Array], Array] = static()
    final_cost: Callable[[Array], Array] = static()
    low: float | tuple[float, ...] = static(-math.inf)
    high: float | tuple[float, ...] = static(math.inf)


def model_step_of(problem: Problem, state: Array, control: Array) -> ModelStep:
    """Step the problem as a model of one state; the reward is −cost, taken at time 0.

    It is for costs that do not depend on time, and leaves out the final cost.
    """
    return ModelStep(
        problem.dynamics(state, control), -problem.cost(state, control, jnp.int32(0)), jnp.ones(())
    )


@struct
class Solution:
    """What a trajectory optimizer found."""

    states: Values  # [T + 1, n]
    controls: Values  # [T, m]
    cost: Values  # []
    iterations: Values  # int32, []: those that it took
    costs: Values  # [iteration + 1]: from the first guess on; constant after the last iteration
    controls_history: Values  # [iteration + 1, T, m]: those of `costs`


class TrajectoryOptimizer(Protocol):
    """Minimizes the cost of a problem by its derivatives, from a first guess of the controls."""

    def solve(
        self, problem: Problem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        """The best controls found from `state` [n] and a first guess [T, m]."""
        ...

    def shift(self, controls: Array) -> Array:
        """The first guess one step later, [T, m]."""
        ...
