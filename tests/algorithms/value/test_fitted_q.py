"""Fitted Q iteration on a dataset: DQN that does not play."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.protocol import Outside
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.fitted_q import FittedQ
from etude.algorithms.value.heads import ScalarHead
from etude.data.dataset import Dataset
from etude.data.replay.prioritized import Prioritized
from etude.data.transition import Transition
from etude.environments.backends.zero_envs import ZeroEnvs
from etude.nn.recurrent import GRU
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace
from etude.training import progress, pure_train

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((3,)), Discrete(4))


def dataset_of(steps, lengths):
    """Random episodes of these lengths, [step, ...], of which every second one terminates."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros((2, steps), bool)
    terminated[ends[::2]], truncated[ends[1::2]] = True, True
    observation, next_observation = np.float32(rng.normal(size=(2, steps, 3)))
    return Dataset(
        Transition(
            observation,
            np.int32(rng.integers(4, size=steps)),
            np.float32(rng.normal(size=steps)),
            next_observation,
            terminated,
            truncated,
        ),
        np.int32(lengths),
        SPEC,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.system),
        {"replay": Prioritized(), "n_step": 3},
        pytest.param(
            {"recurrent": GRU(2), "sequence_length": 4, "burn_in": 1}, marks=pytest.mark.system
        ),
    ],
    ids=["plain", "prioritized", "recurrent"],
)
def test_without_play_it_learns_as_if_the_dataset_had_been_played_at_once(settings):
    """With a memory, as if that had been blank before every step."""
    dataset = dataset_of(40, [7, 13, 11, 9])
    plays = DQN(
        hidden=(8,),
        batch_size=8,
        capacity=40,
        rollout_length=40,
        gradient_steps=6,
        target_interval=6,
        warmup_steps=0,
        **settings,
    )
    reads = replace(plays, plays=False)

    @jax.jit
    def both(dataset, key):
        outside = Outside(dataset=dataset)
        begun = plays.init(key, SPEC)
        blank = plays.initial_memory(begun, SPEC, key)
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (40, *x.shape)), blank)
        rollout = jax.tree.map(lambda x: x[:, None], dataset.transitions)
        played, _ = plays.update(begun, replace(rollout, memory=memory), key)
        read, metrics = reads.update(reads.init(key, SPEC, outside), (), key, outside)
        return played, read, metrics

    played, read, metrics = jax.device_get(both(dataset, KEY))
    assert metrics["updates"] == 6 == read.gradient_steps_taken == read.steps
    assert np.isfinite(metrics["q_loss"])
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (read.q, read.priorities), (played.q, played.priorities))
    assert read.replay == ()  # the dataset is in no state


def test_it_needs_a_dataset_where_it_does_not_play():
    assert FittedQ().needs == () and FittedQ(plays=False).needs == ("dataset",)
    assert FittedQ(rollout_length=3).steps_per_update(2) == 6
    assert FittedQ(plays=False, rollout_length=3, gradient_steps=7).steps_per_update(2) == 7


@pytest.mark.slow
def test_it_finds_the_optimum_of_what_it_was_given():
    """Every transition of a process that knows no chance, once: a dataset that says all there
    is."""
    rng = np.random.default_rng(0)
    after, reward = rng.integers(4, size=(4, 2)), rng.normal(size=(4, 2)).astype(np.float32)
    state, action = (x.ravel() for x in np.meshgrid(np.arange(4), np.arange(2), indexing="ij"))
    spec = EnvironmentSpec(Discrete(4), Discrete(2))
    dataset = Dataset(
        Transition(
            np.int32(state),
            np.int32(action),
            reward[state, action],
            np.int32(after[state, action]),
            np.zeros(8, bool),
            np.ones(8, bool),  # each is an episode that was cut off
        ),
        np.ones(8, np.int32),
        spec,
    )
    exact = np.zeros((4, 2))
    for _ in range(200):
        exact = reward + 0.8 * exact.max(-1)[after]
    fitted_q = FittedQ(
        plays=False,
        learning_rate=1e-2,
        discount=0.8,
        hidden=(16,),
        batch_size=8,
        gradient_steps=50,
        target_interval=50,
        head=ScalarHead("squared"),
    )

    @jax.jit
    def train(key, dataset):
        environment, outside = ZeroEnvs(spec, functional=True), Outside(dataset=dataset)
        trained, sums = pure_train(fitted_q, environment, key, 60, outside)
        return trained.algorithm_state.q(np.arange(4)), sums.updates

    q, updates = train(KEY, dataset)
    np.testing.assert_allclose(q, exact, atol=0.15)
    assert (np.asarray(updates) == 50).all()


SMALL = FittedQ(plays=False, hidden=(4,), batch_size=4, gradient_steps=3, target_interval=3)
BOX = EnvironmentSpec(Box((3,)), Box((2,), low=-1.0, high=1.0))


def outside_of(spec):
    dataset = dataset_of(12, [5, 7])
    if isinstance(spec.action, Box):
        action = np.float32(np.random.default_rng(1).uniform(-1, 1, size=(12, 2)))
        dataset = replace(dataset, transitions=replace(dataset.transitions, action=action))
    return Outside(dataset=replace(dataset, spec=spec))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [SPEC, pytest.param(BOX, marks=pytest.mark.system)], ids=["discrete", "box"]
)
def test_without_play_it_resumes_bit_for_bit_and_each_seed_is_its_own(spec):
    """Also after a chunk that ends elsewhere; the dataset is one for all seeds, and stays."""
    environment, outside = ZeroEnvs(spec, functional=True), jax.device_put(outside_of(spec))
    keys = jax.random.split(KEY, 2)
    train = partial(progress, SMALL, environment, keys, 18, outside=outside, row_every=2)
    cut = None
    for report in train(chunk_seconds=0.0):  # one iteration a chunk
        if report.iterations == 3:
            cut = jax.device_get(report.train_state)
    whole = jax.device_get(report.train_state)
    assert report.steps == 18 and set(report.metrics) == {"updates", "q_loss", "q_value"}
    *_, last = train(resumed=(jax.device_put(cut), 3))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(last.train_state), whole)
    assert all(
        (first != second).any() for first, second in jax.tree.leaves(whole.algorithm_state.q)
    )
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(outside))


@pytest.mark.system  # uncompiled, each operation is a program
def test_without_play_compiled_is_what_it_computes_uncompiled():
    outside = outside_of(SPEC)
    state = SMALL.init(KEY, SPEC, outside)
    compiled, _ = jax.jit(SMALL.update)(state, (), KEY, outside)
    with jax.disable_jit():
        plain, _ = SMALL.update(state, (), KEY, outside)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), compiled.q, plain.q)
