"""Behavior cloning (Pomerleau, 1989): supervised learning of an expert's actions.

    L(θ) = -E[log π_θ(a|s)]   over the steps (s, a) of a dataset

This is the loss of the policy gradient with every weight equal to one. For discrete actions it is
the cross-entropy; for real ones the policy is a normal, whose mean is fitted to the action and
whose standard deviation, the same in all states, to what is left. Other heads, each with a loss of
its own, keep the modes of an expert who does one thing or another in the same state.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.imitation import chunks, cloning
from etude.algorithms.imitation.cloning import KEY_OF_LOSS, Cloner, Demonstrations
from etude.algorithms.imitation.cloning_fields import RecurrentFields
from etude.algorithms.imitation.sequences import Sequences, init_sequences
from etude.algorithms.protocol import Component, Outside, algorithm
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.data.dataset_sampling import EpisodeReaders
from etude.errors import InvalidInput
from etude.nn.recurrent import Carry
from etude.optim.averaging import EMA
from etude.spaces import EnvironmentSpec
from etude.struct import nested, replace, static, struct
from etude.trees import where_done
from etude.types import Array, Metrics


@struct
class BCState:
    learner: Cloner
    is_held_out: Array  # bool [episode]: it is no episode to learn from
    sequences: Sequences  # to learn from


@algorithm
class BC(RecurrentFields):
    """Behavior cloning (BC) for every kind of action space, of single actions or of chunks."""

    chunk: int = static(1, at_least=1)
    """Actions that are predicted at once, from a step on. At the end of an episode the last action
    stands for those that are missing, which do not count in the loss."""
    execute: int = static(1, at_least=1)
    """Actions of a chunk that are executed before the next one is predicted, at most chunk."""
    ema: EMA | None = nested(None)
    """Moving average of the weights over gradient steps, which then acts, is validated and is
    handed on in their place; diffusion gains by it."""
    validation_share: float = static(0.0, at_least=0, at_most=0.9)
    """Share of the episodes that are held out. The metrics of the head, such as validation_nll, are
    measured on a batch of them in each update; small losses there say little of the return."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    reads_next_observations: ClassVar[bool] = False
    rollout_length: ClassVar[int] = 0

    @property
    def components(self) -> dict[str, Component]:
        """The policy, which others can start from where they take its kind."""
        return {"policy": cloning.policy_component(self)}

    @property
    def assumes(self) -> Assumptions:
        """A recurrent policy does without observations that tell the whole state.

        A mask says what is legal now, and nothing of the later actions of a chunk.
        """
        assumptions = on_policy.observation_assumptions(self)
        if self.chunk == 1:
            return assumptions
        return assumptions._replace(action_masks=False, because_of=f"chunk {self.chunk}")

    def validate_fields(self) -> None:
        cloning.check_sequences(self)
        if self.execute > self.chunk:
            raise InvalidInput(
                f"execute is {self.execute}, more than the {self.chunk} actions of a chunk; give "
                f"--chunk {self.execute} or more, or a smaller --execute"
            )

    def check_outside(self, outside: Outside) -> None:
        """Raise InvalidInput where no episode is as long as a chunk, or one alone to be divided."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        if self.validation_share and dataset.num_episodes == 1:
            raise InvalidInput(
                f"validation_share is {self.validation_share} and the dataset has a single "
                "episode, which is needed to learn from; leave it out, or record another"
            )
        longest = int(dataset.episode_lengths.max())
        if self.chunk > longest:
            raise InvalidInput(
                f"chunk is {self.chunk}, and the longest episode of the dataset has {longest} "
                f"steps; give --chunk {longest} or less, or a dataset of longer episodes"
            )

    def steps_per_update(self, num_envs: int) -> int:
        """Steps of the budget in one update, which are gradient steps."""
        return self.gradient_steps

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> BCState:
        """Return the initial policy and optimizer state, and the statistics of the dataset."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_policy, key_held_out, key_sequences = jax.random.split(key, 3)
        is_held_out = dataset_sampling.hold_out(
            key_held_out, dataset.num_episodes, self.validation_share
        )
        learner = cloning.add_observations(
            self,
            cloning.init_cloner(self, key_policy, spec),
            dataset.transitions.observation,
            dataset_sampling.is_step_of(dataset, ~is_held_out) if self.validation_share else None,
        )
        sequences = init_sequences(self, key_sequences, learner, dataset, ~is_held_out)
        return BCState(learner, is_held_out, sequences)

    def initial_memory(self, state: BCState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return a blank carry, and no actions of a chunk; () where neither is needed."""
        carry = cloning.start_carry(state.learner, spec.num_envs)
        return chunks.empty_chunks(self, carry, spec) if self.execute > 1 else carry

    def act(
        self, state: BCState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample, else one without noise.

        See `ActionHead.act` for heads that have several modes.
        """
        act = chunks.act_in_chunks if self.execute > 1 else cloning.act_as_cloned
        return act(self, state.learner, observation, memory, key, explore)

    def update(
        self, state: BCState, experience: tuple[()], key: Array, outside: Outside
    ) -> tuple[BCState, Metrics]:
        """Take `gradient_steps` on random steps of the dataset, and measure on those held out."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_steps, key_validation = jax.random.split(key)

        def step(state, inputs):
            key, rows = inputs
            batch, readers = self.read(state.sequences, ~state.is_held_out, dataset, key, rows)
            key_loss = jax.random.fold_in(key, KEY_OF_LOSS)
            learner, metrics, carry = cloning.gradient_step(self, state.learner, batch, key_loss)
            return replace(state, learner=learner, sequences=Sequences(readers, carry)), metrics

        keys = jax.random.split(key_steps, self.gradient_steps)
        # all at once, since inside the loop each draw would cost a step some of its time
        rows = jax.vmap(partial(self.draw_rows, ~state.is_held_out, dataset))(keys)
        state, metrics = jax.lax.scan(step, state, (keys, rows), unroll=cloning.UNROLL)
        metrics = jax.tree.map(jnp.mean, metrics)
        if self.validation_share:
            measured = self.validate(state, dataset, key_validation)
            metrics |= {f"validation_{name}": value for name, value in measured.items()}
        return state, {**metrics, "updates": jnp.int32(self.gradient_steps)}

    def validate(self, state: BCState, dataset: Dataset, key: Array) -> Metrics:
        """Return the metrics of a batch of the episodes that are held out.

        A recurrent cell reads the episodes from their start, with the weights of now.
        """
        key_start, key_rows, key_loss = jax.random.split(key, 3)
        sequences = Sequences()
        if self.recurrent:
            count = self.batch_size // self.sequence_length
            start = dataset_sampling.random_steps(key_start, dataset, state.is_held_out, count)
            carry = self.carry_before(state.learner, dataset, start)
            sequences = Sequences(EpisodeReaders(start, jnp.zeros(count, bool)), carry)
        rows = self.draw_rows(state.is_held_out, dataset, key_rows)
        batch, _ = self.read(sequences, state.is_held_out, dataset, key_rows, rows)
        return cloning.measure(self, state.learner, batch, key_loss)[0]

    def carry_before(self, learner: Cloner, dataset: Dataset, rows: Array) -> Carry:
        """Return the carry before the steps at `rows` [n] of what their episodes showed so far."""
        steps_before = dataset_sampling.steps_from_start(dataset, rows)

        def read(step, carry):
            row = jnp.minimum(rows - steps_before + step, rows)
            observation = jax.tree.map(lambda x: x[row], dataset.transitions.observation)
            _, after = cloning.observe_context(self, learner, observation, carry)
            return jax.tree.map(partial(where_done, step < steps_before), after, carry)

        carry = cloning.start_carry(learner, len(rows))
        return jax.lax.fori_loop(0, steps_before.max(), read, carry)

    def draw_rows(self, is_among: Array, dataset: Dataset, key: Array) -> Any:
        """Draw the rows of a batch of single steps; () for sequences, which are read in turn."""
        if self.recurrent:
            return ()
        return dataset_sampling.random_steps(key, dataset, is_among, self.batch_size)

    def read(
        self, sequences: Sequences, is_among: Array, dataset: Dataset, key: Array, rows: Any
    ) -> tuple[Demonstrations, Any]:
        """Return (a batch of the episodes in `is_among`, next readers of the sequences).

        `rows` are those of `draw_rows`.
        """
        is_first: Array | None = None
        readers: Any = ()
        if sequences.readers:
            rows, is_first, readers = dataset_sampling.read_steps(
                key, dataset, is_among, sequences.readers, self.sequence_length
            )
        observation = jax.tree.map(lambda x: x[rows], dataset.transitions.observation)
        action_rows, is_valid = dataset_sampling.chunk_rows(dataset, rows, self.chunk)
        action = dataset.transitions.action[action_rows]
        return Demonstrations(observation, action, is_valid, sequences.carry, is_first), readers


# Name on the command line: (constructor, description).
ALGORITHMS = {"bc": (BC, "behavior cloning: every kind of action, from a dataset")}
