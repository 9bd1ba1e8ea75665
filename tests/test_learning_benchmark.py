"""The measurement of returns goes on from its tracked file, seed by seed."""

import json
import multiprocessing
import os
import signal
import threading
from types import SimpleNamespace

import families
import learning
import learning_experts
import learning_page
import learning_pool
import learning_results
import learning_runs
import numpy as np
import pytest
import report
from learning_pool import FAILED, RESULT, STOPPED, outcome_of, run_jobs
from learning_rows import (
    Row,
    Shown,
    all_rows,
    distance_at_most,
    interval_above,
    interval_reaches,
    iqm_at_least,
    share_of_expert_at_least,
    share_of_expert_at_most,
)
from learning_runs import Job, Plan

import etude
from etude.data.dataset import make_dataset, to_recorded_arrays
from etude.reporting.statistics import bootstrap_interval
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.spaces import Box, Discrete, EnvironmentSpec

ROW = Row("a2c", "CartPole-v1", iqm_at_least(2.5))
SCORES = [1.0, 2.0, 4.0, 9.0]


def plan(in_one_program=False, **settings):
    return Plan(ROW._replace(goal=None), None, 100, {"steps": 100, **settings}, in_one_program)


def result_of(seed):
    return {
        "mean": SCORES[seed],
        "std": 0.5,
        "success": None,
        "episodes": 100,
        "backend": "gymnasium",
        "steps": 100,
        "seconds": 8.0,
        "resumed": False,
        "measured": f"2026-01-0{seed + 1} 12:00",
        "versions": "etude 1",
        "machine": "1 core",
        "reached": None,
    }


class Killed(BaseException):
    """An end that nothing is prepared for."""


@pytest.fixture
def measurement(tmp_path, monkeypatch):
    """Measures in `directory` with jobs that train at once, and notes each job as it begins."""
    begun, kill_at = [], []

    def start_process(train, job, core):
        seeds = [*job.seeds]
        if seeds[0] in kill_at:
            raise Killed
        stored = learning_results.read(tmp_path)[ROW.name]["seeds"]
        begun.append((seeds, {int(seed): stored[seed]["mean"] for seed in stored}))
        receiver, sender = multiprocessing.Pipe(duplex=False)
        sender.send(outcome_of(train, job))
        sender.close()
        return receiver, SimpleNamespace(exitcode=0, join=lambda: None)

    monkeypatch.setattr(learning_pool, "start_process", start_process)

    def measure(*plans, train=lambda job: {i: result_of(i) for i in job.seeds}, seeds=4):
        begun.clear()
        return learning.measure(
            plans, seeds, tmp_path, tmp_path / "runs", {ROW.name: ROW}, train, cores=[None]
        )

    return SimpleNamespace(measure=measure, begun=begun, kill_at=kill_at, directory=tmp_path)


