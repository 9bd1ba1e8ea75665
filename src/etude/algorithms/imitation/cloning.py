"""What the algorithms that clone an expert share: the policy, its loss and its gradient step.

    L(θ) = -E[log π_θ(a|s)]   over states s with the expert's actions a

The functions read these hyperparameters of `algorithm`:

    learning_rate, learning_rate_decay, weight_decay, max_gradient_norm      the optimizer
    hidden, activation, torso, recurrent                                    the policy network
    initial_std, min_std                                                    of Box actions
    entropy_coefficient                                                     bonus in the loss
    normalize_observation                                                   input of the policy
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.protocol import Component
from etude.counters import count_up
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.losses import weighted_nll
from etude.nn.networks import is_image
from etude.nn.policies import PolicyNetwork, make_policy
from etude.nn.recurrent import Carry, initial_carry
from etude.optim.schedules import linear_decay
from etude.spaces import Box, EnvironmentSpec, Space, executed_action, leaves_with_path
from etude.struct import replace, struct
from etude.types import Array, Metrics


@struct
class Cloner:
    """A policy that is cloned, with its optimizer's state and what normalizes its input."""

    policy: PolicyNetwork
    observation_statistics: Any  # a RunningMeanStd or None for each leaf of the observation
    opt_state: Any
    steps: Array  # int32: gradient steps taken


@struct
class Demonstrations:
    """What the expert does: [sample, ...], or [time, sequence, ...] for a recurrent network."""

    observation: Any  # not normalized
    action: Any  # the expert's
    carry: Carry = ()  # before the first steps, [sequence, ...]
    is_first: Array | None = None  # bool [time, sequence]: an episode begins, which resets it


def put_cloned_policy(state: Any, part: Any) -> Any:
    """The state of an algorithm with another policy, as `on_policy.get_policy` returns it.

    The statistics that normalize its input come with it, since its weights are made for them.
    """
    policy, observation_statistics = part
    learner = replace(state.learner, policy=policy, observation_statistics=observation_statistics)
    return replace(state, learner=learner)


POLICY: Component = on_policy.POLICY._replace(put=put_cloned_policy)


def init_cloner(algorithm: Any, key: Array, spec: EnvironmentSpec) -> Cloner:
    """Return the initial policy and optimizer state, and statistics of no observations."""
    policy = make_policy(
        key,
        spec,
        algorithm.hidden,
        algorithm.activation,
        initial_std=algorithm.initial_std,
        recurrent=algorithm.recurrent,
        torso=algorithm.torso,
    )
    steps = jnp.int32(0)
    statistics = tuple(
        # the scale of images is known
        None if algorithm.normalize_observation and is_image(leaf) else leaf_statistics
        for leaf_statistics, (_, leaf) in zip(
            running_statistics.init_observation_statistics(spec.observation),
            leaves_with_path(spec.observation),
            strict=True,
        )
    )
    return Cloner(policy, statistics, optimizer(algorithm, steps).init(policy), steps)


def add_observations(
    algorithm: Any, cloner: Cloner, observations: Any, is_counted: Array | None = None
) -> Cloner:
    """The cloner with observations [n, ...] added to its statistics, if it normalizes.

    With `is_counted`, bool [n], only those count.
    """
    if not algorithm.normalize_observation:
        return cloner
    statistics = running_statistics.update_observation_statistics(
        cloner.observation_statistics, observations, is_counted
    )
    return replace(cloner, observation_statistics=statistics)


def normalized(algorithm: Any, cloner: Cloner, observation: Any) -> Any:
    """The observation, normalized if the algorithm does so."""
    if not algorithm.normalize_observation:
        return observation
    return running_statistics.normalize_leaves(
        cloner.observation_statistics, observation, algorithm.normalize_observation.clip
    )


def start_carry(cloner: Cloner, count: int) -> Carry:
    """The carry at the start of `count` episodes; () without a recurrent cell."""
    cell = cloner.policy.torso.cell
    return initial_carry(cell, (count,)) if cell else ()


