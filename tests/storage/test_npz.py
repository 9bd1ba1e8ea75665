"""Dataset files of NumPy: what was recorded comes back, and damage and malice are refused."""

import io
import os
import zipfile

import gymnasium_spaces
import jax
import numpy as np
import pytest

from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, space_from_gymnasium
from etude.storage.datasets import budget
from etude.storage.datasets.npz import read_npz, write_npz
from etude.storage.files import CorruptFile
from etude.struct import replace
from etude.trees import content_hash

SPEC = EnvironmentSpec(
    Composite((Discrete(3, start=5), Composite((Box((2,)), Box(())))), ("door", "place")),
    Box((1,), low=-2.0, high=2.0),
    4,
    "House-v0",
)


def contents():
    """What a user writes with NumPy: two episodes, of 3 and 1 steps."""
    return {
        "observations/door": np.array([5, 6, 7, 5, 6, 7]),
        "observations/place/0": np.arange(12.0).reshape(6, 2),
        "observations/place/1": np.arange(6.0),
        "actions": np.array([[-2.0], [0], [2], [1]]),
        "rewards": np.array([1.0, 2, 3, 0.5]),
        "terminations": np.array([0, 0, 1, 0], bool),
        "truncations": np.array([0, 0, 0, 1], bool),
        "episode_lengths": np.array([3, 1]),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def bits(dataset):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(dataset)]


NO_ID = "the environment's id in it is not one line of text; give one"


def refusal(path, spec=SPEC):
    with pytest.raises(InvalidInput) as refused:
        read_npz(path, spec)
    message = str(refused.value)
    assert message.startswith(str(path)) and message.count(str(path)) == 1
    assert "\n" not in message
    return message


def write_members(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)


