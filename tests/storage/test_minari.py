"""Minari's layout: Minari reads what etude wrote, etude what Minari wrote, and nothing is lost."""

import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium
import gymnasium_spaces
import h5py
import jax
import minari
import numpy as np
import pytest
from PIL import Image

from etude.errors import InvalidInput
from etude.runs.inspection import inspect_dataset
from etude.runs.outside import open_dataset
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, space_from_gymnasium
from etude.storage import files
from etude.storage.datasets import minari_writer
from etude.storage.datasets.formats import read_dataset
from etude.storage.datasets.hdf5 import open_hdf5
from etude.storage.datasets.minari import read_minari
from etude.storage.datasets.minari_root import locate_dataset, minari_root
from etude.storage.datasets.minari_spaces import decode_space, encode_space
from etude.storage.datasets.minari_writer import MinariWriter, write_minari
from etude.storage.datasets.pictures import decode_pictures
from etude.storage.datasets.recorded_episodes import RecordedEpisodes, dataset_of
from etude.struct import replace
from etude.trees import content_hash

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, of missing authors

SPEC = EnvironmentSpec(Box((2,)), Discrete(3, start=1), id="House-v0")


def sampled(observation_space, action_space, steps):
    """An episode of samples, of so many steps."""
    return {
        "observations": gymnasium_spaces.stacked(observation_space, steps + 1),
        "actions": gymnasium_spaces.stacked(action_space, steps),
        "rewards": np.random.default_rng(steps).normal(size=steps),
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, bool),
    }


def episode(number, steps=3):
    """An episode from whose values its number can be told."""
    return {
        "observations": np.full((steps + 1, 2), number, np.float32),
        "actions": np.full(steps, 1 + number % 3),
        "rewards": np.full(steps, 0.1 * number),
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, bool),
    }


@pytest.fixture
def path(tmp_path):
    with MinariWriter(tmp_path / "house-v0", SPEC) as writer:
        for number in range(3):
            writer.append(**episode(number), seed=10 + number)
    return tmp_path / "house-v0"


def refusal(path):
    with pytest.raises(InvalidInput) as refused:
        read_minari(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def trusted(path):
    """Without the hashes, so that what is changed in the files is what a reader meets."""
    (path / "data" / "etude.json").unlink(missing_ok=True)
    return path / "data" / "main_data.hdf5"


def with_metadata(path, **changes):
    trusted(path)
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in metadata.items() if v is not ...}))


# There and back


PAIRS = [  # of kinds of spaces, each at least once
    *zip(gymnasium_spaces.OBSERVATIONS, itertools.cycle(gymnasium_spaces.ACTIONS), strict=False)
]


def test_minari_reads_what_etude_wrote(tmp_path):
    """Episodes and seeds bit for bit, and the spaces, of every kind."""
    for name, action in PAIRS:
        observation_space = gymnasium_spaces.OBSERVATIONS[name]
        action_space = gymnasium_spaces.ACTIONS[action]
        spec = EnvironmentSpec(
            space_from_gymnasium(observation_space), space_from_gymnasium(action_space, "action")
        )
        path, episodes = tmp_path / name, []
        with MinariWriter(path, spec) as writer:
            for steps, seed in ((3, 2**40), (1, None)):
                episodes.append(sampled(observation_space, action_space, steps))
                writer.append(**episodes[-1], seed=seed)
        read = minari.MinariDataset(path / "data")
        assert (read.total_episodes, read.total_steps) == (2, 4)
        assert read.observation_space == observation_space and read.action_space == action_space
        for there, given in zip(read.iterate_episodes(), episodes, strict=True):
            for field, value in given.items():
                there_value = getattr(there, field)
                jax.tree.map(np.testing.assert_array_equal, there_value, value)
                assert jax.tree.map(lambda x: x.dtype, there_value) == jax.tree.map(
                    lambda x: x.dtype, value
                )
        attributes = list(read.storage.get_episode_metadata([0, 1]))
        assert attributes[0]["seed"] == 2**40 and "seed" not in attributes[1]
        back = read_minari(path)
        assert back.seeds == (2**40, None)
        assert (back.spec.observation, back.spec.action) == (spec.observation, spec.action)
        jax.tree.map(
            np.testing.assert_array_equal,
            back.fields,
            {field: [given[field] for given in episodes] for field in back.fields},
        )


