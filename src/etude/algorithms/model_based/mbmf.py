"""Model-based, then model-free (MBMF; Nagabandi et al., 2018): imitate a planner, then fine-tune.

    1. plan        the planner acts, on a model that it learns (PETS)
    2. imitate     the policy acts, the planner labels what it sees (DAgger)
    3. warm up     the policy stands still, and the agent learns its value
    4. fine-tune   the agent, PPO or SAC, goes on from that policy without a model

The paper's planner has one network and random shooting, and TRPO fine-tunes; 3 is not in it. Up to
the end of 2 the policy is fitted to the planner's actions. The agent learns from the rewards
of every phase, but until 4 its policy is put back after each of its updates.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.actor_critic.sac import SAC, SACState
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.agent_in_field import AgentInField
from etude.algorithms.model_based.pets import PETS, PETSState
from etude.algorithms.protocol import algorithm
from etude.algorithms.trust_region.ppo import PPO
from etude.counters import count_up
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.models.known_functions import KnownFunctions
from etude.optim.schedules import assume_unbatched
from etude.spaces import EnvironmentSpec
from etude.struct import nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class LabelledObservations:
    """What was observed, and what the planner would do; rows [time, env]."""

    observation: Any
    action: Array


@struct
class MBMFMemory:
    """The agent's memory, the planner's, and what the planner would do at this step, [env, ...]."""

    agent: Any
    plan: Any
    label: Array  # [env, *action]; zeros once the policy no longer imitates


@struct
class MBMFState:
    """The planner and its model, the agent with the policy, and the planner's labels."""

    planning: PETSState
    agent: Any
    labels: RingBuffer
    opt_state: Any  # of the imitation
    steps: Array  # int32: environment steps