def page(measurement):
    rows = (measurement.directory / "learning.md").read_text().splitlines()
    (row,) = [line for line in rows if line.startswith("| a2c")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def cell(measurement, heading):
    return page(measurement)[learning_page.HEADINGS.index(heading)]


def test_each_seed_is_on_disk_before_the_next_begins(measurement):
    assert measurement.measure(plan())
    known = [{i: SCORES[i] for i in range(seed)} for seed in range(4)]
    assert measurement.begun == [([seed], known[seed]) for seed in range(4)]


def test_a_killed_measurement_goes_on_from_the_tracked_file(measurement):
    """Without the directory of runs, as on another machine."""
    measurement.kill_at.append(2)
    with pytest.raises(Killed):
        measurement.measure(plan())
    assert cell(measurement, "seeds") == "2 of 4"
    assert cell(measurement, "each seed") == "1.0, 2.0"
    assert cell(measurement, "met") == "–"  # a bar is for all seeds
    measurement.kill_at.clear()
    assert measurement.measure(plan())
    assert [seeds for seeds, _ in measurement.begun] == [[2], [3]]
    assert cell(measurement, "seeds") == "4"
    assert measurement.measure(plan()) and not measurement.begun


def test_figures_of_a_row_are_computed_from_its_seeds(measurement):
    measurement.measure(plan())
    low, high = bootstrap_interval([[score] for score in SCORES])
    assert cell(measurement, "IQM") == "3.0"  # of the middle two
    assert cell(measurement, "95 % interval") == f"{low:.1f} to {high:.1f}"
    assert cell(measurement, "met") == "yes"
    assert cell(measurement, "s a seed") == "8"
    assert cell(measurement, "measured") == "2026-01-04 12:00"


def test_seeds_of_other_settings_are_measured_anew(measurement):
    measurement.measure(plan(learning_rate=0.1))
    measurement.kill_at.append(0)
    with pytest.raises(Killed):
        measurement.measure(plan(learning_rate=0.2))
    assert cell(measurement, "seeds") == "4, of an earlier version"
    measurement.kill_at[:] = [1]
    with pytest.raises(Killed):
        measurement.measure(plan(learning_rate=0.2))
    assert cell(measurement, "seeds") == "1 of 4"
    measurement.kill_at.clear()
    measurement.measure(plan(learning_rate=0.2))
    assert [seeds for seeds, _ in measurement.begun] == [[1], [2], [3]]
    (settings,) = learning_results.read(measurement.directory)[ROW.name]["settings"].values()
    assert settings == {"steps": 100, "learning_rate": 0.2}


def test_a_row_is_measured_again_when_asked(measurement):
    runs = measurement.directory / "runs"
    measurement.measure(plan())
    run = runs / ROW.name / "digest/seeds-0"
    run.mkdir(parents=True)
    learning.forget(ROW.name, measurement.directory, runs, {ROW.name: ROW})
    assert not run.exists()
    assert cell(measurement, "seeds") == "4, of an earlier version"
    measurement.measure(plan())
    assert [seeds for seeds, _ in measurement.begun] == [[0], [1], [2], [3]]


def test_more_seeds_add_to_those_that_are_there(measurement):
    measurement.measure(plan(), seeds=2)
    measurement.measure(plan(in_one_program=True), seeds=4)
    assert [seeds for seeds, _ in measurement.begun] == [[2, 3]]
    assert cell(measurement, "each seed") == "1.0, 2.0, 4.0, 9.0"


def test_a_seed_that_fails_leaves_the_others(measurement):
    def train(job):
        if 1 in job.seeds:
            raise ValueError("no luck")
        return {i: result_of(i) for i in job.seeds}

    assert not measurement.measure(plan(), train=train)
    assert cell(measurement, "each seed") == "1.0, 4.0, 9.0"
    assert cell(measurement, "seeds") == "3 of 4"


@pytest.mark.parametrize(
    "in_one_program, groups",
    [(True, [[0, 1], [3]]), (False, [[0], [1], [3]])],
    ids=["jax", "others"],
)
def test_runs_are_programs(tmp_path, in_one_program, groups):
    jobs = learning_runs.jobs_for(plan(in_one_program), [0, 1, 3], tmp_path)
    assert [[*job.seeds] for job in jobs] == groups
    assert len({job.directory for job in jobs}) == len(groups)


def test_goals_beside_other_rows_wait_for_all_of_their_seeds():
    summary = lambda low, high, complete=True: {"ci95": [low, high], "complete": complete}
    above, reaches = interval_above("peer"), interval_reaches("peer")
    rows = {"peer": summary(2, 4)}
    assert [above.met(summary(*ci), rows) for ci in [(5, 6), (3, 6), (0, 1)]] == [1, 0, 0]
    assert [reaches.met(summary(*ci), rows) for ci in [(5, 6), (1, 3), (0, 1)]] == [1, 1, 0]
    assert above.met(summary(5, 6), {}) is None
    assert reaches.met(summary(5, 6), {"peer": summary(2, 4, complete=False)}) is None


def test_distances_of_the_seeds_are_told_and_judged_where_they_are_known():
    seeds = {str(i): result_of(i) | {"settings": "a", "distance": i / 10} for i in range(4)}
    result = {"seeds": seeds, "current": "a", "num_seeds": 4}
    summary = learning_results.summarize(result)
    assert summary["distance"]["iqm"] == pytest.approx(0.15)
    assert distance_at_most(0.16).met(summary, {}) and not distance_at_most(0.14).met(summary, {})
    text = learning_page.success_text(summary["success"], summary["distance"])
    assert text.startswith("distance 0.150 (0.")
    del seeds["2"]["distance"]
    assert learning_results.summarize(result)["distance"] is None


def test_every_result_is_of_a_row():
    """So that it is reused, and has its goal on the page, where a row has another name."""
    assert {*learning_results.read(report.RESULTS)} <= {*all_rows()}


def test_time_to_threshold_of_each_seed():
    metrics = {
        "seed": np.array([7, 7, 7, 8, 8, 8]),
        "step": np.array([10, 20, 30, 10, 20, 30]),
        "updates": np.array([0, 2, 2, 0, 2, 2]),
        "episode_return": np.array([0.0, 450.0, 300.0, 0.0, np.nan, 399.0]),
    }
    assert families.time_to_threshold("CartPole-v1", metrics, 6.0) == [
        {"steps": 20, "seconds": 3.0, "stays": 0.5},
        None,
    ]
    nothing_learned = {**metrics, "updates": np.zeros(6)}  # as of a planner on the true model
    first, _ = families.time_to_threshold("CartPole-v1", nothing_learned, 6.0)
    assert first == {"steps": 20, "seconds": pytest.approx(4), "stays": 0.5}
    del metrics["episode_return"]  # as of cloning, which plays no episodes
    assert families.time_to_threshold("CartPole-v1", metrics, 6.0) == [None, None]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_says_what_it_assumes(name):
    seed = {"reached": {"steps": 2_000, "seconds": 3.0, "stays": 1.0}, "resumed": False}
    _, shown, assumes, seeds, steps, seconds, stays = families.cells(name, [seed])
    assert (shown, seeds, steps, stays) == (name, "1 of 1", "2,000 (2,000–2,000)", "100%")
    assert seconds == "3.0 (3.0–3.0)"
    assert ("known model" in assumes) == (name in ("mpc", "guided-policy-search"))
    assert ("smooth" in assumes) == (name == "guided-policy-search")
    assert ("vector observations" in assumes) == (name in ("pets", "mbmf"))


def test_another_library_is_a_script(tmp_path, monkeypatch):
    """It gets the settings of the preset, a seed and a number of episodes."""
    script = tmp_path / "python"
    printed = '{"returns": [1, 3, 8], "steps": 96, "seconds": 2, "versions": {"peer": "1"}}'
    script.write_text(f"#!/bin/sh\necho \"$2\" > {tmp_path}/given\necho '{printed}'\n")
    script.chmod(0o700)
    monkeypatch.setattr(learning_runs, "PEER_PYTHON", script)
    handler = signal.getsignal(signal.SIGTERM)
    peer = plan(backend="gymnasium")._replace(row=ROW._replace(library="peer", goal=None))
    try:
        result = learning_runs.train_seeds(Job(peer, range(2, 3), tmp_path))[2]
    finally:
        signal.signal(signal.SIGTERM, handler)
    given = json.loads((tmp_path / "given").read_text())
    assert given == {"steps": 100, "backend": "gymnasium", "seed": 2, "episodes": 100}
    assert (result["mean"], result["steps"], result["episodes"]) == (4, 96, 3)
    assert result["std"] == pytest.approx(np.sqrt((9 + 1 + 16) / 2))


def wait_to_be_stopped(job):
    """As training does: finish a chunk after a signal, and say that it is saved."""
    with InterruptHandler() as interrupt:
        job.directory.touch()
        while not interrupt.signal:
            os.sched_yield()
    raise Interrupted("saved")


@pytest.mark.system
def test_an_interrupt_lets_processes_save(tmp_path):
    jobs = [Job(plan(), range(i, i + 1), tmp_path / str(i)) for i in range(3)]

    def interrupt_when_begun():
        while not all(job.directory.exists() for job in jobs[:2]):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_begun, daemon=True).start()
    ended = []
    with pytest.raises(Interrupted):
        ended.extend(run_jobs(jobs, wait_to_be_stopped, [None, None]))
    assert [(kind, words) for _, kind, words in ended] == [(STOPPED, "saved")] * 2
    assert not jobs[2].directory.exists()