def encoded(array):
    """An array as the bytes of a member."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array))
    return buffer.getvalue()


def members_of(arrays):
    return [(f"{key}.npy", encoded(array)) for key, array in arrays.items()]


# What was recorded


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_of_numpy_is_read(path, save):
    save(path, **contents(), environment_id="House-v1")
    dataset = read_npz(path, SPEC)
    steps = dataset.transitions
    assert dataset.spec == replace(SPEC, num_envs=1, id="House-v1")
    np.testing.assert_array_equal(dataset.episode_lengths, [3, 1])
    np.testing.assert_array_equal(steps.observation["door"], [0, 1, 2, 1])
    np.testing.assert_array_equal(steps.observation["place"][0][:, 1], [1, 3, 5, 9])
    np.testing.assert_array_equal(steps.next_observation["place"][1], [1, 2, 3, 5])
    np.testing.assert_array_equal(steps.action[:, 0], [-1, 0, 1, 0.5])
    np.testing.assert_array_equal(steps.truncated, [0, 0, 0, 1])


def test_a_file_of_etude_is_read_by_numpy(path):
    arrays = contents()
    np.savez(path, **arrays)
    write_npz(path.with_name("again.npz"), replace(read_npz(path, SPEC), spec=SPEC))
    with np.load(path.with_name("again.npz")) as again:
        assert set(again) == {*arrays, "environment_id"} and again["environment_id"] == "House-v0"
        for key, array in arrays.items():
            np.testing.assert_array_equal(again[key], array)
        assert again["actions"].dtype == np.float32 and again["observations/door"].dtype == "int64"


@pytest.mark.parametrize("kind", gymnasium_spaces.OBSERVATIONS)
def test_every_space_comes_back_bit_for_bit(path, kind):
    rng = np.random.default_rng(0)
    for name, action_space in gymnasium_spaces.ACTIONS.items():
        observation_space = gymnasium_spaces.OBSERVATIONS[kind]
        spec = EnvironmentSpec(
            space_from_gymnasium(observation_space), space_from_gymnasium(action_space, "action")
        )
        samples = lambda space, n: gymnasium_spaces.stacked(space, n)
        dataset = make_dataset(
            spec,
            observations=samples(observation_space, 12),
            actions=samples(action_space, 10),
            rewards=rng.normal(size=10),
            terminations=np.arange(10) == 6,
            truncations=np.arange(10) == 9,
            episode_lengths=[7, 3],
        )
        file = path.with_name(f"{name}.npz")
        write_npz(file, dataset)
        with np.load(file) as arrays:
            assert "environment_id" not in arrays
        back = read_npz(file, spec)
        assert back.spec == dataset.spec and back.spec.id == ""
        if name == "bounded":  # [0, 10] scales by 5 from a center of 5, which rounds
            np.testing.assert_allclose(
                back.transitions.action, dataset.transitions.action, atol=2**-23 * 10 / 5
            )
            action = dataset.transitions.action
            back = replace(back, transitions=replace(back.transitions, action=action))
        assert bits(back) == bits(dataset)


def test_the_hash_is_of_what_is_in_the_file_and_not_of_the_file(path):
    np.savez(path, **contents())
    np.savez_compressed(path.with_name("small.npz"), **dict(reversed(contents().items())))
    dataset = read_npz(path, SPEC)
    write_npz(path.with_name("again.npz"), dataset)
    digests = {
        content_hash(read_npz(path.with_name(name), SPEC))
        for name in ("data.npz", "small.npz", "again.npz")
    }
    assert digests == {content_hash(dataset)}
    arrays = contents()
    arrays["rewards"][0] = 1.5
    np.savez(path, **arrays)
    assert content_hash(read_npz(path, SPEC)) not in digests


def test_equal_datasets_give_equal_files(path):
    np.savez(path, **contents())
    dataset = read_npz(path, SPEC)
    for name in ("a.npz", "b.npz"):
        write_npz(path.with_name(name), dataset)
    assert path.with_name("a.npz").read_bytes() == path.with_name("b.npz").read_bytes()


def test_an_unfinished_recording_is_read_where_that_is_asked_for(path):
    np.savez(path, **contents() | {"truncations": np.zeros(4, bool)})
    assert "give truncate_unfinished=True" in refusal(path)
    dataset = read_npz(path, SPEC, truncate_unfinished=True)
    np.testing.assert_array_equal(dataset.transitions.truncated, [0, 0, 0, 1])


# Writing


def test_an_existing_file_is_not_written_over(path):
    np.savez(path, **contents())
    before = path.read_bytes()
    dataset = read_npz(path, SPEC)
    with pytest.raises(InvalidInput, match=r"data.npz exists already; choose another name"):
        write_npz(path, dataset)
    path.with_name("link.npz").symlink_to(path.with_name("nowhere"))
    with pytest.raises(InvalidInput, match=r"link.npz exists already"):
        write_npz(path.with_name("link.npz"), dataset)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failed_write_leaves_no_file(path, monkeypatch, name):
    np.savez(path, **contents())
    dataset = read_npz(path, SPEC)
    path.unlink()
    monkeypatch.setattr(
        os, name, lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(OSError, match="Input/output error"):
        write_npz(path, dataset)
    assert not list(path.parent.iterdir())


def test_two_arrays_with_one_key_are_refused(path):
    observation = Composite((Composite((Box(()),), ("b",)), Box(())), ("a", "a/b"))
    spec = replace(SPEC, observation=observation)
    arrays = {
        "observations": {"a": {"b": np.zeros(2)}, "a/b": np.ones(2)},
        "actions": np.zeros((1, 1)),
        "rewards": [0.0],
        "terminations": [True],
        "truncations": [False],
    }
    dataset = make_dataset(spec, **arrays, episode_lengths=[1])
    same = "two arrays of the observation space have the key 'observations/a/b'"
    with pytest.raises(InvalidInput, match=same):
        write_npz(path, dataset)
    assert not path.exists()
    np.savez(path, **contents())
    assert same in refusal(path, spec)


# Keys and arrays


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"rewards": None},
            "it has no key 'rewards'; for these spaces the keys are observations/door, "
            "observations/place/0, observations/place/1, actions, rewards, terminations, "
            "truncations, episode_lengths",
        ),
        ({"truncations": None}, "it has no key 'truncations'; "),
        ({"episode_lengths": None}, "it has no key 'episode_lengths'; "),
        (
            {"rewards": None, "reward": np.zeros(4)},
            "it has the unknown key 'reward': did you mean 'rewards'? The keys are "
            "observations/door, ",
        ),
        (
            {"terminations": None, "terminals": np.zeros(4)},
            "it has the unknown key 'terminals': did you mean 'terminations'? ",
        ),
        (
            {"observations/door": None, "observations": np.zeros(6)},
            "it has the unknown key 'observations': did you mean 'observations/door'? ",
        ),
        (
            {"infos": np.zeros(4)},
            "it has the unknown key 'infos'; leave it out. The keys are observations/door, ",
        ),
        (
            {"rewards": None, "infos": np.zeros(4)},
            "it has the unknown key 'infos'; leave it out. The keys are observations/door, ",
        ),
        ({"../rewards": np.zeros(4)}, "it has the unknown key '../rewards'; leave it out."),
        ({"\x1b[2J": np.zeros(4)}, "it has the unknown key '\\x1b[2J'; leave it out."),
        ({"k" * 999: np.zeros(4)}, f"it has the unknown key '{'k' * 80}'; leave it out."),
        (
            {"actions": np.array([[1.0], [2], [3], [0]])},
            "episode 0, step 2: actions[0] is 3.0; its space is Box(",
        ),
        (
            {"observations/place/1": np.zeros((6, 1))},
            "observations['place'][1] has the shape (6, 1); ",
        ),
        ({"rewards": np.zeros(3)}, "rewards has 3 rows, "),
        ({"episode_lengths": np.array([4, 1])}, "observations['door'] has 6 rows, "),
        ({"environment_id": np.array(["a", "b"])}, NO_ID),
        ({"environment_id": np.array("a\nb")}, NO_ID),
        ({"environment_id": np.array("a\x1b[2J")}, NO_ID),
        ({"environment_id": np.array("a" * 1001)}, NO_ID),
        ({"environment_id": np.zeros(1)}, "'environment_id' has the dtype float64; only text "),
        ({"actions": np.array(["a"] * 4)}, "'actions' has the dtype <U1; only numbers can be read"),
        (
            {"actions": np.array([print] * 4)},
            "'actions' has the dtype object; only numbers can be read there, and Python objects "
            "nowhere, for reading them runs code",
        ),
        ({"environment_id": np.array(print)}, "'environment_id' has the dtype object; only text "),
        ({"rewards": np.zeros(4, "f4,f4")}, "'rewards' has the dtype [('f0', '<f4'), ('f1', "),
    ],
)
def test_contents_at_fault_are_named(path, changes, expected):
    arrays = {key: x for key, x in (contents() | changes).items() if x is not None}
    np.savez(path, **arrays)
    assert refusal(path).startswith(f"{path}: {expected}")


class Payload:
    """Writes a file when it is read back."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_reading_runs_no_code(path):
    trap = path.with_name("trap")
    np.savez(path, **contents() | {"actions": np.array([Payload(trap)])})
    with np.load(path, allow_pickle=True) as file:
        assert file["actions"] is not None
    trap.rmdir()  # the trap works
    assert "runs code" in refusal(path)
    assert not trap.exists()


