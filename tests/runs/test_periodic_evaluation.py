"""Evaluations during training: what they leave, and what they leave as it was."""

import dataclasses
import itertools
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import programs_kept

import etude
from etude.algorithms.assumptions import Assumptions
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.keys import (
    FINAL_EVALUATION,
    INITIAL_MEMORY,
    PERIODIC_EVALUATION,
    RECORDING,
    RENDERING,
    periodic_evaluation_key,
)
from etude.runs.display import evaluation_rows
from etude.runs.evaluation import PolicyEvaluator, evaluate_policies
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import TrainJob
from etude.runs.options import RunOptions
from etude.runs.periodic_evaluation import PeriodicEvaluation, best_directory
from etude.runs.run import create_run
from etude.runs.train import choose_row_every, resolve_settings
from etude.spaces import Box
from etude.storage import metrics_csv
from etude.struct import static, struct
from etude.training import split_run_key

SCRIPTS = ((0.1, 0.4, 0.3, 0.6, 0.6, 0.2, 0.1, 0.0), (0.5, 0.3, 0.2, 0.7, 0.8, 0.9, 0.1, 0.9))
FIRST_SCRIPT = 5  # a seed with the first of them


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


@struct
class ScriptState:
    script: Any  # [update]: the policy's action after so many updates
    updates: Any
    weight: Any  # of what is observed in training, and of chance


@etude.algorithm
class Scripted:
    """Does after each update what its script says, one of two by chance."""

    rollout_length: int = static(4, at_least=1)
    assumes = Assumptions(("Box",))

    def init(self, key, spec):
        key_script, key_weight = jax.random.split(key)
        script = jnp.array(SCRIPTS)[jax.random.randint(key_script, (), 0, 2)]
        return ScriptState(script, jnp.int32(0), jax.random.normal(key_weight))

    def act(self, state, observation, memory, key, explore):
        action = jnp.broadcast_to(state.script[state.updates - 1], observation.shape)
        return (action * jax.random.uniform(key) if explore else action), memory

    def update(self, state, experience, key):
        weight = state.weight + experience.observation.sum() + jax.random.normal(key)
        state = ScriptState(state.script, state.updates + 1, weight)
        return state, {"updates": 1, "weight": weight}


class Echo(gymnasium.Env):
    """One step an episode, and the action is the reward."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def observe(self):
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        return self.observe(), float(action[0]), True, False, {}


class Endless(Echo):
    def step(self, action):
        return self.observe(), float(action[0]), False, False, {}


@struct
class JaxEcho:
    observation_space = action_space = Box((1,), low=-1.0, high=1.0)

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        return state, StepResult(state, action[0], jnp.bool_(True), jnp.bool_(False))


JAX_ECHO = JaxEcho()


def settings_of(environment=JAX_ECHO, **options):
    given = {"steps": 32, "evaluate_every": 4, "evaluate_with": 2} | options
    return resolve_settings(Scripted(), environment, RunOptions(**given))


def trained(settings, directory, stop=lambda event: False):
    """Train one job until its end, or until `stop` of an event, as if killed when told of it."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    job = TrainJob(tuple(seeds), directory)
    for event in train_job(settings, job, InterruptHandler(), lambda text: None):
        if stop(event):
            break
    return event


def evaluations(directory, seed=0):
    """The steps and mean returns of the evaluations of a seed."""
    rows = metrics_csv.read_metrics(directory / "metrics.csv")
    known = (rows["seed"] == seed) & np.isfinite(rows["evaluation_return"])
    return rows["step"][known].astype(int).tolist(), rows["evaluation_return"][known]


def judged_by_hand(steps, means, until, patience):
    """(best step, step of the stop or None), from the definition of the rules."""
    best, stop = 0, None
    for i, mean in enumerate(means):
        if mean > means[best]:
            best = i
        if (until is not None and mean >= until) or (patience and i - best >= patience):
            stop = steps[i]
            break
    return steps[best], stop


