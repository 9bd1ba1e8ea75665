"""Runs that learn from a dataset and do not play."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import here, programs_kept

import etude
from etude.environments import make
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.options import RunOptions
from etude.runs.outside import open_dataset
from etude.runs.run import create_run, resolve_settings

SMALL = dict(hidden=(4,), batch_size=4, gradient_steps=5, target_interval=5)
QUICK = dict(steps=100, evaluation_episodes=1, progress=False)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def episodes_of_cart_pole(lengths, seed=0):
    """The arrays of an .npz file with random episodes, as numpy.savez takes them."""
    rng = np.random.default_rng(seed)
    steps, ends = sum(lengths), np.cumsum(lengths) - 1
    terminations = np.zeros(steps, bool)
    terminations[ends] = True
    return dict(
        observations=np.float32(rng.uniform(-0.1, 0.1, size=(steps + len(lengths), 4))),
        actions=rng.integers(2, size=steps),
        rewards=np.ones(steps),
        terminations=terminations,
        truncations=np.zeros(steps, bool),
        episode_lengths=np.array(lengths),
        environment_id="CartPole-v1",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **episodes_of_cart_pole([7, 5, 8]))
    return path


def settings_of(algorithm=None, environment="CartPole-v1", **options):
    algorithm = algorithm or etude.FittedQ(**SMALL)
    options = dict(steps=100, evaluation_episodes=1) | options
    return resolve_settings(algorithm, environment, RunOptions(**options))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of two seeds, trained from a copy of the data that is gone."""
    directory = tmp_path_factory.mktemp("runs")
    path = directory / "copy.npz"
    shutil.copy(data, path)
    run = etude.train(
        etude.FittedQ(**SMALL), "CartPole-v1", dataset=path, seeds=2, **QUICK, out=directory / "run"
    )
    path.unlink()
    return run


def test_it_does_not_play_and_its_files_say_so(run, data):
    config = json.loads((run.directory / "config.json").read_text())
    assert config["hyperparameters"]["plays"] is False and config["backend"] == "none"
    _, record = open_dataset(data, make("CartPole-v1", backend="gymnasium").spec)
    assert config["dataset"] == {
        "path": str(run.directory.parent / "copy.npz"),
        "sha256": record.sha256,
        "steps": 20,
        "episodes": 3,
        "environment": "CartPole-v1",
    }
    assert run.metrics.keys() == {"step", "seed", "updates", "q_loss", "q_value"}
    np.testing.assert_array_equal(run.metrics["step"][::2], np.arange(5, 101, 5))
    assert run.summary["unit"] == "gradient steps" and run.summary["steps"] == 100
    assert (run.directory / "learning_curve.png").exists()


def test_what_acts_needs_no_dataset(run):
    """It is evaluated after its file is gone."""
    loaded = etude.load(run.directory)
    assert len(loaded.evaluate(2)["returns"]) == 2
    with pytest.raises(etude.InvalidInput, match="copy.npz, which is not there; say with --datas"):
        etude.resume(run.directory, steps=200, progress=False)


