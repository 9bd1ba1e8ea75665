"""What algorithms that learn from their own latest experience have in common: how they act, and
what they make of a rollout.

    rollout  --scale_reward-->  --judge-->  Batch  --arrange-->  samples, or sequences where there
             is a memory

The functions read an algorithm's hyperparameters by their names:

    discount, initial_std, hidden, activation, rollout_length, batch_size, gae_lambda       as everywhere
    shared                                  one body for policy and value
    recurrent, memory_size                  a memory of so many units in each body
    sequence_length                         environment steps through which it is trained
    state_noise, noise_interval             noise that depends on the state, and the steps it is
                                            kept for; 0: an episode
    normalize_observation, normalize_reward
    discount_from                           where an algorithm has it: "start" needs the age of an
                                            episode
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data.transition import Transition, flatten_time, minibatches
from etude.errors import InvalidInput
from etude.estimators import returns, running_statistics
from etude.estimators.running_statistics import RunningMeanStd
from etude.nn.distributions import Distribution, broadcast_params
from etude.nn.policies import (
    NO_CARRIES,
    ActorCriticNetworks,
    Carries,
    Policy,
    ValueNetwork,
    make_actor_critic,
)
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct
from etude.types import Array


@struct
class LearnerState:
    """What is learned, and how to scale what it sees."""

    networks: ActorCriticNetworks
    optimizer: Any
    observation_statistics: Any  # Moments of each real leaf of the observation, for normalization
    return_statistics: RunningMeanStd  # of the discounted sums of reward so far
    discounted_return: Array  # [env]: that sum where play stands
    steps: Array  # int32: environment steps taken


@struct
class PolicyMemory:
    """What a policy notes of a step, [env, ...]."""

    carry_before: Carries  # with which it chose the action
    carry_after: Carries  # and goes on
    noise_key: Array  # uint32 [env, 2]: the key of its state-dependent noise
    age: Array  # int32: steps into the episode, this one included


@struct
class RolloutBatch:
    """What the losses need of experience: [sample, ...], or [time, sequence, ...] where there is a
    memory."""

    observation: Any
    action: Any
    log_prob: Array  # of the action, by the policy that chose it
    value: Array  # of the observation, before this update
    advantage: Array
    target: Array  # of the value
    distribution: Any  # the distribution that it was drawn from
    memory: Any = ()  # Memories before the first step of each sequence, [sequence, ...]
    # bool [time, sequence]: an episode begins, and what was before is forgotten
    is_first: Any = None

    def evaluate(self, agent: ActorCriticNetworks) -> tuple[Distribution, Array]:
        """(distribution over actions, value) that an agent has for the observations."""
        return agent(self.observation, self.memory or NO_CARRIES, self.is_first)[:2]

    def distribution_of(self, policy: Policy) -> Distribution:
        """What a policy by itself puts over actions."""
        return policy(self.observation, (self.memory or NO_CARRIES)[0], self.is_first)

    def values_of(self, value: ValueNetwork) -> Array:
        """What a value function with a body of its own says."""
        return value(self.observation, (self.memory or NO_CARRIES)[1], self.is_first)


def init_learner(algorithm: Any, key: Array, spec: EnvironmentSpec) -> LearnerState:
    """Before the first step, without an optimizer."""
    built = make_actor_critic(
        key,
        spec,
        algorithm.hidden,
        algorithm.activation,
        initial_std=algorithm.initial_std,
        shared=algorithm.shared,
        recurrent=algorithm.recurrent,
        memory_size=algorithm.memory_size,
        state_noise=algorithm.state_noise,
    )
    return LearnerState(
        built,
        (),
        running_statistics.init_observation_statistics(spec.observation),
        running_statistics.init_statistics(()),
        jnp.zeros(spec.num_envs),
        jnp.int32(0),
    )


def act(
    algorithm: Any, learner: LearnerState, observation: Any, memory: Any, key: Array, explore: bool
) -> tuple[Any, Any]:
    """A sample of the policy when exploring, its mode when not; and what it notes, () where there
    is nothing to remember."""
    copies = jax.tree.leaves(observation)[0].shape[:1]
    recalled = memory or PolicyMemory(
        learner.networks.initial_carries(copies),
        learner.networks.initial_carries(copies),
        jnp.zeros((*copies, 2), jnp.uint32),
        jnp.zeros(copies, jnp.int32),
    )
    choice, _, after = learner.networks(
        normalize_observation(algorithm, learner, observation), recalled.carry_after
    )
    noise = recalled.noise_key
    if algorithm.state_noise:
        due = (
            recalled.age % algorithm.noise_interval == 0
            if algorithm.noise_interval
            else recalled.age == 0
        )
        noise = jnp.where(due[:, None], jax.random.key_data(jax.random.split(key, copies)), noise)
        key = jax.random.wrap_key_data(noise)
    action = choice.sample(key) if explore else choice.mode()
    noted = PolicyMemory(recalled.carry_after, after, noise, recalled.age + 1)
    counts = getattr(algorithm, "discount_from", "now") == "start"
    return action, noted if counts or algorithm.state_noise or is_recurrent(algorithm) else ()


def is_recurrent(algorithm: Any) -> bool:
    return algorithm.recurrent != "none"


def normalize_observation(algorithm: Any, learner: LearnerState, observation: Any) -> Any:
    return (
        running_statistics.normalize_leaves(learner.observation_statistics, observation)
        if algorithm.normalize_observation
        else observation
    )


def scale_reward(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> tuple[LearnerState, Transition]:
    """Experience [time, env] with its reward over the running standard deviation of the discounted
    return, if so wished."""
    if not algorithm.normalize_reward:
        return learner, experience
    sums, running = returns.running_returns(
        experience.reward, experience.done, algorithm.discount, learner.discounted_return
    )
    spread = running_statistics.update_statistics(learner.return_statistics, sums.ravel())
    reward = jnp.clip(experience.reward * jax.lax.rsqrt(spread.variance + 1e-8), -10, 10)
    return replace(learner, return_statistics=spread, discounted_return=running), replace(
        experience, reward=reward
    )


def evaluate_rollout(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> tuple[RolloutBatch, Array]:
    """(a Batch [time, env] whose advantage and target are to be estimated, the value of the true
    successors [time, env])."""
    observation, after = (
        normalize_observation(algorithm, learner, x)
        for x in (experience.observation, experience.next_observation)
    )
    before, then = (
        (experience.memory.carry_before, experience.memory.carry_after)
        if is_recurrent(algorithm)
        else (NO_CARRIES, NO_CARRIES)
    )
    choice, value, _ = learner.networks(observation, before)
    _, next_value, _ = learner.networks(after, then)
    log_prob = choice.log_prob(experience.action)
    return RolloutBatch(
        observation,
        experience.action,
        log_prob,
        value,
        jnp.zeros_like(value),
        value,
        broadcast_params(choice),
    ), next_value


def compute_advantages(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> RolloutBatch:
    """Generalized advantages and the value's targets of a rollout, [time, env], with λ =
    `algorithm.gae_lambda`."""
    batch, next_value = evaluate_rollout(algorithm, learner, experience)
    advantage = returns.gae(
        experience.reward,
        batch.value,
        next_value,
        experience.terminated,
        experience.done,
        algorithm.discount,
        algorithm.gae_lambda,
    )
    return replace(batch, advantage=advantage, target=advantage + batch.value)


def to_sequence(algorithm: Any, experience: Transition, batch: RolloutBatch) -> RolloutBatch:
    """A batch [time, env], each copy's rollout being one sequence where there is a memory."""
    if not is_recurrent(algorithm):
        return batch
    begins = jnp.concatenate([jnp.zeros_like(experience.done[:1]), experience.done[:-1]])
    return replace(
        batch, is_first=begins, memory=jax.tree.map(lambda x: x[0], experience.memory.carry_before)
    )