def saved(directory):
    """The bytes of all that a job saves, but for metadata that has seconds in it."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("facts.json", "manifest.json")
    }


def test_training_ends_by_the_rules_and_keeps_the_best(tmp_path):
    seed, until, patience = 0, 0.55, 9
    settings = settings_of(seed=seed, until=until, patience=patience)
    event = trained(settings, tmp_path)
    steps, means = evaluations(tmp_path, seed)
    script = min(SCRIPTS, key=lambda script: abs(script[0] - means[0]))
    np.testing.assert_allclose(means, script[: len(means)], rtol=1e-6)
    best, stop = judged_by_hand([4 * i for i in range(1, 9)], script, until, patience)
    assert event.steps == steps[-1] == (stop or 32)
    assert [x.step for x in event.stops] == ([] if stop is None else [stop])
    directory = best_directory(tmp_path, (seed,), seed)
    assert [path.name for path in directory.iterdir()] == [f"step_{best}"]
    # a resumed job that has ended trains no more
    assert trained(settings, tmp_path)._replace(metrics={}) == event._replace(
        metrics={}, end_of_row=False
    )


def test_evaluations_change_nothing_in_training(tmp_path):
    evaluated, plain = settings_of(Echo), settings_of(Echo, evaluate_every=None)
    trained(evaluated, tmp_path / "evaluated")
    trained(plain, tmp_path / "plain")
    rows, others = (
        metrics_csv.read_metrics(tmp_path / name / "metrics.csv") for name in ("evaluated", "plain")
    )
    assert set(rows) - set(others) == {
        f"evaluation_{name}" for name in ("return", "length", "cut", "success")
    }
    for name in others:
        np.testing.assert_array_equal(rows[name], others[name])
    arrays = Path("checkpoints/step_32/arrays.safetensors")
    assert saved(tmp_path / "evaluated")[arrays] == saved(tmp_path / "plain")[arrays]


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The settings and the directory of a job that was never interrupted; patience ends it."""
    settings = settings_of(seed=FIRST_SCRIPT, patience=2, checkpoint_interval=16)
    directory = tmp_path_factory.mktemp("whole")
    return settings, directory, trained(settings, directory)


def test_a_job_killed_anywhere_is_resumed_to_the_same_end(tmp_path, whole):
    """Between a checkpoint and the copy that is the best, and after a row without a checkpoint."""
    settings, directory, event = whole
    assert event.stops and event.steps == 24
    save_best, calls = PeriodicEvaluation.save_best, itertools.count(1)

    def killed_at_the_second(*arguments):
        if next(calls) == 2:
            raise Killed
        save_best(*arguments)

    with mock.patch.object(PeriodicEvaluation, "save_best", killed_at_the_second):
        with suppress(Killed):
            trained(settings, tmp_path)
        assert next(calls) == 3
    trained(settings, tmp_path, lambda event: event.steps >= 20)
    assert not (tmp_path / "checkpoints/step_20").exists()
    assert trained(settings, tmp_path).stops == event.stops
    assert saved(tmp_path) == saved(directory)


