"""A run on Gymnasium goes on where it was without ever cutting an episode short, and says where it
cannot."""

import shutil
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_probes import RandomWalk

import etude
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.policy_gradient.reinforce import EpisodeMemory, Reinforce
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.q_learning import SARSA
from etude.algorithms.value.td import TD
from etude.data.replay import ring_buffer
from etude.data.transition import zeros_like_spec
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import jobs_for, restore_job
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.spaces import Box as BoxSpec
from etude.spaces import Discrete as DiscreteSpec
from etude.spaces import EnvironmentSpec
from etude.storage import metrics_csv
from etude.struct import static, struct

LENGTH, COPIES, STEPS = 130, 2, 1_200
SMALL_DQN = DQN(
    rollout_length=5, hidden=(8,), batch_size=8, capacity=2_000, warmup_steps=100, n_step=3
)


@struct
class Experienced:
    weight: Any  # of all that was seen, and of chance
    replay: Any


@etude.algorithm
class Recorder:
    """Keeps all that it sees and acts by it; as for learning, a number of it is enough here."""

    rollout_length: int = static(5, at_least=1)
    assumes = Assumptions(("Discrete",))

    def init(self, key, spec):
        replay = ring_buffer.init(zeros_like_spec(spec), 2_000, spec.num_envs, self.rollout_length)
        return Experienced(jax.random.normal(key), replay)

    def act(self, state, observation, memory, key, explore):
        seen = observation.reshape(len(observation), -1).sum(-1)
        noise = jax.random.normal(key, seen.shape)
        return jnp.int32(jnp.sin(state.weight + seen) + noise > 0), memory

    def update(self, state, experience, key):
        seen = experience.next_observation.sum() + jax.random.normal(key)
        weight = jnp.sin(state.weight + seen)
        replay = ring_buffer.insert(state.replay, experience)
        return Experienced(weight, replay), {"updates": 1, "weight": weight}


RECORDER = Recorder()


# of a module that worker processes import without JAX
Walk = partial(RandomWalk, LENGTH, num_actions=2)


class Forgetful(RandomWalk):
    """Is not deterministic given its seed from its 10th step on."""

    made = 0

    def __init__(self):
        super().__init__(LENGTH, num_actions=2)
        Forgetful.made += 1
        self.number = Forgetful.made

    def step(self, action):
        place, *rest = super().step(action)
        return place + np.float32(self.number * (self.time >= 10)), *rest


def settings_of(environment, algorithm=RECORDER, **options):
    asked = RunOptions(steps=STEPS, num_envs=COPIES, checkpoint_interval=100, **options)
    return resolve_settings(algorithm, environment, asked)


def trained(settings, job, until=None):
    """What is said while the job trains to its end, or to the first checkpoint from `until` on."""
    said = []
    for event in train_job(settings, job, InterruptHandler(), said.append):
        if until is not None and event.steps >= until:
            break
    return said


