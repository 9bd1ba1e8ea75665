"""What lies in a run directory is not believed: it loads as it was written, or is refused, or what
is passed over is said."""

import dataclasses
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest
from records import begun, finished, rewrite_checkpoint, rewrite_config

import etude
from etude.errors import Diverged, InvalidInput
from etude.runs import job_checkpoints
from etude.runs.config import read_config
from etude.runs.display import NullDisplay
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import open_job, train_job
from etude.runs.periodic_evaluation import PeriodicEvaluation
from etude.runs.stopping import EvaluationRecord
from etude.runs.train import larger_budget
from etude.storage import metrics_csv
from etude.storage.files import CorruptFile

NEVER_READ = {"learning_curve.png"}


RECORD = dataclasses.asdict(EvaluationRecord(best_step=100, best_mean=1.0))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished run, and all that can be had from it."""
    directory = finished(tmp_path_factory.mktemp("sound") / "run").directory
    return directory, contents(directory, [])


@pytest.fixture
def run(sound, tmp_path):
    return Path(shutil.copytree(sound[0], tmp_path / "run"))


def contents(directory, said):
    """All that a run's files say, as bytes or text; what is passed over is said."""
    loaded = etude.load(directory)
    states = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loaded.states(said.append))]
    settings = {**vars(loaded.settings), "source": loaded.settings.source.name}
    metrics = {name: column.tobytes() for name, column in loaded.metrics.items()}
    return repr(settings), states, metrics, loaded.summary


def assert_not_another(directory, expected):
    """Nothing of the run loads as something else, unless it is said."""
    said = []
    try:
        found = contents(directory, said)
    except InvalidInput:
        return
    assert said or found == expected


# Bits and cuts


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    "share", [pytest.param(0.03, id="some"), pytest.param(1, id="all", marks=pytest.mark.system)]
)
def test_no_bit_of_config_json_can_flip(run, share):
    path = run / "config.json"
    data, rng = path.read_bytes(), np.random.default_rng(0)
    count = round(share * 8 * len(data))
    for bit in rng.choice(8 * len(data), count, replace=False):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(CorruptFile):
            read_config(run)
    path.write_bytes(data)
    assert count >= 290 and read_config(run)["seed"] == 0


