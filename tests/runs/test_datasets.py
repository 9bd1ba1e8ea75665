"""Runs that learn from a dataset: they do not play, need it again when they are resumed, and do not
when they are evaluated."""

import itertools
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from commands import here, programs_kept
from records import metadata_of, rewrite_config

import etude
from etude.errors import InvalidInput
from etude.runs import train
from etude.runs.config import read_config
from etude.runs.display import NullDisplay, run_headline
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import checkpoint_template, restore_job, save_job
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.storage import files, metrics_csv
from etude.training import compile_chunk
from etude.trees import content_hash

SPEC = etude.make("CartPole-v1").spec
LENGTHS = (7, 3)
UPDATE = 4  # gradient steps
FITTED_Q = etude.FittedQ(hidden=(4,), batch_size=4, gradient_steps=UPDATE, target_interval=UPDATE)
SMALL = dict(steps=5 * UPDATE, evaluation_episodes=1, progress=False)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def recorded(seed=0, numbers=4):
    """The arrays of two short episodes."""
    rng = np.random.default_rng(seed)
    ends = np.isin(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS) - 1)
    return dict(
        observations=np.float32(rng.uniform(-1, 1, (sum(LENGTHS) + len(LENGTHS), numbers))),
        actions=rng.integers(2, size=sum(LENGTHS)),
        rewards=np.ones(sum(LENGTHS), np.float32),
        terminations=ends,
        truncations=np.zeros(sum(LENGTHS), bool),
        episode_lengths=np.array(LENGTHS),
    )


def test_what_was_found_as_the_dataset_was_read_is_told_as_a_new_run_begins(tmp_path):
    """Of a format that does not say how episodes end; the file holds none of it."""
    arrays = recorded()
    path, starts = tmp_path / "rollouts.npz", np.cumsum((0, *LENGTHS[:-1]))
    np.savez(
        path,
        obs=arrays["observations"],
        acts=arrays["actions"],
        terminal=np.ones(len(LENGTHS), bool),
        indices=starts[1:],
    )
    settings = resolve_settings(etude.BC(), "CartPole-v1", RunOptions(steps=100, dataset=path))
    told = settings.dataset_notes
    assert len(told) == 2 and told[1] == "it has no rewards, which are zero here"
    assert (
        read_config(create_run(settings, tmp_path / "run").directory)
        .keys()
        .isdisjoint({"dataset_notes"})
    )
    warned = []
    with (
        mock.patch.object(train, "run_jobs", side_effect=KeyboardInterrupt),
        mock.patch.object(NullDisplay, "warn", lambda self, text: warned.append(text)),
        pytest.raises(Interrupted),
    ):
        train.run_training(create_run(settings, tmp_path / "other"), NullDisplay())
    assert warned == [f"of the dataset: {note}" for note in told]


def written(path, seed=0, **changes):
    np.savez(path, **recorded(seed) | {"environment_id": "CartPole-v1"} | changes)
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "data.npz")


def settings_of(dataset, **options):
    options = {"steps": 5 * UPDATE, "checkpoint_interval": 2 * UPDATE} | options
    return resolve_settings(FITTED_Q, "CartPole-v1", RunOptions(dataset=dataset, **options))


