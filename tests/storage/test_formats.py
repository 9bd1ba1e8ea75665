"""Datasets of other libraries, in their own layouts: what is there is read, the rest is said."""

import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import gymnasium_spaces
import h5py
import numpy as np
import pytest
from two_episodes import (
    ACTIONS,
    OBSERVATIONS,
    RECORDED,
    REWARDS,
    SPEC,
    TERMINATED,
    TRUNCATED,
    assert_same,
    expected,
    refusal,
)

from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.spaces import (
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    space_from_gymnasium,
)
from etude.storage.datasets.formats import (
    read_dataset,
    read_recorded,
    recorded_of,
    write_dataset,
    write_recorded,
)
from etude.storage.datasets.minari_writer import MinariWriter
from etude.storage.datasets.npz_parts import PartsWriter
from etude.struct import replace
from etude.trees import content_hash

# D4RL


def d4rl(path, *leave_out, **changes):
    """All steps end to end; the last observation of an episode is in next_observations alone."""
    arrays = {
        "observations": np.concatenate([x[:-1] for x in OBSERVATIONS]),
        "next_observations": np.concatenate([x[1:] for x in OBSERVATIONS]),
        "actions": np.concatenate(ACTIONS).astype("f4"),
        "rewards": np.concatenate(REWARDS),
        "terminals": np.concatenate(TERMINATED),
        "timeouts": np.concatenate(TRUNCATED),
    } | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if name not in leave_out:
                file[name] = array
        file["infos/qpos"] = np.zeros((5, 9))
        file["metadata/algorithm"] = "SAC"
    return path


def test_d4rl_is_read(tmp_path):
    path = tmp_path / "hopper-medium-v2.hdf5"
    for columns in ({}, {"rewards": np.concatenate(REWARDS)[:, None]}):
        assert_same(read_dataset(d4rl(path, **columns), SPEC), expected())
        assert not read_recorded(path).notes


def test_without_timeouts_d4rl_ends_where_observations_jump(tmp_path):
    path = d4rl(tmp_path / "a.hdf5", "timeouts", terminals=np.array([0, 0, 0, 0, 1], bool))
    dataset = read_dataset(path, SPEC)
    np.testing.assert_array_equal(dataset.episode_lengths, [3, 2])
    np.testing.assert_array_equal(dataset.transitions.truncated, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(dataset.transitions.terminated, [0, 0, 0, 0, 1])
    message = refusal(d4rl(path, "timeouts"))
    assert "episode 1, step 1: truncations is False" in message
    assert_same(read_dataset(path, SPEC, truncate_unfinished=True), expected())
    message = refusal(d4rl(path, "timeouts", "next_observations"))
    assert "neither 'timeouts' nor 'next_observations'" in message and "add timeouts" in message


def test_without_next_observations_d4rl_invents_no_successor_that_counts(tmp_path):
    """The terminated episode keeps its end, whose value is zero; the other ends a step earlier."""
    path = d4rl(tmp_path / "a.hdf5", "next_observations")
    first, second = OBSERVATIONS
    shorter = expected(
        observations=[first[[0, 1, 2, 2]], second[:2]],
        actions=[ACTIONS[0], ACTIONS[1][:1]],
        rewards=[REWARDS[0], REWARDS[1][:1]],
        terminations=[TERMINATED[0], TERMINATED[1][:1]],
        truncations=[TRUNCATED[0], np.array([True])],
    )
    assert_same(read_dataset(path, SPEC), shorter)
    notes = read_recorded(path).notes
    assert len(notes) == 2
    assert "1 terminated episodes have their last observation twice" in notes[0]
    assert "1 episodes that were cut off end one step earlier" in notes[1]


def test_episodes_of_one_step(tmp_path):
    """One that was cut off, without the observation after it, is left out and counted apart."""
    one = {"observations": np.ones((1, 2)), "next_observations": np.zeros((1, 2))}
    one |= {"actions": np.zeros((1, 1)), "rewards": np.ones(1)}
    one |= {"terminals": np.array([True]), "timeouts": np.array([False])}
    assert read_dataset(d4rl(tmp_path / "a.hdf5", **one), SPEC).num_steps == 1
    ends = {"terminals": np.zeros(5), "timeouts": np.array([1, 1, 0, 1, 1])}
    path = d4rl(tmp_path / "b.hdf5", "next_observations", **ends)
    assert read_dataset(path, SPEC).episode_lengths.tolist() == [1]
    notes = read_recorded(path).notes
    assert notes[0].startswith("1 episodes that were cut off end one step earlier")
    assert notes[1].startswith("3 episodes of one step that was cut off are left out")
    one["terminals"] = np.array([False])
    message = refusal(d4rl(path, "next_observations", **one))
    assert "all its episodes are cut off after one step" in message


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"next_observations": np.zeros((5, 3))}, "(5, 2) and next_observations (5, 3); they"),
        ({"next_observations": np.zeros((5, 1))}, "(5, 2) and next_observations (5, 1); they"),
        (
            {"timeouts": np.zeros(5, bool), "terminals": np.arange(5) == 4},
            "episode 0, step 2: its next observation is not the observation that follows, and "
            "neither terminals nor timeouts end the episode there (row 2)",
        ),
        ({"rewards": np.zeros(4)}, "observations has 5 rows and rewards 4; "),
        ({"rewards": np.float32(3)}, "rewards is one number; "),
        ({"terminals": None}, "it has no 'terminals'; "),
        ({"actions": np.full((5, 1), 2.0)}, "episode 0, step 0: actions[0] is 2.0; its space is"),
        ({"observations": np.array([b"x"] * 5)}, "'observations' has the dtype |S1; only arrays"),
    ],
)
def test_faults_of_d4rl_are_named(tmp_path, changes, message):
    leave_out = [name for name, value in changes.items() if value is None]
    path = d4rl(tmp_path / "a.hdf5", *leave_out, **changes)
    assert message in refusal(path)


