"""Model-predictive control, MPC: plan, execute the first action, and plan again at every step."""

import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition, zeros_like_spec
from etude.kinds import tag_of
from etude.models.true_models import model_for
from etude.planning.model_problem import ModelProblem, check_differentiable
from etude.planning.planners import GradientPlanner, SamplingPlanner
from etude.planning.plans import return_of_plans
from etude.planning.protocol import Model
from etude.planning.sampling.cem import CEM
from etude.spaces import EnvironmentSpec, Space
from etude.struct import nested, static, struct, traced
from etude.types import Array


@struct
class MPCState:
    """What MPC knows; it learns nothing."""

    model: Model  # that it plans on; a true model has no arrays


@algorithm
class MPC:
    """Model-predictive control on the environment's true model: a bounded Box, no learning."""

    model: str = static("")
    """Id of the environment whose model it plans on; by default the one that it acts in."""
    planner: SamplingPlanner | GradientPlanner = nested(CEM())
    """Planner that searches for a plan; those with derivatives plan where no episode can end."""
    horizon: int = static(25, at_least=1)
    """Environment steps in a plan (25: Chua et al., 2018, on cart-pole)."""
    samples: int = static(100, at_least=1)
    """Plans sampled in each iteration, of icem in the first; no effect with derivatives."""
    iterations: int = static(4, at_least=1)
    """Iterations of the search at each step; random shooting draws all their samples at once."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False

    def validate_fields(self) -> None:
        if isinstance(self.planner, SamplingPlanner):
            self.planner.check_samples(self.samples)

    @property
    def assumes(self) -> Assumptions:
        is_smooth = isinstance(self.planner, GradientPlanner)
        return Assumptions(("bounded Box",), smooth=is_smooth, known_model=True)

    def is_deterministic(self, action_space: Space) -> bool:
        """Return False: most planners draw samples."""
        return False

    def init(self, key: Array, spec: EnvironmentSpec) -> MPCState:
        """The model to plan on.

        Raises InvalidInput if the model is that of another environment, and where a planner with
        derivatives cannot plan on it.
        """
        model = model_for(self.model or spec.id, spec)
        if isinstance(self.planner, GradientPlanner):
            example = jax.tree.map(lambda x: x[None, None], zeros_like_spec(spec))
            state = jax.eval_shape(model.begin, example.observation, (), key)
            check_differentiable(model, state, tag_of(type(self.planner)))
        return MPCState(model)

    def initial_memory(self, state: MPCState, spec: EnvironmentSpec, key: Array) -> Any:
        """The start of the first search in each environment, around the middle of the box."""
        plans = jnp.zeros((spec.num_envs, self.horizon, *spec.action.shape))
        if isinstance(self.planner, SamplingPlanner):
            return jax.vmap(self.planner.init)(plans)
        return plans

    def act(
        self, state: MPCState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The first action of a new plan, exploring or not, and the start of the next search.

        The search starts from the last plan, shifted by one step.
        """
        keys = jax.random.split(key, len(jax.tree.leaves(memory)[0]))
        return jax.vmap(partial(self.plan, state.model))(observation, memory, keys)

    def plan(self, model: Model, observation: Any, start: Any, key: Array) -> tuple[Array, Any]:
        """The action of one copy [*action], and the start of its next search."""
        key_search, key_model, key_begin = jax.random.split(key, 3)
        state = model.begin(jax.tree.map(lambda x: x[None, None], observation), (), key_begin)
        if isinstance(self.planner, SamplingPlanner):
            score = return_of_plans(model, state, key_model, discount=self.discount)
            result = self.planner.plan(
                score, start, key_search, samples=self.samples, iterations=self.iterations
            )
            return result.plan[0], self.planner.shift(result.start)
        problem = ModelProblem(model, key_model, self.discount, start.shape[1:])
        controls = start.reshape(self.horizon, math.prod(start.shape[1:]))
        solution = self.planner.solve(problem, state[0, 0], controls, iterations=self.iterations)
        plan = jnp.reshape(solution.controls, start.shape)
        return plan[0], self.planner.shift(plan)

    def update(
        self, state: MPCState, experience: Transition, key: Array
    ) -> tuple[MPCState, dict[str, Any]]:
        """The unchanged state: MPC does not learn."""
        return state, {"updates": 0}


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "mpc": (MPC, "model-predictive control with the environment's true model: a bounded Box")
}
