"""What on-policy algorithms share: acting with a memory, and cutting what was lived into sequences
that give it back."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled

from etude.algorithms.actor_critic.actor_critic import ActorCritic
from etude.algorithms.common import on_policy
from etude.algorithms.trust_region.ppo import PPO, PPOState
from etude.data.transition import Transition
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.nn import policies
from etude.nn.recurrent import GRU, LSTM
from etude.rollout import bind_policy, evaluate, rollout
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec
from etude.struct import replace, struct
from etude.training import init_rollout

KEY = jax.random.key(0)
TIME, ENVS, LENGTH, LIMIT = 12, 4, 4, 4


@struct
class Walk:
    """Episodes of 2 to 6 steps, as drawn at their start; seen are the steps taken and the length,
    and an action is paid."""

    observation_space = Box((2,))
    action_space = Box((1,))

    def reset(self, key):
        state = jnp.stack([0.0, jax.random.randint(key, (), 2, 7).astype(float)])
        return state, state

    def step(self, state, action, key):
        after = state.at[0].add(1)
        return after, StepResult(after, action[0], after[0] >= after[1], jnp.bool_(False))


WALK = JaxEnvs(TimeLimit(Walk(), LIMIT), ENVS)  # longer ones than 4 steps are cut off
SMALL = PPO(
    hidden=(5,),
    rollout_length=TIME,
    batch_size=16,
    sequence_length=LENGTH,
    epochs=1,
    learning_rate=0.01,
)
ALGORITHMS = {
    "gru": replace(SMALL, recurrent=GRU(3), normalize_observation=Normalization()),
    "lstm, shared, noise": replace(
        SMALL, recurrent=LSTM(3), shared=True, state_noise=True, noise_interval=3, batch_size=20
    ),
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def beginning(algorithm):
    """A learner with weights from NumPy, and the optimizer that is its own."""
    agent = filled(
        lambda: policies.make_actor_critic(
            KEY,
            WALK.spec,
            (5,),
            shared=algorithm.shared,
            recurrent=algorithm.recurrent,
            state_noise=algorithm.state_noise,
        ),
        scale=0.6,
    )
    learner = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        jax.eval_shape(partial(algorithm.init, spec=WALK.spec), KEY),
    )
    held = replace(learner.learner, networks=agent)
    return PPOState(
        replace(
            held,
            observation_statistics=jax.tree.map(lambda x: x + 1.3, held.observation_statistics),
        ),
        jnp.float32(0),
    )


class Played(NamedTuple):
    state: Any
    begun: Any  # Stage before the rollout
    rollout_state: Any  # and after
    experience: Any  # [time, env]
    batch: Any  # [time, env]
    sequences: Any  # [time, sequence]
    whole: Any  # [time, env], with memories and starts
    parts: Any  # [batch, time, sequence]
    # (divergence, log-probability, value) of `sequences`, of `whole` and of each of `parts`
    seen: Any
    forgetful: Any  # log-probabilities of `sequences` were no episode ever to begin in one
    first: Any  # metrics of the first gradient step


@partial(jax.jit, static_argnames="name")
def play_and_batch(name, state, key):
    algorithm = ALGORITHMS[name]
    begun = init_rollout(algorithm, WALK, state, key)
    stage, experience, _ = rollout(
        WALK, bind_policy(algorithm, state, WALK, explore=True), begun, key, TIME
    )
    agent, batch = (
        state.learner.networks,
        on_policy.compute_advantages(algorithm, state.learner, experience),
    )
    sequences, whole = (
        of(algorithm, experience, batch) for of in (on_policy.to_samples, on_policy.to_sequence)
    )
    parts = on_policy.shuffle_minibatches(algorithm, key, sequences)

    def seen(batch):
        choice, value = batch.evaluate(agent)
        return batch.old_distribution.kl(choice), choice.log_prob(batch.action), value

    all_seen = seen(sequences), seen(whole), jax.vmap(seen)(parts)
    never = replace(sequences, is_first=jnp.zeros_like(sequences.is_first))
    first = algorithm.gradient_step(state.learner, jax.tree.map(lambda x: x[0], parts), 0.0)[1]
    return Played(
        state,
        begun,
        stage,
        experience,
        batch,
        sequences,
        whole,
        parts,
        all_seen,
        seen(never)[1],
        first,
    )


@pytest.fixture(scope="module")
def played():
    """A function from an algorithm's name to what it played."""

    @cache
    def play(name):
        one = jax.device_get(play_and_batch(name, beginning(ALGORITHMS[name]), KEY))
        done = np.asarray(one.experience.done)
        # copies end at times of their own
        assert (done.sum(0) >= 3).all() and not done.all(1).any()
        assert one.experience.terminated.any() and one.experience.truncated.any()
        return one

    return play