# Damage


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip file" * 99, encoded([1.0])])
def test_what_is_no_zip_is_refused(path, data):
    path.write_bytes(data)
    message = refusal(path)
    assert "it is damaged or not an .npz (" in message and "export or copy it again" in message


def test_what_is_no_plain_file_is_refused(path, monkeypatch):
    assert "cannot be read" in refusal(path)
    np.savez(path, **contents())
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        assert "it cannot be read (I/O error)" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "not a plain file" in refusal(path)


def test_no_truncation_goes_unseen(path):
    np.savez(path, **contents())
    data = path.read_bytes()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        with pytest.raises(CorruptFile, match="damaged or not an .npz"):
            read_npz(path, SPEC)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_is_refused_or_changes_nothing(path, save):
    save(path, **contents())
    data = path.read_bytes()
    expected = bits(read_npz(path, SPEC))
    refused = 0
    indices = range(0, len(data), 47)
    for index in indices:
        path.write_bytes(data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :])
        try:
            assert bits(read_npz(path, SPEC)) == expected  # a date, for one, says nothing
        except InvalidInput as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(indices) / 2


def test_a_key_that_is_there_twice_is_refused(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_members(path, [*members_of(contents()), ("rewards.npy", encoded(np.ones(4)))])
    assert "it has the key 'rewards' twice" in refusal(path)


def test_more_than_such_a_file_can_hold_is_refused_unread(path, monkeypatch):
    arrays = contents() | {"rewards": np.zeros(2**20)}
    np.savez_compressed(path, **arrays)
    assert "rewards has 1048576 rows" in refusal(path)  # small enough to be read
    monkeypatch.setattr(budget, "SMALL", 2**20)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    message = refusal(path)
    limit = budget.LARGEST_RATIO * path.stat().st_size
    assert f"with 'rewards' its arrays would take more than {limit:,} bytes" in message
    assert "without compression" in message


def header(shape, dtype="<f8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    "shape", [(10**12,), (2**62,), (5,), (3,), (), (-1, -4), (-1, 4), (2**32, 2**32), (0, 10**30)]
)
def test_a_header_that_lies_about_its_size_is_refused_unread(path, shape, monkeypatch):
    members = dict(members_of(contents())) | {"rewards.npy": header(shape) + bytes(32)}
    write_members(path, members.items())
    if shape != (-1, -4):  # as many as there are
        monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("read"))
        message = refusal(path)
        assert "'rewards' has 160 bytes and an array of the shape" in message
        assert "do not agree" in message
    else:
        assert "damaged or not an .npz" in refusal(path)