@pytest.mark.parametrize("kind", gymnasium_spaces.OBSERVATIONS)
def test_etude_reads_what_minari_wrote(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    observation_space = gymnasium_spaces.OBSERVATIONS[kind]
    action_space = gymnasium_spaces.ACTIONS["multidiscrete"]
    episodes = [sampled(observation_space, action_space, steps) for steps in (4, 1)]
    buffers = [
        minari.data_collector.EpisodeBuffer(id=i, seed=7 + i, **given)
        for i, given in enumerate(episodes)
    ]
    minari.create_dataset_from_buffers(
        "namespace/made-v3",
        buffers,
        observation_space=observation_space,
        action_space=action_space,
        data_format="hdf5",
    )
    read = read_minari(tmp_path / "namespace" / "made-v3")
    assert read.seeds == (7, 8) and not read.notes and read.environment_id == ""
    assert read.spec.observation == space_from_gymnasium(observation_space)
    assert read.spec.action == space_from_gymnasium(action_space, "action")
    jax.tree.map(
        np.testing.assert_array_equal,
        read.fields,
        {field: [given[field] for given in episodes] for field in read.fields},
    )
    assert dataset_of(read, None).num_steps == 5


def test_a_dataset_that_minari_collected(tmp_path, monkeypatch):
    """With seeds, infos and the environment, which Minari recovers and etude names."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gymnasium.make("CartPole-v1"), record_infos=True, data_format="hdf5")
    lengths = []
    for seed in (3, 4):
        env.reset(seed=seed, options={"low": -0.01, "high": 0.01})
        lengths.append(1)
        while not any(env.step(env.action_space.sample())[2:4]):
            lengths[-1] += 1
    env.create_dataset("cartpole-v0")
    env.close()
    read = read_minari(tmp_path / "cartpole-v0")
    assert read.environment_id == read.spec.id == "CartPole-v1" and read.seeds == (3, 4)
    assert read.notes == ("options were given to its resets",)
    dataset = dataset_of(read, None)
    np.testing.assert_array_equal(dataset.episode_lengths, lengths)
    assert read_minari(tmp_path / "cartpole-v0" / "data").seeds == (3, 4)
    # and what etude writes of it, Minari recovers too
    write_minari(tmp_path / "again", read.spec, read, {"sutton_barto_reward": True})
    again = minari.load_dataset("again")
    assert again.storage.metadata["dataset_id"] == "again-v0"
    recovered = again.recover_environment()
    assert recovered.spec.id == "CartPole-v1" and recovered.unwrapped._sutton_barto_reward
    assert content_hash(dataset_of(read_minari(tmp_path / "again"), None)) == content_hash(dataset)


def test_pictures_are_kept_whole_and_lossy_ones_are_said_to_be(tmp_path, monkeypatch):
    """Of pictures that Minari compresses, etude reads what Minari reads, and says so."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    observation_space = gymnasium.spaces.Dict(
        eye=gymnasium.spaces.Box(0, 255, (40, 33, 3), np.uint8),
        grey=gymnasium.spaces.Box(0, 255, (32, 32), np.uint8),
    )
    action_space = gymnasium.spaces.Discrete(2)
    given = sampled(observation_space, action_space, 3)
    given["observations"]["grey"][1] = 0  # its JPEG is shorter
    minari.create_dataset_from_buffers(
        "pictures-v0",
        [minari.data_collector.EpisodeBuffer(id=0, **given)],
        observation_space=observation_space,
        action_space=action_space,
        data_format="hdf5",
    )
    read = read_minari(tmp_path / "pictures-v0")
    (by_minari,) = minari.load_dataset("pictures-v0").iterate_episodes()
    jax.tree.map(
        np.testing.assert_array_equal, read.fields["observations"][0], by_minari.observations
    )
    assert (read.fields["observations"][0]["eye"] != given["observations"]["eye"]).any()
    assert len(read.notes) == 1 and "JPEG" in read.notes[0]
    with MinariWriter(tmp_path / "whole-v0", read.spec) as writer:
        writer.append(**given)
    jax.tree.map(
        np.testing.assert_array_equal,
        read_minari(tmp_path / "whole-v0").fields["observations"][0],
        given["observations"],
    )
    (by_minari,) = minari.load_dataset("whole-v0").iterate_episodes()
    np.testing.assert_array_equal(by_minari.observations["eye"], given["observations"]["eye"])


