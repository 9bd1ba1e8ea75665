"""Recording: whole episodes, as Gymnasium plays them by hand, in a file that reads back equal."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any

import gymnasium
import gymnasium_spaces
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import programs_kept
from gymnasium_spaces import Noise

import etude
from etude.algorithms.protocol import algorithm
from etude.data.dataset import episode_returns, make_dataset
from etude.environments.backends.episode_log import EpisodeSeeds
from etude.environments.protocol import StepResult
from etude.environments.sources import environment_source
from etude.errors import EnvironmentFault, ExpertFault, InvalidInput
from etude.keys import final_evaluation_key, periodic_evaluation_key, recording_key, rendering_key
from etude.nn.recurrent import GRU
from etude.rollout import bind_policy, evaluate
from etude.runs import episode_collection
from etude.runs import record as recording
from etude.runs.evaluation import PolicyEvaluator
from etude.runs.inspection import inspect_dataset
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.job import train_job
from etude.runs.options import RunOptions
from etude.runs.record import record
from etude.runs.replay import replay_episodes
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.spaces import Discrete
from etude.storage.datasets.formats import read_dataset, read_recorded, write_recorded
from etude.storage.datasets.npz import read_npz
from etude.training import split_run_key
from etude.trees import content_hash

quietly = partial(record, progress=False)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def noise(observation="dict", action="discrete"):
    return Noise(gymnasium_spaces.OBSERVATIONS[observation], gymnasium_spaces.ACTIONS[action])


def changing(observation):
    """An action of -1, 0 and 1 from what a Noise of Dict observations observes."""
    return int(observation["image"].sum()) % 3 - 1


def bits(dataset):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(dataset)]


def played_by_hand(make_env, spec, actions, lengths, copies, seed):
    """The dataset of the recorded actions [step, ...], taken in Gymnasium environments that begin
    with the seeds that etude gives its copies."""
    key_reset, _ = jax.random.split(recording_key(seed))
    bits_of_key = int(jax.random.bits(key_reset))
    episodes, start = [], 0
    for i, length in enumerate(lengths):
        copy, number = divmod(i, len(lengths) // copies)
        if number == 0:
            env = make_env()
            seeds = EpisodeSeeds(bits_of_key, copy)
        observation, _ = env.reset(seed=seeds(number))
        taken = actions[start : start + length]
        steps = [env.step(action) for action in taken]
        assert [bool(step[2] or step[3]) for step in steps] == [False] * (length - 1) + [True]
        stacked = jax.tree.map(lambda *x: np.stack(x), observation, *(step[0] for step in steps))
        flags = zip(*(step[1:4] for step in steps), strict=True)
        episodes.append((stacked, taken, *map(np.array, flags)))
        start += length
    fields = "observations", "actions", "rewards", "terminations", "truncations"
    return make_dataset(spec, **dict(zip(fields, zip(*episodes, strict=True), strict=True)))


def test_what_is_recorded_is_what_gymnasium_plays_by_hand(tmp_path):
    """Whole episodes, as many of each copy, with the true successors and both flags."""
    dataset = quietly(noise, changing, episodes=20, out=tmp_path / "noise.npz", seed=3)
    assert dataset.num_episodes == 20
    steps = dataset.transitions
    assert steps.terminated.any() and steps.truncated.any()
    by_hand = played_by_hand(
        noise,
        dataset.spec,
        np.asarray(steps.action) - 1,  # counts from -1
        np.asarray(dataset.episode_lengths),
        copies=10,
        seed=3,
    )
    assert bits(dataset) == bits(by_hand)
    actions = np.asarray(steps.observation["image"]).reshape(dataset.num_steps, -1).sum(-1) % 3
    np.testing.assert_array_equal(steps.action, actions)
    assert bits(read_npz(tmp_path / "noise.npz", dataset.spec)) == bits(dataset)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bounded", marks=pytest.mark.system),
        pytest.param("integers", marks=pytest.mark.system),
        pytest.param("multidiscrete", marks=pytest.mark.system),
    ],
)
def test_actions_of_every_kind_are_recorded(tmp_path, kind):
    """They are in its space, in the environment's own units; without a file they are the same."""
    make_env = partial(noise, "nested", kind)
    path = tmp_path / "noise.npz"
    dataset = quietly(make_env, "random", episodes=2, out=path)
    assert bits(quietly(make_env, "random", episodes=2)) == bits(dataset)
    with np.load(path) as arrays:
        space = gymnasium_spaces.ACTIONS[kind]
        assert all(space.contains(action) for action in arrays["actions"])