def starts(experience):
    """Where an episode begins, by what is seen, [time, env]."""
    return np.asarray(experience.observation[..., 0]) == 0


@every_algorithm
@pytest.mark.slow
def test_a_memory_is_handed_on_and_is_blank_where_an_episode_begins(played, name):
    one = played(name)
    noted, begins, done = (
        one.experience.memory,
        starts(one.experience),
        np.asarray(one.experience.done),
    )
    np.testing.assert_array_equal(begins[1:], done[:-1])
    parts = list(
        zip(
            *map(
                jax.tree.leaves,
                (noted.carry, noted.next_carry, one.rollout_state.memory.next_carry),
            ),
            strict=True,
        )
    )
    assert len(parts) == 2
    for before, after, last in parts:
        before, after = np.asarray(before), np.asarray(after)
        assert before.shape == (TIME, ENVS, 3)
        np.testing.assert_array_equal(before[1:], np.where(done[:-1, :, None], 0, after[:-1]))
        np.testing.assert_array_equal((before == 0).all(-1), begins)
        np.testing.assert_array_equal(last, np.where(done[-1][:, None], 0, after[-1]))
    np.testing.assert_array_equal(noted.elapsed_steps, one.experience.observation[..., 0] + 1)
    # training starts with nothing remembered
    assert not any(leaf.any() for leaf in jax.tree.leaves(one.begun.memory))
    assert jax.tree.structure(one.begun.memory) == jax.tree.structure(one.rollout_state.memory)