# robomimic


def robomimic(path, keys=("eye", "hand"), env_args='{"env_name": "Lift", "type": 1}', **changes):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = env_args
        for number in (0, 1):
            demo = data.create_group(f"demo_{2 + 8 * number}")  # demo_10 is listed before demo_2
            demo.attrs["num_samples"] = len(ACTIONS[number])
            for scale, key in enumerate(keys, 1):
                demo[f"obs/{key}"] = scale * OBSERVATIONS[number][:-1]
                demo[f"next_obs/{key}"] = scale * OBSERVATIONS[number][1:]
            demo["actions"], demo["rewards"] = ACTIONS[number], REWARDS[number]
            demo["dones"] = np.arange(len(ACTIONS[number])) == len(ACTIONS[number]) - 1
            demo["states"] = np.zeros((len(ACTIONS[number]), 30))
        file["mask/train"] = np.array([b"demo_2"])
        for name, value in changes.items():
            del file["data/demo_10"][name]
            if value is not None:
                file["data/demo_10"][name] = value
    return path


def test_robomimic_is_read(tmp_path):
    """Of a Dict the keys that the environment has, of another space the only one."""
    path = robomimic(tmp_path / "low_dim.hdf5")
    ends = dict(
        terminations=[TERMINATED[0], np.array([False, True])], truncations=[[0] * 3, [0, 0]]
    )
    spec = replace(SPEC, observation=Composite((Box((2,)),), ("hand",)))
    dataset = read_dataset(path, spec)
    wanted = expected(**ends)
    np.testing.assert_array_equal(
        dataset.transitions.observation["hand"], 2 * np.asarray(wanted.transitions.observation)
    )
    np.testing.assert_array_equal(
        dataset.transitions.next_observation["hand"],
        2 * np.asarray(wanted.transitions.next_observation),
    )
    assert dataset.spec == replace(spec, num_envs=1, id="")
    both = read_dataset(path)
    assert both.spec.observation.names == ("eye", "hand")
    assert "it does not tell a failure from a time limit" in read_recorded(path).notes[0]
    single = robomimic(tmp_path / "one.hdf5", ("state",))
    assert_same(read_dataset(single, SPEC), wanted)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"next_obs": None}, "data/demo_10 has no 'next_obs', so the observation after its last"),
        ({"dones": None}, "data/demo_10 has no 'dones'"),
        ({"dones": 1.0}, "demo_10: dones has the shape (); it has a flag for each step"),
        ({"next_obs/eye": np.zeros((2, 2))}, "demo_10, step 0: next_obs/eye is not the obs/eye"),
        ({"next_obs/eye": np.zeros((3, 2))}, "demo_10: obs/eye has the shape (2, 2) and next_obs"),
        ({"dones": np.zeros(2)}, "episode 1, step 1: truncations is False"),
        ({"actions": h5py.SoftLink("/data/demo_2/actions")}, "'data/demo_10/actions' is a link"),
    ],
)
def test_faults_of_robomimic_are_named(tmp_path, changes, message):
    spec = replace(SPEC, observation=Composite((Box((2,)),), ("eye",)))
    assert message in refusal(robomimic(tmp_path / "a.hdf5", **changes), spec)