@pytest.mark.slow
def test_it_is_resumed_bit_for_bit_from_a_dataset_that_moved(data, tmp_path):
    whole, cut = (
        create_run(settings_of(seeds=2, dataset=data), tmp_path / name) for name in ("whole", "cut")
    )
    for _ in train_job(whole.settings, *whole.jobs, InterruptHandler(), pytest.fail):
        pass
    for event in train_job(cut.settings, *cut.jobs, InterruptHandler(), pytest.fail):
        if event.steps > 40:
            break
    shutil.move(shutil.copy(data, tmp_path / "copy.npz"), tmp_path / "moved.npz")
    resumed = etude.resume(cut.directory, dataset=tmp_path / "moved.npz", progress=False)
    for one, other in zip(resumed.states(), whole.states(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_another_dataset_is_refused_at_a_resume(data, tmp_path):
    other, changed = tmp_path / "other.npz", tmp_path / "changed.npz"
    np.savez(other, **episodes_of_cart_pole([7, 5, 8], seed=1))
    np.savez(changed, **episodes_of_cart_pole([7, 5, 9]))
    run = create_run(settings_of(dataset=data), tmp_path / "run")
    for path, steps in ((other, 20), (changed, 21)):
        with pytest.raises(
            etude.InvalidInput,
            match=rf"data.npz with the hash [0-9a-f]{{12}} \(20 steps\), and .*{path.name} has "
            rf"[0-9a-f]{{12}} \({steps} steps\); give the one that it began with",
        ):
            etude.resume(run.directory, dataset=path, progress=False)


def test_a_dataset_at_hand_is_wanted_again(data, tmp_path):
    spec = make("CartPole-v1", backend="gymnasium").spec
    dataset, _ = open_dataset(data, spec)
    run = create_run(settings_of(dataset=dataset), tmp_path / "run")
    with pytest.raises(etude.InvalidInput, match=r"as an object.*resume\(path, dataset=...\)"):
        etude.resume(run.directory, progress=False)
    resumed = etude.resume(run.directory, dataset=dataset, progress=False)
    assert resumed.summary["steps"] == 100
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(dataset))


def test_a_run_that_reads_none_takes_none(data, tmp_path):
    run = create_run(settings_of(etude.DQN(**SMALL), num_envs=1), tmp_path / "run")
    with pytest.raises(etude.InvalidInput, match="data.npz, and this run reads none; leave it out"):
        etude.resume(run.directory, dataset=data, progress=False)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (etude.PPO(), {}, "data.npz, and ppo reads none; .* that does: dqn, online-q, fitted"),
        (None, {"workers": 2}, "workers is 2, and dqn does not play here"),
        (None, {"backend": "jax"}, "backend is 'jax', and dqn does not play here"),
        (None, {"num_envs": 4}, "num_envs is 4, and dqn does not play here"),
        (None, {"steps": 4}, r"steps is 4, less than one iteration of 5 \(gradient steps of an"),
        (None, {"frame_stack": 2}, r"observations has the shape .*should be \(23, 2, 4\)"),
        (None, {"dataset": "no.npz"}, "no.npz cannot be read"),
        (None, {"dataset": 3}, "dataset is 3; give the path of an .npz file"),
        (etude.FittedQ(plays=False), {"dataset": None}, "fitted-q needs a dataset here.*--plays"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(data, algorithm, options, message):
    with pytest.raises(etude.InvalidInput, match=message):
        settings_of(algorithm, **{"dataset": data} | options)


def test_the_spaces_and_numbers_of_the_file_are_checked(data, tmp_path):
    with pytest.raises(etude.InvalidInput, match=r"data.npz: observations has the shape \(23, 4\)"):
        settings_of(environment="Acrobot-v1", dataset=data)
    arrays = episodes_of_cart_pole([3, 2])
    arrays["rewards"][4] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(etude.InvalidInput, match="episode 1, step 1: rewards is nan"):
        settings_of(dataset=tmp_path / "nan.npz")


def test_the_command_line_says_what_it_does(data, tmp_path):
    words = f"train fitted-q CartPole-v1 --dataset {data} --hidden 4 --gradient-steps 5 --steps 20"
    done = here(*f"{words} --evaluation-episodes 1 --out run".split(), cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "does not play · seed 0 · 20 gradient steps" in said
    assert f"dataset {data}: 3 episodes, 20 steps, recorded in CartPole-v1" in said
    assert "20/20 gradient steps" in said and "return –" not in said
    assert "gradient steps of each seed" in said
    for extra, message in (
        ("--plays", "fitted-q plays or learns from a dataset; leave out --plays, or --dataset"),
        ("--no-plays", None),
    ):
        done = here(
            *f"{words} {extra} --evaluation-episodes 1 --out {extra[2:]}".split(), cwd=tmp_path
        )
        assert done.returncode == (2 if message else 0) and (message or "") in done.stderr
    assert not (tmp_path / "plays").exists()
