"""What the on-policy algorithms share: networks, acting, advantages, minibatches, normalization.

    rollout --scale_reward--> --compute_advantages--> RolloutBatch [time, env]
            --to_samples--> [sample, ...] --shuffle_minibatches--> [minibatch, sample, ...]

Recurrent policies learn from sequences in place of samples: [time, sequence, ...].

The functions read these hyperparameters of `algorithm`:

    discount, gae_lambda                        γ and λ of the advantages
    hidden, activation, torso                   networks of policy and value
    shared, initial_std                         the same
    recurrent, sequence_length                  recurrent cell, steps of a sequence
    state_noise, noise_interval                 state-dependent exploration noise, steps it lasts
    normalize_observation, normalize_reward     normalization by running statistics
    rollout_length, batch_size                  steps of a rollout and of a minibatch
    discount_from                               "start" makes `act` count episode steps
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import Component
from etude.counters import count_back, count_up
from etude.data.transition import Transition, flatten_time, minibatches
from etude.errors import InvalidInput
from etude.estimators import returns, running_statistics
from etude.estimators.running_statistics import RunningMeanStd
from etude.nn.distributions import Distribution, broadcast_params
from etude.nn.policies import (
    NO_CARRIES,
    ActorCriticNetworks,
    Carries,
    PolicyNetwork,
    ValueNetwork,
    make_actor_critic,
)
from etude.spaces import EnvironmentSpec
from etude.struct import replace, struct
from etude.types import Array


@struct
class LearnerState:
    """The learned parameters, the optimizer's state and the statistics for normalization."""

    networks: ActorCriticNetworks
    opt_state: Any
    observation_statistics: Any  # a RunningMeanStd or None for each leaf of the observation
    return_statistics: RunningMeanStd  # of the running discounted returns
    discounted_return: Array  # [env]: running discounted return of the current episode
    steps: Array  # int32: environment steps taken, summed over all environment copies


def get_policy(state: Any) -> Any:
    """The policy network of an algorithm's state, and the statistics that normalize its input."""
    learner = getattr(state, "learner", state)
    networks = getattr(learner, "networks", learner)  # a policy may be the only one
    return networks.policy, learner.observation_statistics


def put_policy(state: Any, policy: Any) -> Any:
    """The state of an algorithm with another policy, as `get_policy` returns it."""
    network, observation_statistics = policy
    networks = replace(state.learner.networks, policy=network)
    learner = replace(
        state.learner, networks=networks, observation_statistics=observation_statistics
    )
    return replace(state, learner=learner)


# A policy that can be taken over, but not be started from, for nothing fits the value to it first.
POLICY = Component(
    get_policy,
    put=None,
    settings=("hidden", "activation", "torso", "recurrent", "state_noise", "normalize_observation"),
)


@struct
class PolicyMemory:
    """The policy's memory of one step, [env, ...]: recurrent carries, noise key, step count."""

    carry: Carries  # the carries with which the action was computed
    next_carry: Carries  # the carries for the next step
    noise_key: Array  # uint32 [env, 2]: key of the state-dependent noise
    elapsed_steps: Array  # int32 [env]: steps of the episode so far, this one included


@struct
class RolloutBatch:
    """The data of the losses of a rollout or a minibatch of it: [time, env], or flat [sample, ...].

    For recurrent policies it is [time, sequence, ...]. π_old and V_old are the policy and the value
    function before the update.
    """

    observation: Any  # normalized, if the algorithm normalizes it
    action: Any
    old_log_prob: Array  # log π_old(a|s)
    old_value: Array  # V_old(s)
    advantage: Array
    value_target: Array  # regression target of the value function
    old_distribution: Any  # π_old(·|s); () where the loss does not use it
    # Carries at the first step of each sequence, [sequence, ...]; () without a recurrent cell
    initial_carry: Any = ()
    is_first: Any = None  # bool [time, sequence]: first step of an episode, which resets the carry

    def evaluate(self, networks: ActorCriticNetworks) -> tuple[Distribution, Array]:
        """Return (π(·|s), V(s)) of `networks`."""
        return networks(self.observation, self.initial_carry or NO_CARRIES, self.is_first)[:2]

    def distribution_of(self, policy: PolicyNetwork) -> Distribution:
        """Return π(·|s) of `policy`."""
        return policy(self.observation, (self.initial_carry or NO_CARRIES)[0], self.is_first)

    def values_of(self, value_network: ValueNetwork) -> Array:
        """Return V(s) of a value network that shares no layers with the policy."""
        return value_network(self.observation, (self.initial_carry or NO_CARRIES)[1], self.is_first)