@every_algorithm
@pytest.mark.slow
def test_what_it_goes_on_with_is_what_the_agent_remembers(played, name):
    """Of the observation as the networks see it."""
    one = played(name)
    noted, observation = one.experience.memory, one.experience.observation
    seen = on_policy.normalize_observation(ALGORITHMS[name], one.state.learner, observation)
    assert (seen is observation) != bool(ALGORITHMS[name].normalize_observation)
    np.testing.assert_allclose(one.batch.observation, seen, rtol=1e-6)
    choice, value, after = jax.jit(lambda agent: agent(seen, noted.carry))(
        one.state.learner.networks
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after, noted.next_carry)
    np.testing.assert_allclose(
        one.batch.old_log_prob, choice.log_prob(one.experience.action), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(one.batch.old_value, value, rtol=1e-4, atol=1e-5)


def test_the_value_of_what_follows_is_that_of_the_memory_it_goes_on_with(played):
    """A truncated episode goes on with what it remembers; to the next step's own value where none
    ends."""
    one = played("gru")
    algorithm = ALGORITHMS["gru"]
    _, after = jax.jit(lambda state, x: on_policy.evaluate_rollout(algorithm, state.learner, x))(
        one.state, one.experience
    )
    after = np.asarray(after)
    inside = ~np.asarray(one.experience.done)[:-1]
    np.testing.assert_allclose(
        after[:-1][inside], one.batch.old_value[1:][inside], rtol=1e-4, atol=1e-5
    )
    assert not np.isclose(after[:-1][~inside], one.batch.old_value[1:][~inside], atol=1e-3).any()


def columns(tree):
    """[time, sequence, ...] as rows of numbers, one a sequence: [sequence, number]."""
    leaves = [np.asarray(x, float) for x in jax.tree.leaves(tree)]
    return np.concatenate([np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in leaves], -1)


def ordered(rows):
    return rows[np.lexsort(rows.T)]


@every_algorithm
@pytest.mark.slow
def test_sequences_are_stretches_of_each_copy_with_the_memory_they_begin_with(played, name):
    """All in the order of time, each stretch once, beside what belongs to it."""
    one = played(name)
    # at the rollout's first
    whole = replace(
        one.batch, initial_carry=(), is_first=jnp.asarray(starts(one.experience)).at[0].set(False)
    )
    stretches, memories = [], []  # the memory says so
    for env in range(ENVS):
        for t in range(0, TIME, LENGTH):
            stretches.append(
                columns(
                    jax.tree.map(lambda x, t=t, env=env: x[t : t + LENGTH, env : env + 1], whole)
                )[0]
            )
            memories.append(
                columns(
                    jax.tree.map(
                        lambda x, t=t, env=env: x[t : t + 1, env : env + 1],
                        one.experience.memory.carry,
                    )
                )[0]
            )
    expected = np.concatenate([stretches, memories], -1)

    def rows(batch):
        memory = jax.tree.map(lambda x: x[None], batch.initial_carry)
        return np.concatenate([columns(replace(batch, initial_carry=())), columns(memory)], -1)

    np.testing.assert_array_equal(ordered(rows(one.sequences)), ordered(expected))
    assert len(np.unique(expected, axis=0)) == ENVS * TIME // LENGTH
    size = ALGORITHMS[name].batch_size // LENGTH
    dealt = np.concatenate(
        [
            rows(jax.tree.map(lambda x, i=i: x[i], one.parts))
            for i in range(one.parts.is_first.shape[0])
        ]
    )
    assert one.parts.is_first.shape == (12 // size, LENGTH, size)
    # what is left over is left out
    assert len(np.unique(dealt, axis=0)) == len(dealt) == 12 // size * size
    assert {tuple(row) for row in dealt} <= {tuple(row) for row in expected}
    assert (dealt != expected[: len(dealt)]).any() and (
        dealt != rows(one.sequences)[: len(dealt)]
    ).any()


@every_algorithm
@pytest.mark.slow
def test_over_sequences_the_policy_says_what_it_said_while_acting(played, name):
    """So before its first update the ratio is 1, also past the end of an episode inside a
    sequence."""
    one = played(name)
    assert np.asarray(one.sequences.is_first)[1:].any() and any(
        h.any() for h in jax.tree.leaves(one.sequences.initial_carry)
    )
    for batch, (divergence, log_prob, value) in zip(
        (one.sequences, one.whole, one.parts), one.seen, strict=True
    ):
        np.testing.assert_allclose(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value, batch.old_value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(divergence, 0, atol=1e-5)
    assert not np.allclose(one.forgetful, one.sequences.old_log_prob, atol=1e-3)
    assert abs(one.first["kl"]) < 1e-6 and one.first["clipped"] == 0


@pytest.mark.slow
def test_policy_and_value_by_themselves_say_what_the_agent_says(played):
    one = played("gru")
    agent, (_, log_prob, value) = one.state.learner.networks, one.seen[0]

    @jax.jit
    def alone(agent, sequences):
        return sequences.distribution_of(agent.policy).log_prob(
            sequences.action
        ), sequences.values_of(agent.value)

    for ours, theirs in zip(alone(agent, one.sequences), (log_prob, value), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_a_memory_a_batch_is_its_samples():
    """And nothing is noted, unless the steps of an episode count."""
    batch = on_policy.RolloutBatch(
        *(np.arange(24.0, dtype=np.float32).reshape(6, 4) + 100 * i for i in range(7))
    )
    flat = on_policy.to_samples(SMALL, None, batch)
    np.testing.assert_array_equal(flat.old_value, batch.old_value.ravel())
    assert on_policy.to_sequence(SMALL, None, batch) is batch
    parts = jax.device_get(
        jax.jit(
            lambda flat: on_policy.shuffle_minibatches(replace(SMALL, batch_size=7), KEY, flat)
        )(flat)
    )
    assert parts.old_value.shape == (3, 7) and len(np.unique(parts.old_value)) == 21
    np.testing.assert_array_equal(parts.old_value + 100, parts.advantage)
    state, observation = beginning(SMALL), np.ones((ENVS, 2), np.float32)
    assert (
        jax.eval_shape(lambda: on_policy.act(SMALL, state.learner, observation, (), KEY, True))[1]
        == ()
    )

    @jax.jit
    def twice(learner):
        counting = ActorCritic(hidden=(5,), discount_from="start")
        blank = on_policy.initial_memory(counting, learner, WALK.spec)
        _, noted = on_policy.act(counting, learner, observation, blank, KEY, True)
        return on_policy.act(counting, learner, observation, noted, KEY, True)[1]

    noted = twice(state.learner)
    np.testing.assert_array_equal(noted.elapsed_steps, [2] * ENVS)


@pytest.mark.parametrize("interval", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_noise_is_kept_for_its_interval_and_drawn_anew_where_an_episode_begins(interval):
    """Each copy has its own; the action is the mean and the features times the matrix that the
    noted key stands for."""
    algorithm = replace(SMALL, state_noise=True, noise_interval=interval)
    state = beginning(algorithm)

    @jax.jit
    def play(state, key):
        _, experience, _ = rollout(
            WALK,
            bind_policy(algorithm, state, WALK, explore=True),
            init_rollout(algorithm, WALK, state, key),
            key,
            TIME,
        )
        keys = jax.random.wrap_key_data(experience.memory.noise_key)
        matrices = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (5, 1))))(keys)
        return experience, state.learner.networks.policy(experience.observation), matrices

    experience, choice, matrices = play(state, KEY)
    age = np.asarray(experience.observation[..., 0])
    due = age % interval == 0 if interval else age == 0
    noise = np.asarray(experience.memory.noise_key)
    same = (noise[1:] == noise[:-1]).all(-1)
    np.testing.assert_array_equal(same, ~due[1:])
    assert due[1:].any() and same.any()
    assert len(np.unique(noise.reshape(-1, 2), axis=0)) == due.sum()
    sigma = np.exp(np.asarray(choice.log_std, float))
    expected = choice.mean + (np.asarray(choice.features, float)[..., None] * sigma * matrices).sum(
        -2
    )
    np.testing.assert_allclose(experience.action, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_evaluation_starts_every_episode_with_a_blank_memory():
    """The return of the policy's mean is known for each length of an episode, from an agent stepped
    by hand."""
    algorithm = ALGORITHMS["gru"]
    state = beginning(algorithm)
    agent = state.learner.networks
    policy = bind_policy(algorithm, state, WALK)
    returns, lengths = jax.jit(lambda: evaluate(WALK, policy, KEY, 24))()
    step = jax.jit(
        lambda x, memory: agent(
            on_policy.normalize_observation(algorithm, state.learner, x), memory
        )
    )
    expected = {}
    for length in range(2, 7):
        memory, total = agent.initial_carries((1,)), 0.0
        for t in range(min(length, LIMIT)):
            choice, _, memory = step(np.float32([[t, length]]), memory)
            total += float(choice.mean[0, 0])
        expected[length] = total
    assert len({round(total, 3) for total in expected.values()}) == 5
    cut = [expected[length] for length in range(LIMIT, 7)]
    for total, length in zip(np.asarray(returns), np.asarray(lengths), strict=True):
        assert (
            min(abs(total - one) for one in (cut if length == LIMIT else [expected[int(length)]]))
            < 1e-4
        )
    assert len(np.unique(np.round(returns, 3))) == 5  # all lengths were played


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"batch_size": 49},
            r"batch_size 49 is larger than a rollout of 48 samples \(rollout_length 12 × num_envs "
            r"4\)",
        ),
        (
            {"recurrent": GRU(3), "sequence_length": 5, "batch_size": 20},
            "rollout_length 12 is no whole number of sequences of "
            "sequence_length 5; give a multiple of it",
        ),
        (
            {"recurrent": LSTM(3), "batch_size": 18},
            "batch_size 18 is no whole number of sequences of sequence_length 4",
        ),
    ],
    ids=["too large", "rollout", "batch"],
)
def test_batches_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        replace(SMALL, **changes).init(KEY, WALK.spec)


