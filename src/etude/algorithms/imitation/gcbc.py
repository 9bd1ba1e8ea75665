"""Goal-conditioned behavior cloning (Ding et al., "Goal-conditioned Imitation Learning", 2019).

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

The steps (sₜ, aₜ) are those of a dataset. Its episodes need not have had a goal in common, or any:
each shows how to get to where it came.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.imitation import cloning, goal_cloning
from etude.algorithms.imitation.cloning import LOSS, AnyHead, Cloner, Demonstrations
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.protocol import Component, Outside, algorithm
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.environments.goal_spaces import has_goals
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class GCBCState:
    learner: Cloner
    # the last observation of each episode of the dataset, [episode, ...]: goals to play for; () in
    # a goal environment
    last_observations: Any
    goal_input: GoalInput


@algorithm
class GCBC:
    """Goal-conditioned behavior cloning (GCBC), from any episodes, for every kind of action space.

    In a goal environment, such as etude/PointRoom-v0, the policy acts for the goal that is desired.
    In any other, a goal is a whole observation, and an episode is played for the last observation
    of a random episode of the dataset. Evaluations report the distance to the goal at the end of an
    episode, beside the return.
    """

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Gradient steps over which the learning rate falls linearly to zero; inf: constant."""
    weight_decay: float = traced(0.0, at_least=0)
    """Share of each weight that a gradient step takes away, per unit of the learning rate
    (AdamW)."""
    max_gradient_norm: float = traced(math.inf, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    head: AnyHead = nested(Direct())
    """What is predicted from the features of a state, and by which loss."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    horizon: int = static(0, at_least=0)
    """Steps of an episode, of which the policy is then told how many remain to achieve the goal; 0:
    it is not told."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether the policy's input, goals included, is normalized to mean 0 and std 1 by the
    statistics of the dataset; images are not."""
    batch_size: int = static(256, at_least=1)
    """Steps of the dataset in a gradient step."""
    gradient_steps: int = static(100, at_least=1)
    """Gradient steps per update."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    rollout_length: ClassVar[int] = 0
    recurrent: ClassVar[None] = None
    chunk: ClassVar[int] = 1
    ema: ClassVar[None] = None
    state_noise: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = goal_cloning.ASSUMPTIONS
    components: ClassVar[dict[str, Component]] = {"policy": goal_cloning.GOAL_POLICY}

    @property
    def is_deterministic(self) -> bool:
        """A head that has several modes draws one."""
        return self.head.is_deterministic

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
        last_observations = jax.tree.map(
            lambda x: x[last_rows], dataset.transitions.next_observation
        )
        return GCBCState(
            learner, () if has_goals(spec.observation) else last_observations, goal_input
        )

    def initial_memory(self, state: GCBCState, spec: EnvironmentSpec, key: Array) -> GoalMemory:
        """Return the goals with which an episode begins, where the environment shows none."""
        if not (goals := jax.tree.leaves(state.last_observations)):
            return goal_cloning.first_memory((), spec.num_envs)
        episode = jax.random.randint(key, (spec.num_envs,), 0, len(goals[0]))
        goal = jax.tree.map(lambda x: x[episode], state.last_observations)
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

        def step(learner, key):
            key_rows, key_goals = jax.random.split(key)
            rows = dataset_sampling.random_steps(key_rows, dataset, every_episode, self.batch_size)
            batch = relabel_steps(state.goal_input, key_goals, dataset, rows)
            key_loss = jax.random.fold_in(key, LOSS)
            learner, metrics, _ = cloning.gradient_step(self, learner, batch, key_loss)
            return learner, metrics

        keys = jax.random.split(key, self.gradient_steps)
        learner, metrics = jax.lax.scan(step, state.learner, keys)
        metrics = jax.tree.map(jnp.mean, metrics)
        return replace(state, learner=learner), {
            **metrics,
            "updates": jnp.int32(self.gradient_steps),
        }


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
    "gcbc": (GCBC, "goal-conditioned behavior cloning: how a dataset got to where it came")
}