def init_learner(algorithm: Any, key: Array, spec: EnvironmentSpec) -> LearnerState:
    """Return the initial learner; the algorithm adds the optimizer's state."""
    networks = make_actor_critic(
        key,
        spec,
        algorithm.hidden,
        algorithm.activation,
        initial_std=algorithm.initial_std,
        shared=algorithm.shared,
        recurrent=algorithm.recurrent,
        state_noise=algorithm.state_noise,
        torso=algorithm.torso,
    )
    return LearnerState(
        networks,
        (),
        running_statistics.init_observation_statistics(spec.observation),
        running_statistics.init_statistics(()),
        jnp.zeros(spec.num_envs),
        jnp.int32(0),
    )


def initial_memory(algorithm: Any, learner: LearnerState, spec: EnvironmentSpec) -> Any:
    """What an episode begins with: blank carries, no noise, no step; () without memory."""
    if not has_memory(algorithm):
        return ()
    n = spec.num_envs
    carries = learner.networks.initial_carries((n,))
    return PolicyMemory(carries, carries, jnp.zeros((n, 2), jnp.uint32), jnp.zeros(n, jnp.int32))


def act(
    algorithm: Any, learner: LearnerState, observation: Any, memory: Any, key: Array, explore: bool
) -> tuple[Any, Any]:
    """Return (action, next memory): with `explore` a sample of the policy, else its mode."""
    _, action, memory = choose_action(algorithm, learner, observation, memory, key, explore)
    return action, memory


def choose_action(
    algorithm: Any, learner: LearnerState, observation: Any, memory: Any, key: Array, explore: bool
) -> tuple[Distribution, Any, Any]:
    """Return (π(·|s), action, next memory), the last two as `act` does."""
    carries = memory.next_carry if has_memory(algorithm) else NO_CARRIES
    pi, _, next_carries = learner.networks(
        normalize_observation(algorithm, learner, observation), carries
    )
    if not has_memory(algorithm):
        return pi, pi.sample(key) if explore else pi.mode(), ()
    noise_key = memory.noise_key
    if algorithm.state_noise:
        steps = memory.elapsed_steps
        resample = steps % algorithm.noise_interval == 0 if algorithm.noise_interval else steps == 0
        noise_key = jnp.where(
            resample[:, None], jax.random.key_data(jax.random.split(key, steps.shape)), noise_key
        )
        key = jax.random.wrap_key_data(noise_key)
    action = pi.sample(key) if explore else pi.mode()
    elapsed_steps = count_back(memory.elapsed_steps, algorithm.noise_interval or 1) + 1
    return pi, action, PolicyMemory(carries, next_carries, noise_key, elapsed_steps)


def has_memory(algorithm: Any) -> bool:
    """Whether the policy remembers: a recurrent state, the noise, or the steps of the episode."""
    return algorithm.discount_from == "start" or algorithm.state_noise or is_recurrent(algorithm)


def observation_assumptions(algorithm: Any) -> Assumptions:
    """Of a policy with a learned value: the observation tells all, unless the policy remembers."""
    return Assumptions(full_observation=not is_recurrent(algorithm), action_masks=True)


def is_recurrent(algorithm: Any) -> bool:
    return algorithm.recurrent is not None


def normalize_observation(algorithm: Any, learner: LearnerState, observation: Any) -> Any:
    """Return the observation, normalized by its running statistics if the algorithm does so."""
    return running_statistics.normalize_leaves(
        algorithm.normalize_observation, learner.observation_statistics, observation
    )