def test_a_signal_in_an_evaluation_loses_nothing(tmp_path, whole):
    settings, directory, event = whole
    cells, calls = PolicyEvaluator.cells, itertools.count(1)

    def interrupted_once(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return cells(*arguments)

    with mock.patch.object(PolicyEvaluator, "cells", interrupted_once):
        with pytest.raises(Interrupted, match="stopped at step 20 of 32, saved"):
            trained(settings, tmp_path)
        assert len(evaluations(tmp_path, FIRST_SCRIPT)[0]) == 4
        assert (tmp_path / "checkpoints/step_20").is_dir()
        # killed when the row is written, before there is another checkpoint
        trained(settings, tmp_path, lambda event: event.metrics)
        assert len(evaluations(tmp_path, FIRST_SCRIPT)[0]) == 5
        assert trained(settings, tmp_path).stops == event.stops
    there, whole = saved(tmp_path), saved(directory)
    assert {*there} - {*whole} == {Path("checkpoints/step_20/arrays.safetensors")}
    same = {*there} & {*whole}
    assert Path("metrics.csv") in same and len(same) == 3
    assert [path for path in same if there[path] != whole[path]] == []


class Signaling(Endless):
    """Ctrl-C comes at step 100 of an episode, which no episode of training reaches."""

    time = 0

    def step(self, action):
        self.time += 1
        if self.time == 100:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


@pytest.mark.system
def test_ctrl_c_ends_an_evaluation_that_would_take_for_ever(tmp_path):
    settings = settings_of(Signaling, max_evaluation_steps=2**30)
    with InterruptHandler() as interrupt, pytest.raises(Interrupted, match="step 4 of 32, saved"):
        list(train_job(settings, TrainJob((0,), tmp_path), interrupt, lambda text: None))
    assert (tmp_path / "checkpoints/step_4").is_dir()
    assert not metrics_csv.read_metrics(tmp_path / "metrics.csv")
    # what goes on from there is what never stopped
    shorter = dataclasses.replace(settings, max_evaluation_steps=9)
    trained(shorter, tmp_path)
    trained(shorter, tmp_path.with_name("whole"))
    assert saved(tmp_path) == saved(tmp_path.with_name("whole"))


def test_seeds_in_one_program_end_together_and_have_a_best_each(tmp_path):
    seeds = (FIRST_SCRIPT - 1, FIRST_SCRIPT)
    event = trained(settings_of(seeds=2, seed=seeds[0], patience=2), tmp_path)
    assert event.steps == 24 and [stop.step for stop in event.stops] == [12, 24]
    bests = []
    for seed in seeds:
        steps, means = evaluations(tmp_path, seed)
        bests.append(judged_by_hand(steps, means, None, None)[0])
        directory = best_directory(tmp_path, seeds, seed)
        assert [path.name for path in directory.iterdir()] == [f"step_{bests[-1]}"]
    assert bests == [24, 16]


def test_a_run_says_what_its_best_checkpoint_earns_and_goes_on(tmp_path, capsys):
    """On the seeds of the final evaluation; a larger budget takes up a run that stopped early."""
    options = dict(steps=32, evaluate_every=4, evaluate_with=2, evaluation_episodes=2, patience=2)
    run = etude.train(Scripted(), JAX_ECHO, out=tmp_path / "run", **options)
    said = capsys.readouterr().out
    summary, (steps, means) = run.summary, evaluations(run.directory)
    best, stop = judged_by_hand(steps, means, None, 2)
    assert summary["stopped"] == [{"seed": 0, "rule": "patience", "step": stop}]
    assert summary["steps"] == stop and summary["compile_seconds"] < summary["wall_seconds"]
    assert "2 evaluations in a row were no better" in said
    assert f"during training (step {best})" in said
    assert "evaluated every 4 steps and at the end, 2 episodes" in said
    assert summary["evaluation_best"]["steps"] == [best]
    assert summary["evaluation_best"]["best_means"] == pytest.approx([max(means)])
    assert summary["evaluation_best"]["per_seed"] == pytest.approx([max(means)])
    assert summary["evaluation"]["per_seed"] == pytest.approx([means[-1]])
    loaded = etude.load(run.directory, Scripted, JAX_ECHO)
    assert loaded.evaluate(which="best") == summary["evaluation_best"]
    (state,) = loaded.states(which="best")
    assert int(state.updates) == best // 4 and int(loaded.states()[0].updates) == stop // 4
    with pytest.raises(InvalidInput, match="which is 'first'; choose one of last, best"):
        loaded.states(which="first")

    given = dict(algorithm=Scripted, environment=JAX_ECHO, progress=False)
    with pytest.raises(InvalidInput, match=f"stopped early, at {stop}, so give more"):
        etude.resume(run.directory, stop, **given)
    longer = etude.resume(run.directory, 32, **given)
    assert "stopped early; it goes on to 32 steps" in capsys.readouterr().err
    assert longer.summary["steps"] == 32 and "stopped" not in longer.summary
    assert evaluations(run.directory)[0] == [*range(4, 33, 4)]


def test_a_run_without_evaluations_has_no_best(tmp_path):
    run = create_run(settings_of(evaluate_every=None), tmp_path / "run")
    with pytest.raises(InvalidInput, match="has no best checkpoint"):
        run.evaluate(which="best")


def test_an_episode_that_never_ends_is_cut_off_and_counted(capsys):
    settings = settings_of(Endless, max_evaluation_steps=7)
    state = Scripted().init(jax.random.key(0), settings.outline().spec)
    ((_, evaluation),) = evaluate_policies(settings, {"last": [state]}, 3, False, 0, None)
    assert (evaluation["cut"], evaluation["max_steps"]) == (3, 7)
    rows = dict(evaluation_rows(evaluation | {"which": "last"}))
    assert rows["cut off"] == "3 of 3 episodes were cut off at 7 steps"
    dataset = etude.record(
        Endless, expert=lambda observation: observation, episodes=1, max_evaluation_steps=5
    )
    assert dataset.num_steps == 5 and bool(dataset.transitions.truncated[-1])
    assert "1 of 1 episodes was cut off at 5 steps" in capsys.readouterr().out


def test_the_keys_of_evaluations_are_apart_from_each_other_and_from_training():
    key = jax.random.key(3)
    roles = jnp.uint32(
        [FINAL_EVALUATION, PERIODIC_EVALUATION, RENDERING, INITIAL_MEMORY, RECORDING]
    )
    keys = [jax.random.split(key, 64), jax.vmap(jax.random.fold_in, (None, 0))(key, roles)]
    assert (keys[0][:4] == jnp.stack(split_run_key(key))).all()
    data = np.concatenate([jax.random.key_data(of_role) for of_role in keys])
    assert len(np.unique(data, axis=0)) == 69
    assert (jax.random.key_data(periodic_evaluation_key(3)) == data[65]).all()


@pytest.mark.parametrize(
    ("iterations", "wanted", "row_every", "interval"),
    [(1000, 100, 10, 100), (300, 100, 2, 100), (1000, 97, 8, 96), (1000, 3, 3, 3), (50, 7, 1, 7)],
)
def test_evaluations_stand_at_the_ends_of_rows(iterations, wanted, row_every, interval):
    settings = settings_of(steps=4 * iterations, evaluate_every=4 * wanted)
    assert choose_row_every(settings) == row_every
    settings = dataclasses.replace(settings, row_every=row_every)
    assert settings.iterations_per_evaluation == interval
    assert abs(interval - wanted) <= row_every / 2