def die(job):
    os._exit(3)


@pytest.mark.system
def test_presets_are_measured_in_processes(tmp_path):
    """Two seeds in one program, and what is read of their run; and a process that dies."""
    small = learning_runs.plan_row(Row("a2c", "CartPole-v1"), steps=2_000)
    (job,) = learning_runs.jobs_for(small, [3, 4], tmp_path)
    ((_, kind, results),) = run_jobs([job], learning_runs.train_seeds, [None])
    evaluation = etude.load(job.directory).summary["evaluation"]
    assert kind == RESULT and [*results] == [3, 4]
    assert [results[seed]["mean"] for seed in (3, 4)] == evaluation["per_seed"]
    assert results[4]["std"] == pytest.approx(np.std(evaluation["returns"][1], ddof=1))
    # a run that is complete is read, not trained
    assert outcome_of(learning_runs.train_seeds, job) == (RESULT, results)
    assert [kind for _, kind, _ in run_jobs([job], die, [None])] == [FAILED]


# What imitates


def test_goals_beside_the_expert():
    at_least, at_most = share_of_expert_at_least(0.9), share_of_expert_at_most(0.4)
    for iqm, above, below in ((95.0, True, False), (90.0, True, False), (40.0, False, True)):
        summary = {"iqm": iqm, "expert": 100.0}
        assert (at_least.met(summary, {}), at_most.met(summary, {})) == (above, below)
    assert at_least.text == "≥ 90% of the expert"