def last_checkpoint(directory):
    last = max((directory / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    return last.name, (last / "arrays.safetensors").read_bytes()


def config_of(run):
    return json.loads((run.directory / "config.json").read_text())


@pytest.mark.slow
def test_it_does_not_play_and_is_resumed_and_evaluated(tmp_path, path):
    """Two seeds in one program; killed after its first checkpoint, it is resumed to what it would
    have been, and evaluated without the file."""
    whole = etude.train(
        FITTED_Q,
        "CartPole-v1",
        dataset=path,
        seeds=2,
        checkpoint_interval=2 * UPDATE,
        out=tmp_path / "whole",
        **SMALL,
    )
    config, summary = config_of(whole), whole.summary
    assert config["hyperparameters"]["plays"] is False and config["backend"] == "none"
    assert summary["unit"] == "gradient steps" and summary["steps"] == 5 * UPDATE
    metrics = metrics_csv.read_metrics(whole.directory / "metrics.csv")
    assert not [name for name in metrics if "episode" in name]
    np.testing.assert_array_equal(metrics["step"], np.repeat(np.arange(1, 6) * UPDATE, 2))
    np.testing.assert_array_equal(metrics["updates"], UPDATE)
    assert np.isfinite(metrics["q_loss"]).all()

    settings = settings_of(path, seeds=2, evaluation_episodes=1)
    (job,) = create_run(settings, tmp_path / "cut").jobs
    for event in train_job(settings, job, InterruptHandler(), pytest.fail):
        if event.steps == 3 * UPDATE:
            break
    assert last_checkpoint(job.directory)[0] == f"step_{2 * UPDATE}"
    etude.resume(job.directory, progress=False)
    assert last_checkpoint(job.directory) == last_checkpoint(whole.directory)
    assert (job.directory / "metrics.csv").read_bytes() == (
        whole.directory / "metrics.csv"
    ).read_bytes()

    path.unlink()
    again = etude.load(whole.directory).evaluate(1)
    assert again["returns"] == summary["evaluation"]["returns"]


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Some donated buffers")  # of what no result has the shape
def test_all_seeds_read_one_dataset_which_stays_as_it_was(tmp_path):
    """It is in no checkpoint, and the program neither has a copy for each seed nor reuses its
    memory."""
    settings = settings_of(etude.make_dataset(SPEC, **recorded()), seeds=2)
    run = create_run(settings, tmp_path / "run")
    (job,) = run.jobs
    before, arrays = settings.dataset.sha256, jax.tree.leaves(settings.outside)
    for _ in train_job(settings, job, InterruptHandler(), pytest.fail):
        pass
    assert not any(x.is_deleted() for x in arrays)
    assert content_hash(settings.outside.dataset) == before
    (state, _) = restore_job(settings, job, settings.outline(), pytest.fail)
    rows = sum(LENGTHS)
    assert not [x.shape for x in jax.tree.leaves(state) if rows in x.shape]
    program = compile_chunk(
        settings.algorithm, settings.outline(), state.train_state, job.key, 1, settings.outside
    ).as_text()
    assert f"f32[{rows},4]" in program
    assert f"[2,{rows}" not in program and f"[{rows},2" not in program


def test_a_directory_in_minaris_layout_is_as_good_as_a_file(tmp_path, path):
    """It has the hash of the same episodes in another format, and its place is kept."""
    etude.write_dataset(tmp_path / "data-v0", etude.read_dataset(path, SPEC))
    record = settings_of(tmp_path / "data-v0").dataset
    assert record.path == str(tmp_path / "data-v0")
    assert record.sha256 == settings_of(path).dataset.sha256
    assert (record.steps, record.episodes, record.environment) == (10, 2, "CartPole-v1")


@pytest.mark.parametrize("form", ["path", "object"])
@pytest.mark.parametrize("name", ["fitted-q", "dqn", "rainbow"])
def test_config_json_says_from_what_it_learns(tmp_path, path, name, form):
    dataset = etude.make_dataset(SPEC, **recorded()) if form == "object" else path
    algorithm = etude.algorithms.algorithm_factory(name)()
    settings = resolve_settings(algorithm, "CartPole-v1", RunOptions(dataset=dataset), name)
    run = create_run(settings, tmp_path / "run")
    config = config_of(run)
    assert config["hyperparameters"]["plays"] is False and config["backend"] == "none"
    record = config["dataset"]
    assert len(record.pop("sha256")) == 64
    assert record == {
        "path": "" if form == "object" else str(path),
        "steps": 10,
        "episodes": 2,
        "environment": "CartPole-v1",
    }
    assert "does not play" in run_headline(settings, run.directory)[0]
    assert "2 episodes, 10 steps, recorded in CartPole-v1" in run_headline(settings, "")[2]
    assert etude.load(run.directory).settings.dataset == settings.dataset


def test_the_hash_is_that_of_the_content_not_of_the_file(tmp_path, path):
    np.savez_compressed(tmp_path / "other.npz", **recorded())
    records = [settings_of(x).dataset for x in (path, tmp_path / "other.npz")]
    assert records[0].sha256 == records[1].sha256
    assert settings_of(written(tmp_path / "third.npz", seed=1)).dataset.sha256 != records[0].sha256


def test_evaluation_needs_no_dataset(tmp_path, path):
    settings = settings_of(path, seeds=2)
    run, rng = create_run(settings, tmp_path / "run"), np.random.default_rng(0)
    (job,) = run.jobs
    shapes = checkpoint_template(settings, job, settings.outline(), {}).train_state
    numbers = jax.tree.map(lambda x: rng.uniform(1, 2, x.shape).astype(x.dtype), shapes)
    save_job(job, settings.outline(), numbers, metadata_of(settings, job, 5))
    path.unlink()
    for explore in (False, True):
        assert len(etude.load(run.directory).evaluate(1, explore=explore)["returns"]) == 2


@pytest.fixture
def begun(tmp_path, path):
    """A run that is to learn from the file, and another that is to play."""
    for name, settings in {
        "run": settings_of(path),
        "object": settings_of(etude.make_dataset(SPEC, **recorded())),
        "plays": resolve_settings(FITTED_Q, "CartPole-v1", RunOptions(steps=1000)),
    }.items():
        create_run(settings, tmp_path / name)
    return tmp_path


def refused_to_resume(run, message, **options):
    with pytest.raises(InvalidInput, match=message) as error:
        etude.resume(run, progress=False, **options)
    assert "\n" not in str(error.value)
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_a_larger_budget_is_not_written_before_all_is_found_to_fit(begun, path):
    """And then the file still says where the run began."""
    config = begun / "run" / "config.json"
    rewrite_config(config.parent, {"versions": {"etude": "0.0.0"}})
    before = files.read_sealed(config)
    other = path.with_name("other.npz")
    np.savez(other, **recorded() | {"rewards": np.zeros_like(recorded()["rewards"])})
    refused_to_resume(begun / "run", "give the one that it began with", steps=400, dataset=other)
    assert files.read_sealed(config) == before
    with mock.patch("etude.runs.train.run_training"):
        etude.resume(begun / "run", steps=400, progress=False)
    assert files.read_sealed(config) == before | {"steps": 400}


def test_a_run_is_complete_when_all_of_it_is_written(tmp_path, path):
    """The summary comes last, for with it a run counts as complete."""
    with (
        mock.patch("etude.runs.run.figures.draw_learning_curve", side_effect=OSError("full")),
        pytest.raises(OSError, match="full"),
    ):
        etude.train(FITTED_Q, "CartPole-v1", dataset=path, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert etude.resume(tmp_path / "run", progress=False).summary["steps"] == 5 * UPDATE


def test_another_dataset_is_refused_by_a_run_that_is_resumed(begun, path):
    before = config_of(etude.load(begun / "run"))["dataset"]["sha256"][:12]
    other = etude.make_dataset(SPEC, **recorded(seed=1))
    after = settings_of(other).dataset.sha256[:12]
    refused_to_resume(begun / "run", f"{before} .* and this dataset has {after}", dataset=other)
    written(path, seed=1)
    refused_to_resume(begun / "run", rf"{before} .*10 steps.*data.npz has {after}")
    path.unlink()
    refused_to_resume(begun / "run", "which is not there; say with --dataset where it is now")
    refused_to_resume(
        begun / "object", r"as an object; go on in Python, with etude.resume\(path, d"
    )
    refused_to_resume(begun / "plays", "dataset is x.npz, and this run reads none", dataset="x.npz")


@pytest.mark.system
def test_a_dataset_that_has_moved_or_is_at_hand_is_taken(begun, path):
    """Three ways to the same weights."""
    shutil.copytree(begun / "run", begun / "again")
    etude.resume(begun / "run", progress=False)
    path.rename(begun / "moved.npz")
    etude.resume(begun / "again", dataset=begun / "moved.npz", progress=False)
    dataset = etude.make_dataset(SPEC, **recorded())
    etude.resume(begun / "object", dataset=dataset, progress=False)
    checkpoints = [last_checkpoint(begun / name) for name in ("run", "again", "object")]
    for one, other in itertools.pairwise(checkpoints):
        assert one == other


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("ppo", {}, r"data.npz, and ppo reads none; .* one that does: dqn, .*, bc"),
        ("bc", {"dataset": None}, "bc needs a dataset here; give one with --dataset PATH"),
        (etude.FittedQ(plays=False), {"dataset": None}, "needs a dataset here; .* --dataset PATH"),
        (FITTED_Q, {"workers": 2}, "workers is 2, and dqn does not play here"),
        (FITTED_Q, {"backend": "jax"}, "backend is 'jax', and dqn does not play here"),
        (FITTED_Q, {"num_envs": 3}, "num_envs is 3, and dqn does not play here"),
        (
            FITTED_Q,
            {"steps": 3},
            r"steps is 3, less than one iteration of 4 \(gradient steps of an",
        ),
        (FITTED_Q, {"environment": "Acrobot-v1"}, r"data.npz: .*observations"),
        (FITTED_Q, {"dataset": "nowhere.npz"}, "nowhere.npz"),
        (FITTED_Q, {"dataset": "nan.npz"}, "nan.npz: .*nan"),
        (
            FITTED_Q,
            {"dataset": etude.make_dataset(SPEC, **recorded()), "environment": "Acrobot-v1"},
            "the observation space of the dataset.* and that of the environment",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, path, monkeypatch, algorithm, options, message
):
    observations = recorded()["observations"]
    observations[4, 1] = np.nan
    written(tmp_path / "nan.npz", observations=observations)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    asked = SMALL | {"environment": "CartPole-v1", "dataset": "data.npz"} | options
    with pytest.raises(InvalidInput, match=message) as error:
        etude.train(algorithm, **asked)
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fitted-q CartPole-v1 --no-plays", "or let it play with --plays"),
        ("fitted-q CartPole-v1 --dataset data.npz --plays", "fitted-q plays or learns from a data"),
        ("ppo CartPole-v1 --dataset data.npz", "ppo reads none; leave it out, or take one that d"),
        ("fitted-q CartPole-v1 --dataset data.npz --workers 2", "workers is 2"),
        ("fitted-q CartPole-v1 --dataset no.npz", "no.npz"),
    ],
)
def test_the_command_line_refuses_it_too(tmp_path, path, words, message):
    done = here("train", *words.split(), cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