@algorithm
class Alternating:
    """Takes the actions 0, 1, 2, 0, 1, … of each episode; its memory is the number of steps."""

    rollout_length = 1
    learns = False

    def init(self, key: Any, spec: Any) -> Any:
        return ()

    def initial_memory(self, state: Any, spec: Any, key: Any) -> Any:
        return jnp.zeros(spec.num_envs, jnp.int32)

    def act(self, state: Any, observation: Any, memory: Any, key: Any, explore: bool) -> Any:
        return (memory + explore) % 3, memory + 1

    def update(self, state: Any, experience: Any, key: Any) -> Any:
        return state, {"updates": 0}


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_memory_of_a_policy_begins_anew_with_each_episode(stochastic):
    dataset = quietly(noise, Alternating(), episodes=6, stochastic=stochastic)
    times = np.concatenate([np.arange(length) for length in np.asarray(dataset.episode_lengths)])
    np.testing.assert_array_equal(dataset.transitions.action, (times + stochastic) % 3)


class Walk:
    """Walk to the right end, in JAX; half of the steps slip."""

    observation_space, action_space = Discrete(4), Discrete(3)

    def reset(self, key):
        return jnp.int32(0), jnp.int32(0)

    def step(self, position, action, key):
        position = jnp.minimum(position + jax.random.bernoulli(key, 0.5), 3)
        at_end = position == 3
        return position, StepResult(position, at_end.astype(jnp.float32), at_end, jnp.bool_(False))


def test_an_environment_in_jax_is_recorded_with_a_function(tmp_path):
    """Each episode walks to the end, and the function saw where it was; there are no seeds."""
    dataset = quietly(Walk(), lambda position: position % 3, episodes=4, out=tmp_path / "walk")
    steps = dataset.transitions
    np.testing.assert_array_equal(steps.action, np.asarray(steps.observation) % 3)
    np.testing.assert_array_equal(np.asarray(steps.next_observation)[steps.done], [3] * 4)
    np.testing.assert_array_equal(episode_returns(dataset), [1] * 4)
    assert read_recorded(tmp_path / "walk").seeds == (None,) * 4


@pytest.mark.parametrize("name", ["noise.npz", "noise-v0"])
def test_the_seeds_of_the_episodes_are_kept(tmp_path, name):
    """An environment that is reset with them, and takes the actions, gives all that was kept."""
    path = tmp_path / name
    options = {"max_episode_steps": 30}
    dataset = quietly("CartPole-v1", "random", episodes=20, out=path, options=options, seed=5)
    read = read_recorded(path, dataset.spec).by_episode()
    assert len(set(read.seeds)) == 20
    env = gymnasium.make("CartPole-v1", **options)
    for i, seed in enumerate(read.seeds):
        observations = [env.reset(seed=seed)[0]]
        for step, action in enumerate(read.fields["actions"][i]):
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            flags = (read.fields[f"{name}s"][i][step] for name in ("termination", "truncation"))
            assert (terminated, truncated) == tuple(flags)
            assert reward == read.fields["rewards"][i][step]
        np.testing.assert_array_equal(read.fields["observations"][i], observations)
    assert bits(read_dataset(path, dataset.spec)) == bits(dataset)