@pytest.mark.parametrize("size, mode", [((500, 500), "RGB"), ((33, 40), "L"), ((40, 33), "RGB")])
def test_pictures_of_another_size_are_refused_undecoded(tmp_path, monkeypatch, size, mode):
    spec = EnvironmentSpec(Box((40, 33, 3), "uint8", 0, 255), Discrete(1))
    with MinariWriter(tmp_path / "a", spec) as writer:
        writer.append(
            **episode(0) | {"actions": [0] * 3, "observations": np.zeros((4, 40, 33, 3), "uint8")}
        )
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format="JPEG")
    with h5py.File(trusted(tmp_path / "a"), "r+") as file:
        del file["episode_0/observations"]
        rows = np.tile(np.frombuffer(buffer.getvalue(), np.uint8), (4, 1))
        file["episode_0/observations"] = rows
    with_metadata(tmp_path / "a", jpeg_encoding=True)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    with h5py.File(tmp_path / "b", "w") as file:
        file["x"] = np.zeros((1, 9), np.uint8)
    with open_hdf5(tmp_path / "b") as file, pytest.raises(InvalidInput) as refused:
        decode_pictures(file.rows_of_bytes("x"), "x", spec.observation, file.spend)
    assert str(refused.value) == "row 0 of 'x' is not a whole JPEG (cannot identify image file)"
    assert f"a picture of {size[0]} by {size[1]}, {mode}, and its space" in refusal(tmp_path / "a")


def test_pictures_that_are_arrays_are_read_whatever_the_metadata_leave_out(tmp_path):
    """As a Minari before 0.5.4 wrote them, whose metadata do not tell."""
    spec = EnvironmentSpec(Box((32, 32, 3), "uint8", 0, 255), Discrete(1))
    pictures = np.arange(4 * 32 * 32 * 3).reshape(4, 32, 32, 3).astype(np.uint8)
    with MinariWriter(tmp_path / "a", spec) as writer:
        writer.append(**episode(0) | {"actions": [0] * 3, "observations": pictures})
    with_metadata(tmp_path / "a", jpeg_encoding=...)
    read = read_minari(tmp_path / "a")
    np.testing.assert_array_equal(read.fields["observations"][0], pictures)
    assert not read.notes


# Its ids


def test_an_id_is_looked_up_in_minaris_local_root(tmp_path, monkeypatch):
    """Where no path has that name; and what is nowhere is said with both places."""
    root = tmp_path / "root"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.chdir(tmp_path)
    (root / "D4RL" / "pen").mkdir(parents=True)
    name = "D4RL/pen/human-v2"
    with MinariWriter(root / name, SPEC) as writer:
        writer.append(**episode(1))
    assert locate_dataset(name) == root / name
    assert read_dataset(name).num_episodes == 1
    opened, record, _ = open_dataset(name, SPEC)
    assert (opened.num_steps, record.path) == (3, str(root / name))
    assert inspect_dataset(name).path == root / name
    with pytest.raises(InvalidInput) as refused:
        read_dataset("D4RL/pen/human-v3")
    message = str(refused.value)
    assert "neither a path of that name" in message and f"{root}/D4RL/pen/human-v3 in" in message
    Path(name).mkdir(parents=True)  # a path goes before an id
    assert locate_dataset(name) == Path(name)
    for other in ("../root/D4RL/pen/human-v2", "human", "a.npz", "/D4RL/pen/human-v2"):
        assert locate_dataset(other) == Path(other)
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert minari_root() == tmp_path / ".minari" / "datasets"