def test_other_faults_of_robomimic_are_named(tmp_path):
    path = robomimic(tmp_path / "a.hdf5")
    assert "the keys of its observations are eye, hand, and the observation space" in refusal(path)
    spec = replace(SPEC, observation=Composite((Box((2,)), Box(())), ("eye", "nose")))
    assert "its observations have no key 'nose'" in refusal(path, spec)
    pair = replace(SPEC, observation=Composite((Box((2,)), Box((2,)))))
    assert "those of the environment are a Tuple; make a Dict" in refusal(path, pair)
    with h5py.File(robomimic(path), "r+") as file:
        file["data"].move("demo_2", "demo_010")
    assert "demo_010 and demo_10 have one number" in refusal(path)
    # dones in mid-episode say that the task is solved
    early = robomimic(path, ("state",), dones=np.ones(2))
    np.testing.assert_array_equal(read_dataset(early, SPEC).transitions.terminated[3:], [0, 1])
    assert "dones before the last step" in read_recorded(early).notes[1]


# imitation


def imitation(path, **changes):
    arrays = {
        "obs": np.concatenate(OBSERVATIONS),
        "acts": np.concatenate(ACTIONS),
        "rews": np.concatenate(REWARDS),
        "infos": np.array([{"seen": print}] * 5),
        "terminal": np.array([True, False]),
        "indices": np.array([3]),
    } | changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def test_imitation_is_read_without_its_infos(tmp_path, monkeypatch):
    path, read = imitation(tmp_path / "rollouts.npz"), []
    open_member = zipfile.ZipFile.open

    def watched(self, member, *arguments, **options):
        read.append(getattr(member, "filename", member))
        return open_member(self, member, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", watched)
    assert "episode 1, step 1: truncations is False" in refusal(path)
    assert_same(read_dataset(path, SPEC, truncate_unfinished=True), expected())
    assert "obs.npy" in read and "infos.npy" not in read
    without = read_recorded(imitation(path, rews=None, infos=None))
    assert without.notes[1] == "it has no rewards, which are zero here"
    assert not np.concatenate(without.fields["rewards"]).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"terminal": None}, "it has no key 'terminal'; "),
        ({"obs": np.zeros((5, 2))}, "obs has the shape (5, 2), and by acts and indices it should "),
        ({"indices": np.array([5])}, "episode 1 has no steps by its indices"),
        ({"indices": np.array([2.5])}, "indices has the number 2.5; give whole ones"),
        ({"indices": np.array([[3]])}, "acts have the shape (5, 1) and indices (1, 1); "),
        ({"obs": np.array([print] * 7)}, "'obs' has the dtype object; only numbers can be read"),
        ({"speed": np.zeros(5)}, "it has the unknown key 'speed'; leave it out."),
    ],
)
def test_faults_of_imitation_are_named(tmp_path, changes, message):
    assert message in refusal(imitation(tmp_path / "a.npz", **changes))


# All formats