def same(settings, job, other):
    assert (job.directory / "metrics.csv").read_bytes() == (
        other.directory / "metrics.csv"
    ).read_bytes()
    (saved, _), (expected, _) = (
        restore_job(settings, each, settings.outline(), pytest.fail) for each in (job, other)
    )
    jax.tree.map(np.testing.assert_array_equal, saved, expected)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A function from the algorithm to (settings, the job of a whole run and what was said in it,
    that of a run that was stopped); frames are stacked."""
    made = {}

    def of(algorithm):
        if algorithm not in made:
            settings, directory = (
                settings_of(Walk, algorithm, frame_stack=2),
                tmp_path_factory.mktemp("parts"),
            )
            (whole,), (stopped,) = (jobs_for(settings, directory / x) for x in ("whole", "stopped"))
            said = trained(settings, whole) + trained(settings, stopped, until=310)
            made[algorithm] = settings, whole, said, stopped
        return made[algorithm]

    return of


@pytest.mark.parametrize(
    ("algorithm", "workers"),
    [
        (RECORDER, 0),
        pytest.param(RECORDER, 2, marks=pytest.mark.slow),
        pytest.param(SMALL_DQN, 0, marks=pytest.mark.system),
        pytest.param(SMALL_DQN, 2, marks=pytest.mark.system),
    ],
    ids=["in process", "over workers", "dqn", "dqn over workers"],
)
def test_no_episode_is_cut_short_and_going_on_is_never_having_stopped(
    tmp_path, parts, algorithm, workers
):
    settings, whole, said, stopped = parts(algorithm)
    assert said == []
    metrics = metrics_csv.read_metrics(whole.directory / "metrics.csv")
    assert metrics["episodes"].sum() == COPIES * (STEPS // COPIES // LENGTH)
    assert np.nanmin(metrics["episode_length"]) == LENGTH
    shutil.copytree(stopped.directory, tmp_path / "run")
    (resumed,) = jobs_for(settings, tmp_path / "run")
    spread = settings_of(Walk, algorithm, frame_stack=2, workers=workers)
    (note,) = trained(spread, resumed)
    _, metadata = restore_job(settings, whole, settings.outline(), pytest.fail)
    assert metadata["iterations"] == settings.iterations
    assert note == (
        "playing the running episodes again: 40 steps of 2 copies, from a log of 400 bytes"
    ), "each copy has taken 150 steps, and an episode has 130"
    same(settings, whole, resumed)


def cut_off(settings, tmp_path):
    """What is said when a run is resumed that is not what it was, and its job."""
    (job,) = jobs_for(settings, tmp_path)
    trained(settings, job, until=210)
    saved, _ = restore_job(settings, job, settings.outline(), pytest.fail)
    assert not saved.train_state.algorithm_state.replay.storage.truncated.any()
    said = trained(settings, job)
    saved, _ = restore_job(settings, job, settings.outline(), pytest.fail)
    truncated = np.asarray(saved.train_state.algorithm_state.replay.storage.truncated)
    return said, np.argwhere(truncated), job


def test_an_environment_that_is_not_deterministic_is_said_and_its_episode_truncated(tmp_path):
    said, truncated, job = cut_off(settings_of(Forgetful), tmp_path)
    assert said[1] == (
        "copy 0, episode 0; 1, episode 0: the environment is not deterministic given its seed: "
        "step 10 differs. The episode is truncated there and a new one begins, so the run goes on, "
        "but not bit for bit"
    )
    assert truncated.tolist() == [[99, 0], [99, 1]], "the newest rows of the checkpoint"
    lengths = metrics_csv.read_metrics(job.directory / "metrics.csv")["episode_length"]
    assert np.nanmin(lengths) == np.nanmax(lengths) == LENGTH, "the episodes begun anew are whole"


def test_reinforce_completes_the_episodes_that_are_cut_off():
    """They count as ended, and none of their steps is learned from twice or as another's."""
    algorithm = Reinforce(hidden=(4,), rollout_length=4, capacity=40, batch_episodes=5)
    spec = EnvironmentSpec(BoxSpec((2,)), DiscreteSpec(2), 3)
    state = jax.eval_shape(partial(algorithm.init, spec=spec), jax.random.key(0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    memory = EpisodeMemory((), np.float32(0))
    rollout = jax.tree.map(
        lambda x: np.zeros((4, 3, *x.shape), x.dtype), zeros_like_spec(spec, memory)
    )
    rollout.terminated[3, 1] = True
    indices = ring_buffer.Indices(np.int32([3, 3, 3]), np.arange(3))

    @jax.jit
    def store_and_cut(state, rollout):
        state = algorithm.store(state, rollout)
        cut = algorithm.truncate_episodes(state, jnp.array([True, True, False]))
        return cut, ring_buffer.gather(cut.buffer, indices)

    cut, newest = store_and_cut(state, rollout)
    assert cut.end_row.tolist() == [4, 4, 0] and cut.pending_episodes == 2
    assert newest.truncated.tolist() == [True, False, False]
    assert newest.terminated.tolist() == [False, True, False]


def test_what_is_kept_of_an_episode_is_dropped_where_it_is_cut_off():
    """Traces, a transition that waits for its next action, a running discounted return."""
    table = EnvironmentSpec(DiscreteSpec(3), DiscreteSpec(2), 2)
    box = EnvironmentSpec(BoxSpec((2,)), DiscreteSpec(2), 2)
    is_cut = jnp.array([True, False])

    def cut(algorithm, spec):
        state = jax.eval_shape(partial(algorithm.init, spec=spec), jax.random.key(0))
        ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)
        return algorithm.truncate_episodes(ones, is_cut)

    assert cut(TD(), table).traces.sum(1).tolist() == [0, 3]
    assert cut(SARSA(), table).pending.valid.tolist() == [False, True]
    for algorithm in (etude.PPO(), etude.TRPO(), etude.A2C()):
        state = cut(algorithm, box)
        learner = getattr(state, "learner", state)
        assert learner.discounted_return.tolist() == [0, 1]