# Spaces


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, "no text for the observation space"),
        ("{", "describes none"),
        ("[" * 10**5, "describes none"),
        ('{"type": "Text", "max_length": 3}', "the type 'Text' is none that etude takes"),
        ('{"type": "os:makedirs"}', "the type 'os:makedirs'"),
        ('{"type": "Box", "dtype": "object", "shape": [], "low": 0, "high": 1}', "dtype 'object'"),
        ('{"type": "Box", "dtype": "float32", "shape": [2], "low": [0], "high": [1]}', "shapes"),
        (
            '{"type": "Box", "dtype": "float32", "shape": [99999, 99999], "low": 0, "high": 1}',
            "the shape (99999, 99999)",
        ),
        ('{"type": "Box", "dtype": "float32", "shape": [], "low": NaN, "high": 1}', "no number"),
        ('{"type": "Discrete", "n": 0}', "describes none"),
        ('{"type": "Discrete", "n": 2.5}', "2.5 where a whole number"),
        ('{"type": "Discrete", "n": 2, "n": 3}', "the same key twice"),
        ('{"type": "MultiBinary", "n": [100000, 100000]}', "the shape (100000, 100000)"),
        ('{"type": "Tuple", "subspaces": [' * 40 + "]}" * 40, "nested more than"),
        ('{"type": "Dict", "subspaces": 3}', "describes none"),
    ],
)
def test_texts_that_describe_no_space_are_refused(path, text, expected):
    with_metadata(path, observation_space=text)
    assert expected in refusal(path)


def test_infinite_bounds_are_read():
    space = Box((2,), low=(-np.inf, 0.0), high=np.inf)
    assert "Infinity" in encode_space(space)
    assert decode_space(encode_space(space), "observation") == space


@pytest.mark.parametrize("name", ["a/b", "", "."])
def test_names_that_hdf5_does_not_hold_are_refused(tmp_path, name):
    spec = replace(SPEC, observation=Composite((Box(()),), (name,)))
    with pytest.raises(InvalidInput, match="rename it, without a slash, or write an .npz"):
        MinariWriter(tmp_path / "a", spec)
    assert not list(tmp_path.iterdir())


# What the metadata and the file say


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"total_episodes": 4}, "it has no 'episode_3'"),
        ({"total_episodes": "3"}, "'3' as total_episodes"),
        ({"total_episodes": -1}, "'-1' as total_episodes"),
        ({"total_episodes": ...}, "'None' as total_episodes"),
        (
            {"data_format": "zarr"},
            "its data_format is 'zarr', and hdf5, arrow and parquet are read",
        ),
        ({"env_spec": "{"}, "not the JSON of one"),
        ({"env_spec": "[]"}, "not the JSON of one"),
        ({"env_spec": '{"id": "a\\nb"}'}, "not one line of text"),
    ],
)
def test_metadata_at_fault_are_named(path, changes, expected):
    with_metadata(path, **changes)
    assert expected in refusal(path)


def test_nothing_that_a_file_names_is_made(path, tmp_path):
    """The id alone is read of an environment whose entry point makes a directory."""
    trap = tmp_path / "trap"
    env_spec = {"id": "a:Trap-v0", "entry_point": "os:makedirs", "kwargs": {"name": str(trap)}}
    with_metadata(path, env_spec=json.dumps(env_spec))
    assert read_minari(path).environment_id == "a:Trap-v0"
    with_metadata(path, observation_space=..., action_space=...)
    assert "no text for the observation space" in refusal(path)
    assert not trap.exists()


def test_episodes_that_the_metadata_do_not_count_are_left_out_and_said(path):
    with_metadata(path, total_episodes=2, minari_version="9.0")  # whatever version there will be
    read = read_minari(path)
    assert read.num_episodes == 2 and "do not count: only the first 2 are read" in read.notes[0]


def test_episodes_are_read_by_number_and_not_by_name(tmp_path):
    episodes = [episode(number, 1) for number in range(11)]  # episode_10 is listed before episode_2
    fields = {field: [given[field] for given in episodes] for field in episodes[0]}
    recorded = RecordedEpisodes("etude", SPEC.id, SPEC, fields, (None,) * 11)
    write_minari(tmp_path / "a", SPEC, recorded)
    rewards = np.concatenate(read_minari(tmp_path / "a").fields["rewards"])
    np.testing.assert_allclose(rewards, np.arange(11) * 0.1)
    with h5py.File(trusted(tmp_path / "a"), "r+") as file:
        file.move("episode_3", "aside")
        file.copy("episode_4", "episode_3")
    assert "episode_3 has the id 4; number the episodes from 0, each once" in refusal(
        tmp_path / "a"
    )


