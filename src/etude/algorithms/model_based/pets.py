"""Planning on a learned model: probabilistic ensembles with trajectory sampling (PETS).

    collect steps → fit a model p(s', r | s, a) to all of them → plan on it, act → collect …

The versions of model-based reinforcement learning in CS 285 differ by two settings:

    version 0.5    the model is fitted once, to random steps; plans are followed to their end
    version 1.0    it is fitted again to the steps that its plans led to
    version 1.5    besides, a new plan is made at every step: model-predictive control

PETS (Chua et al., 2018) is version 1.5 with an ensemble, whose members are so many possible worlds;
a plan is worth its mean return over them. Unlike there, iCEM searches in place of CEM, particles
are divided evenly among the members, one each by default in place of four, and all plans of a
search meet the same noise.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import planning_policy
from etude.algorithms.common.exploration import random_actions
from etude.algorithms.common.planning_policy import PlanMemory, PlanningFields
from etude.algorithms.common.tree_policy import TreePlanner, visits_of_tree
from etude.algorithms.model_based.fit_model import ASSUMPTIONS, MODEL, ModelFields
from etude.algorithms.protocol import Component, algorithm
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.kinds import tag_of
from etude.models.ensemble import Ensemble
from etude.models.learned_model import Propagation
from etude.models.model_rows import rows_of_buffer
from etude.optim.schedules import assume_unbatched
from etude.planning.planners import GradientPlanner, SamplingPlanner
from etude.planning.sampling.icem import ICEM
from etude.planning.tree.tree import SearchSettings
from etude.spaces import Box, Discrete, EnvironmentSpec, Space
from etude.struct import nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class PETSState:
    """The model, and the steps that it is fitted to."""

    model: Any  # the state of the algorithm's dynamics model
    steps: RingBuffer
    spec: EnvironmentSpec = static()


@algorithm
class PETS(PlanningFields, ModelFields):
    """Planning on a model that is learned while it plays: a bounded Box or Discrete actions."""

    planner: SamplingPlanner | GradientPlanner = nested(ICEM(follow="mean"))
    """Planner that searches for a plan; those with derivatives follow the mean of the members, and
    plan where no episode can end, which --no-ends says."""
    particles: int = static(5, at_least=1)
    """Simulated trajectories of each plan, divided evenly among the members that predict; no effect
    where the mean of the members is followed, and with tree_search."""
    propagation: Propagation = static("ts-infinity")
    """How particles meet members: ts-infinity, one member for the whole plan; ts1, another at each
    step; mean, the mean of all without noise."""
    risk_aversion: float = traced(0.0, at_least=0)
    """Standard deviations over particles that are taken off a plan's mean return; 0 does not mind
    risk; no effect where particles have none."""
    tree_search: TreePlanner | None = nested(None)
    """Tree search in place of a planner, for Discrete actions alone, at every step."""
    refit: bool = static(True)
    """Whether the model is fitted again to new steps, or once."""
    rollout_length: int = static(50, at_least=1)
    """Environment steps of each copy between two fits."""
    warmup_steps: int = static(200, at_least=0)
    """Environment steps with random actions before the first fit at least, in whole rollouts."""
    capacity: int = static(100_000, at_least=1)
    """Latest steps that the model is fitted to."""
    components: ClassVar[dict[str, Component]] = {"model": MODEL}

    def validate_fields(self) -> None:
        planning_policy.check_planning(self)
        if self.tree_search is not None:
            self.check_tree_search()
            return
        if self.propagation != "mean" and self.particles % self.model.num_members:
            raise InvalidInput(
                f"particles is {self.particles}, and cannot be divided evenly among the "
                f"{self.model.num_members} members that predict; give a multiple of that"
            )
        if isinstance(self.planner, GradientPlanner) and self.ends:
            raise InvalidInput(
                f"{tag_of(type(self.planner))} needs derivatives, which there are not where an "
                "episode ends; give --no-ends if no episode of this environment can end but by a "
                "time limit, or a planner that samples plans, such as --planner icem"
            )

    def check_tree_search(self) -> None:
        """Raise InvalidInput for settings that a tree search has no use of."""
        if self.replan_interval > 1:
            raise InvalidInput(
                f"replan_interval is {self.replan_interval}, and a tree search finds one action, "
                "not a plan; give --replan-interval 1"
            )
        if self.propagation != "ts-infinity":
            raise InvalidInput(
                f"propagation is {self.propagation!r}, and each tree of a search keeps its member "
                "of the model; leave it out"
            )

    @property
    def assumes(self) -> Assumptions:
        if self.tree_search is not None:
            return ASSUMPTIONS._replace(actions=("Discrete",))
        if isinstance(self.planner, GradientPlanner):
            return ASSUMPTIONS._replace(actions=("bounded Box",), smooth=True)
        return ASSUMPTIONS

    def is_deterministic(self, action_space: Space) -> bool:
        """Return False: most planners draw samples."""
        return False

    def first_update(self, num_envs: int) -> tuple[int, str]:
        """The step of the first fit, and what says so."""
        return max(self.warmup_steps, self.rollout_length * num_envs), "warmup_steps"

    def init(self, key: Array, spec: EnvironmentSpec) -> PETSState:
        """The model before its first fit, and no steps.

        Raises InvalidInput for a warm-up of more steps than are kept.
        """
        model = self.model.init(key, spec, self.known_functions(spec))
        steps = ring_buffer.init(
            zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length
        )
        kept = ring_buffer.length(steps) * spec.num_envs
        if self.warmup_steps > kept:
            raise InvalidInput(
                f"warmup_steps is {self.warmup_steps}, more than the {kept} steps that are kept, "
                "so the model would never be fitted; give a larger capacity"
            )
        return PETSState(model, steps, spec)

    def initial_memory(self, state: PETSState, spec: EnvironmentSpec, key: Array) -> PlanMemory:
        """No plan yet, in each environment."""
        return planning_policy.empty_plans(self, spec)

    def act(
        self, state: PETSState, observation: Any, memory: PlanMemory, key: Array, explore: bool
    ) -> tuple[Array, PlanMemory]:
        """The next action of a plan, exploring or not, and what is left of it.

        Before the first fit the action is random.
        """
        key_members, key_plan, key_random = jax.random.split(key, 3)

        def plan(memory):
            if self.tree_search is not None:
                return self.search_trees(state, observation, key_members, key_plan), memory
            is_mean = isinstance(self.planner, GradientPlanner) or self.propagation == "mean"
            propagation = "mean" if is_mean else self.propagation
            model = self.model.planning_model(state.model, key_members, propagation, self.ends)
            return planning_policy.follow_plan(
                self,
                model,
                observation,
                memory,
                key_plan,
                state.spec.action,
                particles=1 if is_mean else self.particles,
                risk_aversion=self.risk_aversion,
            )

        def act_randomly(memory):
            space = state.spec.action
            assert isinstance(space, Box | Discrete)  # as `assumes` says
            num_envs = len(memory.age)
            return random_actions(space, key_random, num_envs), memory

        return jax.lax.cond(assume_unbatched(state.model.is_fitted), plan, act_randomly, memory)

    def search_trees(
        self, state: PETSState, observation: Any, key_members: Array, key: Array
    ) -> Array:
        """The action most visited over all trees, [env]; a tree plans with one member."""
        trees = self.tree_search
        assert trees is not None and isinstance(state.spec.action, Discrete)  # as `assumes` says
        model = self.model.planning_model(state.model, key_members, "ts-infinity", self.ends)
        settings = SearchSettings(trees.simulations, self.horizon, discount=self.discount)
        every_action = jnp.ones(state.spec.action.n, bool)

        def visits(observation, member, key, key_begin):
            return visits_of_tree(
                model.with_member(member),
                observation,
                (),
                every_action,
                trees.rule,
                settings,
                key,
                key_begin,
            )

        def search_one(observation, key):
            key_trees, key_order = jax.random.split(key)
            keys = jax.random.split(key_trees, (2, trees.trees))
            # each tree has another member; where there are fewer trees, others at each step
            order = jax.random.permutation(key_order, model.num_members)
            members = order[jnp.arange(trees.trees) % model.num_members]
            return jax.vmap(visits, (None, 0, 0, 0))(observation, members, *keys).sum(0).argmax()

        num_envs = len(jax.tree.leaves(observation)[0])
        return jax.vmap(search_one)(observation, jax.random.split(key, num_envs))

    def update(
        self, state: PETSState, experience: Transition, key: Array
    ) -> tuple[PETSState, Metrics]:
        """Add the rollout to the steps, and fit the model to all of them."""
        diverged_plans = experience.memory.has_diverged.mean()
        steps = ring_buffer.insert(state.steps, replace(experience, memory=()))
        model, metrics = self.fit_if_due(state.model, steps, state.spec, key)
        return replace(state, model=model, steps=steps), {
            **metrics,
            "diverged_plans": diverged_plans,
        }

    def fit_if_due(
        self, model: Any, steps: RingBuffer, spec: EnvironmentSpec, key: Array
    ) -> tuple[Any, Metrics]:
        """Fit the model once there are enough steps, and again if it is to be fitted again.

        A model that comes from another run is not fitted to fewer steps than it was there, or than
        are kept here.
        """

        def fit(model):
            return self.model.fit(model, rows_of_buffer(spec, steps), key)

        def skip(model):
            metrics = jax.eval_shape(fit, model)[1]
            return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        num_envs = ring_buffer.num_envs(steps)
        known = jnp.minimum(model.num_rows, ring_buffer.length(steps) * num_envs)
        is_due = ring_buffer.num_valid(steps) * num_envs >= jnp.maximum(self.warmup_steps, known)
        if not self.refit:
            is_due &= ~model.is_fitted
        return jax.lax.cond(assume_unbatched(is_due), fit, skip, model)


# The versions of CS 285, with one network that predicts no noise.
SingleNetwork = partial(Ensemble, members=1, elites=1, has_noise=False)
HORIZON = 25
Version05 = partial(
    PETS, model=SingleNetwork(), particles=1, horizon=HORIZON, replan_interval=HORIZON, refit=False
)
Version10 = partial(Version05, refit=True)
Version15 = partial(Version10, replan_interval=1)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "pets": (PETS, "planning on an ensemble that it learns: a bounded Box or Discrete actions"),
    "mbrl-0.5": (Version05, "a network fitted once to random steps, and plans followed to the end"),
    "mbrl-1.0": (
        Version10,
        "mbrl-0.5 with a network that is fitted again to what its plans led to",
    ),
    "mbrl-1.5": (Version15, "mbrl-1.0 with a new plan at every step (MPC)"),
}