def to_samples(algorithm: Any, experience: Transition, batch: RolloutBatch) -> RolloutBatch:
    """A batch [time, env] as samples, [time * env, ...], or where there is a memory as sequences,
    [time, sequence, ...]."""
    if not is_recurrent(algorithm):
        return flatten_time(batch)
    length = algorithm.sequence_length

    def cut(x):
        chunks = jnp.moveaxis(x.reshape(-1, length, *x.shape[1:]), 0, 1)  # [time, chunk, env, ...]
        return chunks.reshape(length, -1, *x.shape[2:])

    whole = replace(to_sequence(algorithm, experience, batch), memory=())
    # zero where an episode begins
    memory = jax.tree.map(lambda x: cut(x)[0], experience.memory.carry_before)
    return replace(jax.tree.map(cut, whole), memory=memory)


def sample_minibatches(algorithm: Any, key: Array, batch: RolloutBatch) -> RolloutBatch:
    """What `arrange` made, in random order and with a leading [batch] of `algorithm.batch_size`
    steps each.

    What is over a whole number of batches is left out.
    """
    if not is_recurrent(algorithm):
        return minibatches(key, batch, algorithm.batch_size)
    rows = jnp.arange(batch.is_first.shape[1])
    order = minibatches(key, rows, algorithm.batch_size // algorithm.sequence_length)
    chosen = jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), replace(batch, memory=()))
    return replace(chosen, memory=jax.tree.map(lambda x: x[order], batch.memory))


def check_batch_sizes(algorithm: Any, spec: EnvironmentSpec) -> None:
    """Raises InvalidInput where a rollout does not hold a batch, or is no whole number of
    sequences, or a batch is not."""
    samples, size = algorithm.rollout_length * spec.num_envs, algorithm.batch_size
    if size > samples:
        raise InvalidInput(
            f"batch_size {size} is larger than a rollout of {samples} samples (rollout_length "
            f"{algorithm.rollout_length} × num_envs {spec.num_envs}); give a smaller batch"
        )
    if not is_recurrent(algorithm):
        return
    for name in ("rollout_length", "batch_size"):
        if getattr(algorithm, name) % algorithm.sequence_length:
            raise InvalidInput(
                f"{name} {getattr(algorithm, name)} is no whole number of sequences of "
                "sequence_length "
                f"{algorithm.sequence_length}; give a multiple of it, or another length"
            )


def finish_update(algorithm: Any, learner: LearnerState, experience: Transition) -> LearnerState:
    """The learner once experience [time, env] is behind it.

    The moments of observations come last, so that a whole update sees what the policy saw.
    """
    learner = replace(learner, steps=learner.steps + experience.reward.size)
    if not algorithm.normalize_observation:
        return learner
    seen = flatten_time(experience.observation)
    return replace(
        learner,
        observation_statistics=running_statistics.update_observation_statistics(
            learner.observation_statistics, seen
        ),
    )