def scale_reward(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> tuple[LearnerState, Transition]:
    """Divide rewards [time, env] by the running standard deviation of the discounted return.

    Without `normalize_reward` both arguments are returned unchanged.
    """
    if not algorithm.normalize_reward:
        return learner, experience
    discounted_returns, last_return = returns.running_returns(
        experience.reward, experience.done, algorithm.discount, learner.discounted_return
    )
    statistics = running_statistics.update_statistics(
        learner.return_statistics, discounted_returns.ravel()
    )
    clip = algorithm.normalize_reward.clip
    reward = jnp.clip(experience.reward * running_statistics.inverse_std(statistics), -clip, clip)
    return replace(learner, return_statistics=statistics, discounted_return=last_return), replace(
        experience, reward=reward
    )


def truncate_episodes(learner: LearnerState, is_cut: Array) -> LearnerState:
    """The learner after the running episodes of the environments in `is_cut` [env] were cut off."""
    discounted_return = jnp.where(is_cut, 0, learner.discounted_return)
    return replace(learner, discounted_return=discounted_return)


def evaluate_rollout(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> tuple[RolloutBatch, Array]:
    """Return (batch, V(next_observation)), [time, env], with advantages of zero.

    The next observation is the true successor, also where the episode was truncated.
    """
    observation, next_observation = (
        normalize_observation(algorithm, learner, x)
        for x in (experience.observation, experience.next_observation)
    )
    carry, next_carry = (
        (experience.memory.carry, experience.memory.next_carry)
        if is_recurrent(algorithm)
        else (NO_CARRIES, NO_CARRIES)
    )
    pi, value, _ = learner.networks(observation, carry)
    _, next_value, _ = learner.networks(next_observation, next_carry)
    log_prob = pi.log_prob(experience.action)
    batch = RolloutBatch(
        observation=observation,
        action=experience.action,
        old_log_prob=log_prob,
        old_value=value,
        advantage=jnp.zeros_like(value),
        value_target=value,
        old_distribution=broadcast_params(pi),
    )
    return batch, next_value


def compute_advantages(
    algorithm: Any, learner: LearnerState, experience: Transition
) -> RolloutBatch:
    """Return the batch [time, env] with generalized advantages A and value targets A + V."""
    batch, next_value = evaluate_rollout(algorithm, learner, experience)
    advantage = returns.gae(
        experience.reward,
        batch.old_value,
        next_value,
        experience.terminated,
        experience.done,
        algorithm.discount,
        algorithm.gae_lambda,
    )
    return replace(batch, advantage=advantage, value_target=advantage + batch.old_value)


def to_sequence(algorithm: Any, experience: Transition, batch: RolloutBatch) -> RolloutBatch:
    """Mark a batch [time, env] as one sequence per environment if the policy is recurrent."""
    if not is_recurrent(algorithm):
        return batch
    is_first = jnp.concatenate([jnp.zeros_like(experience.done[:1]), experience.done[:-1]])
    initial_carry = jax.tree.map(lambda x: x[0], experience.memory.carry)
    return replace(batch, is_first=is_first, initial_carry=initial_carry)


def to_samples(algorithm: Any, experience: Transition, batch: RolloutBatch) -> RolloutBatch:
    """Flatten a batch [time, env] to samples [time * env, ...].

    For recurrent policies, cut it into sequences [sequence_length, sequence, ...].
    """
    if not is_recurrent(algorithm):
        return flatten_time(batch)
    length = algorithm.sequence_length

    def cut(x):
        chunks = jnp.moveaxis(x.reshape(-1, length, *x.shape[1:]), 0, 1)  # [time, chunk, env, ...]
        return chunks.reshape(length, -1, *x.shape[2:])

    sequences = replace(to_sequence(algorithm, experience, batch), initial_carry=())
    # The carry is already zero at the first step of an episode.
    initial_carry = jax.tree.map(lambda x: cut(x)[0], experience.memory.carry)
    return replace(jax.tree.map(cut, sequences), initial_carry=initial_carry)


def shuffle_minibatches(algorithm: Any, key: Array, batch: RolloutBatch) -> RolloutBatch:
    """Shuffle the result of `to_samples` and split it: [minibatch, ...] of `batch_size` steps each.

    The steps beyond a whole number of minibatches are dropped.
    """
    if not is_recurrent(algorithm):
        return minibatches(key, batch, algorithm.batch_size)
    sequence = jnp.arange(batch.is_first.shape[1])
    order = minibatches(key, sequence, algorithm.batch_size // algorithm.sequence_length)
    shuffled = jax.tree.map(
        lambda x: jnp.moveaxis(x[:, order], 1, 0), replace(batch, initial_carry=())
    )
    initial_carry = jax.tree.map(lambda x: x[order], batch.initial_carry)
    return replace(shuffled, initial_carry=initial_carry)


def check_batch_sizes(algorithm: Any, spec: EnvironmentSpec) -> None:
    """Check that minibatches fit into a rollout and that sequences divide both.

    Raises InvalidInput otherwise.
    """
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
                f"sequence_length {algorithm.sequence_length}; give a multiple of it, or another "
                "length"
            )


def finish_update(algorithm: Any, learner: LearnerState, experience: Transition) -> LearnerState:
    """Add a rollout to the step count and to the running statistics of the observations.

    An update calls it last, so that it normalizes observations as the policy did in the rollout.
    """
    statistics = running_statistics.update_observation_statistics(
        algorithm.normalize_observation,
        learner.observation_statistics,
        flatten_time(experience.observation),
    )
    steps = count_up(learner.steps, experience.reward.size)
    return replace(learner, steps=steps, observation_statistics=statistics)
