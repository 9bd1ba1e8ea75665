"""Runs that ask an expert: they need the same one again when they are resumed, and none when they
are evaluated."""

import shutil

import jax
import numpy as np
import pytest
from commands import here, programs_kept
from records import rewrite_config
from safetensors.numpy import load_file

import etude
from etude.algorithms.protocol import init_state
from etude.errors import InvalidInput
from etude.runs.display import run_headline
from etude.runs.experts import without_replay
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.storage.files import CorruptFile
from etude.storage.metrics_csv import read_metrics
from etude.struct import replace

ROUND = 16
SMALL = etude.DAgger(
    hidden=(4,), batch_size=8, gradient_steps=2, rollout_length=ROUND, capacity=8 * ROUND
)
OPTIONS = dict(evaluation_episodes=1, max_evaluation_steps=20, progress=False, seed=3)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def balance(observation):
    return int(observation[2] + observation[3] > 0)


def left(observation):
    return 0


def explode(observation):
    raise AssertionError("a file made this run")


class Lean:
    """An object that acts: Python alone can hand it in."""

    def __call__(self, observation):
        return int(observation[2] > 0)


@pytest.fixture(scope="module")
def run_with_memory(tmp_path_factory):
    """The directory of a run whose policy remembers."""
    ppo = etude.PPO(
        hidden=(4,), recurrent=etude.GRU(3), rollout_length=8, sequence_length=8, batch_size=16
    )
    out = tmp_path_factory.mktemp("expert") / "ppo"
    etude.train(ppo, "CartPole-v1", steps=64, out=out, **OPTIONS)
    return out


def settings_of(expert, **options):
    return resolve_settings(SMALL, "CartPole-v1", RunOptions(expert=expert, steps=64, **options))


def last_weights(directory):
    newest = max((directory / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    return load_file(newest / "arrays.safetensors")


@pytest.mark.parametrize(
    ("expert", "kind", "name"),
    [
        ("random", "algorithm", "random"),
        (balance, "function", f"{__name__}:balance"),
        (f"{__name__}:balance", "function", f"{__name__}:balance"),
        (Lean(), "object", "Lean"),
        (etude.Random(), "object", "random"),
    ],
)
def test_config_json_says_who_is_asked(tmp_path, expert, kind, name):
    settings = settings_of(expert)
    run = create_run(settings, tmp_path / "run")
    loaded = etude.load(run.directory).settings
    assert loaded.expert == settings.expert
    assert (loaded.expert.kind, loaded.expert.name) == (kind, name)
    assert loaded.expert.memory == () and len(loaded.expert.sha256) == 64
    assert f"expert  {name}" in run_headline(settings, run.directory)
    held = kind == "object"
    assert ("expert" in settings.held_in_python) == held
    command = settings.resume_command(run.directory)
    assert ("--expert" in command) == (kind == "function") and ("expert=..." in command) == held


@pytest.mark.system
def test_config_json_has_the_directory_of_a_run_and_what_its_policy_remembers(run_with_memory):
    for expert in (run_with_memory, str(run_with_memory), etude.load(run_with_memory)):
        record = settings_of(expert).expert
        assert (record.kind, record.name) == ("run", str(run_with_memory))
        assert record.memory.count("float32[1, 3]") == 4


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("jax", marks=pytest.mark.system),
        pytest.param("gymnasium", marks=pytest.mark.system),
    ],
)
def test_a_resumed_run_is_the_whole_one_bit_for_bit(tmp_path, backend):
    """The expert's memory goes on where it was, in the middle of an episode: what it saw at the
    first step."""
    settings = dict(OPTIONS, expert="heuristic", backend=backend)
    etude.train(SMALL, "etude/TMaze-v0", steps=4 * ROUND, out=tmp_path / "whole", **settings)
    part = etude.train(SMALL, "etude/TMaze-v0", steps=2 * ROUND, out=tmp_path / "part", **settings)
    assert part.summary["steps"] == 2 * ROUND
    etude.resume(tmp_path / "part", steps=4 * ROUND, progress=False)
    whole, resumed = (last_weights(tmp_path / name) for name in ("whole", "part"))
    assert whole.keys() == resumed.keys() and any("memory.expert" in name for name in whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


@pytest.mark.system
def test_the_expert_of_a_run_has_to_be_the_same_again_and_evaluation_needs_none(
    tmp_path, run_with_memory
):
    shutil.copytree(run_with_memory, tmp_path / "expert")
    settings = dict(OPTIONS, expert=tmp_path / "expert")
    run = etude.train(SMALL, "CartPole-v1", steps=2 * ROUND, out=tmp_path / "run", **settings)
    more = dict(steps=3 * ROUND, progress=False)
    with pytest.raises(InvalidInput, match=r"\(run, hash .* random \(algorithm, .* is another"):
        etude.resume(run.directory, expert="random", **more)
    shutil.move(tmp_path / "expert", tmp_path / "moved")
    with pytest.raises(InvalidInput, match="expert, which is not there; say with --expert where"):
        etude.resume(run.directory, **more)
    loaded = etude.load(run.directory)
    assert loaded.evaluate(1)["iqm"] == run.summary["evaluation"]["iqm"]
    etude.resume(run.directory, expert=tmp_path / "moved", **more)
    assert etude.load(run.directory).summary["steps"] == 3 * ROUND


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (balance, rf"{__name__}:balance, which no file can name; add --expert {__name__}:balance"),
        (Lean(), r"Lean, which no file can name; go on in Python, with etude.resume\(path, expe"),
    ],
    ids=["function", "object"],
)
def test_what_no_file_can_name_is_given_again(tmp_path, expert, message):
    run = create_run(settings_of(expert), tmp_path / "run")
    with pytest.raises(InvalidInput, match=message):
        etude.resume(run.directory, progress=False)
    with pytest.raises(InvalidInput, match="another; give the one that it began with"):
        etude.resume(run.directory, expert="random", progress=False)


