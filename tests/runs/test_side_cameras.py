"""Recording with side cameras: three episodes of each drive, and what they are good for."""

from functools import partial

import gymnasium
import jax
import numpy as np
import pytest

import etude
from etude.algorithms.protocol import Outside
from etude.data.dataset import Dataset
from etude.environments.tasks.lanes import Lanes
from etude.errors import InvalidInput
from etude.rollout import bind_policy, evaluate
from etude.runs.record import record
from etude.storage.datasets.formats import read_recorded

quietly = partial(record, progress=False)


class Rail(gymnasium.Env):
    """A point walks along a line by actions of -4 to 4 for a few steps, more for an odd seed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-4, 4, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, float(self.np_random.integers(100))
        self.length = 3 + seed % 2
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.place += float(action[0])
        return self.observe(), self.place, self.steps == self.length, False, {}

    def observe(self, offset=0):
        return np.float32([self.place + offset, self.steps])

    def side_views(self):
        by = 1.5 + self.steps
        return {"left": (self.observe(-9), [by]), "right": (self.observe(9), [-by])}


def action_at(place, time):
    return 2 + time / 4 + place / 1000


def walk(observation):
    return np.float32([action_at(*observation)])


gymnasium.register("EtudeTestRail-v0", f"{__name__}:Rail")
NAME = f"{__name__}:EtudeTestRail-v0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Four drives in an .npz, with the dataset that the recording returns."""
    path = tmp_path_factory.mktemp("rail") / "rail.npz"
    return path, quietly(Rail, walk, episodes=4, out=path, side_cameras=True)


def test_each_drive_is_three_episodes(recorded):
    path, dataset = recorded
    episodes = read_recorded(path, dataset.spec).by_episode()
    assert dataset.num_episodes == episodes.num_episodes == 12
    assert episodes.is_side_view == (False, True, True) * 4
    assert [seed is None for seed in episodes.seeds] == [False, True, True] * 4
    fields = episodes.fields
    assert len({len(rewards) for rewards in fields["rewards"]}) == 2
    for drive in range(0, 12, 3):
        center = fields["observations"][drive]
        time, expected = center[:-1, 1:], action_at(center[:-1, :1], center[:-1, 1:])
        np.testing.assert_allclose(fields["actions"][drive], expected, atol=1e-6)
        for episode, sign in ((drive + 1, -1), (drive + 2, 1)):
            beside = center + np.float32([sign * 9, 0])
            np.testing.assert_allclose(fields["observations"][episode], beside, atol=1e-5)
            corrected = np.clip(expected - sign * (1.5 + time), -4, 4)
            np.testing.assert_allclose(fields["actions"][episode], corrected, atol=1e-6)
            for name in ("rewards", "terminations", "truncations"):
                np.testing.assert_array_equal(fields[name][episode], fields[name][drive])
    # the center's are those of a recording without side cameras
    alone = quietly(Rail, walk, episodes=4)
    np.testing.assert_array_equal(
        np.concatenate([fields["observations"][i][:-1] for i in range(0, 12, 3)]),
        alone.transitions.observation,
    )


def test_the_center_replays_and_the_sides_are_named(recorded, tmp_path):
    path, dataset = recorded
    inspect = partial(etude.inspect_dataset, environment=NAME, replay=True)
    copy = tmp_path / "rail-v0"
    for at in (path, copy):
        found = inspect(at, to=copy if at == path else None)
        assert found.replay.difference == "" and found.replay.episodes == 4
        assert found.replay.without_seed == 0
        said = "8 of its episodes are what side cameras saw of the others; nobody played them, so "
        assert any(note.startswith(said) for note in found.notes)
        assert read_recorded(at, dataset.spec).is_side_view == (False, True, True) * 4


def test_where_no_episode_has_a_seed_a_replay_is_refused_by_name(recorded, tmp_path):
    path, _ = recorded
    arrays = dict(np.load(path))
    del arrays["seeds"]
    np.savez(tmp_path / "unseeded.npz", **arrays)
    with pytest.raises(InvalidInput, match="no episode has the seed.* 8 are what side cameras saw"):
        etude.inspect_dataset(tmp_path / "unseeded.npz", environment=NAME, replay=True)


