"""Goal-conditioned behavior cloning (Ding et al., "Goal-conditioned Imitation Learning", 2019).

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

The steps (sₜ, aₜ) are those of a dataset. Its episodes need not have had a goal in common, or any:
each shows how to reach what it reached. A recurrent policy reads them as sequences, as in behavior
cloning, and every step of a sequence has a goal of its own.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.imitation import cloning, goal_cloning
from etude.algorithms.imitation.cloning import KEY_OF_LOSS, Cloner, Demonstrations
from etude.algorithms.imitation.cloning_fields import GoalFields
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.imitation.sequences import Sequences, init_sequences
from etude.algorithms.protocol import Outside, algorithm
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct
from etude.types import Array, Metrics

KEY_OF_SEQUENCES = 2**31  # folded into the key of `init`; `split(key, n)` folds in numbers below n


@struct
class GCBCState:
    learner: Cloner
    # what each episode of the dataset achieved at its end, [episode, ...]: goals to play for; ()
    # where observations show a goal
    goals: Any
    goal_input: GoalInput
    sequences: Sequences  # to learn from


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

    def validate_fields(self) -> None:
        cloning.check_sequences(self)

    def steps_per_update(self, num_envs: int) -> int:
        """Steps of the budget in one update, which are gradient steps."""
        return self.gradient_steps

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> GCBCState:
        """Return the initial policy and optimizer state, and the statistics of the dataset."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_policy, key_goals = jax.random.split(key)
        key_sequences = jax.random.fold_in(key, KEY_OF_SEQUENCES)
        learner, goal_input = goal_cloning.init_goal_cloner(self, key_policy, spec)
        demonstrations = relabel_steps(
            goal_input, key_goals, dataset, jnp.arange(dataset.num_steps)
        )
        learner = cloning.add_observations(self, learner, demonstrations.observation)
        last_rows = dataset.episode_lengths.cumsum() - 1
        last = jax.tree.map(lambda x: x[last_rows], dataset.transitions.next_observation)
        goals = () if goal_input.is_shown else goal_input.achieved_goal(last)
        sequences = init_sequences(self, key_sequences, learner, dataset, every_episode(dataset))
        return GCBCState(learner, goals, goal_input, sequences)

    def initial_memory(self, state: GCBCState, spec: EnvironmentSpec, key: Array) -> GoalMemory:
        """Return the goals with which an episode begins, where observations show none."""
        if state.goal_input.is_shown:
            return goal_cloning.first_memory(state.learner, (), spec.num_envs)
        num_episodes = len(jax.tree.leaves(state.goals)[0])
        episode = jax.random.randint(key, (spec.num_envs,), 0, num_episodes)
        goal = jax.tree.map(lambda x: x[episode], state.goals)
        return goal_cloning.first_memory(state.learner, goal, spec.num_envs)

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

        def step(carried, key):
            learner, sequences = carried
            batch, readers = self.read(state.goal_input, sequences, dataset, key)
            key_loss = jax.random.fold_in(key, KEY_OF_LOSS)
            learner, metrics, carry = cloning.gradient_step(self, learner, batch, key_loss)
            return (learner, Sequences(readers, carry)), metrics

        (learner, sequences), metrics = jax.lax.scan(
            step,
            (state.learner, state.sequences),
            jax.random.split(key, self.gradient_steps),
            unroll=cloning.UNROLL,
        )
        metrics = {**jax.tree.map(jnp.mean, metrics), "updates": jnp.int32(self.gradient_steps)}
        return replace(state, learner=learner, sequences=sequences), metrics

    def read(
        self, goal_input: GoalInput, sequences: Sequences, dataset: Dataset, key: Array
    ) -> tuple[Demonstrations, Any]:
        """Return (a batch of the dataset, next readers of the sequences)."""
        key_rows, key_goals = jax.random.split(key)
        if not self.recurrent:
            rows = dataset_sampling.random_steps(
                key_rows, dataset, every_episode(dataset), self.batch_size
            )
            return relabel_steps(goal_input, key_goals, dataset, rows), ()
        rows, is_first, readers = dataset_sampling.read_steps(
            key_rows, dataset, every_episode(dataset), sequences.readers, self.sequence_length
        )
        batch = relabel_steps(goal_input, key_goals, dataset, rows.ravel())
        return goal_cloning.in_sequences(batch, sequences.carry, is_first), readers


def every_episode(dataset: Dataset) -> Array:
    """True for each episode of a dataset."""
    return jnp.ones(dataset.num_episodes, bool)


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