def test_what_a_file_says_of_an_expert_is_not_believed(tmp_path):
    run = create_run(settings_of("random"), tmp_path / "run")
    record = dict(name="random", kind="algorithm", sha256="0" * 64, memory=[])
    for change in (
        {"memory": ["float32[1, 10**9]"]},
        {"memory": ["__import__('os')[1]"]},
        {"memory": ["nothing[1]"]},
        {"memory": "float32[1]"},
        {"name": 3},
    ):
        rewrite_config(run.directory, {"expert": record | change})
        with pytest.raises(CorruptFile, match="config.json"):
            etude.load(run.directory)


@pytest.mark.parametrize(
    ("begun", "other"),
    [
        ("random", "mcts"),
        (etude.MCTS("CartPole-v1", simulations=3), etude.MCTS("CartPole-v1", simulations=4)),
        (balance, f"{__name__}:left"),
    ],
    ids=["algorithms", "hyperparameters", "functions"],
)
def test_an_expert_without_arrays_is_known_by_its_name_and_settings(tmp_path, begun, other):
    run = create_run(settings_of(begun), tmp_path / "run")
    with pytest.raises(InvalidInput, match="is another; give the one that it began with"):
        etude.resume(run.directory, expert=other, progress=False)


def test_a_file_names_no_code_to_import(tmp_path):
    for record in (
        {"kind": "algorithm", "name": f"{__name__}:explode"},
        {"kind": "function", "name": f"{__name__}:explode"},
        {"kind": "anything", "name": f"{__name__}:explode"},
        {"kind": "run", "name": f"{__name__}:explode"},
    ):
        run = create_run(settings_of("random"), tmp_path / record["kind"])
        rewrite_config(run.directory, {"expert": dict(sha256="0" * 64, memory=[]) | record})
        with pytest.raises(InvalidInput):
            etude.resume(run.directory, progress=False)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("dagger", {}, "dagger needs an expert; give one with --expert .in Python expert=..... an"),
        ("ppo", {"expert": "random"}, "expert is random, and ppo takes none; leave it out, or rec"),
        ("dagger", {"expert": "ppo"}, "expert is ppo, which has to learn before it can act"),
        ("dagger", {"expert": "nobody"}, "no expert is called 'nobody'"),
        (
            "dagger",
            {"expert": "heuristic", "frame_stack": 2},
            "the heuristic for 'CartPole-v1' reads",
        ),
        ("dagger", {"dataset": "x.npz"}, "dagger needs an expert; give one with --expert"),
        ("dagger", {"expert": "random", "dataset": "x.npz"}, "x.npz cannot be read"),
    ],
)
def test_it_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, algorithm, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        etude.train(algorithm, "CartPole-v1", **options)
    assert not [*tmp_path.iterdir()]


def recorded(path):
    """Forty steps of the heuristic's kind in two episodes."""
    ends = np.isin(np.arange(40), (19, 39))
    dataset = etude.make_dataset(
        etude.make("CartPole-v1").spec,
        observations=np.float32(np.random.default_rng(0).uniform(-0.1, 0.1, (42, 4))),
        actions=np.arange(40) % 2,
        rewards=np.ones(40),
        terminations=ends,
        truncations=np.zeros(40, bool),
        episode_lengths=np.array([20, 20]),
    )
    etude.write_dataset(path, dataset)
    return path


def test_a_dataset_to_begin_with_is_in_config_json_beside_the_expert(tmp_path):
    """The copies and the budget are those of play, for it plays."""
    settings = settings_of("random", dataset=recorded(tmp_path / "data.npz"))
    run = create_run(settings, tmp_path / "run")
    loaded = etude.load(run.directory).settings
    assert loaded.dataset == settings.dataset and loaded.dataset.steps == 40
    assert loaded.plays and loaded.expert.name == "random" and loaded.backend != "none"
    text = run_headline(settings, run.directory)
    assert "dataset" in text[2] and "expert  random" in text and "does not play" not in text[0]
    with pytest.raises(InvalidInput, match="give the one that it began with"):
        other = etude.read_dataset(recorded(tmp_path / "other.npz"), loaded.outline().spec)
        transitions = replace(other.transitions, reward=other.transitions.reward + 1)
        etude.resume(run.directory, dataset=replace(other, transitions=transitions), progress=False)