@algorithm
class MBMF(AgentInField):
    """A policy that imitates a planner on a learned model, and then learns without a model."""

    planning: PETS = nested(PETS())
    """The planner and its model."""
    agent: PPO | SAC = nested(PPO())
    """What fine-tunes the policy; the flags without a prefix are those of the imitation."""
    planner_steps: int = static(3_000, at_least=1)
    """Environment steps in which the planner acts, its random ones included: more than come before
    the first fit of its model, in whole rollouts."""
    imitation_steps: int = static(3_000, at_least=0)
    """Environment steps after that, in which the policy acts and the planner labels."""
    value_warmup_steps: int = static(3_000, at_least=0)
    """Environment steps after that, in which the policy stands still and its value is learned."""
    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for the imitation."""
    batch_size: int = static(256, at_least=1)
    """Labels in a gradient step of the imitation."""
    gradient_steps: int = static(500, at_least=1)
    """Gradient steps of the imitation after each rollout."""

    def validate_fields(self) -> None:
        if getattr(self.agent, "shared", False):
            raise InvalidInput(
                "agent.shared is on, and the policy stands still while its value is learned; leave "
                "it off"
            )
        if self.planning.tree_search is not None:
            raise InvalidInput(
                "planning.tree_search is on, which chooses among Discrete actions, and the policy "
                "is regressed to actions in a Box; leave it out"
            )
        if self.agent.recurrent:
            raise InvalidInput(
                "agent.recurrent is set, and the planner labels what it sees at one step; leave "
                "it out"
            )
        if isinstance(self.agent, SAC) and self.agent.warmup_steps > self.planner_steps:
            raise InvalidInput(
                f"agent.warmup_steps is {self.agent.warmup_steps}, more than the "
                f"{self.planner_steps} planner_steps: the agent would act at random in place of "
                "the policy that imitates; give fewer of them"
            )

    @property
    def assumes(self) -> Assumptions:
        return self.planning.assumes._replace(actions=("bounded Box",))

    def first_update(self, num_envs: int) -> tuple[int, str]:
        """The step of the first fit of the model, and what says so."""
        return self.planner.first_update(num_envs)

    def known_functions(self, spec: EnvironmentSpec) -> KnownFunctions:
        """What the planner's model is told of the environment's steps."""
        return self.planning.known_functions(spec)

    @property
    def planner(self) -> PETS:
        """The planner, whose rollouts are the agent's."""
        return replace(self.planning, rollout_length=self.rollout_length)

    @property
    def labelled_steps(self) -> int:
        """Environment steps that the planner labels."""
        return self.planner_steps + self.imitation_steps

    def init(self, key: Array, spec: EnvironmentSpec) -> MBMFState:
        """A planner without a model yet, the agent, and no labels.

        Raises InvalidInput where the planner would have no step between the first fit of its model
        and the end of its phase.
        """
        rollout = self.rollout_length * spec.num_envs
        first_fit = -(-self.first_update(spec.num_envs)[0] // rollout) * rollout
        if self.planner_steps <= first_fit:
            raise InvalidInput(
                f"planner_steps is {self.planner_steps}, and the planner has no model before step "
                f"{first_fit}; give more of them, a smaller planning.warmup_steps or shorter "
                "rollouts"
            )
        key_planning, key_agent = jax.random.split(key)
        agent = self.agent.init(key_agent, spec)
        example = zeros_like_spec(spec)
        labels = ring_buffer.init(
            LabelledObservations(example.observation, example.action),
            -(-self.labelled_steps // rollout) * rollout,
            spec.num_envs,
            self.rollout_length,
        )
        opt_state = optax.adam(self.learning_rate).init(policy_of(agent))
        planning = self.planner.init(key_planning, spec)
        return MBMFState(planning, agent, labels, opt_state, jnp.int32(0))

    def initial_memory(self, state: MBMFState, spec: EnvironmentSpec, key: Array) -> MBMFMemory:
        """The memories with which an episode begins."""
        return MBMFMemory(
            self.agent.initial_memory(state.agent, spec, key),
            self.planner.initial_memory(state.planning, spec, key),
            jnp.zeros((spec.num_envs, *spec.action.shape)),
        )

    def act(
        self, state: MBMFState, observation: Any, memory: MBMFMemory, key: Array, explore: bool
    ) -> tuple[Array, MBMFMemory]:
        """The action of the phase; without `explore` the policy's, in each of them."""
        key_agent, key_plan = jax.random.split(key)
        mode, _ = self.agent.act(state.agent, observation, memory.agent, key_agent, False)
        if not explore:
            return mode, memory
        sample, agent_memory = self.agent.act(
            state.agent, observation, memory.agent, key_agent, explore
        )
        memory = replace(memory, agent=agent_memory)

        def plan(memory):
            return self.planner.act(state.planning, observation, memory.plan, key_plan, explore)

        def no_plan(memory):
            return jnp.zeros_like(memory.label), memory.plan

        is_labelled = assume_unbatched(state.steps < self.labelled_steps)
        label, plan_memory = jax.lax.cond(is_labelled, plan, no_plan, memory)
        # a policy that imitates is labelled where its mode leads
        action = jnp.where(state.steps < self.labelled_steps, mode, sample)
        action = jnp.where(state.steps < self.planner_steps, label, action)
        return action, replace(memory, plan=plan_memory, label=label)

    def update(
        self, state: MBMFState, experience: Transition, key: Array
    ) -> tuple[MBMFState, Metrics]:
        """Fit the model and imitate in the first phases; the agent learns in all of them."""
        key_model, key_imitate, key_agent = jax.random.split(key, 3)
        steps = count_up(state.steps, experience.reward.size)
        is_labelled = assume_unbatched(state.steps < self.labelled_steps)
        planning, labels, model_metrics = self.fit_model(state, experience, is_labelled, key_model)
        agent, agent_metrics = self.agent.update(
            state.agent, replace(experience, memory=experience.memory.agent), key_agent
        )
        is_held = state.steps < self.labelled_steps + self.value_warmup_steps
        held = hold_policy(agent, state.agent, is_labelled)
        agent = jax.tree.map(partial(jnp.where, is_held), held, agent)
        agent, opt_state, imitation_metrics = self.imitate(
            agent, state.opt_state, labels, is_labelled, key_imitate
        )
        state = MBMFState(planning, agent, labels, opt_state, steps)
        return state, {**model_metrics, **imitation_metrics, **agent_metrics}

    def fit_model(
        self, state: MBMFState, experience: Transition, is_labelled: Array, key: Array
    ) -> tuple[PETSState, RingBuffer, Metrics]:
        """The planner with its model fitted to the rollout too, and the labels with those of it.

        A rollout from before the first fit has random actions, which are no labels.
        """
        planned = replace(experience, memory=experience.memory.plan)
        rows = LabelledObservations(experience.observation, experience.memory.label)

        def learn(planning, labels):
            planning, metrics = self.planner.update(planning, planned, key)
            labelled = ring_buffer.insert(labels, rows)
            is_planned = state.planning.model.is_fitted
            labels = jax.tree.map(partial(jnp.where, is_planned), labelled, labels)
            return planning, labels, metrics

        def skip(planning, labels):
            metrics = jax.eval_shape(learn, planning, labels)[2]
            return planning, labels, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        planning, labels, metrics = jax.lax.cond(
            is_labelled, learn, skip, state.planning, state.labels
        )
        names = ("heldout_mse", "diverged_plans")
        return planning, labels, {name: metrics[name] for name in names}

    def imitate(
        self, agent: Any, opt_state: Any, labels: RingBuffer, is_labelled: Array, key: Array
    ) -> tuple[Any, Any, Metrics]:
        """Regress the mode of the policy to the planner's actions, while there are labels.

        Its spread stays as it is, so that the agent explores.
        """
        size = ring_buffer.num_valid(labels)
        is_labelled &= size > 0

        def loss(policy, batch):
            action, _ = self.agent.act(
                with_policy(agent, policy), batch.observation, (), key, explore=False
            )
            return jnp.mean((action - batch.action) ** 2)

        def step(carry, key):
            policy, opt_state = carry
            key_time, key_env = jax.random.split(key)
            shape = (self.batch_size,)
            time = jax.random.randint(key_time, shape, 0, size)
            env = jax.random.randint(key_env, shape, 0, ring_buffer.num_envs(labels))
            batch = ring_buffer.gather(labels, Indices(time, env))
            error, gradient = jax.value_and_grad(loss)(policy, batch)
            updates, opt_state = optax.adam(self.learning_rate).update(gradient, opt_state)
            return (optax.apply_updates(policy, updates), opt_state), error

        def fit(carry):
            carry, errors = jax.lax.scan(step, carry, jax.random.split(key, self.gradient_steps))
            return carry, errors.mean()

        def skip(carry):
            return carry, jnp.float32(0)

        carry, error = jax.lax.cond(is_labelled, fit, skip, (policy_of(agent), opt_state))
        policy, opt_state = carry
        return with_policy(agent, policy), opt_state, {"imitation_mse": error}


def policy_of(agent: Any) -> Any:
    """The policy network of the state of PPO or SAC."""
    return agent.policy if isinstance(agent, SACState) else agent.learner.networks.policy


def with_policy(agent: Any, policy: Any) -> Any:
    """The state of PPO or SAC with another policy network."""
    if isinstance(agent, SACState):
        return replace(agent, policy=policy)
    networks = replace(agent.learner.networks, policy=policy)
    return replace(agent, learner=replace(agent.learner, networks=networks))


def hold_policy(new: Any, old: Any, is_labelled: Array) -> Any:
    """The new state of PPO or SAC with the old policy.

    With SAC's go its optimizer's state and the temperature. PPO has one optimizer for policy and
    value, whose moments go on, as in PPO's own value warm-up; the statistics that normalize what
    its policy reads stay, unless it is fitted again.
    """
    if isinstance(new, SACState):
        return replace(
            new,
            policy=old.policy,
            policy_opt_state=old.policy_opt_state,
            log_temperature=old.log_temperature,
            temperature_opt_state=old.temperature_opt_state,
        )
    new = with_policy(new, policy_of(old))
    statistics = jax.tree.map(
        partial(jnp.where, is_labelled),
        new.learner.observation_statistics,
        old.learner.observation_statistics,
    )
    return replace(new, learner=replace(new.learner, observation_statistics=statistics))


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "mbmf": (MBMF, "model-based, then model-free: imitate a planner, fine-tune by PPO or SAC")
}
