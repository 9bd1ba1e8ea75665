"""Behavior cloning (Pomerleau, 1989): supervised learning of an expert's actions.

    L(θ) = -E[log π_θ(a|s)]   over the steps (s, a) of a dataset

This is the loss of the policy gradient with every weight equal to one. For discrete actions it is
the cross-entropy; for real ones the policy is a normal, whose mean is fitted to the action and
whose standard deviation, the same in all states, to what is left.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.protocol import Component, Outside, algorithm
from etude.counters import count_up
from etude.data import dataset_sampling
from etude.data.dataset import Dataset
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.losses import weighted_nll
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation, is_image
from etude.nn.policies import PolicyNetwork, make_policy
from etude.nn.recurrent import GRU, LSTM, Carry, initial_carry
from etude.optim.schedules import linear_decay
from etude.spaces import Box, EnvironmentSpec, Space, leaves_with_path
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class BCState:
    """The policy with what normalizes its input, and the places where sequences are read."""

    policy: PolicyNetwork
    observation_statistics: Any  # a RunningMeanStd or None for each leaf of the observation
    opt_state: Any
    steps: Array  # int32: gradient steps taken
    is_held_out: Array  # bool [episode]: it is no episode to learn from
    sequences: "Sequences"  # to learn from
    held_out_sequences: "Sequences"  # to measure on


@struct
class Sequences:
    """Where a recurrent network reads a dataset, and what it remembers; else empty."""

    readers: Any = ()  # EpisodeReaders
    carry: Carry = ()  # before the steps that are read next, [reader, ...]


@struct
class Demonstrations:
    """Steps of a dataset: [sample, ...], or [time, sequence, ...] for a recurrent network."""

    observation: Any  # normalized
    action: Any
    carry: Carry = ()  # before the first steps, [sequence, ...]
    is_first: Array | None = None  # bool [time, sequence]: an episode begins, which resets it


@algorithm
class BC:
    """Behavior cloning (BC) for every kind of action space."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Gradient steps over which the learning rate falls linearly to zero; inf: constant."""
    weight_decay: float = traced(0.0, at_least=0)
    """Share of each weight that a gradient step takes away, per unit of the learning rate
    (AdamW)."""
    max_gradient_norm: float = traced(math.inf, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus, per nat, in the loss; larger values keep the policy from
    certainty."""
    initial_std: float = traced(1.0, above=0)
    """Initial standard deviation of Box actions; a bounded Box is scaled to [-1, 1]; no effect with
    other action spaces."""
    min_std: float = traced(0.01, above=0)
    """Least standard deviation of Box actions, without which the likelihood of actions that are
    fitted exactly would have no upper bound; no effect with other action spaces."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers. Episodes are read from their first step on, so it
    remembers what it would when it plays."""
    sequence_length: int = static(16, at_least=1)
    """Steps of backpropagation through time, a divisor of batch_size; no effect with recurrent
    "none"."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether observations are normalized to mean 0 and std 1 by the statistics of the dataset;
    images are not."""
    validation_share: float = static(0.0, at_least=0, at_most=0.9)
    """Share of the episodes that are held out, and on which the metrics validation_nll and
    validation_action_error are measured. They say little of the return."""
    batch_size: int = static(256, at_least=1)
    """Steps of the dataset in a gradient step."""
    gradient_steps: int = static(100, at_least=1)
    """Gradient steps per update."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    rollout_length: ClassVar[int] = 0
    state_noise: ClassVar[bool] = False
    components: ClassVar[dict[str, Component]] = {
        "policy": on_policy.POLICY._replace(
            put=lambda state, part: replace(state, policy=part[0], observation_statistics=part[1])
        )
    }

    @property
    def assumes(self) -> Assumptions:
        """A memory stands in for what observations do not tell."""
        return on_policy.observation_assumptions(self)

    def validate_fields(self) -> None:
        if self.recurrent and self.batch_size % self.sequence_length:
            raise InvalidInput(
                f"batch_size {self.batch_size} is no whole number of sequences of sequence_length "
                f"{self.sequence_length}; give a multiple of it, or another length"
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
        policy = make_policy(
            key_policy,
            spec,
            self.hidden,
            self.activation,
            initial_std=self.initial_std,
            recurrent=self.recurrent,
            torso=self.torso,
        )
        is_held_out = dataset_sampling.hold_out(
            key_held_out, dataset.num_episodes, self.validation_share
        )
        steps = jnp.int32(0)
        return BCState(
            policy=policy,
            observation_statistics=dataset_statistics(dataset, spec),
            opt_state=self.optimizer(steps).init(policy),
            steps=steps,
            is_held_out=is_held_out,
            sequences=self.init_sequences(key_sequences, policy, dataset, ~is_held_out),
            held_out_sequences=self.init_sequences(
                key_held_out_sequences, policy, dataset, is_held_out
            ),
        )

    def init_sequences(
        self, key: Array, policy: PolicyNetwork, dataset: Dataset, is_among: Array
    ) -> Sequences:
        """Return where sequences of these episodes begin; nothing without a recurrent cell."""
        if policy.torso.cell is None:
            return Sequences()
        count = self.batch_size // self.sequence_length
        readers = dataset_sampling.init_readers(key, dataset, is_among, count)
        return Sequences(readers, initial_carry(policy.torso.cell, (count,)))

    def initial_memory(self, state: BCState, spec: EnvironmentSpec, key: Array) -> Any:
        """Return a blank carry; () without a recurrent cell."""
        cell = state.policy.torso.cell
        return initial_carry(cell, (spec.num_envs,)) if cell else ()

    def act(
        self, state: BCState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Any, Any]:
        """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
        observation = self.normalized(state, observation)
        features, carry = state.policy.torso(observation, memory)
        pi = state.policy.distribution_from_features(features, observation)
        return pi.sample(key) if explore else pi.mode(), carry

    def update(
        self, state: BCState, experience: tuple[()], key: Array, outside: Outside
    ) -> tuple[BCState, Metrics]:
        """Take `gradient_steps` on random steps of the dataset, and measure on those held out."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_steps, key_validation = jax.random.split(key)

        def step(state, key):
            batch, readers = self.read(state, state.sequences, ~state.is_held_out, dataset, key)
            state, metrics, carry = self.gradient_step(state, batch)
            return replace(state, sequences=Sequences(readers, carry)), metrics

        state, metrics = jax.lax.scan(step, state, jax.random.split(key_steps, self.gradient_steps))
        metrics = jax.tree.map(jnp.mean, metrics)
        if self.validation_share:
            batch, readers = self.read(
                state, state.held_out_sequences, state.is_held_out, dataset, key_validation
            )
            _, (measured, carry) = self.loss(state.policy, batch)
            state = replace(state, held_out_sequences=Sequences(readers, carry))
            for name in ("nll", "action_error"):
                metrics[f"validation_{name}"] = measured[name]
        return state, {**metrics, "updates": jnp.int32(self.gradient_steps)}

    def read(
        self, state: BCState, sequences: Sequences, is_among: Array, dataset: Dataset, key: Array
    ) -> tuple[Demonstrations, Any]:
        """Return (a batch of the episodes in `is_among`, next readers of the sequences)."""
        is_first: Array | None = None
        readers: Any = ()
        if not sequences.readers:
            rows = dataset_sampling.random_steps(key, dataset, is_among, self.batch_size)
        else:
            rows, is_first, readers = dataset_sampling.read_steps(
                key, dataset, is_among, sequences.readers, self.sequence_length
            )
        observation, action = jax.tree.map(
            lambda x: x[rows], (dataset.transitions.observation, dataset.transitions.action)
        )
        observation = self.normalized(state, observation)
        return Demonstrations(observation, action, sequences.carry, is_first), readers

    def gradient_step(
        self, state: BCState, batch: Demonstrations
    ) -> tuple[BCState, Metrics, Carry]:
        """Take one gradient step on the loss of a batch; return metrics and the last carry too."""
        gradient, (metrics, carry) = jax.grad(self.loss, has_aux=True)(state.policy, batch)
        updates, opt_state = self.optimizer(state.steps).update(
            gradient, state.opt_state, state.policy
        )
        policy = optax.apply_updates(state.policy, updates)
        policy = replace(policy, log_std=jnp.maximum(policy.log_std, jnp.log(self.min_std)))
        steps = count_up(state.steps, 1)
        return replace(state, policy=policy, opt_state=opt_state, steps=steps), metrics, carry

    def loss(
        self, policy: PolicyNetwork, batch: Demonstrations
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """Return -E[log π(a|s)] minus the entropy bonus, with metrics and the last carry."""
        features, carries = policy.torso(batch.observation, batch.carry, batch.is_first)
        pi = policy.distribution_from_features(features, batch.observation)
        nll, entropy = weighted_nll(pi.log_prob(batch.action)), pi.entropy().mean()
        metrics = {
            "nll": nll,
            "entropy": entropy,
            "action_error": action_error(policy.action_space, pi.mode(), batch.action),
        }
        last_carry = jax.tree.map(lambda x: jax.lax.stop_gradient(x[-1]), carries)
        return nll - self.entropy_coefficient * entropy, (metrics, last_carry)

    def normalized(self, state: BCState, observation: Any) -> Any:
        """Return observations, normalized by the statistics of the dataset if so configured."""
        if not self.normalize_observation:
            return observation
        return running_statistics.normalize_leaves(
            state.observation_statistics, observation, self.normalize_observation.clip
        )

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """AdamW with gradient clipping; the learning rate decays with the gradient steps."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.adamw(learning_rate, weight_decay=self.weight_decay),
        )


def dataset_statistics(dataset: Dataset, spec: EnvironmentSpec) -> Any:
    """Mean and variance of each leaf of a dataset's observations.

    It is None for discrete leaves, for masks and for images, whose scale is known.
    """
    statistics = tuple(
        None if is_image(leaf) else leaf_statistics
        for leaf_statistics, (_, leaf) in zip(
            running_statistics.init_observation_statistics(spec.observation),
            leaves_with_path(spec.observation),
            strict=True,
        )
    )
    return running_statistics.update_observation_statistics(
        statistics, dataset.transitions.observation
    )


def action_error(space: Space, action: Any, expert_action: Any) -> Array:
    """How far actions are from the expert's, []: a number that is easier to read than a likelihood.

    For a Box it is the mean absolute difference, in the policy's units, in which bounded actions
    are in [-1, 1]; else the share of the choices that differ.
    """
    if isinstance(space, Box):
        return jnp.abs(action - expert_action).mean()
    return (action != expert_action).mean()


# Name on the command line: (constructor, description).
ALGORITHMS = {"bc": (BC, "behavior cloning: every kind of action, from a dataset")}