def test_an_expert_is_ready_before_the_seeds_of_its_row(measurement):
    """Where seeds are missing; and the page tells its return."""
    ready = []
    expert = SimpleNamespace(prepare=lambda: ready.append(len(measurement.begun)))
    imitates = plan()._replace(expert=expert)
    train = lambda job: {i: result_of(i) | {"expert": 123.4} for i in job.seeds}
    measurement.measure(imitates, train=train)
    measurement.measure(imitates, train=train)
    assert ready == [0]
    assert cell(measurement, "bar") == "IQM ≥ 2.5 (expert 123.4)"


def test_what_an_expert_shows_is_made_once(tmp_path, monkeypatch):
    """As many steps as there are labels, in a place of their own."""
    made = []
    monkeypatch.setattr(learning_experts, "RUNS", tmp_path)
    record = lambda *_, **options: made.append(options)
    monkeypatch.setattr(learning_experts.etude, "record", record)
    monkeypatch.setattr(learning_experts, "episode_returns", lambda _: np.array([1.0, 2.0, 6.0]))
    monkeypatch.setattr(learning_experts, "record_steps", lambda *arguments: arguments)
    monkeypatch.setattr(learning_experts, "first_steps", lambda recorded, count: (*recorded, count))
    write = lambda path, shown: (path.touch(), made.append(shown))
    monkeypatch.setattr(learning_experts.etude, "write_dataset", write)
    row = Row("bc", "LunarLander-v3", shown=Shown("heuristic", labels=150))
    expert = learning_experts.plan_expert(row)
    expert.prepare()
    expert.prepare()
    recorded = ("LunarLander-v3", "heuristic", 150, 0, 0.0, 150)
    assert made == [{"episodes": 100, "progress": False}, recorded]
    assert expert.mean() == 3 and expert.options() == {"dataset": expert.demonstrations}
    noisy = learning_experts.plan_expert(row._replace(shown=row.shown._replace(noise=0.5)))
    assert expert.settings != noisy.settings and expert.demonstrations != noisy.demonstrations
    thinned = learning_experts.plan_expert(row._replace(shown=row.shown._replace(every=20)))
    assert expert.settings != thinned.settings and expert.demonstrations != thinned.demonstrations
    asked = learning_experts.plan_expert(row._replace(shown=Shown("heuristic")))
    assert asked.options() == {"expert": "heuristic"}
    assert asked.directory == noisy.directory == expert.directory


def test_of_an_episode_every_second_step_is_shown():
    spec = EnvironmentSpec(Box((1,)), Discrete(2))
    dataset = make_dataset(
        spec,
        observations=[np.arange(6.0)[:, None]],
        actions=[[0, 1, 0, 1, 1]],
        rewards=[np.ones(5)],
        terminations=[[0, 0, 0, 0, 1]],
        truncations=[np.zeros(5, bool)],
    )
    shown = learning_experts.thin(dataset, 2)
    steps = shown.transitions
    np.testing.assert_array_equal(steps.observation[:, 0], [0, 2, 4])
    np.testing.assert_array_equal(steps.next_observation[:, 0], [1, 3, 5])
    np.testing.assert_array_equal(steps.action, [0, 0, 1])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])
    assert make_dataset(spec, **to_recorded_arrays(shown)).num_episodes == 3
    assert learning_experts.thin(dataset, 1) is dataset


def test_settings_of_what_imitates_are_known_before_its_expert():
    row = all_rows()["bc-first-round-Hopper-v5-1000"]
    planned = learning_runs.plan_row(row)
    assert planned.steps == 1_000 and planned.in_one_program
    assert planned.settings["shown"]["labels"] == 1_000
    assert planned.settings["shown"]["hyperparameters"]["rollout_length"] == 256
    assert planned.settings["hyperparameters"]["gradient_steps"] == 100
