"""A run has one writer, its directory is made and not looked for, and what is refused changes
nothing."""

import os
import shutil
import threading
from pathlib import Path
from unittest import mock

import gymnasium
import numpy as np
import pytest
from commands import here, start, until
from records import begun, finished, rewrite_checkpoint, rewrite_config

import etude
from etude.errors import EnvironmentFault, InvalidInput
from etude.runs.config import read_config
from etude.runs.interrupt import Interrupted
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.runs.video import record_video
from etude.storage import metrics_csv
from etude.storage.metrics_csv import MetricsWriter
from etude.storage.writer_lock import sole_writer

Q = ".train_state.algorithm_state.q"
TRAIN = ("train", "q-learning", "FrozenLake-v1", "--backend", "gymnasium")


@pytest.fixture(scope="module")
def settings():
    return resolve_settings(etude.QLearning(), "FrozenLake-v1", RunOptions(steps=100))


def bytes_of(directory):
    """Every path below a directory, and what is in it."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def at_once(count, function):
    """What `function` returns or the InvalidInput that it raises, in threads that start at once."""
    barrier, results = threading.Barrier(count), []

    def call():
        barrier.wait()
        try:
            results.append(function())
        except InvalidInput as error:
            results.append(error)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# Directories are made


def test_eight_runs_that_start_in_one_second_are_eight(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    with mock.patch("etude.runs.run.datetime") as clock:
        clock.now.return_value.__format__ = lambda *_: "20261130-120000"
        runs = at_once(8, lambda: create_run(settings))
    names = {run.directory.name for run in runs}
    assert names == {path.name for path in (tmp_path / "runs").iterdir()} and len(names) == 8
    assert all([*run.directory.iterdir()] == [run.directory / "config.json"] for run in runs)


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "new"])
def test_a_directory_that_is_asked_for_is_given_to_one(tmp_path, settings, exists):
    if exists:
        (tmp_path / "run").mkdir()
    results = at_once(4, lambda: create_run(settings, tmp_path / "run"))
    (made,) = (x for x in results if not isinstance(x, InvalidInput))
    assert made.directory == tmp_path / "run"
    for error in (x for x in results if isinstance(x, InvalidInput)):
        assert "holds another run" in str(error) or "is written to by this process" in str(error)
    assert [path.name for path in made.directory.iterdir()] == ["config.json"]


def test_the_name_of_a_new_run_is_flushed_to_the_disk(tmp_path, settings):
    with mock.patch("etude.storage.files.sync") as sync:
        create_run(settings, tmp_path / "run")
    assert [str(call.args[0]) for call in sync.call_args_list][-1] == str(tmp_path)


@pytest.mark.parametrize("content", ["file", "folder", ".hidden"])
def test_a_directory_that_is_not_empty_is_refused(tmp_path, settings, content):
    (tmp_path / "run" / content).mkdir(parents=True)
    before = bytes_of(tmp_path)
    with pytest.raises(InvalidInput, match="exists and is not empty; give another --out"):
        create_run(settings, tmp_path / "run")
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "file/below", "a" * 300], ids=["file", "below", "long"])
def test_what_cannot_be_a_directory_is_refused(tmp_path, settings, name):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"cannot be made \(.*\); give another --out"):
        create_run(settings, tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_is_known_by_its_absolute_path(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    run = create_run(settings, Path("run"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.directory == tmp_path / "run" == run.with_settings(settings).directory
    assert run.resume_command == "etude resume run" and not os.listdir()


# One writer


def test_a_run_that_is_written_to_is_not_resumed_and_can_be_read(tmp_path):
    directory = finished(tmp_path / "run").directory
    with sole_writer(directory):
        before = bytes_of(directory)
        done = here("resume", "run", "--steps", 200, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"is written to by this process, {os.getpid()}" in " ".join(done.stderr.split())
        loaded = etude.load(directory)
        assert len(loaded.states()) == 1 and len(loaded.metrics["step"]) == 2
        assert bytes_of(directory) == before


def test_a_run_is_locked_while_it_trains(tmp_path):
    def training(run, *_):
        assert (run.directory / "writer.lock").is_file()
        with pytest.raises(InvalidInput, match="is written to by"):
            etude.resume(run.directory, 400, progress=False)
        return run

    options = {"steps": 100, "out": tmp_path / "run", "progress": False}
    with mock.patch("etude.runs.train.run_training", side_effect=training) as trained:
        etude.train(etude.QLearning(), "FrozenLake-v1", **options)
        etude.resume(tmp_path / "run", 200, progress=False)
    assert trained.call_count == 2
    assert os.listdir(tmp_path / "run") == ["config.json"]


@pytest.mark.system
def test_eight_commands_in_one_second_make_eight_runs(tmp_path):
    words = (*TRAIN, "--steps", 64, "--evaluation-episodes", 1)
    for process in [start(*words, cwd=tmp_path) for _ in range(8)]:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    runs = [*(tmp_path / "runs").iterdir()]
    assert len(runs) == 8 and all(etude.load(run).summary["steps"] == 64 for run in runs)


@pytest.mark.system
@pytest.mark.parametrize("seeds", [1, 2])
def test_of_two_resumes_at_once_one_goes_on(tmp_path, seeds):
    """Jobs in processes of their own have one holder too, the trainer."""
    directory = begun(tmp_path / "run", steps=60_000, seeds=seeds).directory
    first = start("resume", "run", cwd=tmp_path)
    until((directory / "writer.lock").exists, first)
    second = here("resume", "run", cwd=tmp_path)
    assert second.returncode == 2
    assert f"process {first.pid} on this machine" in " ".join(second.stderr.split())
    assert first.wait(timeout=240) == 0
    for job in etude.load(directory).jobs:
        steps = metrics_csv.read_metrics(job.metrics_path)["step"]
        assert (np.diff(steps) > 0).all() and steps[-1] == 60_000


# What is refused changes nothing


def spoil_rows(directory):
    (directory / "metrics.csv").write_text("step,seed,loss\n1,x,3\n")


def spoil_rows_before_a_checkpoint(directory):
    shutil.rmtree(directory / "checkpoints")
    spoil_rows(directory)


def link_checkpoints(directory):
    (directory / "checkpoints").rename(directory.with_name("elsewhere"))
    (directory / "checkpoints").symlink_to(directory.with_name("elsewhere"))


def link_video(directory):
    (directory / "video").symlink_to(directory.parent)


def spoil_weights(directory):
    for path in (directory / "checkpoints").iterdir():
        rewrite_checkpoint(path, lambda arrays: arrays | {Q: np.full_like(arrays[Q], np.inf)})


def spoil_iterations(directory):
    for path in (directory / "checkpoints").iterdir():
        rewrite_checkpoint(path, iterations=10**9)


def other_sizes(directory):
    rewrite_config(directory, {"num_envs": 3, "steps": 300})


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (spoil_rows, {}, "metrics.csv, line 2, is no row"),
        (spoil_rows_before_a_checkpoint, {}, "metrics.csv, line 2, is no row"),
        (spoil_weights, {}, "numbers that are not finite"),
        (spoil_iterations, {}, "its iterations is 1000000000"),
        (link_checkpoints, {}, "checkpoints is a link to .*elsewhere, and nothing is written"),
        (link_video, {}, "video is a link to"),
        (other_sizes, {"steps": 600}, "which must be"),
        (None, {"steps": 10**16}, "steps is .*; it must be at most"),
        (None, {"steps": 50}, "has a budget of 100 already"),
        (None, {"steps": None}, "complete at 100 steps; give --steps"),
        (None, {"dataset": "none.npz"}, "this run reads none; leave it out"),
        (None, {"algorithm": etude.DQN}, "this run's algorithm is q-learning, not .*DQN"),
        (
            None,
            {"algorithm": etude.QLearning(learning_rate=0.5, discount=0.9)},
            "learning_rate is 0.1 in the run and 0.5 here; discount is 0.99 in the run and 0.9 "
            "here. Give the class alone, or start a new run",
        ),
    ],
    ids=[
        *(
            "rows",
            "rows alone",
            "weights",
            "metadata",
            "checkpoints linked",
            "video linked",
            "other copies",
        ),
        *("too many steps", "fewer steps", "complete", "dataset", "algorithm", "values"),
    ],
)
def test_a_refused_resume_changes_nothing(tmp_path, spoil, options, message):
    directory = finished(tmp_path / "run").directory
    if spoil is not None:
        spoil(directory)
    before = bytes_of(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        etude.resume(directory, progress=False, **{"steps": 200} | options)
    assert bytes_of(tmp_path) == before


def test_no_video_is_written_through_a_link(tmp_path):
    run = finished(tmp_path / "run")
    link_video(run.directory)
    before = bytes_of(tmp_path)
    with pytest.raises(InvalidInput, match="video is a link to"):
        record_video(run, run.directory / "video")
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("given", [etude.QLearning, etude.QLearning()], ids=["class", "values"])
def test_the_algorithm_of_the_run_is_taken(tmp_path, given):
    directory = finished(tmp_path / "run").directory
    assert etude.load(directory, algorithm=given).settings.algorithm == etude.QLearning()


def test_a_larger_budget_keeps_where_the_run_began_and_says_that_it_was_elsewhere(tmp_path):
    directory = finished(tmp_path / "run").directory
    began = {
        "versions": read_config(directory)["versions"] | {"jax": "0.0.1"},
        "machine": read_config(directory)["machine"] | {"cores": 77},
        "threads": 77,
    }
    rewrite_config(directory, began)
    with (
        mock.patch("etude.runs.train.run_training"),
        mock.patch("etude.runs.display.NullDisplay.warn") as warn,
    ):
        for steps in (200, 300):
            etude.resume(directory, steps, progress=False)
            ((said,), _) = warn.call_args
            assert "this run began elsewhere" in said
            assert "jax 0.0.1 is now" in said and "threads 77 is now" in said
            config = read_config(directory)
            assert config["steps"] == steps and config | began == config
    assert warn.call_count == 2


def failing(rows, checkpoint):
    """Training that has written so much when it fails."""

    def run_training(run, *_):
        (job,) = run.jobs
        with MetricsWriter(job.metrics_path) as writer:
            for step in range(rows):
                writer.append({"step": step})
        (run.directory / "seed_0").mkdir()
        if checkpoint:
            (run.directory / "checkpoints" / "step_1").mkdir(parents=True)
        raise EnvironmentFault("the robot fell over")

    return mock.patch("etude.runs.train.run_training", run_training)


@pytest.mark.parametrize("exists", [False, True], ids=["made", "given"])
@pytest.mark.parametrize(
    ("rows", "checkpoint"), [(0, False), (1, False), (0, True)], ids=["nothing", "row", "saved"]
)
def test_a_run_that_fails_is_kept_where_it_has_begun(tmp_path, exists, rows, checkpoint):
    if exists:
        (tmp_path / "run").mkdir()
    before = bytes_of(tmp_path)
    with failing(rows, checkpoint), pytest.raises(EnvironmentFault, match="the robot fell over"):
        etude.train(
            etude.QLearning(), "FrozenLake-v1", steps=100, out=tmp_path / "run", progress=False
        )
    if rows or checkpoint:
        assert etude.load(tmp_path / "run") and not (tmp_path / "run" / "writer.lock").exists()
    else:
        assert bytes_of(tmp_path) == before


class Failing(gymnasium.Env):
    """Raises an error in its first step."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        raise ValueError("the robot fell over")