@pytest.mark.parametrize(
    ("flips", "cuts"), [(18, 9), pytest.param(300, 100, marks=pytest.mark.system)]
)
def test_no_damage_to_any_file_makes_another_run(sound, run, flips, cuts):
    rng, paths = np.random.default_rng(flips), sorted(x for x in run.rglob("*") if x.is_file())
    assert len(paths) == 9  # two checkpoints of three files, config, metrics and summary
    for i in range(flips + cuts):
        path = paths[i % len(paths)]
        data = path.read_bytes()
        bit = int(rng.integers(8 * len(data)))
        path.write_bytes(data[: bit // 8] if i < cuts else flipped(data, bit))
        assert_not_another(run, sound[1])
        path.write_bytes(data)
    assert contents(run, []) == sound[1]


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.csv", "checkpoints"])
def test_a_file_that_is_gone_is_missed(sound, run, name):
    (run / name).rename(run.with_name(name))
    with pytest.raises(InvalidInput):
        contents(run, [])


# config.json


def test_a_change_by_hand_is_said_to_be_one(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"learning_rate": 0.1', '"learning_rate": 0.2'))
    with pytest.raises(CorruptFile, match=r"config.json was changed by hand, or is damaged"):
        etude.load(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, and this etude reads 5"),
        ({"sedes": 1}, "unknown key 'sedes': did you mean seeds?"),
        ({"seeds": ...}, "no key 'seeds'"),
        ({"versions": 3}, "gives versions as 3, which is no object"),
        ({"row_every": 0}, "row_every is 0; it must be a whole number of at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; it must be .* at least 1"),
        ({"row_every": 2, "checkpoint_every": 3}, "must be a multiple of row_every, 2"),
        ({"seeds": 10**9}, "seeds is 1000000000; it must be at most 65,536"),
        ({"num_envs": 10**9}, "num_envs is 1000000000; it must be at most 1,048,576"),
        ({"steps": 10**4000}, "steps is a whole number of more than 18 digits; it must be at most"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"frame_stack": 10**6}, "frame_stack is 1000000; it must be at most 1,024"),
        ({"initial": {"policy": 3}}, "config.json is not that of a run"),
    ],
    ids=str,
)
def test_settings_of_no_run_are_refused_by_name(run, change, message):
    rewrite_config(run, change)
    with pytest.raises(InvalidInput, match=message) as error:
        etude.load(run)
    assert len(str(error.value)) < 300


def test_sizes_beyond_any_memory_are_refused_before_any_is_taken(tmp_path):
    run = begun(tmp_path / "run", etude.DQN(capacity=1000), steps=2000)
    hyperparameters = read_config(run.directory)["hyperparameters"]
    for value in (10**15, 10**4000):
        rewrite_config(run.directory, {"hyperparameters": hyperparameters | {"capacity": value}})
        with pytest.raises(InvalidInput, match="capacity is .*; it must be at most 2,147,483,647"):
            etude.load(run.directory)


# Checkpoints


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 10**9}, "its iterations is 1000000000, which must be .* from 1 to 100"),
        ({"iterations": -5}, "its iterations is -5"),
        ({"iterations": "100"}, "its iterations is '100'"),
        ({"iterations": None}, "its iterations is None"),
        ({"iterations": ...}, "its iterations is None"),
        ({"iterations": True}, "its iterations is True"),
        ({"iterations": 99}, "its steps is 100, which must be 99"),
        ({"steps": 100.0}, "its steps is 100.0"),
        ({"seeds": [1]}, r"its seeds is \[1\], which must be \[0\]"),
        ({"seconds": "long"}, "its seconds is 'long'"),
        ({"compile_seconds": -1}, "its compile_seconds is -1"),
        ({"metrics": ...}, "its metrics is None"),
    ],
    ids=str,
)
def test_what_a_checkpoint_says_of_itself_is_checked(run, change, message):
    """It is passed over; where it is the only one, nothing is left to load."""
    rewrite_checkpoint(run / "checkpoints" / "step_100", **change)
    said = []
    etude.load(run).states(said.append)
    assert len(said) == 1 and "step_100" in said[0]
    shutil.rmtree(run / "checkpoints" / "step_50")
    with pytest.raises(CorruptFile, match=message):
        etude.load(run).states()


def test_a_folder_of_a_later_step_is_passed_over(run):
    shutil.copytree(run / "checkpoints" / "step_50", run / "checkpoints" / "step_999999")
    said = []
    assert contents(run, said) and len(said) == 1
    assert "step_999999 holds the checkpoint of step 50" in said[0]


def test_a_folder_of_another_step_with_a_manifest_that_fits_is_refused(run):
    (run / "checkpoints" / "step_50").rename(run / "checkpoints" / "step_999999")
    rewrite_checkpoint(run / "checkpoints" / "step_999999")
    with pytest.raises(CorruptFile, match="step_999999 says of itself that it is of step 50"):
        etude.load(run).states()


@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=str)
def test_weights_that_are_not_finite_are_refused_by_name(run, value):
    def spoil(arrays):
        name = next(x for x in arrays if "algorithm_state" in x and x.endswith(".q"))
        return arrays | {name: np.full_like(arrays[name], value)}

    rewrite_checkpoint(run / "checkpoints" / "step_100", spoil)
    with pytest.raises(CorruptFile, match="step_100 holds numbers that are not finite, at .q"):
        etude.load(run).evaluate(1)


# metrics.csv


def without_rows(lines):
    return lines[:1]


