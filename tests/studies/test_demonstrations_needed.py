"""Returns by the number of labels: equal labels for both, and a measurement that goes on."""

import json
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

from etude.algorithms.imitation.bc import BC
from etude.data.dataset import episode_returns, make_dataset
from etude.errors import InvalidInput
from etude.reporting.statistics import summarize_returns
from etude.runs.interrupt import Interrupted
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.studies import demonstrations_needed
from etude.studies.demonstrations_needed import (
    first_steps,
    measure_demonstrations_needed,
    record_steps,
)

SPEC = EnvironmentSpec(Box((1,)), Discrete(2), 1)
LENGTHS = (3, 2, 4)


def recorded():
    """Episodes of 3, 2 and 4 steps, whose rewards are 0 to 8 and of which the second terminates."""
    rewards = np.split(np.arange(9.0), np.cumsum(LENGTHS)[:-1])
    last = [np.arange(length) == length - 1 for length in LENGTHS]
    return make_dataset(
        SPEC,
        observations=[np.append(row, -1)[:, None] for row in rewards],
        actions=[row.astype(int) % 2 for row in rewards],
        rewards=rewards,
        terminations=[flags & (i == 1) for i, flags in enumerate(last)],
        truncations=[flags & (i != 1) for i, flags in enumerate(last)],
    )


@pytest.mark.parametrize(
    ("count", "lengths", "terminated", "truncated"),
    [
        (2, [2], [], [1]),
        (5, [3, 2], [4], [2]),
        (6, [3, 2, 1], [4], [2, 5]),
        (9, LENGTHS, [4], [2, 8]),
    ],
)
def test_the_first_steps_are_a_dataset_of_as_many(count, lengths, terminated, truncated):
    steps = first_steps(recorded(), count)
    assert steps.num_steps == count and steps.episode_lengths.tolist() == list(lengths)
    assert steps.episode_lengths.dtype == np.int32
    assert episode_returns(steps).sum() == np.arange(count).sum()
    assert np.flatnonzero(steps.transitions.terminated).tolist() == terminated
    assert np.flatnonzero(steps.transitions.truncated).tolist() == truncated
    assert {len(leaf) for leaf in jax.tree.leaves(steps.transitions)} == {count}


def test_episodes_are_recorded_until_there_are_enough_steps(monkeypatch):
    """With the noise that is asked for, and the same seed each time."""
    asked = []

    def record(environment, expert, *, episodes, seed, noise, progress):
        asked.append((environment, expert, episodes, seed, noise))
        return first_steps(recorded(), min(9, episodes // 10 * 4))

    monkeypatch.setattr(demonstrations_needed, "record", record)
    assert record_steps("Some-v0", "random", 5, 3, 0.25).num_steps == 8
    assert asked == [("Some-v0", "random", episodes, 3, 0.25) for episodes in (10, 20)]


@pytest.fixture
def judged(monkeypatch):
    """What each run was given, (method, labels, seed); before the fourth is an interrupt."""
    runs, interrupted = [], []

    def train_and_evaluate(algorithm, settings, seed, **options):
        if len(runs) == 3 and not interrupted:
            interrupted.append(True)
            raise Interrupted("stopped")
        name = "cloning" if isinstance(algorithm, BC) else "dagger"
        if name == "cloning":
            labels = options["dataset"].num_steps
            assert options["steps"] == settings["gradient_steps"]
        else:
            labels = options["steps"]
            assert options["expert"] == settings["expert"]
        runs.append((name, labels, seed))
        return [float(labels), float(seed), 100.0]

    monkeypatch.setattr(demonstrations_needed, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(demonstrations_needed, "record", lambda *_, **__: recorded())
    monkeypatch.setattr(demonstrations_needed, "ROUNDS", 3)
    return runs


def test_a_measurement_that_was_stopped_goes_on(judged, tmp_path, monkeypatch):
    measure = lambda seeds=2, labels=(6, 3), expert="heuristic": measure_demonstrations_needed(
        "Some-v0", expert, labels, gradient_steps=3, seeds=seeds, episodes=3, out=tmp_path
    )
    with pytest.raises(Interrupted, match="has what is measured, and the same command"):
        measure()
    directory, measured = measure()
    each = [(name, labels) for labels in (3, 6) for name in ("cloning", "dagger")]
    assert judged == [(*one, seed) for seed in (0, 1) for one in each]
    assert measured["expert_mean"] == np.arange(9).sum() / 3
    expected = summarize_returns([[6.0, 0.0, 100.0], [6.0, 1.0, 100.0]])
    assert measured["dagger"]["6"] == expected
    told = json.loads((directory / "demonstrations_needed.json").read_text())
    assert told["returns"]["cloning"]["3"] == [[3.0, 0.0, 100.0], [3.0, 1.0, 100.0]]
    assert Image.open(directory / "demonstrations_needed.png").size == (1440, 840)
    image, again = tmp_path / "demonstrations_needed.png", judged.copy()
    image.unlink()
    assert measure()[1] == measured and judged == again and image.exists()
    with pytest.raises(InvalidInput, match="other settings .expert.; give another --out"):
        measure(expert="random")
    judged.clear()
    drawn = mock.Mock()
    monkeypatch.setattr(demonstrations_needed.imitation_figures, "draw_returns_by_labels", drawn)
    _, measured = measure(seeds=3, labels=[9])
    assert drawn.call_count == 1 and measured["labels"] == [3, 6, 9]
    more = [("cloning", 9), ("dagger", 9)]
    assert judged == [*((*one, seed) for seed in (0, 1) for one in more)] + [
        (*one, 2) for one in [*each, *more]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels is empty"),
        ({"labels": [500, 5]}, "labels is 5; give a multiple of 20"),
        ({"gradient_steps": 99}, "gradient_steps is 99; give a multiple of 20"),
        ({"seeds": 1}, "seeds is 1; give at least 2"),
        ({"episodes": 1}, "episodes is 1; give at least 2"),
    ],
)
def test_numbers_with_which_nothing_is_measured_are_refused(options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        measure_demonstrations_needed(**options, out=tmp_path)


@pytest.mark.system
def test_both_learn_the_tightrope_from_a_few_labels(tmp_path):
    _, measured = measure_demonstrations_needed(
        "etude/Tightrope-v0", labels=[100], gradient_steps=500, seeds=2, episodes=10, out=tmp_path
    )
    assert measured["expert_mean"] == 0
    assert measured["cloning"]["100"]["per_seed"] == measured["dagger"]["100"]["per_seed"] == [0, 0]