@pytest.mark.system
def test_a_run_that_began_with_a_dataset_is_resumed_bit_for_bit(tmp_path):
    settings = dict(OPTIONS, expert="random", dataset=recorded(tmp_path / "data.npz"))
    etude.train(SMALL, "CartPole-v1", steps=4 * ROUND, out=tmp_path / "whole", **settings)
    etude.train(SMALL, "CartPole-v1", steps=2 * ROUND, out=tmp_path / "part", **settings)
    etude.resume(tmp_path / "part", steps=4 * ROUND, progress=False)
    whole, resumed = (last_weights(tmp_path / name) for name in ("whole", "part"))
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)
    metrics = read_metrics(tmp_path / "whole" / "metrics.csv")
    np.testing.assert_array_equal(metrics["labelled_states"], [56, 72, 88, 104])
    np.testing.assert_allclose(metrics["beta"], [0.5, 0.25, 0.125, 0.0625])
    words = "train dagger CartPole-v1 --expert random --dataset data.npz --steps 32 --out cli"
    sizes = "--rollout-length 16 --gradient-steps 2 --hidden 4 --batch-size 8"
    more = "--evaluation-episodes 1 --num-envs 1"
    done = here(*f"{words} {sizes} {more}".split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert here("resume", "cli", "--steps", "48", cwd=tmp_path).returncode == 0
    (tmp_path / "data.npz").unlink()
    done = here("resume", "cli", "--steps", "64", cwd=tmp_path)
    assert done.returncode == 2 and "say with --dataset where it is" in " ".join(
        done.stderr.split()
    )


def test_an_expert_is_known_by_what_acts_and_not_by_its_replay(tmp_path):
    spec = etude.make("CartPole-v1").spec
    dqn = etude.DQN(hidden=(4,), capacity=64, replay=etude.Prioritized())
    state = jax.jit(lambda key: init_state(dqn, key, spec))(jax.random.key(0))
    rest = without_replay(dqn, state, spec)
    assert rest.replay == () and rest.priorities == ()
    np.testing.assert_array_equal(*(jax.tree.leaves(x.q)[0] for x in (rest, state)))
    looks = LooksBack()
    state = (state.replay,)
    assert without_replay(looks, state, spec) is state


class LooksBack:
    """A policy that acts by what is in its buffer."""

    def initial_memory(self, state, spec, key):
        return ()

    def act(self, state, observation, memory, key, explore):
        return state[0].storage.action[0], memory


def test_a_run_that_asks_none_is_given_none(tmp_path):
    settings = resolve_settings(etude.A2C(), "CartPole-v1", RunOptions(steps=1_000))
    run = create_run(settings, tmp_path / "run")
    with pytest.raises(InvalidInput, match="expert is random, and this run needs none; leave it"):
        etude.resume(run.directory, expert="random", progress=False)


@pytest.mark.system
def test_the_command_line_asks_too(tmp_path):
    """A function of the working directory, which has to be named again."""
    (tmp_path / "mine.py").write_text("def left(observation):\n    return 0\n")
    asked = "dagger CartPole-v1 --expert mine:left --steps 32 --out run --evaluation-episodes 1"
    sizes = "--rollout-length 16 --gradient-steps 2 --hidden 4 --batch-size 8"
    assert here("train", *asked.split(), *sizes.split(), cwd=tmp_path).returncode == 0
    done = here("resume", "run", "--steps", "48", cwd=tmp_path)
    assert done.returncode == 2 and "add --expert mine:left" in " ".join(done.stderr.split())
    named = "resume run --steps 48 --expert mine:left"
    assert here(*named.split(), cwd=tmp_path).returncode == 0
    assert here("evaluate", "run", "--episodes", "1", cwd=tmp_path).returncode == 0


@pytest.mark.system
def test_many_seeds_ask_the_same_expert(tmp_path):
    """In one program; and each is what it is alone."""
    together = etude.train(
        SMALL,
        "CartPole-v1",
        steps=2 * ROUND,
        seeds=2,
        expert=balance,
        out=tmp_path / "both",
        **OPTIONS,
    )
    alone = etude.train(
        SMALL, "CartPole-v1", steps=2 * ROUND, expert=balance, out=tmp_path / "one", **OPTIONS
    )
    first, only = together.states()[0], alone.states()[0]
    assert together.settings.in_one_program
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        jax.tree.leaves(first.learner.policy),
        jax.tree.leaves(only.learner.policy),
    )
    labels = first.buffer.storage
    seen = np.asarray(labels.observation)[: 2 * ROUND]
    expected = (seen[..., 2] + seen[..., 3] > 0).astype(int)
    np.testing.assert_array_equal(np.asarray(labels.action)[: 2 * ROUND], expected)
