"""Model-predictive control: plan, do the first action, and plan again."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude import spaces
from etude.data.transition import Transition
from etude.models.true_models import model_for, true_model
from etude.planning.plans import return_of_plans, shift_plan
from etude.planning.sampling.cem import cem, check_elites
from etude.planning.sampling.icem import icem, num_reused
from etude.planning.sampling.mppi import mppi
from etude.planning.sampling.random_shooting import Score, random_shooting
from etude.spaces import EnvironmentSpec
from etude.struct import static, struct, traced
from etude.types import Array


@struct
class PlannerMemory:
    """Where the next search starts: in memory with a leading [env], and zeros, the middle of the
    box, in a new episode."""

    mean: Array  # [horizon, *action]
    # good plans to be judged again, [kept, horizon, *action]; only icem has any
    reused_plans: Array


@struct
class MPC:
    """A planner on the true model of an environment as a policy; it learns nothing, and acts in a
    bounded Box."""

    model: str = static("")
    """Id of the environment it plans on; in a run, the one it acts in."""
    planner: Literal["random_shooting", "cem", "icem", "mppi"] = static("cem")
    """How it looks for a plan."""
    horizon: int = static(25, at_least=1)
    """Environment steps in a plan (25: Chua et al., 2018, on cart-pole)."""
    samples: int = static(100, at_least=1)
    """Plans judged in an iteration; icem: in the first."""
    iterations: int = static(4, at_least=1)
    """Of the search at every step; random shooting draws all at once."""
    elites: int = static(10, at_least=1)
    """Plans that the next iteration is fitted to (10: Pinneri et al., 2020)."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """γ, per environment step."""
    std: float = traced(0.5, above=0)
    """Of the first candidates, in the policy's [-1, 1] (0.5: Pinneri et al.)."""
    smoothing: float = traced(0.1, at_least=0, at_most=1)
    """Share of the old mean and std that is kept (0.1: Pinneri et al.)."""
    noise_exponent: float = traced(2.0, at_least=0)
    """β: icem's and mppi's noise has power f^-β along time; 0: white."""
    temperature: float = traced(1.0, above=0)
    """Of mppi, in units of the return: what is worse by so much counts 1/e."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps between updates, which do nothing."""

    default_num_envs: ClassVar[int] = 1

    def validate_fields(self) -> None:
        if self.planner in ("cem", "icem"):
            check_elites(self.samples, self.elites)

    def init(self, key: Array, spec: EnvironmentSpec) -> PlannerMemory:
        """Nothing is learned: the state is where the search starts in a new episode, with no
        leading [env].

        Raises InvalidInput for actions that are not a bounded Box, and for an environment other
        than the model's.
        """
        plan = (self.horizon, *spaces.normalized_action_space(spec.action, "mpc").shape)
        model_for(self.model, spec)
        kept = num_reused(self.elites) if self.planner == "icem" else 0
        return PlannerMemory(jnp.zeros(plan), jnp.zeros((kept, *plan)))

    def act(
        self, state: PlannerMemory, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, PlannerMemory]:
        """The first action of a plan made from the rest of the last one, exploring or not; that
        rest is noted."""
        num_envs = len(jax.tree.leaves(observation)[0])
        fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), state)
        start = memory if isinstance(memory, PlannerMemory) else fresh
        return jax.vmap(self.plan)(observation, start, jax.random.split(key, num_envs))

    def plan(
        self, observation: Any, start: PlannerMemory, key: Array
    ) -> tuple[Array, PlannerMemory]:
        """One copy's action [*action], and where its next search starts."""
        model = true_model(self.model)
        key_search, key_model = jax.random.split(key)
        score = return_of_plans(
            model, model.state_from_observation(observation), key_model, discount=self.discount
        )
        best, found = self.search(score, start, key_search)
        return best[0], PlannerMemory(
            shift_plan(found.mean), jax.vmap(shift_plan)(found.reused_plans)
        )

    def update(
        self, state: PlannerMemory, experience: Transition, key: Array
    ) -> tuple[PlannerMemory, dict[str, Any]]:
        """There is nothing to learn."""
        return state, {"updates": 0}

    def search(self, score: Score, start: PlannerMemory, key: Array) -> tuple[Array, PlannerMemory]:
        """The plan to follow [horizon, *action], and what was found for the next search to start
        from.

        Followed is the best plan seen, as the model is certain; of mppi it is the mean, which is
        what that method estimates. Random shooting starts from nothing.
        """
        sizes: dict[str, Any] = {"samples": self.samples, "iterations": self.iterations}
        match self.planner:
            case "random_shooting":
                best, _ = random_shooting(
                    score, key, start.mean.shape, self.samples * self.iterations
                )
                return best, PlannerMemory(best, start.reused_plans)
            case "cem":
                found = cem(
                    score,
                    key,
                    start.mean,
                    self.std,
                    **sizes,
                    elites=self.elites,
                    smoothing=self.smoothing,
                )
                return found.best, PlannerMemory(found.mean, start.reused_plans)
            case "icem":
                found, kept = icem(
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
                return found.best, PlannerMemory(found.mean, kept)
        found = mppi(
            score,
            key,
            start.mean,
            self.std,
            **sizes,
            temperature=self.temperature,
            exponent=self.noise_exponent,
        )
        return found.mean, PlannerMemory(found.mean, start.reused_plans)


ALGORITHMS = {
    "mpc": (MPC, "model-predictive control with the environment's true model: a bounded Box")
}