def test_a_size_that_the_zip_lies_about_is_refused(path):
    write_members(path, members_of(contents()), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("rewards.npy").file_size
    place = data.rindex(b"rewards.npy") - 46 + 24  # in the directory, at the end of the file
    assert int.from_bytes(data[place : place + 4], "little") == size
    for lie, expected in (
        (2**31, "its arrays would take more than 268,"),
        (size + 8, "do not agree"),
    ):
        data[place : place + 4] = lie.to_bytes(4, "little")
        path.write_bytes(data)
        assert expected in refusal(path)


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "damaged or not an .npz"),
        (b"\x93NUMPY\x09\x00" + bytes(90), "'rewards' is of version (9, 0)"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "damaged or not an .npz"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "damaged or not an .npz"),
        (header((4,), "|O") + bytes(32), "'rewards' has the dtype object"),
        (header((10**9,), "<U0"), "'rewards' has the dtype <U0"),
        (b"\x80\x04K\x01." + bytes(90), "damaged or not an .npz"),  # a pickle
    ],
)
def test_members_that_are_no_arrays_of_numbers_are_refused(path, data, expected):
    write_members(path, (dict(members_of(contents())) | {"rewards.npy": data}).items())
    assert expected in refusal(path)


@pytest.mark.parametrize("change", ["encrypted", "method"])
def test_members_that_are_encrypted_or_of_another_method_are_refused(path, change):
    np.savez(path, **contents())
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 8 if change == "encrypted" else place + 10] |= 1
    local = data.rindex(b"PK\x03\x04")
    data[local + 6 if change == "encrypted" else local + 8] |= 1
    path.write_bytes(data)
    assert "damaged or not an .npz" in refusal(path)
