"""Behavior cloning (Pomerleau, 1989): supervised learning of an expert's actions.

    L(θ) = -E[log π_θ(a|s)]   over the steps (s, a) of a dataset

This is the loss of the policy gradient with every weight equal to one. For discrete actions it is
the cross-entropy; for real ones the policy is a normal, whose mean is fitted to the action and
whose standard deviation, the same in all states, to what is left. Other heads, each with a loss of
its own, keep the modes of an expert who does one thing or another in the same state.
"""

import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.imitation import chunks, cloning
from etude.algorithms.imitation.cloning import LOSS, AnyHead, Cloner, Demonstrations
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.protocol import Component, Outside, algorithm
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.errors import InvalidInput
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, LSTM, Carry
from etude.optim.averaging import EMA
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class BCState:
    learner: Cloner
    is_held_out: Array  # bool [episode]: it is no episode to learn from
    sequences: "Sequences"  # to learn from
    held_out_sequences: "Sequences"  # to measure on


@struct
class Sequences:
    """Where a recurrent network reads a dataset, and what it remembers; else empty."""

    readers: Any = ()  # EpisodeReaders
    carry: Carry = ()  # before the steps that are read next, [reader, ...]


@algorithm
class BC:
    """Behavior cloning (BC) for every kind of action space, of single actions or of chunks."""

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
    chunk: int = static(1, at_least=1)
    """Actions that are predicted at once, from a step on. At the end of an episode the last action
    stands for those that are missing, which do not count in the loss."""
    execute: int = static(1, at_least=1)
    """Actions of a chunk that are executed before the next one is predicted, at most chunk."""
    ema: EMA | None = nested(None)
    """Moving average of the weights over gradient steps, which then acts, is validated and is
    handed on in their place; diffusion gains by it."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers. A sequence goes on where the one before it ended, to
    the end of an episode, so the cell remembers what it would when it plays."""
    sequence_length: int = static(16, at_least=1)
    """Steps of backpropagation through time, which is truncated there, a divisor of batch_size; no
    effect with recurrent "none"."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether observations are normalized to mean 0 and std 1 by the statistics of the episodes to
    learn from; images are not."""
    validation_share: float = static(0.0, at_least=0, at_most=0.9)
    """Share of the episodes that are held out. The metrics of the head, such as validation_nll, are
    measured on a batch of them in each update, where the carries of a recurrent cell are those of
    the update before; they say little of the return."""
    batch_size: int = static(256, at_least=1)
    """Steps of the dataset in a gradient step."""
    gradient_steps: int = static(100, at_least=1)
    """Gradient steps per update."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    reads_next_observations: ClassVar[bool] = False
    rollout_length: ClassVar[int] = 0
    state_noise: ClassVar[bool] = False

    @property
    def components(self) -> dict[str, Component]:
        """The policy, which others can start from where they take its kind."""
        return {"policy": cloning.policy_component(self)}

    @property
    def assumes(self) -> Assumptions:
        """A memory stands in for what observations do not tell.

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
        """Raise InvalidInput where no episode is as long as a chunk."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
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
        if self.validation_share and dataset.num_episodes == 1:
            raise InvalidInput(
                f"validation_share is {self.validation_share} and the dataset has a single "
                "episode, which is needed to learn from; leave it out, or record another"
            )
        key_policy, key_held_out, key_sequences, key_held_out_sequences = jax.random.split(key, 4)
        is_held_out = dataset_sampling.hold_out(
            key_held_out, dataset.num_episodes, self.validation_share
        )
        learner = cloning.add_observations(
            self,
            cloning.init_cloner(self, key_policy, spec),
            dataset.transitions.observation,
            dataset_sampling.is_step_of(dataset, ~is_held_out) if self.validation_share else None,
        )
        return BCState(
            learner,
            is_held_out,
            self.init_sequences(key_sequences, learner, dataset, ~is_held_out),
            self.init_sequences(key_held_out_sequences, learner, dataset, is_held_out)
            if self.validation_share
            else Sequences(),
        )

    def init_sequences(
        self, key: Array, learner: Cloner, dataset: Dataset, is_among: Array
    ) -> Sequences:
        """Return where sequences of these episodes begin; nothing without a recurrent cell."""
        if not self.recurrent:
            return Sequences()
        count = self.batch_size // self.sequence_length
        readers = dataset_sampling.init_readers(key, dataset, is_among, count)
        return Sequences(readers, cloning.start_carry(learner, count))

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
            key_loss = jax.random.fold_in(key, LOSS)
            learner, metrics, carry = cloning.gradient_step(self, state.learner, batch, key_loss)
            return replace(state, learner=learner, sequences=Sequences(readers, carry)), metrics

        keys = jax.random.split(key_steps, self.gradient_steps)
        rows = jax.vmap(partial(self.draw_rows, ~state.is_held_out, dataset))(keys)
        state, metrics = jax.lax.scan(step, state, (keys, rows))
        metrics = jax.tree.map(jnp.mean, metrics)
        if self.validation_share:
            batch, readers = self.read(
                state.held_out_sequences,
                state.is_held_out,
                dataset,
                key_validation,
                self.draw_rows(state.is_held_out, dataset, key_validation),
            )
            key_loss = jax.random.fold_in(key_validation, LOSS)
            measured, carry = cloning.measure(self, state.learner, batch, key_loss)
            state = replace(state, held_out_sequences=Sequences(readers, carry))
            metrics |= {f"validation_{name}": value for name, value in measured.items()}
        return state, {**metrics, "updates": jnp.int32(self.gradient_steps)}

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
