"""Modes of episodes that are written out here, their statistics, and what a small study writes."""

import json

import numpy as np
import pytest
from PIL import Image

import etude
from etude.data.dataset import make_dataset
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.spaces import Box, EnvironmentSpec
from etude.studies import chunk_lengths, modes_by_head
from etude.studies.chunk_lengths import measure_chunk_lengths
from etude.studies.modes_by_head import measure_modes_by_head, summarize_modes
from etude.studies.tasks_with_modes import (
    HEADS,
    TASKS,
    EpisodeOutcome,
    cloning_with,
    first_episodes,
    play_clones,
    push_side,
    recorded_episodes,
)

FORK = TASKS["etude/Fork-v0"]


def passing(y, is_success=True):
    """An episode at the fork that ends at this height."""
    return EpisodeOutcome(np.array([[-1.0, 0.0], [1.0, y]]), is_success)


def test_the_side_of_a_push_is_that_on_which_the_pusher_first_comes_behind_the_block():
    block = np.tile([[0.1, 0.05]], (4, 1))
    around = np.array([[0.4, 0.0], [0.15, 0.3], [0.05, 0.3], [-0.2, -0.1]])
    path = np.concatenate([around, block], 1)
    mirrored = np.concatenate([around * [1, -1], block], 1)
    assert push_side(path) == 1 and push_side(mirrored) == 0 and push_side(path[:2]) == -1


def test_the_statistics_are_those_of_successes():
    """Two seeds: 3 of 4 pass, one of them on the left; none passes, so no share is defined."""
    first = [passing(0.8), passing(-0.8), passing(-0.7), passing(0.2, False)]
    found = summarize_modes(FORK, [first, [passing(0.1, False)] * 4])
    assert found["success"]["per_seed"] == [0.75, 0] and found["modes"] == [[2, 1], [0, 0]]
    assert found["left"]["per_seed"] == [pytest.approx(1 / 3), None]
    entropy = -(np.log2(1 / 3) / 3 + np.log2(2 / 3) * 2 / 3)
    assert found["entropy"]["per_seed"] == [pytest.approx(entropy), None]
    assert found["entropy"]["iqm"] == pytest.approx(entropy)
    none = summarize_modes(FORK, [[passing(0, False)]] * 2)
    assert none["left"]["iqm"] is None and none["entropy"]["ci95"] is None
    even = summarize_modes(FORK, [[passing(0.8), passing(-0.8)]] * 2)
    assert even["entropy"]["iqm"] == pytest.approx(1) and even["left"]["iqm"] == 0.5
    one = summarize_modes(FORK, [[passing(0.8)]] * 2)
    assert one["entropy"]["iqm"] == 0 and one["left"]["iqm"] == 1


def test_the_first_episode_of_each_copy_counts():
    """The first copy's ends in failure at step 1 and another begins; the other's at step 2."""
    steps = np.arange(3.0)[:, None, None] + [[[0.0, 0.0], [10.0, 10.0]]]
    ends = np.array([[False, False], [True, False], [True, True]])
    reward = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    played = Transition(steps, steps[..., :1], reward, steps + 1, ends, np.zeros_like(ends))
    failed, succeeded = first_episodes(played)
    np.testing.assert_array_equal(failed.positions[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(succeeded.positions[:, 0], [10, 11, 12, 13])
    assert not failed.is_success and succeeded.is_success


def recorded(sides=(1, -1, 1)):
    """A dataset of the fork: two steps an episode, to this height, all of which succeed."""
    count = len(sides)
    return make_dataset(
        EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), 1),
        observations=[np.array([[-1, 0], [0, y / 2], [1, y]]) for y in sides],
        actions=[np.full((2, 1), y) for y in sides],
        rewards=[np.array([0, 1])] * count,
        terminations=[np.array([False, True])] * count,
        truncations=[np.zeros(2, bool)] * count,
    )


def test_episodes_of_a_dataset_have_their_last_position():
    episodes = recorded_episodes(recorded())
    assert [episode.positions[-1].tolist() for episode in episodes] == [[1, 1], [1, -1], [1, 1]]
    assert all(len(episode.positions) == 3 and episode.is_success for episode in episodes)


@pytest.fixture
def played(monkeypatch):
    """What was cloned, (head, chunk, execute), in place of training: half of the clones pass."""
    asked = []

    def play_clones(cloning, dataset, environment, seeds, episodes):
        asked.append((type(cloning.head).__name__, cloning.chunk, cloning.execute))
        for seed in range(seeds):
            yield [passing(0.5 - i % 2, i % 4 < 2 + seed) for i in range(episodes)]

    for study in (modes_by_head, chunk_lengths):
        monkeypatch.setattr(study, "play_clones", play_clones)
        monkeypatch.setattr(study, "record", lambda *_, **__: recorded())
    return asked


