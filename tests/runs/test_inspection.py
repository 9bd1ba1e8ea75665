"""`etude dataset`: what a dataset holds, what is wrong with it, whether it replays; converting."""

import json

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from commands import here, programs_kept
from gymnasium.envs.registration import register

import etude
from etude.errors import EnvironmentFault, InvalidInput
from etude.runs.inspection import inspect_dataset, inspection_table
from etude.storage.datasets.formats import read_recorded
from etude.trees import content_hash

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, of missing authors
SPEC = etude.make("CartPole-v1").spec


class Drift(gymnasium.Env):
    """Gives double precision, ends at step 6 or is cut off before; `scale` makes it another."""

    observation_space = gymnasium.spaces.Dict(x=gymnasium.spaces.Box(-9, 9, (2,), np.float64))
    action_space = gymnasium.spaces.Box(-0.4, 0.4, (1,), np.float64)

    def __init__(self, scale=1.0, fail_at=None):
        self.scale, self.fail_at = scale, fail_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.time = self.np_random.normal(size=2), 0
        return {"x": self.x}, {}

    def step(self, action):
        self.time += 1
        if self.time == self.fail_at:
            raise RuntimeError("out of order")
        self.x = self.x + self.scale * float(action[0]) + 0.1 * self.np_random.normal(size=2)
        return {"x": self.x}, self.scale / 3, self.time == 6, False, {}


register("etude-tests/Drift-v0", entry_point=Drift)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A dataset of two episodes in both formats."""
    directory = tmp_path_factory.mktemp("recorded")
    options = {"episodes": 2, "progress": False, "seed": 1}
    for name in ("cartpole-v0", "cartpole.npz"):
        etude.record("CartPole-v1", "random", out=directory / name, **options)
    for name in ("drift-v0", "drift.npz"):
        etude.record("etude-tests/Drift-v0", "random", out=directory / name, **options)
    etude.record(
        "etude-tests/Drift-v0", "random", out=directory / "cut", max_evaluation_steps=4, **options
    )
    return directory


def refused(recorded, *arguments):
    done = here("dataset", *arguments, cwd=recorded)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("etude: ") and done.stderr.count("\n") == 1
    return done.stderr


def rewritten(recorded, to, change):
    """A copy of the CartPole dataset, changed by `change`."""
    with np.load(recorded / "cartpole.npz") as arrays:
        changed = {key: array.copy() for key, array in arrays.items()}
    change(changed)
    np.savez(to, **changed)
    return to


def test_what_it_holds_is_shown(recorded):
    """Of Minari's layout its own spaces, of an .npz those of the environment that it names."""
    with np.load(recorded / "cartpole.npz") as arrays:
        lengths = arrays["episode_lengths"]
    for name, format in (("cartpole-v0", "Minari"), ("cartpole.npz", ".npz")):
        done = here("dataset", name, "--check", "--replay", cwd=recorded)
        assert done.returncode == 0, done.stderr
        said = " ".join(done.stdout.split())
        for words in (
            name,
            f"format │ {format}",
            "environment │ CartPole-v1",
            "Box([-4.8",
            "Discrete(2)",
            "episodes │ 2",
            "terminated, truncated │ 2, 0",
            f"steps │ {lengths.sum()}",
            f"steps of an episode │ {lengths.min()} to {lengths.max()}",
            f"return, mean ± std │ {lengths.mean():.1f} ±",
            "seeds │ of 2 episodes",
            f"hash │ {content_hash(etude.read_npz(recorded / 'cartpole.npz', SPEC))[:12]}",
            "no faults found",
            f"replayed 2 episodes, {lengths.sum()} steps, bit for bit",
        ):
            assert words in said


def test_every_kind_of_fault_is_named_and_the_status_is_2(recorded, tmp_path):
    def spoil(arrays):
        arrays["actions"][3] = 7
        arrays["observations"][1, 2] = np.nan
        arrays["rewards"][[0, 5]] = np.inf

    path = rewritten(recorded, tmp_path / "bad.npz", spoil)
    done = here("dataset", "bad.npz", "--check", "--to", "good.npz", cwd=tmp_path)
    assert done.returncode == 2
    faults = [line for line in done.stdout.split("\n") if line.startswith("fault: ")]
    assert [fault.partition(";")[0][7:] for fault in faults] == [
        "episode 0, step 1: observations[2] is nan",
        "episode 0, step 3: actions is 7",
        "episode 0, step 0: rewards is inf",
    ]
    assert faults[2].endswith("(2 in all, in 1 episodes)")
    assert done.stderr == (
        "etude: bad.npz has 3 kinds of fault, which are named above; mend them\n"
    )
    assert not (tmp_path / "good.npz").exists()
    # without --check the first ends it
    assert "bad.npz: episode 0, step 1: observations[2] is nan" in refused(tmp_path, "bad.npz")
    found = inspect_dataset(path, check=True)
    assert found.dataset is None and len(found.faults) == 3

    rewritten(recorded, tmp_path / "short.npz", lambda arrays: arrays.update(rewards=np.zeros(3)))
    found = inspect_dataset(tmp_path / "short.npz", check=True)
    assert "rewards has the shape (3,)" in found.faults[0].message


