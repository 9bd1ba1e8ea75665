"""Model-predictive control, MPC: plan, execute the first action, and plan again at every step."""

from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition
from etude.models.true_models import ObservedModel, model_for
from etude.planning.plans import return_of_plans, shift_plan
from etude.planning.sampling.cem import cem, check_elites
from etude.planning.sampling.icem import icem, num_reused
from etude.planning.sampling.mppi import mppi
from etude.planning.sampling.random_shooting import Score, random_shooting
from etude.spaces import EnvironmentSpec
from etude.struct import static, struct, traced
from etude.types import Array


@struct
class MPCState:
    """What MPC knows; it learns nothing."""

    model: ObservedModel = static()  # that it plans on


@struct
class PlannerMemory:
    """The warm start of the next search; the policy's memory has a leading axis [env]."""

    mean: Array  # initial mean of the plans, [horizon, *action]
    # best plans of the last search, [plan, horizon, *action]; only icem has any
    reused_plans: Array


@algorithm
class MPC:
    """Model-predictive control on the environment's true model: a bounded Box, no learning."""

    model: str = static("")
    """Id of the environment whose model it plans on; by default the one that it acts in."""
    planner: Literal["random_shooting", "cem", "icem", "mppi"] = static("cem")
    """Algorithm that searches for a plan."""
    horizon: int = static(25, at_least=1)
    """Environment steps in a plan (25: Chua et al., 2018, on cart-pole)."""
    samples: int = static(100, at_least=1)
    """Plans evaluated in each iteration; icem evaluates fewer after the first."""
    iterations: int = static(4, at_least=1)
    """Iterations of the search at each step; random shooting draws all their samples at once."""
    elites: int = static(10, at_least=1)
    """Best plans to which cem and icem refit in each iteration (10: Pinneri et al., 2020)."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    std: float = traced(0.5, above=0)
    """Initial standard deviation of the plans, in the policy's [-1, 1] (0.5: Pinneri et al.)."""
    smoothing: float = traced(0.1, at_least=0, at_most=1)
    """Weight of the old mean and std in each refit of cem and icem (0.1: Pinneri et al.)."""
    noise_exponent: float = traced(2.0, at_least=0)
    """Exponent β of icem's and mppi's noise, with power f^-β along time; 0 is white noise."""
    temperature: float = traced(1.0, above=0)
    """Temperature of mppi's weights exp(return / temperature), in units of the return."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = Assumptions(("bounded Box",), known_model=True)

    def validate_fields(self) -> None:
        if self.planner in ("cem", "icem"):
            check_elites(self.samples, self.elites)

    def init(self, key: Array, spec: EnvironmentSpec) -> MPCState:
        """The model to plan on.

        Raises InvalidInput if the model is that of another environment.
        """
        return MPCState(model_for(self.model or spec.id, spec))

    def initial_memory(self, state: MPCState, spec: EnvironmentSpec, key: Array) -> PlannerMemory:
        """The start of the first search, zeros [env, ...]: the middle of the action box."""
        n = spec.num_envs
        plan_shape = (self.horizon, *spec.action.shape)
        num_plans = num_reused(self.elites) if self.planner == "icem" else 0
        return PlannerMemory(jnp.zeros((n, *plan_shape)), jnp.zeros((n, num_plans, *plan_shape)))

    def act(
        self, state: MPCState, observation: Any, memory: PlannerMemory, key: Array, explore: bool
    ) -> tuple[Array, PlannerMemory]:
        """The first action of a new plan, exploring or not, and the warm start of the next one.

        The search starts from the last plan, shifted by one step.
        """
        keys = jax.random.split(key, len(memory.mean))
        return jax.vmap(partial(self.plan, state.model))(observation, memory, keys)

    def plan(
        self, model: ObservedModel, observation: Any, start: PlannerMemory, key: Array
    ) -> tuple[Array, PlannerMemory]:
        """The action of one copy [*action], and the warm start of its next search."""
        key_search, key_model = jax.random.split(key)
        score = return_of_plans(
            model, model.state_from_observation(observation), key_model, discount=self.discount
        )
        plan, result = self.search(score, start, key_search)
        action = plan[0]
        mean, reused_plans = shift_plan(result.mean), jax.vmap(shift_plan)(result.reused_plans)
        return action, PlannerMemory(mean, reused_plans)

    def update(
        self, state: MPCState, experience: Transition, key: Array
    ) -> tuple[MPCState, dict[str, Any]]:
        """The unchanged state: MPC does not learn."""
        return state, {"updates": 0}

    def search(self, score: Score, start: PlannerMemory, key: Array) -> tuple[Array, PlannerMemory]:
        """The plan to execute [horizon, *action], and the start of the next search before shifting.

        The plan is the best one evaluated, because the model is exact; for mppi it is the mean,
        which is that method's estimate. Random shooting does not use `start`.
        """
        sizes: dict[str, Any] = {"samples": self.samples, "iterations": self.iterations}
        match self.planner:
            case "random_shooting":
                num_samples = self.samples * self.iterations
                best, _ = random_shooting(score, key, start.mean.shape, num_samples)
                return best, PlannerMemory(best, start.reused_plans)
            case "cem":
                result = cem(
                    score,
                    key,
                    start.mean,
                    self.std,
                    **sizes,
                    elites=self.elites,
                    smoothing=self.smoothing,
                )
                return result.best, PlannerMemory(result.mean, start.reused_plans)
            case "icem":
                result, reused_plans = icem(
                    score,
                    key,
                    start.mean,
                    self.std,
                    **sizes,
                    elites=self.elites,
                    exponent=self.noise_exponent,
                    smoothing=self.smoothing,
                    reused_plans=start.reused_plans,
                )
                return result.best, PlannerMemory(result.mean, reused_plans)
        result = mppi(
            score,
            key,
            start.mean,
            self.std,
            **sizes,
            temperature=self.temperature,
            exponent=self.noise_exponent,
        )
        return result.mean, PlannerMemory(result.mean, start.reused_plans)


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "mpc": (MPC, "model-predictive control with the environment's true model: a bounded Box")
}