def altered(lines):
    return [*lines[:-1], lines[-1][:-2] + ("1" if lines[-1][-2] != "1" else "2") + "\n"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_rows, "it has 0 of the 2 rows"),
        (lambda lines: lines[:-1], "it has 1 of the 2 rows"),
        (altered, "its rows are not those"),
        (lambda lines: [lines[0], *reversed(lines[1:])], "its rows are not those"),
        (lambda lines: [lines[0].replace("loss", "lost"), *lines[1:]], "its rows are not those"),
        (lambda lines: None, "it has 0 of the 2 rows"),
    ],
    ids=["all lost", "the last lost", "altered", "another order", "another header", "gone"],
)
def test_rows_that_were_lost_or_altered_are_told(run, change, words):
    path = run / "metrics.csv"
    lines = change(path.read_text().splitlines(keepends=True))
    path.unlink() if lines is None else path.write_text("".join(lines))
    with pytest.raises(CorruptFile, match=f"metrics.csv was changed: {words}"):
        _ = etude.load(run).metrics
    settings, said = etude.load(run).settings, []
    (only,) = etude.load(run).jobs
    # resumed, it says so once, and goes on
    assert next(train_job(settings, only, InterruptHandler(), said.append)).steps == 100
    (warning,) = (text for text in said if "metrics.csv" in text)
    assert words in warning


def test_the_row_that_a_signal_cut_off_is_not_yet_counted(run):
    """Its evaluation was cut off: the row is written by the session that resumes."""
    with open(run / "metrics.csv", "a") as file:
        file.write("100,1,1.5\n")
    with pytest.raises(CorruptFile, match="it has 3 of the 2 rows"):
        _ = etude.load(run).metrics
    known = metrics_csv.measure_rows(run / "metrics.csv", 99)
    assert known["rows"] == 1
    rewrite_checkpoint(run / "checkpoints" / "step_100", unfinished_row=True, metrics=known)
    assert len(etude.load(run).metrics["step"]) == 3


@pytest.mark.parametrize("change", [{"iterations": 10**9}, {"steps": 50}], ids=str)
def test_the_best_checkpoint_is_not_believed_either(run, change):
    best, newest = run / "checkpoints" / "best", run / "checkpoints" / "step_100"
    rewrite_checkpoint(newest, evaluations=[RECORD])
    shutil.copytree(newest, best / "step_100")
    settings = etude.load(run).settings
    environment = settings.outline()
    (only,) = etude.load(run).jobs
    _, metadata = job_checkpoints.restore_best(settings, only, 0, environment, pytest.fail)
    assert metadata["steps"] == 100
    rewrite_checkpoint(best / "step_100", **change)
    with pytest.raises(CorruptFile, match=f"its {next(iter(change))} is"):
        job_checkpoints.restore_best(settings, only, 0, environment, lambda text: None)


def test_a_best_checkpoint_that_another_evaluation_chose_is_refused(run):
    """As where an older checkpoint was gone on from, and what followed was another run."""
    best, newest = run / "checkpoints" / "best", run / "checkpoints" / "step_100"
    rewrite_checkpoint(newest, evaluations=[RECORD])
    shutil.copytree(newest, best / "step_100")
    rewrite_checkpoint(newest, evaluations=[RECORD | {"best_step": 50}])
    settings = etude.load(run).settings
    (only,) = etude.load(run).jobs
    with pytest.raises(CorruptFile, match="of step 100, and the best evaluation of seed 0 was at"):
        job_checkpoints.restore_best(settings, only, 0, settings.outline(), pytest.fail)


def test_a_run_with_a_damaged_best_checkpoint_is_complete_without_it(tmp_path):
    run = begun(tmp_path / "run", iterations=(50, 100), evaluate_every=50)
    newest = run.directory / "checkpoints" / "step_100"
    rewrite_checkpoint(newest, evaluations=[RECORD])
    best = run.directory / "checkpoints" / "best" / "step_100"
    shutil.copytree(newest, best)
    assert {*run._final_evaluations(NullDisplay(), InterruptHandler())} == {
        "evaluation",
        "evaluation_best",
    }
    (best / "arrays.safetensors").write_bytes(b"damaged")
    with mock.patch.object(NullDisplay, "warn") as warn:
        assert {*run._final_evaluations(NullDisplay(), InterruptHandler())} == {"evaluation"}
    assert "the best checkpoint is not evaluated" in str(warn.call_args_list)