@pytest.mark.system
@pytest.mark.parametrize("seeds", [1, 2])
def test_an_environment_that_fails_at_once_leaves_nothing(tmp_path, seeds):
    with pytest.raises((EnvironmentFault, RuntimeError), match="the robot fell over"):
        etude.train(
            *(etude.QLearning(), Failing),
            **{"steps": 100, "seeds": seeds, "out": tmp_path / "run", "progress": False},
        )
    assert not [*tmp_path.iterdir()]


def test_a_run_that_is_stopped_before_it_begins_is_kept(tmp_path):
    with (
        mock.patch("etude.runs.train.run_training", side_effect=Interrupted("stopped")),
        pytest.raises(Interrupted),
    ):
        etude.train(
            etude.QLearning(), "FrozenLake-v1", steps=100, out=tmp_path / "run", progress=False
        )
    assert os.listdir(tmp_path / "run") == ["config.json"]


# Seeds and numbers of episodes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"seed": 2**32}, "seed is 4294967296; it must be at most 4,294,967,295"),
        ({"seed": 2**64}, "seed is a whole number of more than 18 digits; it must be at most"),
        ({"episodes": 0}, "episodes is 0; it must be a whole number of at least 1"),
        ({"episodes": -3}, "episodes is -3; it must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_an_evaluation_is_of_some_episodes_and_a_seed_that_there_is(tmp_path, words, message):
    directory = finished(tmp_path / "run").directory
    with pytest.raises(InvalidInput, match=message):
        etude.load(directory).evaluate(**words)
    flags = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    for command in ("evaluate", "watch"):
        done = here(command, "run", *flags, cwd=tmp_path)
        said = message if words != {"seed": 2**64} else "--seed is '18446744073709551616'"
        assert done.returncode == 2 and said in " ".join(done.stderr.split())
    assert not (directory / "evaluation.json").exists()