def test_flags_that_do_not_fit_are_refused(recorded, tmp_path):
    path, dataset = recorded
    for flags in (np.zeros(3), np.full(12, 2)):
        arrays = dict(np.load(path)) | {"side_views": flags}
        np.savez(tmp_path / "odd.npz", **arrays)
        with pytest.raises(InvalidInput, match="'side_views' has the dtype.* give 0 or 1 for each"):
            read_recorded(tmp_path / "odd.npz", dataset.spec)


@pytest.mark.system
def test_with_noise_what_the_expert_says_is_corrected():
    dataset = quietly(Rail, walk, episodes=1, side_cameras=True, noise=0.3)
    place, time = np.asarray(dataset.transitions.observation).reshape(3, -1, 2)[0].T
    actions = 4 * np.asarray(dataset.transitions.action).reshape(3, -1)
    said = action_at(place, time)
    np.testing.assert_allclose(actions[0], said, atol=1e-5)
    np.testing.assert_allclose(actions[1], np.clip(said + 1.5 + time, -4, 4), atol=1e-5)
    assert (np.abs(np.diff(place) - said[:-1]) > 1e-3).all()  # which was not executed


@pytest.mark.system
def test_a_stack_of_frames_is_that_of_each_camera():
    expert = lambda frames: walk(frames[-1])
    dataset = quietly(Rail, expert, episodes=1, side_cameras=True, frame_stack=2)
    steps = dataset.transitions
    seen = np.asarray(steps.observation).reshape(3, -1, 2, 2)
    np.testing.assert_allclose(seen[1], seen[0] - np.float32([9, 0]), atol=1e-5)
    np.testing.assert_array_equal(seen[0, 1:, 0], seen[0, :-1, 1])
    place, time = seen[0, :, -1].T
    corrected = 4 * np.asarray(steps.action).reshape(3, -1)[2]
    expected = action_at(place, time) - (1.5 + time)
    np.testing.assert_allclose(corrected, expected, atol=1e-5)


@pytest.mark.parametrize(
    "environment, message",
    [
        ("Pendulum-v1", "Pendulum-v1 has no side cameras, .*leave --side-cameras out"),
        (Lanes(), "Lanes is written in JAX, and side cameras are a method of a Gymnasium"),
        ("Pendulm-v1", "no environment is called 'Pendulm-v1'; did you mean Pendulum-v1"),
    ],
    ids=["without", "jax", "unknown"],
)
def test_an_environment_without_side_cameras_is_refused_and_nothing_is_written(
    tmp_path, environment, message
):
    with pytest.raises(InvalidInput, match=message):
        quietly(environment, "random", episodes=1, out=tmp_path / "a.npz", side_cameras=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.system
def test_a_clone_of_three_cameras_keeps_the_lane_longer():
    """Of 600 steps each: one drive with its side views, or three drives of the center alone.

    The meters driven of 200, for ten recordings of each kind.
    """
    bc = etude.BC(hidden=(64, 64), batch_size=64, gradient_steps=1000)
    environment = etude.make("etude/Lanes-v0", 100, "jax")

    @jax.jit
    def meters(dataset, key):
        outside = Outside(dataset=dataset)
        key_init, key_update, key_evaluation = jax.random.split(key, 3)
        state = bc.init(key_init, environment.spec, outside)
        state, _ = bc.update(state, (), key_update, outside)
        policy = bind_policy(bc, state, environment)
        return evaluate(environment, policy, key_evaluation, 100)[0].mean()

    found = {}
    for kind, settings in (
        ("center", {"episodes": 30}),
        ("three", {"episodes": 10, "side_cameras": True}),
    ):
        dataset = quietly("etude/Lanes-v0", "heuristic", seed=1, **settings)
        assert (np.asarray(dataset.episode_lengths) == 200).all() and dataset.num_episodes == 30
        parts = [
            Dataset(
                jax.tree.map(lambda x, i=i: x[600 * i : 600 * (i + 1)], dataset.transitions),
                dataset.episode_lengths[3 * i : 3 * (i + 1)],
                dataset.spec,
            )
            for i in range(10)
        ]
        keys = jax.random.split(jax.random.key(0), 10)
        found[kind] = [float(meters(part, key)) for part, key in zip(parts, keys, strict=True)]
    difference = np.subtract(found["three"], found["center"])
    assert np.mean(found["three"]) > 185, found
    assert difference.mean() > 2 * difference.std(ddof=1) / np.sqrt(10), found