def test_modes_are_measured_and_drawn_for_each_head(played, tmp_path):
    measure = lambda heads: measure_modes_by_head(
        "etude/Fork-v0", heads, chunk=4, execute=2, seeds=2, episodes=8, out=tmp_path
    )
    directory, measured = measure(("direct", "flow"))
    assert played == [("Direct", 4, 2), ("Flow", 4, 2)]
    found = json.loads((directory / "modes_by_head.json").read_text())
    assert found == measured and list(found["heads"]) == ["expert", "direct", "flow"]
    assert found["heads"]["flow"]["success"]["per_seed"] == [0.5, 0.75]
    assert found["heads"]["flow"]["modes"] == [[2, 2], [2, 4]]
    assert found["heads"]["expert"]["modes"] == [[1, 2]]
    assert found["cloning"]["flow"]["ema"] and not found["cloning"]["direct"]["ema"]
    assert Image.open(directory / "modes_by_head.png").size == (1440, 840)
    assert Image.open(directory / "ways_by_head.png").size[0] == 1440
    (directory / "ways_by_head.png").unlink()
    measure(("direct",))  # is drawn again, and nothing is trained for it
    assert len(played) == 2 and (directory / "ways_by_head.png").exists()
    way = found["heads"]["expert"]["ways"][1]
    assert way == {"is_success": True, "positions": [[-1, 0], [0, -0.5], [1, -1]]}


def test_a_measurement_goes_on_with_other_heads(played, tmp_path, monkeypatch):
    for name in ("draw_modes_by_head", "draw_ways_by_head"):
        monkeypatch.setattr(modes_by_head.imitation_figures, name, lambda *_, **__: None)
    measure = lambda heads, seeds=2: measure_modes_by_head(
        heads=heads, seeds=seeds, episodes=4, out=tmp_path
    )[1]
    measure(["flow"])
    measured = measure(["mixture", "flow"])
    assert [name for name, *_ in played] == ["Flow", "Mixture"]
    assert measured["heads"].keys() == {"expert", "flow", "mixture"}
    with pytest.raises(InvalidInput, match="with other settings .seeds.; give another --out"):
        measure(["latent"], seeds=3)


def test_lengths_of_chunks_are_measured_and_drawn(played, tmp_path):
    measure = lambda chunks, seeds=2: measure_chunk_lengths(
        "etude/Fork-v0", chunks, seeds=seeds, episodes=8, out=tmp_path
    )
    measure((4,))
    assert played == [("Deterministic", 4, 2), ("Flow", 4, 2)]
    (tmp_path / "chunk_lengths.png").unlink()
    directory, measured = measure((1,))  # which goes on
    assert played[2:] == [("Deterministic", 1, 1), ("Flow", 1, 1)]
    found = json.loads((directory / "chunk_lengths.json").read_text())
    assert found == measured and found["chunks"] == [1, 4]
    assert found["heads"]["flow"]["4"]["success"]["per_seed"] == [0.5, 0.75]
    assert Image.open(directory / "chunk_lengths.png").size == (1440, 840)
    with pytest.raises(InvalidInput, match="with other settings .seeds.; give another --out"):
        measure((8,), seeds=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environment": "CartPole-v1"}, "the modes of 'CartPole-v1' are not known; give one of"),
        ({"heads": ("flow", "arrow")}, "no head is called 'arrow'; there are deterministic, dir"),
        ({"seeds": 1}, "seeds is 1; give at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        measure_modes_by_head(**options, out=tmp_path)


@pytest.mark.system
@pytest.mark.parametrize("name", HEADS)
def test_an_expert_who_passes_on_either_side_is_cloned_by_heads_of_several_modes(name):
    """Both sides are kept, without the collision that their mean is."""
    dataset = etude.record("etude/Fork-v0", "heuristic", episodes=200, progress=False)
    cloning = cloning_with(HEADS[name], gradient_steps=12_000)
    found = summarize_modes(FORK, list(play_clones(cloning, dataset, "etude/Fork-v0", 1, 400)))
    if name in ("deterministic", "direct"):
        assert found["success"]["iqm"] < 0.05
        return
    assert found["success"]["iqm"] >= 0.95
    assert 0.4 <= found["left"]["iqm"] <= 0.6