def test_what_is_no_dataset_is_refused(tmp_path):
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / ".zgroup").touch()
    assert "it is a zarr folder, which is not read; docs/imitation.md has" in refusal(
        tmp_path / "zarr"
    )
    (tmp_path / "folder").mkdir()
    assert "a directory without data/metadata.json" in refusal(tmp_path / "folder")
    (tmp_path / "folder" / "data").mkdir()
    h5py.File(tmp_path / "folder" / "data" / "main_data.hdf5", "w").close()
    assert "a Minari older than 0.5 wrote it" in refusal(tmp_path / "folder")
    assert "it holds nothing, and neither robomimic's" in refusal(
        tmp_path / "folder" / "data" / "main_data.hdf5"
    )
    assert "cannot be read" in refusal(tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("1,2\n")
    assert "it is in no format that etude reads; a dataset is an .npz" in refusal(
        tmp_path / "a.csv"
    )
    (tmp_path / "a.npz").write_text("1,2\n")
    assert "it is damaged or not an .npz" in refusal(tmp_path / "a.npz")
    with MinariWriter(tmp_path / "b", SPEC) as writer:
        for i in range(2):
            writer.append(
                observations=OBSERVATIONS[i],
                actions=ACTIONS[i],
                rewards=REWARDS[i],
                terminations=TERMINATED[i],
                truncations=TRUNCATED[i],
            )
    assert "it is the main file of a Minari dataset; give the directory" in refusal(
        tmp_path / "b" / "data" / "main_data.hdf5"
    )
    other = replace(SPEC, action=Discrete(2))
    assert "the action space of the dataset (House-v1) is Box" in refusal(tmp_path / "b", other)


def test_a_format_is_told_by_what_is_there_and_not_by_its_name(tmp_path):
    d4rl(tmp_path / "a.npz")
    assert_same(read_dataset(tmp_path / "a.npz", SPEC), expected())
    write_dataset(tmp_path / "b.npz", expected())
    (tmp_path / "b.npz").rename(tmp_path / "b.hdf5")
    assert_same(read_dataset(tmp_path / "b.hdf5", SPEC), expected())


def test_without_spaces_real_numbers_are_unbounded(tmp_path):
    """And what cannot be told of whole numbers is asked for."""
    dataset = read_dataset(d4rl(tmp_path / "a.hdf5"))
    assert dataset.spec.observation == Box((2,), "float64")
    assert dataset.spec.action == Box((1,), "float32")
    np.testing.assert_array_equal(dataset.transitions.action, np.concatenate(ACTIONS))
    path = d4rl(tmp_path / "b.hdf5", actions=np.arange(5))
    assert "actions are whole numbers, and D4RL files do not say of which space" in refusal(
        path, None
    )
    write_dataset(tmp_path / "c.npz", expected())
    assert read_dataset(tmp_path / "c.npz").spec.observation == Box((2,))


def named_by(path, environment_id):
    """The file with another environment's id."""
    with np.load(path) as arrays:
        np.savez(path, **dict(arrays) | {"environment_id": environment_id})
    return path


def test_the_way_out_of_unknown_spaces_is_one_that_python_has(tmp_path):
    """And a right key of a Dict is not called a wrong one."""
    cartpole = EnvironmentSpec(Box((2,)), Discrete(2), id="CartPole-v1")
    house = replace(SPEC, observation=Composite((Box((2,)),), ("eye",)))
    for name, spec, changes, reason in (
        ("a", cartpole, {"actions": [[0, 1, 1], [1, 0]]}, "actions are whole numbers, and .npz fi"),
        (
            "b",
            replace(house, action=MultiBinary((1,))),
            {
                "observations": [{"eye": x} for x in OBSERVATIONS],
                "actions": [np.ones((len(x), 1), bool) for x in ACTIONS],
            },
            "its observations are a Dict or a Tuple, and without an environment it is not known",
        ),
    ):
        path = tmp_path / f"{name}.npz"
        write_dataset(path, make_dataset(spec, **RECORDED | changes))
        message = refusal(path, None)
        assert reason in message and f'spec=etude.make("{spec.id}").spec' in message
        assert read_dataset(path, spec).num_episodes == 2
        # what a file says is not advised where it would import a module
        assert "os" not in refusal(named_by(path, "os:system"), None).split("spec=")[1]


def test_a_directory_may_be_called_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it").mkdir()
    with pytest.raises(InvalidInput, match="^it: it is a directory without data/metadata.json"):
        read_dataset("it")


def test_the_lines_that_convert_zarr_make_such_a_dataset(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "imitation.md").read_text()
    code = next(x for x in re.findall(r"```python\n(.*?)```", page, re.S) if "zarr" in x)
    folder = {
        "data/state": np.concatenate([x[:-1] for x in OBSERVATIONS]),
        "data/action": np.concatenate(ACTIONS),
        "meta/episode_ends": np.array([3, 5]),
    }
    monkeypatch.setitem(sys.modules, "zarr", SimpleNamespace(open=lambda *_: folder))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    wanted = expected(
        observations=[x[[*range(len(x) - 1), -2]] for x in OBSERVATIONS],
        rewards=[np.zeros(3), np.zeros(2)],
        terminations=[np.zeros(3, bool), np.zeros(2, bool)],
        truncations=[np.arange(n) == n - 1 for n in (3, 2)],
    )
    assert_same(read_dataset("pusht.npz", SPEC), wanted)


def test_a_part_without_side_views_keeps_those_of_others_in_their_places(tmp_path):
    dataset = replace(expected(), spec=replace(SPEC, num_envs=1))
    recorded = recorded_of(dataset, [1, None])
    folder = tmp_path / "a.npz.unfinished"
    with PartsWriter(folder, SPEC) as parts:
        for is_side_view in ((), (False, True), ()):
            parts.append(recorded._replace(is_side_view=is_side_view))
    read = read_recorded(folder, SPEC)
    assert read.is_side_view == (False, False, False, True, False, False)
    write_recorded(tmp_path / "b", SPEC, read)
    assert read_recorded(tmp_path / "b").is_side_view == read.is_side_view


@pytest.mark.parametrize("name", ["data.npz", "data-v0", "balance", "v1.2"])
def test_what_was_written_is_read_back_with_its_seeds(tmp_path, name):
    dataset = replace(expected(), spec=replace(SPEC, num_envs=1))
    write_dataset(tmp_path / name, dataset, seeds=[3, None])
    assert_same(read_dataset(tmp_path / name, SPEC), dataset)
    read = read_recorded(tmp_path / name, SPEC)
    assert read.seeds == (3, None) and read.environment_id == "House-v1"
    with pytest.raises(InvalidInput, match="exists already"):
        write_dataset(tmp_path / name, dataset)
    with pytest.raises(InvalidInput, match="there are 1 seeds and 2 episodes"):
        write_dataset(tmp_path / "other", dataset, seeds=[3])
    for seed in (1.5, -5, 2**63, "3"):
        with pytest.raises(InvalidInput, match=r"the seed of episode 1 is .*; give a whole number"):
            write_dataset(tmp_path / "other", dataset, seeds=[3, seed])
    with pytest.raises(InvalidInput, match=r"a.csv is neither .* give .*a.npz or .*/a$"):
        write_dataset(tmp_path / "a.csv", dataset)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("seeds", [np.array([1]), np.array([1.0, 2.0]), np.array([[1, 2]])])
def test_seeds_that_are_none_are_refused(tmp_path, seeds):
    write_dataset(tmp_path / "a.npz", expected())
    with np.load(tmp_path / "a.npz") as arrays:
        np.savez(tmp_path / "b.npz", **arrays, seeds=seeds)
    assert "'seeds' has the dtype" in refusal(tmp_path / "b.npz")


def test_both_formats_hold_the_same_dataset(tmp_path):
    """Of real observations in double precision, and of pictures."""
    space = gymnasium.spaces.Dict(
        x=gymnasium.spaces.Box(-1, 1, (2,), np.float64),
        eye=gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
    )
    spec = replace(SPEC, observation=space_from_gymnasium(space), num_envs=1)
    observations = [gymnasium_spaces.stacked(space, n) for n in (4, 3)]
    dataset = make_dataset(
        spec,
        observations=observations,
        actions=ACTIONS,
        rewards=REWARDS,
        terminations=TERMINATED,
        truncations=TRUNCATED,
    )
    for name in ("a.npz", "a"):
        write_dataset(tmp_path / name, dataset)
        assert content_hash(read_dataset(tmp_path / name, spec)) == content_hash(dataset)


def test_files_without_an_episode_are_refused(tmp_path):
    nothing = {name: np.zeros((0, 2)) for name in ("observations", "next_observations", "actions")}
    flags = {name: np.zeros(0) for name in ("rewards", "terminals", "timeouts")}
    for spec in (SPEC, None):
        path = d4rl(tmp_path / "a.hdf5", **nothing, **flags)
        assert "it has no steps; record at least one" in refusal(path, spec)
        with h5py.File(path, "w") as file:
            file.create_group("data")
        assert "its group 'data' has no demonstration" in refusal(path, spec)
    with MinariWriter(tmp_path / "b", SPEC):
        pass
    assert "the dataset has no episodes; record at least one" in refusal(tmp_path / "b")