def test_a_checkpoint_that_is_being_replaced_is_one(run):
    checkpoints = run / "checkpoints"
    for path in checkpoints.iterdir():
        if path.name == "step_100":
            path.rename(checkpoints / ".replaced_step_100")
        else:
            shutil.rmtree(path)
    loaded = etude.load(run)
    (only,) = loaded.jobs
    assert job_checkpoints.has_checkpoint(only) and len(loaded.states()) == 1


def test_a_run_whose_rows_are_lost_at_its_end_has_no_curve_and_is_complete(run):
    (run / "metrics.csv").unlink()
    loaded = etude.load(run)
    assert loaded.draw_learning_curve(None) is None and loaded._training_returns() == {}
    (run / "metrics.csv").write_text("step,seed,episodes,episode_return\n")
    assert loaded.draw_learning_curve(None) is None


def test_a_row_that_ended_at_a_checkpoint_is_not_counted_on(run):
    """With a larger budget, which does not end where rows do."""
    newest = run / "checkpoints" / "step_100"
    rewrite_checkpoint(newest, ended_row=True)
    settings = etude.load(run).settings
    (only,) = etude.load(run).jobs
    environment, train_state, _ = open_job(settings, only, lambda text: None)
    environment.close()
    assert train_state is not None
    sums = jax.tree.leaves(train_state.metric_sums)
    assert all((np.asarray(leaf) == 0).all() for leaf in sums)


def test_a_mean_return_that_is_no_number_is_never_the_best():
    evaluations = PeriodicEvaluation.__new__(PeriodicEvaluation)
    evaluations.seeds, evaluations.records = (3,), [EvaluationRecord()]
    evaluations.settings = SimpleNamespace(until=None, patience=None)
    with pytest.raises(Diverged, match="the mean return of an evaluation of seed 3 is nan"):
        evaluations.record(10, [math.nan])


@pytest.mark.parametrize(
    ("iterations", "kept"),
    [((50,), "the checkpoint of step 50 is kept"), ((), "there is no checkpoint")],
)
def test_a_run_that_diverges_says_what_is_kept(tmp_path, iterations, kept):
    run = begun(tmp_path / "run", iterations=iterations)
    (job,) = run.jobs

    def diverging(*arguments, **options):
        raise Diverged("q_loss stopped being finite")
        yield

    with mock.patch("etude.runs.job.progress", diverging):
        events = train_job(run.settings, job, InterruptHandler(), lambda text: None)
        with pytest.raises(Diverged, match=f"q_loss stopped being finite; {kept}"):
            list(events)


def test_a_run_that_stopped_early_goes_on_also_before_it_was_evaluated(tmp_path):
    """A kill came between its training and its evaluation."""
    options = {"evaluate_every": 50, "patience": 1, "steps": 1000}
    run = begun(tmp_path / "stopped", iterations=(100,), **options)
    newest = run.directory / "checkpoints" / "step_100"
    rewrite_checkpoint(newest, evaluations=[RECORD | {"rule": "patience", "rule_step": 100}])
    with pytest.raises(InvalidInput, match="stopped early, at 100, so give more than that"):
        larger_budget(run, 100)
    assert larger_budget(run, 500).patience is None
    rewrite_checkpoint(newest, evaluations=[RECORD])
    assert larger_budget(run, 2000).patience == 1


def test_rows_beyond_the_checkpoint_may_be_there(sound, run):
    with open(run / "metrics.csv", "a") as file:
        file.write("1000,0,1.5\n")
    assert len(etude.load(run).metrics["step"]) == 3