def test_what_cannot_be_written_is_refused_before_anything_is_played(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "make_expert", lambda *_: pytest.fail("it got so far"))
    space = gymnasium.spaces.Dict({"a/b": gymnasium.spaces.Box(-1, 1)})
    with pytest.raises(InvalidInput, match="the key 'a/b', which Minari's layout cannot hold"):
        quietly(lambda: Noise(space), "random", episodes=2, out=tmp_path / "a")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InvalidInput, match=r"etude\[data\]"):
        quietly(noise, "random", episodes=2, out=tmp_path / "a")


def test_the_seed_makes_the_file_wherever_chunks_end(tmp_path, monkeypatch):
    for name, seed in (("a", 0), ("c", 1), ("b", 0)):
        quietly(Walk(), "random", episodes=4, out=tmp_path / f"{name}.npz", seed=seed)
        monkeypatch.setattr(episode_collection, "MAX_CHUNK", 3)
        monkeypatch.setattr(episode_collection, "CHUNK_SECONDS", 1e-9)
    a, b, c = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert a == b != c


def test_a_frame_stack_is_recorded_as_the_expert_sees_it():
    seen = []

    def function(observation):
        seen.append(observation)
        return 0

    dataset = quietly(partial(noise, "box"), function, episodes=1, frame_stack=2)
    np.testing.assert_array_equal(dataset.transitions.observation, np.stack(seen))
    assert dataset.spec.observation.shape == seen[0].shape != (3,)


# A run


def run_of(algorithm, environment, directory, steps):
    """A run that is trained, and neither evaluated nor drawn."""
    settings = resolve_settings(algorithm, environment, RunOptions(steps=steps))
    run = create_run(settings, directory)
    for _ in train_job(settings, *run.jobs, InterruptHandler(), pytest.fail):
        pass
    return run


def evaluated(run, episodes, seed):
    """The returns of a run's stochastic policy on the episodes of a recording."""
    with contextlib.closing(PolicyEvaluator(run.settings, episodes, explore=True)) as evaluator:
        return evaluator.evaluate(run.states()[0], recording_key(seed)).returns


@pytest.mark.system
def test_the_episodes_of_a_run_are_played_as_evaluations_play(tmp_path):
    run = run_of(etude.QLearning(), "FrozenLake-v1", tmp_path / "run", 400)
    dataset = quietly("FrozenLake-v1", run, episodes=20, seed=5, stochastic=True)
    np.testing.assert_array_equal(episode_returns(dataset), evaluated(run, 20, seed=5))


@pytest.mark.system
def test_a_recurrent_policy_is_recorded_as_it_is_evaluated(tmp_path):
    ppo = etude.PPO(hidden=(8,), recurrent=GRU(), rollout_length=16, batch_size=32)
    run = run_of(ppo, "CartPole-v1", tmp_path / "run", 1000)
    dataset = quietly("CartPole-v1", run.directory, episodes=10, stochastic=True)
    np.testing.assert_array_equal(episode_returns(dataset), evaluated(run, 10, seed=0))


@pytest.mark.system
def test_a_planner_is_recorded_as_it_is_evaluated():
    mpc = etude.MPC(planner=etude.CEM(elites=2), horizon=3, samples=4, iterations=2)
    dataset = quietly("Pendulum-v1", mpc, episodes=2)
    source = environment_source("Pendulum-v1")
    environment = source.make(2, source.evaluation_backend)

    @jax.jit
    def returns(key):
        policy = bind_policy(mpc, mpc.init(key, environment.spec), environment)
        return evaluate(environment, policy, recording_key(0), 2)[0]

    np.testing.assert_allclose(episode_returns(dataset), returns(jax.random.key(0)), rtol=1e-5)
    assert not dataset.transitions.terminated.any()
    assert np.asarray(dataset.episode_lengths).tolist() == [200, 200]


def starts(key, copies=10, episodes=20):
    """The seeds of the episodes of Gymnasium environments that are reset with this key."""
    of_copies = [EpisodeSeeds(int(jax.random.bits(key)), copy) for copy in range(copies)]
    return {seeds(number) for seeds in of_copies for number in range(episodes)}