def act_as_cloned(
    algorithm: Any, cloner: Cloner, observation: Any, carry: Carry, key: Array, explore: bool
) -> tuple[Any, Carry]:
    """Return (action, next carry): with `explore` a sample of the policy, else its mode."""
    observation = normalized(algorithm, cloner, observation)
    features, carry = cloner.policy.torso(observation, carry)
    pi = cloner.policy.distribution_from_features(features, observation)
    return pi.sample(key) if explore else pi.mode(), carry


def gradient_step(
    algorithm: Any, cloner: Cloner, batch: Demonstrations
) -> tuple[Cloner, Metrics, Carry]:
    """Take one gradient step on the loss of a batch; return metrics and the last carry too."""
    batch = replace(batch, observation=normalized(algorithm, cloner, batch.observation))
    gradient, (metrics, carry) = jax.grad(
        lambda policy: loss(policy, batch, algorithm.entropy_coefficient), has_aux=True
    )(cloner.policy)
    updates, opt_state = optimizer(algorithm, cloner.steps).update(
        gradient, cloner.opt_state, cloner.policy
    )
    policy = optax.apply_updates(cloner.policy, updates)
    policy = replace(policy, log_std=jnp.maximum(policy.log_std, jnp.log(algorithm.min_std)))
    steps = count_up(cloner.steps, 1)
    return replace(cloner, policy=policy, opt_state=opt_state, steps=steps), metrics, carry


def measure(algorithm: Any, cloner: Cloner, batch: Demonstrations) -> tuple[Metrics, Carry]:
    """Return the metrics of a batch and the last carry; nothing is learned."""
    batch = replace(batch, observation=normalized(algorithm, cloner, batch.observation))
    return loss(cloner.policy, batch, 0.0)[1]


def loss(
    policy: PolicyNetwork, batch: Demonstrations, entropy_coefficient: float | Array
) -> tuple[Array, tuple[Metrics, Carry]]:
    """Return -E[log π(a|s)] minus the entropy bonus, with metrics and the last carry.

    The observations of the batch are normalized.
    """
    features, carries = policy.torso(batch.observation, batch.carry, batch.is_first)
    pi = policy.distribution_from_features(features, batch.observation)
    nll, entropy = weighted_nll(pi.log_prob(batch.action)), pi.entropy().mean()
    metrics = {
        "nll": nll,
        "entropy": entropy,
        "action_error": action_error(policy.action_space, pi.mode(), batch.action),
    }
    last_carry = jax.tree.map(lambda x: jax.lax.stop_gradient(x[-1]), carries)
    return nll - entropy_coefficient * entropy, (metrics, last_carry)


def action_error(space: Space, action: Any, expert_action: Any) -> Array:
    """How far actions are from the expert's, []: a number that is easier to read than a likelihood.

    For a Box it is the mean absolute difference of what is executed, in the policy's units, in
    which bounded actions are in [-1, 1]; else the share of the choices that differ.
    """
    if isinstance(space, Box):
        return jnp.abs(executed_action(space, action) - expert_action).mean()
    return (action != expert_action).mean()


def optimizer(algorithm: Any, steps: Array) -> optax.GradientTransformation:
    """AdamW with gradient clipping; the learning rate decays with the gradient steps."""
    learning_rate = algorithm.learning_rate * linear_decay(steps, algorithm.learning_rate_decay)
    return optax.chain(
        optax.clip_by_global_norm(algorithm.max_gradient_norm),
        optax.adamw(learning_rate, weight_decay=algorithm.weight_decay, mask=is_weight_matrix),
    )


def is_weight_matrix(params: Any) -> Any:
    """True for the arrays that decay: neither biases nor standard deviations."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def check_sequences(algorithm: Any) -> None:
    """Raise InvalidInput where sequences do not fill a batch."""
    if algorithm.recurrent and algorithm.batch_size % algorithm.sequence_length:
        raise InvalidInput(
            f"batch_size {algorithm.batch_size} is no whole number of sequences of sequence_length "
            f"{algorithm.sequence_length}; give a multiple of it, or another length"
        )