def test_batches_without_a_memory_need_no_sequences():
    assert (
        on_policy.check_batch_sizes(replace(SMALL, batch_size=48, sequence_length=5), WALK.spec)
        is None
    )


def test_a_mask_stays_what_it_is_when_observations_are_normalized():
    """A choice that is always allowed has no spread, and normalized it would seem to be
    forbidden."""
    algorithm = replace(SMALL, normalize_observation=Normalization())
    seen = Composite((Box((2,), "int8", 0, 1), Box((2,))), ("action_mask", "seen"))
    learner = jax.eval_shape(
        lambda: algorithm.init(KEY, EnvironmentSpec(seen, Discrete(2), ENVS))
    ).learner
    assert learner.observation_statistics[0] is None and learner.observation_statistics[
        1
    ].mean.shape == (2,)
    learner = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), learner)
    observation = {"action_mask": np.int8([[1, 0]] * ENVS), "seen": np.ones((ENVS, 2), np.float32)}
    both_ways = jax.jit(
        lambda learner: [
            on_policy.act(algorithm, learner, observation, (), KEY, explore)[0]
            for explore in (True, False)
        ]
    )
    for action in both_ways(learner):
        np.testing.assert_array_equal(action, [0] * ENVS)


@pytest.mark.parametrize("unit", [1e-6, 1e3])
def test_normalized_rewards_are_the_same_in_every_unit(unit):
    """Both learn alike, then: nothing else of an update reads rewards."""
    ppo = PPO(hidden=(2,), normalize_reward=Normalization())
    rng = np.random.default_rng(0)
    reward = rng.normal(1, 2, (5, 2)).astype(np.float32)
    done = rng.random((5, 2)) < 0.3
    learner = on_policy.LearnerState(
        None, None, (), running_statistics.init_statistics(()), jnp.zeros(2), jnp.int32(0)
    )
    life = Transition((), (), reward, (), done, np.zeros_like(done))
    scale_reward = jax.jit(lambda life: on_policy.scale_reward(ppo, learner, life)[1].reward)
    other_life = replace(life, reward=np.float32(unit) * reward)
    np.testing.assert_allclose(scale_reward(other_life), scale_reward(life), rtol=1e-4)


def test_pictures_are_normalized_when_asked():
    spec = EnvironmentSpec(Box((7, 7, 3), "uint8", 0.0, 255.0), Discrete(2), 1)
    ppo = PPO(hidden=(2,), normalize_observation=Normalization())
    statistics = running_statistics.init_observation_statistics(spec.observation)
    pictures = np.random.default_rng(0).integers(0, 11, (64, 7, 7, 3), dtype=np.uint8)
    statistics = running_statistics.update_observation_statistics(
        Normalization(), statistics, pictures
    )
    learner = on_policy.LearnerState(None, None, statistics, None, None, None)
    told = np.asarray(jax.jit(partial(on_policy.normalize_observation, ppo))(learner, pictures))
    np.testing.assert_allclose(told.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(told.std(0), 1, atol=1e-3)
    plain = replace(ppo, normalize_observation=None)
    assert on_policy.normalize_observation(plain, learner, pictures) is pictures