def test_no_use_of_a_seed_begins_the_episodes_of_another():
    """Training, evaluation in it, the final one, videos, a recording and a person, of small
    seeds."""
    uses = []
    for seed in range(5):
        uses.append(starts(split_run_key(jax.random.key(seed)).reset))
        uses.append(starts(jax.random.split(recording_key(seed))[0]))
        uses.append(starts(jax.random.split(periodic_evaluation_key(seed))[0]))
        uses += [starts(jax.random.split(final_evaluation_key(seed, i))[0]) for i in range(3)]
        uses.append(starts(rendering_key(seed)))
    assert len(set().union(*uses)) == sum(map(len, uses)) == 35 * 200
    assert min(set().union(*uses)) > 1000  # a person's begin with the seed itself


@pytest.mark.system
def test_no_run_begins_the_episodes_of_a_recording(tmp_path):
    """As the environments are reset: by training, evaluations in it, the final one and a
    recording."""
    begun: list[list[int]] = []  # of each environment

    class Short(Endless):
        def __init__(self):
            self.seeds: list[int] = []
            begun.append(self.seeds)

        def reset(self, *, seed=None, options=None):
            self.seeds.append(seed)
            self.time = 0
            return super().reset(seed=seed)

        def step(self, action):
            self.time += 1
            return 0, 0.0, self.time == 2, False, {}

    for seed in (0, 1):
        quietly(Short, lambda observation: 0, episodes=5, seed=seed)
    evaluations = dict(evaluate_every=20, evaluate_with=5, evaluation_episodes=5)
    options: Any = dict(steps=40, seeds=2, out=tmp_path / "run", progress=False, **evaluations)
    etude.train(etude.QLearning(), Short, **options)
    played = [set(seeds) for seeds in begun if len(seeds) > 1]
    assert len(played) == 27 and len(set().union(*played)) == sum(map(len, played))


# What ends early


class Endless(gymnasium.Env):
    """Never ends."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.system)]
)
def test_a_signal_ends_the_recording_and_nothing_is_written(tmp_path, number):
    calls = []

    def interrupts(observation):
        calls.append(observation)
        if len(calls) == 300:  # in a chunk that would end with call 1,023
            os.kill(os.getpid(), number)
        if len(calls) >= 300:
            time.sleep(1e-3)
        return 0

    with pytest.raises(
        Interrupted, match="^stopped after 0 of 3 episodes; nothing is written$"
    ) as stopped:
        quietly(Endless, interrupts, episodes=3, out=tmp_path / "out.npz")
    assert len(calls) < 800
    assert stopped.value.signal == number
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_expert_or_the_environment_is_named_and_nothing_is_written(tmp_path):
    def fails(observation):
        raise LookupError("no such move")

    keywords: Any = dict(episodes=2, out=tmp_path / "out.npz")
    with pytest.raises(ExpertFault, match="expert fails raised LookupError: no such move"):
        quietly(noise, fails, **keywords)
    with pytest.raises(EnvironmentFault, match="copy 0 of Faulty failed at its step 3: it raised "):
        quietly(gymnasium_spaces.Faulty, "random", **keywords)
    assert not list(tmp_path.iterdir())


# What is kept


def fails_after(calls):
    left = iter(range(calls))

    def expert(observation):
        if next(left, None) is None:
            raise LookupError("no such move")
        return changing(observation)

    return expert


def test_whole_episodes_survive_what_ends_a_recording(tmp_path, monkeypatch):
    """They are in a folder beside it, which is no recording to write over, and become a dataset."""
    monkeypatch.setattr(episode_collection, "MAX_CHUNK", 7)  # so episodes go on from chunk to chunk
    monkeypatch.chdir(tmp_path)
    keywords: Any = dict(episodes=6, out="noise.npz")
    with pytest.raises(
        ExpertFault,
        match="no such move; . whole episodes are kept in noise.npz.unfinished, of which `etude da",
    ) as failed:
        quietly(noise, fails_after(40), **keywords)
    assert isinstance(failed.value.__cause__, LookupError)
    folder = tmp_path / "noise.npz.unfinished"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    spec = environment_source(noise).outline(1, "gymnasium").spec
    read = read_recorded(folder, spec).by_episode()
    replayed = replay_episodes(read, spec, noise)
    assert 1 <= replayed.episodes == len(set(read.seeds)) < 6 and not replayed.difference
    with pytest.raises(InvalidInput, match="has the episodes of a recording that was stopped, or "):
        quietly(noise, changing, **keywords)
    assert "a recording that was stopped" in read.notes[0]
    write_recorded("noise.npz", spec, read)
    assert read_dataset("noise.npz", spec).num_episodes == replayed.episodes
    (folder / "part_000000.npz").rename(folder / "part_000005.npz")
    with pytest.raises(InvalidInput, match="without data/metadata.json, meta/info.json or state"):
        read_recorded(folder, spec)


def test_a_full_disk_at_the_end_leaves_the_episodes(tmp_path, monkeypatch):
    """And says where they are."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording, "write_recorded", full)
    with pytest.raises(
        InvalidInput,
        match="all.npz cannot be written .No space left on device.; make room for it; 2 whole ep",
    ):
        quietly(noise, "random", episodes=2, out=tmp_path / "all.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz.unfinished"]


