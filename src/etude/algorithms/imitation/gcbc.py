"""Goal-conditioned behavior cloning (Ding et al., "Goal-conditioned Imitation Learning", 2019).

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

The steps (sₜ, aₜ) are those of a dataset. Its episodes need not have had a goal in common, or any:
each shows how to reach what it reached.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.imitation import cloning, goal_cloning
from etude.algorithms.imitation.cloning import Cloner, Demonstrations
from etude.algorithms.imitation.cloning_fields import GoalFields
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.protocol import Outside, algorithm
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct
from etude.types import Array, Metrics


@struct
class GCBCState:
    learner: Cloner
    # what each episode of the dataset achieved at its end, [episode, ...]: goals to play for; ()
    # where observations show a goal
    goals: Any
    goal_input: GoalInput


@algorithm
class GCBC(GoalFields):
    """Goal-conditioned behavior cloning (GCBC), from any episodes, for every kind of action space.

    In a goal environment, such as etude/PointRoom-v0, the policy acts for the goal that is desired.
    In any other, a goal is a whole observation, or parts of it that are named, and an episode is
    played for what a random episode of the dataset achieved at its end. Evaluations report the
    distance to the goal at the end of an episode, beside the return.
    """

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    rollout_length: ClassVar[int] = 0

    def steps_per_update(self, num_envs: int) -> int:
        """Steps of the budget in one update, which are gradient steps."""
        return self.gradient_steps

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> GCBCState:
        """Return the initial policy and optimizer state, and the statistics of the dataset."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_policy, key_goals = jax.random.split(key)
        learner, goal_input = goal_cloning.init_goal_cloner(self, key_policy, spec)
        demonstrations = relabel_steps(
            goal_input, key_goals, dataset, jnp.arange(dataset.num_steps)
        )
        learner = cloning.add_observations(self, learner, demonstrations.observation)
        last_rows = dataset.episode_lengths.cumsum() - 1
        last = jax.tree.map(lambda x: x[last_rows], dataset.transitions.next_observation)
        goals = () if goal_input.is_shown else goal_input.achieved_goal(last)
        return GCBCState(learner, goals, goal_input)

    def initial_memory(self, state: GCBCState, spec: EnvironmentSpec, key: Array) -> GoalMemory:
        """Return the goals with which an episode begins, where observations show none."""
        if state.goal_input.is_shown:
            return goal_cloning.first_memory((), spec.num_envs)
        num_episodes = len(jax.tree.leaves(state.goals)[0])
        episode = jax.random.randint(key, (spec.num_envs,), 0, num_episodes)
        goal = jax.tree.map(lambda x: x[episode], state.goals)
        return goal_cloning.first_memory(goal, spec.num_envs)

    def act(
        self, state: GCBCState, observation: Any, memory: GoalMemory, key: Array, explore: bool
    ) -> tuple[Any, GoalMemory]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        return goal_cloning.act_for_goal(self, state, observation, memory, key, explore)

    def final_measures(
        self, state: GCBCState, memory: GoalMemory, observation: Any
    ) -> dict[str, Array]:
        """Return the distance to the goal at the end of an episode, [env]."""
        return goal_cloning.distance_to_goal(state, memory, observation)

    def update(
        self, state: GCBCState, experience: tuple[()], key: Array, outside: Outside
    ) -> tuple[GCBCState, Metrics]:
        """Take `gradient_steps` on random steps of the dataset, each with a goal of its episode."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        every_episode = jnp.ones(dataset.num_episodes, bool)

        def draw(key):
            key_rows, key_goals = jax.random.split(key)
            rows = dataset_sampling.random_steps(key_rows, dataset, every_episode, self.batch_size)
            return relabel_steps(state.goal_input, key_goals, dataset, rows)

        learner, metrics = cloning.fit_policy(self, state.learner, draw, key)
        return replace(state, learner=learner), metrics


def relabel_steps(
    goal_input: GoalInput, key: Array, dataset: Dataset, rows: Array
) -> Demonstrations:
    """The steps of a dataset at `rows` [n], each with a goal of its own episode."""
    return goal_cloning.relabel(
        goal_input,
        key,
        dataset_sampling.steps_to_end(dataset, rows),
        lambda offset: jax.tree.map(lambda x: x[rows + offset], dataset.transitions),
    )


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "gcbc": (
        GCBC,
        "goal-conditioned behavior cloning: how episodes of a dataset reached what they reached",
    )
}
