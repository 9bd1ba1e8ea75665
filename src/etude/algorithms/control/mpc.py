"""Model-predictive control, MPC: plan, execute the first action, and plan again at every step."""

from typing import Any, ClassVar

import jax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import planning_policy
from etude.algorithms.common.planning_policy import PlanMemory, PlanningFields
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition, zeros_like_spec
from etude.kinds import tag_of
from etude.models.true_models import model_for
from etude.planning.model_problem import check_differentiable
from etude.planning.planners import GradientPlanner
from etude.planning.protocol import Model
from etude.spaces import EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array


@struct
class MPCState:
    """What MPC knows; it learns nothing."""

    model: Model  # that it plans on; a true model has no arrays
    action_space: Space = static()


@algorithm
class MPC(PlanningFields):
    """Model-predictive control on the environment's true model: a bounded Box, no learning."""

    model: str = static("")
    """Id of the environment whose model it plans on; by default the one that it acts in."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False

    def validate_fields(self) -> None:
        planning_policy.check_planning(self)

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
        return MPCState(model, spec.action)

    def initial_memory(self, state: MPCState, spec: EnvironmentSpec, key: Array) -> PlanMemory:
        """No plan yet, in each environment."""
        return planning_policy.empty_plans(self, spec)

    def act(
        self, state: MPCState, observation: Any, memory: PlanMemory, key: Array, explore: bool
    ) -> tuple[Array, PlanMemory]:
        """The next action of a plan, exploring or not, and what is left of it."""
        return planning_policy.follow_plan(
            self, state.model, observation, memory, key, state.action_space
        )

    def update(
        self, state: MPCState, experience: Transition, key: Array
    ) -> tuple[MPCState, dict[str, Any]]:
        """The unchanged state: MPC does not learn."""
        return state, {"updates": 0}


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "mpc": (MPC, "model-predictive control with the environment's true model: a bounded Box")
}