def test_what_is_no_fault_is_noted(recorded, tmp_path):
    def stretch(arrays):
        arrays["observations"][:, 1] = 3
        arrays["observations"][2:5, 0] = 9

    path = rewritten(recorded, tmp_path / "a.npz", stretch)
    assert inspect_dataset(path).notes == (
        "3 values of observations are outside the bounds of their space",
        "observations[1] never changes",
    )


@pytest.mark.parametrize("name", ["drift-v0", "drift.npz"])
def test_double_precision_and_inexact_bounds_replay(recorded, name):
    replay = inspect_dataset(recorded / name, replay=True).replay
    assert replay == (2, 12, 0, 0, "")


def test_what_a_recording_cut_off_replays(recorded):
    found = inspect_dataset(recorded / "cut", replay=True)
    assert found.replay == (2, 8, 0, 2, "")
    assert "0, 2" in inspection_table(found).columns[1].cells  # terminated, truncated


def test_where_the_disk_does_not_take_it_is_named(recorded, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("etude.storage.files.os.replace", refuse)
    for name in ("a.npz", "a-v0"):
        with pytest.raises(InvalidInput, match=f"{name} cannot be written .Permission denied"):
            inspect_dataset(recorded / "cartpole.npz", to=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_minari_collected_replays(tmp_path, monkeypatch):
    """In double precision, as Minari keeps it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(Drift(), data_format="hdf5")
    for seed in (3, 4):
        env.reset(seed=seed)
        while not env.step(env.action_space.sample())[2]:
            pass
    env.create_dataset("drift-v0")
    name = "etude-tests/Drift-v0"
    found = inspect_dataset(tmp_path / "drift-v0", environment=name, replay=True, check=True)
    assert found.replay == (2, 12, 0, 0, "") and not found.faults
    # and goes to an .npz and back with seeds and bits
    for source, to in (("drift-v0", "a.npz"), ("a.npz", "back")):
        inspect_dataset(tmp_path / source, environment=name, to=tmp_path / to)
    before, after = read_recorded(tmp_path / "drift-v0"), read_recorded(tmp_path / "back")
    assert after.seeds == (3, 4)
    for field in ("actions", "rewards", "terminations", "truncations"):
        for there, here_ in zip(before.fields[field], after.fields[field], strict=True):
            np.testing.assert_array_equal(there, here_)
    np.testing.assert_array_equal(
        before.fields["observations"][1]["x"], after.fields["observations"][1]["x"]
    )
    assert minari.MinariDataset(tmp_path / "back" / "data").total_steps == 12


@pytest.mark.parametrize(
    "field, place, value, expected",
    [
        ("observations", (0, 1), 0.5, "episode 0, step 0: after the reset observations[1] is 0.5"),
        ("observations", (3, 0), 0.25, "episode 0, step 2: after the step observations[0] is 0.25"),
        ("rewards", 4, 2.0, "episode 0, step 4: rewards is 2.0, and the environment gives 1.0"),
    ],
)
def test_the_first_difference_is_named(recorded, tmp_path, field, place, value, expected):
    def change(arrays):
        arrays[field][place] = value
        arrays["rewards"][8] = 7

    rewritten(recorded, tmp_path / "a.npz", change)
    message = refused(tmp_path, "a.npz", "--replay")
    assert f"a.npz does not replay: {expected}" in message
    assert "and the environment gives" in message


def test_an_end_that_does_not_come_is_a_difference(recorded, tmp_path):
    """A termination that the environment does not give, and one that the recording lacks."""
    with np.load(recorded / "cartpole.npz") as arrays:
        first = int(arrays["episode_lengths"][0])

    def shorten(arrays):
        arrays["episode_lengths"][0] -= 1
        for field in ("actions", "rewards", "terminations", "truncations"):
            arrays[field] = np.delete(arrays[field], first - 1, 0)
        arrays["observations"] = np.delete(arrays["observations"], first, 0)
        arrays["terminations"][first - 2] = True

    path = rewritten(recorded, tmp_path / "a.npz", shorten)
    difference = inspect_dataset(path, replay=True).replay.difference
    assert difference == (
        f"episode 0, step {first - 2}: terminations is True, and the environment gives False"
    )


def test_a_replay_says_what_it_lacks(recorded, tmp_path):
    def no_seeds(arrays):
        del arrays["seeds"]

    rewritten(recorded, tmp_path / "a.npz", no_seeds)
    assert "no episode has the seed of its reset" in refused(tmp_path, "a.npz", "--replay")

    rewritten(recorded, tmp_path / "b.npz", lambda arrays: arrays["seeds"].__setitem__(0, -1))
    done = here("dataset", "b.npz", "--replay", cwd=tmp_path)
    assert "replayed 1 episodes" in done.stdout
    assert "1 have no seed and were not replayed" in done.stdout

    def without_name(arrays):
        del arrays["environment_id"]

    rewritten(recorded, tmp_path / "c.npz", without_name)
    assert "actions are whole numbers, " in refused(tmp_path, "c.npz")
    assert "with --environment" in refused(tmp_path, "c.npz", "--replay")
    done = here("dataset", "c.npz", "--replay", "--environment", "CartPole-v1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_no_file_makes_etude_import_a_module(recorded, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = np.array("trap:Env-v0")
    rewritten(recorded, tmp_path / "a.npz", lambda arrays: arrays.update(environment_id=name))
    options = ("--environment", "CartPole-v1")
    assert here("dataset", "a.npz", *options, cwd=tmp_path).returncode == 0
    assert "actions are whole numbers" in refused(tmp_path, "a.npz")
    inspect_dataset(tmp_path / "a.npz", environment="CartPole-v1", to=tmp_path / "a")
    assert here("dataset", "a", cwd=tmp_path).returncode == 0
    message = refused(tmp_path, "a", "--replay")
    assert "no file makes etude import a module; give it with --environment trap:Env-v0" in message


def test_an_environment_that_is_gone_or_fails_is_named(recorded, tmp_path, monkeypatch):
    metadata = recorded / "drift-v0" / "data" / "metadata.json"
    assert json.loads(metadata.read_text())["environment_id"] == "etude-tests/Drift-v0"
    with monkeypatch.context() as patch:
        patch.delitem(gymnasium.registry, "etude-tests/Drift-v0")
        assert here("dataset", "drift-v0", cwd=recorded).returncode == 0
        message = refused(recorded, "drift-v0", "--replay")
        assert "no environment is called 'etude-tests/Drift-v0'" in message
    with pytest.raises(EnvironmentFault, match="RuntimeError: out of order in episode 0, which be"):
        inspect_dataset(
            recorded / "drift-v0",
            replay=True,
            options={"fail_at": 3},
            environment="etude-tests/Drift-v0",
        )
    found = inspect_dataset(recorded / "drift-v0", replay=True, options={"scale": 2.0})
    assert found.replay.difference.startswith("episode 0, step 0: rewards is 0.333")


def test_other_spaces_and_stacked_frames_are_refused(recorded):
    message = refused(recorded, "cartpole-v0", "--environment", "Pendulum-v1")
    assert "cartpole-v0: its observation space is Box" in message
    assert "that of the environment is Box" in message
    stacked = ("--environment", "CartPole-v1", "--frame-stack", "2", "--replay")
    assert "its observation space is" in refused(recorded, "cartpole-v0", *stacked)
    with pytest.raises(InvalidInput, match="frame_stack is 2, and a replay compares"):
        inspect_dataset(recorded / "cartpole-v0", replay=True, frame_stack=2)


def test_what_is_unfinished_is_converted_where_that_is_asked_for(recorded, tmp_path):
    def cut(arrays):
        arrays["terminations"][-1] = False

    path = rewritten(recorded, tmp_path / "a.npz", cut)
    assert "give truncate_unfinished=True" in refused(tmp_path, "a.npz", "--to", "b")
    done = here("dataset", "a.npz", "--truncate-unfinished", "--to", "b", cwd=tmp_path)
    assert done.returncode == 0 and "written b" in done.stdout
    dataset = etude.read_dataset(tmp_path / "b", SPEC)
    wanted = etude.read_dataset(path, SPEC, truncate_unfinished=True)
    assert content_hash(dataset) == content_hash(wanted)
    assert "b exists already; choose another name" in refused(tmp_path, "a.npz", "--to", "b")


def test_foreign_data_are_said_to_have_no_spaces(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name in ("observations", "next_observations"):
            file[name] = np.arange(6.0).reshape(3, 2) + (2 if name[0] == "n" else 0)
        file["actions"], file["rewards"] = np.zeros((3, 1)), np.zeros(3)
        file["terminals"], file["timeouts"] = np.array([0, 0, 1]), np.zeros(3)
    done = here("dataset", "a.hdf5", "--check", "--to", "a.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "format │ D4RL" in " ".join(done.stdout.split())
    assert "note: its spaces are told from its arrays" in done.stdout
    assert "environment │ not named" in " ".join(done.stdout.split())
    assert etude.read_dataset(tmp_path / "a.npz").num_steps == 3
    for arguments in (("nowhere",), ("a.npz", "--chek"), ()):
        assert refused(tmp_path, *arguments)