KILLED = """
import sys
import etude
from etude.storage.datasets.npz_parts import PartsWriter
append = PartsWriter.append
def told(self, *arguments):
    append(self, *arguments)
    print(self.num_episodes, flush=True)
PartsWriter.append = told
from etude.runs import episode_collection
from etude.runs.record import record
episode_collection.CHUNK_SECONDS = 0.02
record(
    "CartPole-v1", "random", episodes=50_000, out=sys.argv[1], seed=int(sys.argv[2]), progress=False
)
"""


@pytest.mark.system
def test_twenty_kills_lose_no_kept_episode(tmp_path):
    """At a random moment each: whatever was kept is there, whole, and replays bit for bit."""
    rng, kept_in_all = np.random.default_rng(0), 0
    for kill in range(20):
        out = tmp_path / ("a.npz" if kill % 2 else "a-v0")
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, out, str(kill)], stdout=subprocess.PIPE, text=True
        )
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        kept = max(map(int, (first + process.stdout.read()).split("\n")[:-1]))
        process.wait()
        folder = out.with_name(out.name + ".unfinished")
        found = inspect_dataset(folder, check=True, replay=True)
        assert found.faults == [] and found.environment_id == "CartPole-v1"
        assert found.dataset.num_episodes >= kept > 0
        assert found.replay.episodes == found.dataset.num_episodes and not found.replay.difference
        kept_in_all += kept
        with pytest.raises(InvalidInput, match="has the episodes of a recording that was stopped"):
            quietly("CartPole-v1", "random", episodes=1, out=out)
        inspect_dataset(folder, to=out)
        spec = found.dataset.spec
        assert read_dataset(out, spec).num_episodes == found.dataset.num_episodes
        shutil.rmtree(folder)
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    assert kept_in_all > 1000


# What is refused