def test_a_changed_byte_is_refused(path):
    main = path / "data" / "main_data.hdf5"
    data = main.read_bytes()
    for name, expected in (("main_data.hdf5", data), ("metadata.json", None)):
        file = path / "data" / name
        whole = expected or file.read_bytes()
        for index in range(0, len(whole), len(whole) // 9):
            file.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
            assert refusal(path)
        file.write_bytes(whole)
    main.write_bytes(data + b"\0")
    assert "main_data.hdf5 was changed since etude wrote it, or is damaged" in refusal(path)
    with pytest.raises(InvalidInput, match="main_data.hdf5 was changed since etude wrote it"):
        MinariWriter(path, SPEC, resume=True)
    trusted(path)
    assert read_minari(path).num_episodes == 3


# Writing


def test_nothing_is_written_over(path, tmp_path):
    before = files_of(path)
    episodes = read_minari(path)
    for write in (lambda: MinariWriter(path, SPEC), lambda: write_minari(path, SPEC, episodes)):
        with pytest.raises(InvalidInput, match="house-v0 exists already; choose another name"):
            write()
    with pytest.raises(InvalidInput, match="no directory .*nowhere for a; make it first"):
        write_minari(tmp_path / "nowhere" / "a", SPEC, episodes)
    other = replace(SPEC, action=Discrete(4))
    with pytest.raises(InvalidInput, match="has the action space .* and the episodes to add have"):
        MinariWriter(path, other, resume=True)
    assert files_of(path) == before
    trusted(path)
    with pytest.raises(InvalidInput, match="not a dataset that etude wrote"):
        MinariWriter(path, SPEC, resume=True)


def test_a_refused_episode_is_not_written(path):
    with MinariWriter(path, SPEC, resume=True) as writer:
        bad = episode(3) | {"rewards": np.array([0, np.nan, 0])}
        with pytest.raises(InvalidInput, match=r"episode 0, step 1: rewards is nan"):
            writer.append(**bad)
        with pytest.raises(InvalidInput, match="is written to by this process"):
            MinariWriter(path, SPEC, resume=True)
    assert read_minari(path).num_episodes == 3


@pytest.mark.parametrize("failure", ["fsync", "replace"])
def test_a_failed_write_leaves_nothing(path, tmp_path, monkeypatch, failure):
    episodes = read_minari(path)
    with monkeypatch.context() as patch:
        patch.setattr(
            minari_writer.os, failure, lambda *_: (_ for _ in ()).throw(OSError(28, "No space"))
        )
        with pytest.raises(OSError, match="No space"):
            write_minari(tmp_path / "b", SPEC, episodes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_each_episode_is_there_for_both_while_etude_writes(tmp_path):
    with MinariWriter(tmp_path / "a-v0", SPEC) as writer:
        for number in range(3):
            writer.append(**episode(number), seed=number)
            assert read_minari(tmp_path / "a-v0").seeds == tuple(range(number + 1))
            assert minari.MinariDataset(tmp_path / "a-v0" / "data").total_episodes == number + 1


def test_a_large_dataset_is_not_copied_for_each_episode(tmp_path, monkeypatch):
    """All that is copied is about twice as large as the dataset; etude reads every episode all
    the time, and Minari at least half of them."""
    monkeypatch.setattr(minari_writer, "SMALL_FILE", 0)
    copied, copyfile = [], shutil.copyfile
    monkeypatch.setattr(
        minari_writer.shutil,
        "copyfile",
        lambda source, target: copied.append(copyfile(source, target).stat().st_size),
    )
    with MinariWriter(tmp_path / "a-v0", SPEC) as writer:
        for number in range(20):
            writer.append(**episode(number, 50))
            if number % 7 == 0:
                read = read_minari(tmp_path / "a-v0")
                assert [rewards[0] for rewards in read.fields["rewards"]] == [
                    0.1 * i for i in range(number + 1)
                ]
                by_minari = minari.MinariDataset(tmp_path / "a-v0" / "data").total_episodes
                assert 2 * by_minari >= number
        assert len(copied) < 8
    assert sum(copied) < 2.2 * (tmp_path / "a-v0" / "data" / "main_data.hdf5").stat().st_size
    assert minari.MinariDataset(tmp_path / "a-v0" / "data").total_episodes == 20
    assert not (tmp_path / "a-v0" / "data" / "pending").exists()


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_crash_at_any_step_of_a_merge_is_repaired(tmp_path, monkeypatch, stop):
    """The process ends before its `stop`-th change of a name or a file's end."""
    path, count = tmp_path / "a-v0", 0

    def end(*_):
        raise KeyboardInterrupt

    def counting(call):
        def counted(*arguments, **keywords):
            nonlocal count
            count += 1
            if count >= stop:
                end()
            return call(*arguments, **keywords)

        return counted

    writer = MinariWriter(path, SPEC)
    writer.append(**episode(0), seed=0)
    monkeypatch.setattr(minari_writer, "SMALL_FILE", 0)
    monkeypatch.setattr(MinariWriter, "_merge", lambda self: None)
    writer.append(**episode(1), seed=1)
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(minari_writer.os, "replace", counting(minari_writer.os.replace))
        patch.setattr(files, "sync", counting(files.sync))
        patch.setattr(type(path), "unlink", counting(type(path).unlink))
        with contextlib.suppress(KeyboardInterrupt):
            writer._merge()
    writer._lock.close()  # as the system does when a process ends
    assert read_minari(path).seeds == (0, 1)
    assert minari.MinariDataset(path / "data").total_episodes in (1, 2)
    with MinariWriter(path, SPEC, resume=True) as writer:
        assert (writer.num_episodes, writer.num_steps) == (2, 6)
        writer.append(**episode(2), seed=2)
    assert read_minari(path).seeds == (0, 1, 2)
    assert minari.MinariDataset(path / "data").total_steps == 9
    assert {file.name for file in (path / "data").iterdir()} == {
        "etude.json",
        "main_data.hdf5",
        "metadata.json",
    }


def test_a_full_disk_loses_no_episode_and_adds_none_twice(tmp_path, monkeypatch):
    """What was appended stays pending where the main file cannot be written, or half of it."""
    path = tmp_path / "a-v0"
    writer, replace_file = MinariWriter(path, SPEC), os.replace

    def full(source, target, only=""):
        if str(target).endswith(only):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    for number, name in enumerate(("main_data.hdf5", "metadata.json", "main_data.hdf5")):
        with monkeypatch.context() as patch:
            patch.setattr(minari_writer.os, "replace", partial(full, only=name))
            writer.append(**episode(number), seed=number)
            assert read_minari(path).seeds == tuple(range(number + 1))
            if number == 2:
                with pytest.raises(OSError, match="No space left"):
                    writer._merge()
    with monkeypatch.context() as patch:
        patch.setattr(minari_writer.os, "replace", partial(full, only=".hdf5"))
        with pytest.raises(OSError, match="No space left"):
            writer.append(**episode(3), seed=3)
    writer.append(**episode(3), seed=3)
    writer.close()
    assert read_minari(path).seeds == (0, 1, 2, 3)
    assert minari.MinariDataset(path / "data").total_steps == 12
    assert len(list((path / "data").iterdir())) == 3


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def files_of(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def pending(path, monkeypatch):
    """Of a process that ended: three episodes in the main file of `path`, and three that wait."""
    with monkeypatch.context() as patch:
        patch.setattr(MinariWriter, "_merge", lambda self: None)
        with MinariWriter(path, SPEC, resume=True) as writer:
            for number in range(3, 6):
                writer.append(**episode(number), seed=10 + number)
            assert (writer.num_episodes, writer.num_steps) == (6, 18)
    assert read_minari(path).seeds == tuple(range(10, 16))
    return sorted((path / "data" / "pending").iterdir())


def damaged(path, pending):
    flip(pending[1])
    return f"pending/{pending[1].name} is damaged"


def missing(path, pending):
    pending[0].unlink()
    return f"it has pending/{pending[1].name}, and no episode 3"


def twice(path, pending):
    shutil.copy(pending[0], pending[0].with_name(f"episode_3.{'0' * 64}.hdf5"))
    return "episode 3 is in pending twice"


def main_file_damaged(path, pending):
    flip(path / "data" / "main_data.hdf5")
    return "main_data.hdf5 was changed since etude wrote it, or is damaged"


@pytest.mark.parametrize("fault", [damaged, missing, twice, main_file_damaged])
def test_no_fault_is_resumed_and_nothing_lost(path, pending, fault):
    """Neither read, nor put into the main file under new hashes, nor removed."""
    message = fault(path, pending)
    before = files_of(path)
    assert message in refusal(path)
    with pytest.raises(InvalidInput, match="house-v0: ") as refused:
        MinariWriter(path, SPEC, resume=True)
    assert message in str(refused.value)
    assert files_of(path) == before


def test_pending_episodes_do_not_vanish_with_the_hashes(path, pending):
    trusted(path)
    assert "its folder pending has episodes, and etude.json" in refusal(path)
    shutil.rmtree(path / "data" / "pending")
    assert read_minari(path).num_episodes == 3


def test_damage_while_etude_writes_costs_no_episode(path):
    writer = MinariWriter(path, SPEC, resume=True)
    flip(path / "data" / "main_data.hdf5")
    writer.append(**episode(3))
    assert writer.num_episodes == 4
    with pytest.raises(InvalidInput, match="main_data.hdf5 was changed since"):
        writer.close()
    assert len(list((path / "data" / "pending").iterdir())) == 1


def test_a_writer_takes_one_environment_and_no_episode_after_its_end(path, tmp_path):
    with pytest.raises(InvalidInput, match="is of the environment 'House-v0', and the episodes to"):
        MinariWriter(path, replace(SPEC, id="Flat-v0"), resume=True)
    writer = MinariWriter(path, SPEC, resume=True)
    with pytest.raises(InvalidInput, match="the seed of episode 0 is -1; give a whole number"):
        writer.append(**episode(3), seed=-1)
    writer.close()
    with pytest.raises(InvalidInput, match="the writer of .*house-v0 is closed"):
        writer.append(**episode(3))
    assert read_minari(path).num_episodes == 3
    spec = replace(SPEC, id="CartPole-v1")
    MinariWriter(tmp_path / "b", spec, options={"sutton_barto_reward": True}).close()
    metadata = json.loads((tmp_path / "b" / "data" / "metadata.json").read_text())
    assert json.loads(metadata["env_spec"])["kwargs"]["sutton_barto_reward"] is True


HERE = [str(folder) for folder in Path(__file__).parents[:2]]
KILLED = """
import sys
import numpy as np
sys.path[:0] = sys.argv[3:]
from etude.storage.datasets import minari_writer
from test_minari import SPEC, episode
minari_writer.SMALL_FILE = int(sys.argv[2])
with minari_writer.MinariWriter(sys.argv[1], SPEC, resume=True) as writer:
    first = writer.num_episodes
    print(first, flush=True)
    for number in range(first, first + 10**6):
        writer.append(**episode(number, 20), seed=number)
        print(number + 1, flush=True)
"""


@pytest.mark.system
def test_twenty_kills_lose_no_kept_episode(tmp_path):
    """Whatever `append` returned for is there, whole, for etude; and what is on the disk Minari can
    read."""
    rng, path, kept = np.random.default_rng(0), tmp_path / "a-v0", 0
    for kill in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, path, str(kill % 2 * 2**22), *HERE],
            stdout=subprocess.PIPE,
            text=True,
        )
        there = int(process.stdout.readline())  # one more, maybe, than was told
        assert there in (kept, kept + 1)
        time.sleep(rng.uniform(0, 0.7))
        process.kill()
        printed = process.stdout.read().split("\n")[:-1]
        process.wait()
        kept = max([there, *map(int, printed)])
        read = read_minari(path)
        assert read.num_episodes in (kept, kept + 1)
        assert read.seeds == tuple(range(read.num_episodes))
        for number, rewards in enumerate(read.fields["rewards"]):
            np.testing.assert_array_equal(rewards, np.full(20, 0.1 * number))
        by_minari = minari.MinariDataset(path / "data")
        assert 2 * by_minari.total_episodes >= kept - 1
        assert sum(1 for _ in by_minari.iterate_episodes()) == by_minari.total_episodes
    assert kept > 100
