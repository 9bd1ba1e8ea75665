"""Whoever acts, the expert labels; all labels are kept, and the learner is cloned from them."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.cloning_fields import RecurrentFields
from etude.algorithms.imitation.dagger import DAgger, DAggerMemory, LabelledSteps
from etude.algorithms.protocol import Expert, Outside, init_state
from etude.data.dataset import make_dataset
from etude.data.replay import ring_buffer
from etude.data.transition import zeros_like_spec
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.nn.recurrent import GRU, LSTM
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.spaces import Box, Discrete
from etude.struct import replace, validate
from etude.training import init_train_state, pure_train

KEY = jax.random.key(0)
NUM_ENVS, ROUND = 4, 50


class Walk:
    """The observation is noise; episodes have seven steps."""

    observation_space, action_space = Box((2,)), Discrete(3)

    def reset(self, key):
        return jnp.int32(0), jax.random.normal(key, (2,))

    def step(self, state, action, key):
        seen = jax.random.normal(key, (2,))
        ended = state == 6
        return state + 1, StepResult(seen, jnp.float32(action), ended, jnp.bool_(False))


class Signs(NamedTuple):
    """An expert: 1 or 2, by the sign of the first number."""

    needs: tuple = ()

    def initial_memory(self, state, spec, key):
        return ()

    def act(self, state, observation, memory, key, explore):
        assert not explore
        return 1 + (observation[:, 0] > 0), memory


class Counts(NamedTuple):
    """An expert that counts the steps of an episode modulo three, by what it remembers alone."""

    needs: tuple = ()

    def initial_memory(self, state, spec, key):
        return {"steps": jnp.zeros(spec.num_envs, jnp.int32), "noise": jnp.zeros(spec.num_envs)}

    def act(self, state, observation, memory, key, explore):
        return memory["steps"] % 3, {**memory, "steps": memory["steps"] + 1}


ENVIRONMENT = JaxEnvs(Walk(), NUM_ENVS)
ROUNDS, KEPT = 4, 3  # in the ring are the latest three of four rounds
SMALL = DAgger(
    hidden=(8,),
    batch_size=16,
    gradient_steps=1,
    learning_rate=1e-30,  # the weights stand still
    rollout_length=ROUND,
    capacity=KEPT * NUM_ENVS * ROUND,
)


def in_order(x, length):
    """The rows of a ring whose oldest is the second round that it was given, from the oldest on."""
    return jnp.roll(x[:length], -ROUND, 0)


def asking(policy):
    return Outside(expert=Expert((), policy))


def rounds(dagger, policy):
    """(the state of training and its metrics after each round, the experience of each round)."""
    return jax.device_get(run_rounds(dagger, policy))


@partial(jax.jit, static_argnames="policy")
def run_rounds(dagger, policy):
    outside = asking(policy)
    training = init_train_state(dagger, ENVIRONMENT, KEY, outside)

    def step(training, index):
        state, stage = training.algorithm_state, training.rollout_state
        behavior = bind_policy(dagger, state, ENVIRONMENT, explore=True, outside=outside)
        key = jax.random.fold_in(KEY, index)
        stage, experience, _ = rollout(ENVIRONMENT, behavior, stage, key, dagger.rollout_length)
        state, metrics = dagger.update(state, experience, key, outside)
        training = replace(training, algorithm_state=state, rollout_state=stage)
        return training, (metrics, experience)

    training, (metrics, experience) = jax.lax.scan(step, training, jnp.arange(ROUNDS))
    return training, metrics, experience


def test_the_expert_acts_in_a_share_of_the_steps_that_falls_from_round_to_round():
    """Its labels are 1 and 2; the learner, whose weights stand still, says something else half of
    the time."""
    _, metrics, experience = rounds(replace(SMALL, beta=0.6), Signs())
    np.testing.assert_allclose(metrics["beta"], [1, 0.6, 0.36, 0.216], rtol=1e-5)
    is_label = np.asarray(experience.action == experience.memory.label)
    assert is_label[0].all()
    _, _, alone = rounds(replace(SMALL, beta=0.0), Signs())
    assert (alone.action[0] == alone.memory.label[0]).all()
    agrees = (alone.action == alone.memory.label)[1:].mean()  # where the learner acts alone
    for index, share in ((1, 0.6), (2, 0.36), (3, 0.216)):
        expected = share + (1 - share) * agrees
        spread = np.sqrt(expected * (1 - expected) / 200)
        assert abs(is_label[index].mean() - expected) < 4 * spread


def test_every_visited_state_has_the_experts_label_whoever_acted():
    training, _, experience = rounds(replace(SMALL, beta=0.0), Signs())
    label = 1 + (experience.observation[..., 0] > 0)
    np.testing.assert_array_equal(experience.memory.label, label)
    assert (experience.action[1:] != label[1:]).any()  # the learner acts
    # and they are kept, in their order, as far as there is room
    buffer = training.algorithm_state.buffer
    assert ring_buffer.num_valid(buffer) == KEPT * ROUND
    kept = jax.tree.map(lambda x: in_order(x, KEPT * ROUND), buffer.storage)
    np.testing.assert_array_equal(kept.action, label[1:].reshape(-1, NUM_ENVS))
    seen = experience.observation[1:].reshape(-1, NUM_ENVS, 2)
    np.testing.assert_array_equal(kept.observation, seen)


def test_an_expert_with_a_memory_walks_along_the_learners_path():
    """It counts the steps of the episode, while the learner acts."""
    outside = asking(Counts())

    @jax.jit
    def play(key):
        state = init_state(SMALL, key, ENVIRONMENT.spec, outside)
        state = replace(state, rounds=jnp.int32(1))
        alone = replace(SMALL, beta=0.0)
        policy = bind_policy(alone, state, ENVIRONMENT, explore=True, outside=outside)
        start = init_rollout_state(ENVIRONMENT, policy, key)
        return rollout(ENVIRONMENT, policy, start, key, 2 * ROUND)[1]

    experience = play(KEY)
    assert (experience.action != experience.memory.label).any()
    done = np.asarray(experience.done).reshape(-1, NUM_ENVS)
    label, steps = np.asarray(experience.memory.label).reshape(-1, NUM_ENVS), np.zeros(NUM_ENVS)
    for now, ended in zip(label, done, strict=True):
        np.testing.assert_array_equal(now, steps % 3)
        steps = np.where(ended, 0, steps + 1)
    assert done.sum() == NUM_ENVS * (2 * ROUND // 7)


def test_a_round_is_cloning_on_all_labels_so_far():
    dagger = replace(SMALL, learning_rate=1e-3)
    training, _, experience = rounds(dagger, Signs())

    @jax.jit
    def again(state, experience):
        after, metrics = dagger.update(state, experience, KEY, asking(Signs()))
        seen = experience.observation.reshape(-1, 2)
        learner = cloning.add_observations(dagger, state.learner, seen)
        batch = dagger.sample(after.buffer, after.rows, (), jax.random.split(KEY, 1)[0])
        by_hand, expected, _ = cloning.gradient_step(dagger, learner, batch, KEY)
        return after.learner, metrics["nll"], by_hand, expected["nll"]

    last = jax.tree.map(lambda x: x[-1], experience)  # which is played once more
    learner, nll, by_hand, expected = jax.device_get(again(training.algorithm_state, last))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), learner, by_hand)
    assert nll == pytest.approx(float(expected), rel=1e-5)


def test_batches_are_drawn_from_all_that_is_kept_and_from_nothing_else():
    """Of four rounds in room for three."""
    training, _, experience = rounds(SMALL, Signs())
    state = training.algorithm_state
    dagger = replace(SMALL, batch_size=6_000)
    batch = jax.jit(dagger.sample)(state.buffer, state.rows, (), KEY)
    drawn = {tuple(row) for row in np.asarray(batch.observation)}
    first, *others = np.asarray(experience.observation).reshape(ROUNDS, -1, 2)
    assert drawn == {tuple(row) for rows in others for row in rows}
    assert not drawn & {tuple(row) for row in first}
    np.testing.assert_array_equal(batch.action[:, 0], 1 + (batch.observation[:, 0] > 0))


@pytest.mark.parametrize(
    "cell", [GRU(6), pytest.param(LSTM(6), marks=pytest.mark.system)], ids=["gru", "lstm"]
)
def test_a_sequence_begins_with_what_is_remembered_of_its_episode(cell):
    """By the weights of now, in a ring that has come around; and each row is as likely as any."""
    rows_held = 2 * ROUND
    dagger = replace(
        SMALL, recurrent=cell, sequence_length=4, batch_size=16_000, capacity=rows_held * NUM_ENVS
    )
    noise = np.random.default_rng(0).normal(size=(3, ROUND, NUM_ENVS, 2)).astype(np.float32)
    ends = np.random.default_rng(1).random((3, ROUND, NUM_ENVS)) < 1 / 7

    @jax.jit
    def read(key):
        state = init_state(dagger, key, ENVIRONMENT.spec, asking(Signs()))
        ring, learner = state.buffer, state.learner
        for seen, done in zip(noise, ends, strict=True):
            label = jnp.zeros(done.shape, ring.storage.action.dtype)
            ring = ring_buffer.insert(ring, LabelledSteps(seen, label, jnp.asarray(done)))
        learner = cloning.add_observations(dagger, learner, noise.reshape(-1, 2) + 1)
        before = dagger.carries_before(learner, ring)
        kept = jax.tree.map(partial(in_order, length=rows_held), ring.storage)
        is_first = jnp.concatenate([jnp.ones_like(kept.done[:1]), kept.done[:-1]])
        seen = cloning.normalized(dagger, learner, kept.observation)
        carries = learner.policy.torso(seen, (), is_first)[1]
        batch = dagger.sample(ring, jnp.int32(rows_held), before, key)
        return before, kept, is_first, carries, batch

    before, kept, is_first, carries, batch = jax.device_get(read(KEY))
    before = jax.tree.map(partial(in_order, length=rows_held), before)
    for told, after in zip(before, carries, strict=True):
        expected = np.where(is_first[..., None], 0, np.concatenate([after[:1], after[:-1]]))
        np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)
    place = {row: at for at, row in np.ndenumerate(_rows(kept.observation))}
    drawn = _rows(batch.observation)
    rows = np.array([[place[seen][0] for seen in of_time] for of_time in drawn])
    env = np.array([place[seen][1] for seen in drawn[0]])
    np.testing.assert_array_equal(rows, (rows[0] + np.arange(4)[:, None]) % rows_held)
    np.testing.assert_array_equal(batch.is_first[1:], is_first[rows[1:], env])
    for told, expected in zip(batch.carry, before, strict=True):
        np.testing.assert_array_equal(told, np.asarray(expected)[rows[0], env])
    counts = np.bincount(rows.ravel(), minlength=rows_held)
    np.testing.assert_allclose(counts / rows.size, 1 / rows_held, rtol=0.3)


def _rows(observations):
    """Observations [time, n, 2] as an array of tuples [time, n]."""
    rows = np.empty(observations.shape[:2], object)
    for at in np.ndindex(*rows.shape):
        rows[at] = tuple(np.asarray(observations)[at].tolist())
    return rows


def test_an_agent_that_is_evaluated_asks_no_expert():
    dagger = replace(SMALL, recurrent=GRU(4), sequence_length=4)

    def play(explore, key):
        state = init_state(dagger, key, ENVIRONMENT.spec, asking(Signs()))
        policy = bind_policy(dagger, state, ENVIRONMENT, explore=explore)
        memory = policy.initial_memory(key)
        return memory, *policy.act(jnp.ones((NUM_ENVS, 2)), memory, key)

    for explore in (False, True):
        memory, action, after = jax.eval_shape(partial(play, explore), KEY)
        assert action.shape == (NUM_ENVS,) and memory.label == () and memory.expert == ()
        assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, after)


def test_an_episode_that_is_cut_off_ends_where_it_is():
    training, _, _ = rounds(SMALL, Signs())  # the last of which is in the first rows of the ring
    state = training.algorithm_state
    state = replace(state, buffer=jax.tree.map(jnp.asarray, state.buffer))
    is_cut = np.array([True, False, True, False])
    before, after = (
        state.buffer.storage.done,
        SMALL.truncate_episodes(state, is_cut).buffer.storage.done,
    )
    np.testing.assert_array_equal(after[ROUND - 1], before[ROUND - 1] | is_cut)
    np.testing.assert_array_equal(np.delete(after, ROUND - 1, 0), np.delete(before, ROUND - 1, 0))


LENGTHS = np.array([3, 4, 2, 2])
SPEC = replace(ENVIRONMENT.spec, num_envs=1)


def demonstrations(**changes):
    """Eleven steps, of which each is told by what it observes."""
    observations = np.arange(30, dtype=np.float32).reshape(15, 2)
    recorded = dict(
        observations=observations,
        actions=np.arange(11) % 3,
        rewards=np.zeros(11),
        terminations=np.isin(np.arange(11), LENGTHS.cumsum() - 1),
        truncations=np.zeros(11, bool),
        episode_lengths=LENGTHS,
    )
    return make_dataset(SPEC, **recorded | changes)


def with_dataset(dagger, num_envs, dataset):
    """The state of DAgger after round zero."""
    outside = Outside(dataset=dataset, expert=Expert((), Signs()))
    spec = replace(SPEC, num_envs=num_envs)
    return jax.jit(lambda key: dagger.init(key, spec, outside))(KEY)


ROUND_ZERO = replace(
    SMALL, beta=1.0, learning_rate=1e-3, gradient_steps=3, rollout_length=4, capacity=24
)


@partial(jax.jit, static_argnames=("dagger", "num_envs"))
def filled_ring(dagger, num_envs, dataset):
    """(the ring with the dataset, how many of its rows have labels, a batch)."""
    step = zeros_like_spec(SPEC)
    example = LabelledSteps(step.observation, step.action, step.terminated)
    ring = ring_buffer.init(example, dagger.capacity, num_envs, dagger.rollout_length)
    ring, rows = dagger.insert_dataset(ring, dataset)
    return ring, rows, dagger.sample(ring, rows, (), KEY)


def test_round_zero_is_the_dataset_in_the_ring():
    """Of two copies: five steps each, of which the oldest is dropped."""
    dataset = demonstrations()
    steps = dataset.transitions
    ring, rows, batch = filled_ring(replace(ROUND_ZERO, batch_size=2_000), 2, dataset)
    assert (rows, ring.inserted) == (5, 8)
    kept = jax.tree.map(lambda x: np.asarray(x)[3:8].swapaxes(0, 1), ring.storage)
    for name in ("observation", "action"):
        expected = np.asarray(getattr(steps, name))[1:]
        np.testing.assert_array_equal(getattr(kept, name).reshape(expected.shape), expected)
    ends = np.array(steps.done)[1:].reshape(2, 5)
    ends[:, -1] = True  # the copies go on with episodes of their own
    np.testing.assert_array_equal(kept.done, ends)
    assert np.asarray(ring.storage.done)[:3].all()  # nothing goes on there
    drawn, counts = np.unique(batch.observation[:, 0], return_counts=True)
    np.testing.assert_array_equal(drawn, np.sort(np.asarray(steps.observation)[1:, 0]))
    np.testing.assert_allclose(counts, 200, atol=60)  # ten of them, each as likely
    with pytest.raises(InvalidInput, match="the dataset has 11 steps, fewer than the 12 copies"):
        filled_ring(replace(ROUND_ZERO, capacity=48), 12, dataset)


def test_a_dataset_beyond_the_capacity_leaves_its_oldest_steps_out():
    ring, rows, _ = filled_ring(replace(ROUND_ZERO, capacity=8), 1, demonstrations())
    assert (rows, ring.inserted) == (8, 8)
    expected = np.asarray(demonstrations().transitions.observation)[3:]
    np.testing.assert_array_equal(np.asarray(ring.storage.observation)[:, 0], expected)


@pytest.mark.system
def test_rounds_take_the_place_of_the_dataset():
    dagger, steps = replace(ROUND_ZERO, capacity=8), demonstrations().transitions
    state = with_dataset(dagger, 1, demonstrations())
    assert dagger.expert_probability(state) == 1
    memory = DAggerMemory((), (), jnp.full((4, 1), 2))
    experience = jax.tree.map(lambda x: jnp.zeros((4, 1, *x.shape), x.dtype), zeros_like_spec(SPEC))
    after, metrics = jax.jit(dagger.update)(
        state, replace(experience, memory=memory), KEY, Outside()
    )
    assert (after.rows, after.rounds, metrics["labelled_states"]) == (8, 2, 8)
    np.testing.assert_array_equal(after.buffer.storage.action[:4, 0], 2)
    np.testing.assert_array_equal(after.buffer.storage.action[4:, 0], steps.action[7:])


@pytest.mark.system
def test_round_zero_is_behavior_cloning():
    """With β = 1 and no other round: where all steps are the same, the same weights."""
    ones = {"observations": np.ones((15, 2), np.float32), "actions": np.full(11, 2)}
    dataset = demonstrations(**ones)
    state = with_dataset(ROUND_ZERO, 1, dataset)
    names = [field.name for field in dataclasses.fields(RecurrentFields)]
    bc = BC(**{name: getattr(ROUND_ZERO, name) for name in names})

    @jax.jit
    def cloned(key):
        start = bc.init(key, SPEC, Outside(dataset=dataset))
        start = replace(start, learner=cloning.init_cloner(bc, KEY, SPEC))  # from the same weights
        seen = dataset.transitions.observation
        learner = cloning.add_observations(bc, start.learner, seen)
        return bc.update(replace(start, learner=learner), (), key, Outside(dataset=dataset))[0]

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        state.learner,
        cloned(KEY).learner,
    )


@pytest.mark.system
def test_it_learns_what_the_expert_does():
    training, sums = pure_train(
        replace(SMALL, gradient_steps=100, learning_rate=1e-2), ENVIRONMENT, KEY, 4, asking(Signs())
    )
    assert sums.metrics["action_error"][-1] / sums.updates[-1] < 0.05
    seen = jax.random.normal(KEY, (500, 2))
    action, _ = cloning.act_as_cloned(SMALL, training.algorithm_state.learner, seen, (), KEY, False)
    assert (action == 1 + (seen[:, 0] > 0)).mean() > 0.95


def test_settings_that_do_not_fit_are_refused_and_labels_that_are_dropped_are_told():
    with pytest.raises(InvalidInput, match="sequence_length 16 is longer than a round, rollout_"):
        validate(DAgger(recurrent=GRU(), rollout_length=8))
    with pytest.raises(InvalidInput, match="batch_size 20 is no whole number of sequences"):
        validate(DAgger(recurrent=GRU(), batch_size=20))
    assert DAgger(capacity=8_500).remarks(2, 8_000) == ()
    (remark,) = DAgger(capacity=8_500).remarks(2, 10_000)
    assert "of 10,000 visited states the latest 8,000 are kept" in remark
    with pytest.raises(InvalidInput, match="capacity 100 cannot hold one rollout of 200"):
        small = replace(SMALL, capacity=100)
        jax.eval_shape(lambda: init_state(small, KEY, ENVIRONMENT.spec, asking(Signs())))