class Unplayed(Endless):
    """Must not be played."""

    def step(self, action):
        pytest.fail("it was played")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(episodes=0), "episodes is 0; it must be a whole number of at least 1"),
        (dict(episodes=2.0), "episodes is 2.0; it must be a whole number of at least 1"),
        (dict(seed=-1), "seed is -1; it must be a whole number of at least 0"),
        (dict(frame_stack=0), "frame_stack is 0; it must be a whole number of at least 1"),
        (dict(out="data.csv"), "data.csv is neither an .npz .* give data.npz or data$"),
        (dict(out="there.npz"), "there.npz exists already; choose another name, or move it away"),
        (dict(out="link.npz"), "link.npz exists already; choose another name, or move it away"),
        (
            dict(out="no/where/data.npz"),
            "there is no directory no/where for data.npz; make it first",
        ),
        (dict(expert="randm"), r"no expert is called '?randm'?; did you mean random\? give an"),
        (dict(expert="dqn"), "expert is dqn, which has to learn before it can act; train it, and"),
        (
            dict(expert="heuristic"),
            "there is no heuristic for an environment without an id; there is one for LunarLander-",
        ),
        (
            dict(environment="Acrobot-v1", expert="heuristic"),
            "there is no heuristic for 'Acrobot-v1'; there is one for LunarLander-v3, ",
        ),
        (dict(expert=Endless), "expert is the class Endless; give a function of one observation"),
        (dict(expert="there.npz"), "there.npz is not a run"),
        (dict(options={"a": 1}), "options are {'a': 1}; they are those of gymnasium.make"),
        (dict(environment="CartPol-v1"), "CartPole-v1"),
        pytest.param(
            dict(environment=Endless()), "one object, and each copy needs its own", id="object"
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_anything_is_played(tmp_path, asked, message):
    (tmp_path / "there.npz").write_bytes(b"mine")
    (tmp_path / "link.npz").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    keywords: Any = dict(environment=Unplayed, expert="random", episodes=2, out="out.npz") | asked
    with contextlib.chdir(tmp_path), pytest.raises(InvalidInput, match=message):
        quietly(**keywords)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


# Noise


class Listens(gymnasium.Env):
    """Observes the number of the step and the action that it got."""

    def __init__(self, action_space):
        self.action_space = action_space
        size = int(np.prod(action_space.shape))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1 + size,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(np.zeros(self.action_space.shape)), {}

    def observe(self, action):
        return np.float32([self.time, *np.ravel(action)])

    def step(self, action):
        self.time += 1
        return self.observe(action), 0.0, self.time == 200, False, {}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gymnasium.spaces.Box(-2, 6, (2,)), lambda time: np.float32([2, 4])),
        (gymnasium.spaces.Discrete(5, start=3), lambda time: 3 + int(time) % 5),
        pytest.param(
            gymnasium.spaces.MultiDiscrete([3, 4]),
            lambda time: np.array([1, 2]),
            marks=pytest.mark.system,
        ),
        pytest.param(
            gymnasium.spaces.MultiBinary(2), lambda time: np.int8([0, 1]), marks=pytest.mark.system
        ),
    ],
    ids=["box", "discrete", "multidiscrete", "multibinary"],
)
def test_noise_is_executed_and_what_the_expert_says_is_recorded(tmp_path, space, said):
    out = tmp_path / "noisy.npz"
    expert = lambda observation: said(observation[0])
    arguments = dict(episodes=10, out=out, progress=False, noise=0.2)
    dataset = record(lambda: Listens(space), expert, **arguments)
    arrays = dict(np.load(out))
    seen, actions = arrays["observations"].reshape(10, 201, -1), arrays["actions"]
    expected = np.array([said(time) for time in range(200)])
    np.testing.assert_array_equal(actions.reshape(10, 200, *space.shape)[3], expected)
    got = seen[:, 1:, 1:].reshape(10, 200, *space.shape)
    if isinstance(space, gymnasium.spaces.Box):
        # a deviation of .2 where [-2, 6] is [-1, 1]
        np.testing.assert_allclose((got - expected).std((0, 1)), 0.8, rtol=0.08)
        assert got.min() >= -2 and got.max() <= 6
    else:
        sizes = {"Discrete": 5, "MultiDiscrete": np.array([3, 4]), "MultiBinary": 2}
        share = 0.2 * (1 - 1 / sizes[type(space).__name__])
        np.testing.assert_allclose((got != expected).mean((0, 1)), share, rtol=0.25)
    assert read_recorded(out, dataset.spec).seeds == (None,) * 10
    if isinstance(space, gymnasium.spaces.Discrete):
        again = record(lambda: Listens(space), expert, **arguments | {"out": None})
        assert content_hash(again) == content_hash(dataset)


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan"), "much", True])
def test_noise_out_of_bounds_is_refused(noise):
    with pytest.raises(InvalidInput, match=f"noise is {noise!r}; it must be a number from 0 to 1"):
        record("CartPole-v1", "random", episodes=1, noise=noise)
