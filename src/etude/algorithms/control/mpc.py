"""Model-predictive control: plan, do the first action, and plan again (notes, lecture 10)."""
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude import spaces
from etude.environments.models import model_for, true_model
from etude.experience import Transition
from etude.planning.cross_entropy import check_elites, cross_entropy
from etude.planning.icem import icem, reused
from etude.planning.mppi import mppi
from etude.planning.plans import plan_score, shift
from etude.planning.random_shooting import Score, random_shooting
from etude.spaces import Spec
from etude.struct import static, struct, traced

Array = jax.Array


@struct
class Plans:
    """Where the next search starts: in memory with a leading [env], and zeros, the middle of the box, in a new episode."""
    mean: Array                # [horizon, *action]
    kept: Array                # good plans to be judged again, [kept, horizon, *action]; only icem has any


@struct
class MPC:
    """A planner on the true model of an environment as a policy; it learns nothing, and acts in a bounded Box."""
    model: str = static("")                               # id of the environment it plans on; in a run, the one it acts in
    planner: Literal["random_shooting", "cem", "icem", "mppi"] = static("cem")  # how it looks for a plan
    horizon: int = static(25, at_least=1)                 # environment steps in a plan (25: Chua et al., 2018, on cart-pole)
    samples: int = static(100, at_least=1)                # plans judged in an iteration; icem: in the first
    iterations: int = static(4, at_least=1)               # of the search at every step; random shooting draws all at once
    elites: int = static(10, at_least=1)                  # plans that the next iteration is fitted to (10: Pinneri et al., 2020)
    discount: float = traced(1.0, at_least=0, at_most=1)  # γ, per environment step
    std: float = traced(0.5, above=0)                     # of the first candidates, in the policy's [-1, 1] (0.5: Pinneri et al.)
    smoothing: float = traced(0.1, at_least=0, at_most=1)  # share of the old mean and std that is kept (0.1: Pinneri et al.)
    noise_exponent: float = traced(2.0, at_least=0)       # β: icem's and mppi's noise has power f^-β along time; 0: white
    temperature: float = traced(1.0, above=0)             # of mppi, in units of the return: what is worse by so much counts 1/e
    rollout_length: int = static(1, at_least=1)           # environment steps between updates, which do nothing

    default_num_envs: ClassVar[int] = 1

    def check(self) -> None:
        if self.planner in ("cem", "icem"):
            check_elites(self.samples, self.elites)

    def init(self, key: Array, spec: Spec) -> Plans:
        """Nothing is learned: the state is where the search starts in a new episode, with no leading [env].

        Raises InvalidInput for actions that are not a bounded Box, and for an environment other than the model's.
        """
        plan = (self.horizon, *spaces.unit_box(spec.action, "mpc").shape)
        model_for(self.model, spec)
        kept = reused(self.elites) if self.planner == "icem" else 0
        return Plans(jnp.zeros(plan), jnp.zeros((kept, *plan)))

    def act(self, state: Plans, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Array, Plans]:
        """The first action of a plan made from the rest of the last one, exploring or not; that rest is noted."""
        num_envs = len(jax.tree.leaves(observation)[0])
        fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), state)
        start = memory if isinstance(memory, Plans) else fresh
        return jax.vmap(self.plan)(observation, start, jax.random.split(key, num_envs))

    def plan(self, observation: Any, start: Plans, key: Array) -> tuple[Array, Plans]:
        """One copy's action [*action], and where its next search starts."""
        model = true_model(self.model)
        key_search, key_model = jax.random.split(key)
        score = plan_score(model, model.state_of(observation), key_model, discount=self.discount)
        best, found = self.search(score, start, key_search)
        return best[0], Plans(shift(found.mean), jax.vmap(shift)(found.kept))

    def update(self, state: Plans, experience: Transition, key: Array) -> tuple[Plans, dict[str, Any]]:
        """There is nothing to learn."""
        return state, {"updates": 0}

    def search(self, score: Score, start: Plans, key: Array) -> tuple[Array, Plans]:
        """The plan to follow [horizon, *action], and what was found for the next search to start from.

        Followed is the best plan seen, as the model is certain; of mppi it is the mean, which is what that method estimates.
        Random shooting starts from nothing.
        """
        sizes: dict[str, Any] = {"samples": self.samples, "iterations": self.iterations}
        match self.planner:
            case "random_shooting":
                best, _ = random_shooting(score, key, start.mean.shape, self.samples * self.iterations)
                return best, Plans(best, start.kept)
            case "cem":
                found = cross_entropy(score, key, start.mean, self.std, **sizes, elites=self.elites, smoothing=self.smoothing)
                return found.best, Plans(found.mean, start.kept)
            case "icem":
                found, kept = icem(score, key, start.mean, self.std, **sizes, elites=self.elites, exponent=self.noise_exponent,
                                   smoothing=self.smoothing, kept=start.kept)
                return found.best, Plans(found.mean, kept)
        found = mppi(score, key, start.mean, self.std, **sizes, temperature=self.temperature, exponent=self.noise_exponent)
        return found.mean, Plans(found.mean, start.kept)

ALGORITHMS = {
    "mpc": (MPC, "model-predictive control with the environment's true model: a bounded Box"),
}
